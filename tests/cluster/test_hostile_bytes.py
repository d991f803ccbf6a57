"""Every port of every process is sent what nobody should send, and everything goes on."""

import os
import random
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from tests.cluster import hostile
from tests.cluster.real_cluster import Cluster

_MESSAGES_A_METHOD: Final = 2
_AT_ONCE: Final = 200
_LISTENING: Final = "0A"
_BUG: Final = re.compile(r"rpc\.bug|session\.bug|Traceback|never retrieved", re.IGNORECASE)


def test_no_bytes_from_the_network_end_a_process_or_disturb_another_client(cluster: Cluster) -> None:
    seed = random.SystemRandom().randrange(1 << 32)
    dice = random.Random(seed)
    before = cluster.pids()
    with cluster.connect() as connection:
        connection.execute("CREATE TABLE t (id bigint PRIMARY KEY)")
        ports = _listening(before.values())
        assert {_port(each.address) for each in cluster.spec().processes} <= ports

        hanging = []
        for port in sorted(ports):
            for data in hostile.payloads(dice):
                hanging.append(hostile.send(port, data, dice))
            for each in [hostile.connect(port) for _ in range(_AT_ONCE)]:
                each.close()
        answered = 0
        for process in cluster.spec().processes:
            answered += hostile.call_every_method(process.address, dice, _MESSAGES_A_METHOD)
        assert answered > 500, f"seed {seed}: only {answered} calls were answered"

        # The connection from before all this, and a new one; while the half-open ones still hang.
        connection.execute("INSERT INTO t VALUES (1)")
        with cluster.connect() as another:
            assert another.execute("SELECT id FROM t").fetchall() == [(1,)], f"seed {seed}"
        assert sum(each is not None for each in hanging) > len(ports)
    assert cluster.pids() == before, f"seed {seed}: a process died"
    for name, log in cluster.logs().items():
        bugs = [line for line in log.splitlines() if _BUG.search(line)]
        assert not bugs, f"seed {seed}: {name} met a bug: {bugs[:3]}"
    for each in hanging:
        if each is not None:
            each.close()


def _port(address: str) -> int:
    return int(address.rpartition(":")[2])


def _listening(pids: Iterable[int]) -> set[int]:
    """The TCP ports in which these processes listen, as the system has it."""
    inodes = {inode for pid in pids for inode in _sockets(pid)}
    found = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in Path(table).read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == _LISTENING and fields[9] in inodes:
                found.add(int(fields[1].rpartition(":")[2], 16))
    return found


def _sockets(pid: int) -> set[str]:
    found = set()
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        try:
            target = os.readlink(entry)
        except OSError:
            continue  # closed meanwhile
        if target.startswith("socket:["):
            found.add(target[len("socket:[") : -1])
    return found
