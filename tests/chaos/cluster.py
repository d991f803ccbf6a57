"""The cluster that is tormented: seven storage nodes in three zones, a control plane, two machines for a writer.

One of the two writers is at home: it is started whenever it is not there. The other one, if it runs at all, was
at home before, does not know yet that it is not any more, and ends by itself once it does.
"""

import shutil
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import psycopg

from sixfold.control_client import ControlClient
from tests.chaos.machine import Exit, Machine
from tests.chaos.network import Network, command, undo_later
from volume.errors import VolumeError

ZONES: Final = {"s1": "az1", "s2": "az1", "s3": "az2", "s4": "az2", "s5": "az3", "s6": "az3", "s7": "az3"}
WRITERS: Final = {"w1": "az1", "w2": "az2"}
CONTROL: Final = "control"
REPLACE_AFTER_S: Final = 5
_SEGMENT_BYTES: Final = 4 << 20
_DISK: Final = "512m"
_CONTROL_PORT, _NODE_PORT, _INSTANCE_PORT, _SQL_PORT, _METRICS_PORT = 5450, 5451, 5460, 5440, 5470
COMMIT_TIMEOUT_S: Final = 10
_FENCED: Final = 3
_LOOK_S: Final = 0.1
_COPIES: Final = 6
_CONNECT_S: Final = 3
STATEMENT_S_MAX: Final = 12.0
"""Longer than the server's own patience with a commit."""


class Cluster:
    """Everything of it is undone by the `undoing` stack: it may break off anywhere."""

    def __init__(self, prefix: str, undoing: ExitStack) -> None:
        self.path = Path(tempfile.mkdtemp(prefix=f"{prefix}-"))
        undoing.callback(shutil.rmtree, self.path, ignore_errors=True)
        names = [*ZONES, CONTROL, *WRITERS]
        self.network = Network(prefix, names, undoing)
        self.machines = {name: self._machine(name) for name in names}
        for name in ZONES:
            _mount_disk(self.machines[name].folder, f"{prefix}-{name}", undoing)
        for name in WRITERS:
            self.machines[name].expected_exits = (_FENCED,)
        self.machines["w2"].keep_down()
        self.home = "w1"
        self._stopping = threading.Event()
        self._nurse = threading.Thread(target=self._look_after_all, daemon=True)
        undoing.callback(self._stop)

    def start(self) -> None:
        self._nurse.start()

    def _look_after_all(self) -> None:
        while not self._stopping.wait(_LOOK_S):
            for machine in self.machines.values():
                machine.look_after()

    def _stop(self) -> None:
        self._stopping.set()
        if self._nurse.ident is not None:
            self._nurse.join()
        for machine in self.machines.values():
            machine.stop()

    def _machine(self, name: str) -> Machine:
        folder = self.path / name
        folder.mkdir()
        zone = {**ZONES, **WRITERS}.get(name, "")
        words = ["--id", name, "--dir", str(folder), "--metrics", self._at(name, _METRICS_PORT)]
        if name in ZONES:
            words = ["storage_node", *words, "--az", zone, "--listen", self._at(name, _NODE_PORT)]
        elif name in WRITERS:
            words = ["db_instance", *words, "--az", zone, "--listen", self._at(name, _INSTANCE_PORT)]
            words += ["--control", self._at(CONTROL, _CONTROL_PORT), "--sql", self._at(name, _SQL_PORT)]
            words += ["--commit-timeout", str(COMMIT_TIMEOUT_S)]
        else:
            words = ["control_plane", *words, "--listen", self._at(name, _CONTROL_PORT)]
            words += ["--segment-size", str(_SEGMENT_BYTES), "--replace-after", str(REPLACE_AFTER_S)]
            for node, az in ZONES.items():
                words += ["--node", f"{node},{az},{self._at(node, _NODE_PORT)}"]
            for writer, az in WRITERS.items():
                words += ["--instance", f"{writer},{az},{self._at(writer, _INSTANCE_PORT)}"]
        return Machine(name, zone, self.network.namespace(name), folder, words)

    def _at(self, name: str, port: int) -> str:
        return f"{self.network.address(name)}:{port}"

    # Clients

    def connect(self, name: str | None = None) -> psycopg.Connection[Any]:
        """To the writer that is at home, or the one that is named."""
        return psycopg.connect(
            host=str(self.network.address(name or self.home)),
            port=_SQL_PORT,
            user="chaos",
            dbname="main",
            connect_timeout=_CONNECT_S,
            options=f"-c statement_timeout={int(1000 * STATEMENT_S_MAX)}",
            autocommit=True,
        )

    def writers_that_run(self) -> list[str]:
        return [name for name in WRITERS if self.machines[name].runs]

    # Looking

    def status(self) -> dict[str, Any] | None:
        """As the control plane has it; None if it does not answer."""
        found: dict[str, Any] | None = self._ask(lambda client: client.status())
        return found

    def scrub(self, node: str, *, start: bool) -> dict[str, Any]:
        """How far it is; empty if nobody says."""
        told = self._ask(lambda client: client.scrub([node], start=start))
        found = told.get(node, {}) if told is not None else {}
        return {} if "error" in found else found

    def drain(self, node: str, *, undo: bool = False) -> int | None:
        """How many segments are left there; None if the control plane does not answer."""
        left: int | None = self._ask(lambda client: client.drain(node, undo=undo))
        return left

    def _ask(self, question: Callable[[ControlClient], Any]) -> Any:
        with ControlClient(self._at(CONTROL, _CONTROL_PORT)) as client:
            try:
                return question(client)
            except VolumeError:
                return None

    def is_well(self) -> bool:
        """All nodes are well, every group has six copies, and none is being replaced."""
        return (status := self.status()) is not None and not ailments(status)

    def is_whole(self) -> bool:
        """All copies of a group are alike besides."""
        return (status := self.status()) is not None and not ailments(status) and copies_are_alike(status)

    def until(self, condition: Callable[[], bool], seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                return False
            time.sleep(_LOOK_S)
        return True

    def exits(self) -> list[Exit]:
        """Of processes that should not have ended."""
        machines = self.machines.values()
        return [each for m in machines for each in m.exits if each.status not in m.expected_exits]


def ailments(status: dict[str, Any]) -> list[str]:
    """What keeps the cluster from being well, in words."""
    groups = Counter(each["group"] for each in status["segments"])
    return [
        *(
            f"{each['id']} is {each['health']} {each['why']}"
            for each in status["nodes"]
            if not _is_well(each)
        ),
        *(_tell(each) for each in status["segments"] if each["state"] != "ok"),
        *(f"pg{each['group']}: {each['from']} to {each['to']}" for each in status["changes"]),
        *(f"pg{group} has {count} copies" for group, count in groups.items() if count < _COPIES),
        *([] if groups else ["there is no group"]),
    ]


def copies_are_alike(status: dict[str, Any]) -> bool:
    scls: dict[int, set[int]] = {}
    for segment in status["segments"]:
        scls.setdefault(segment["group"], set()).add(segment["scl"])
    return all(len(each) == 1 for each in scls.values())


def _is_well(node: dict[str, Any]) -> bool:
    return node["health"] in ("ok", "slow")


def _tell(segment: dict[str, Any]) -> str:
    return f"pg{segment['group']} at {segment['node']} is {segment['state']}"


def _mount_disk(folder: Path, name: str, undoing: ExitStack) -> None:
    undo_later(undoing, "umount", "--lazy", str(folder))
    command("mount", "-t", "tmpfs", "-o", f"size={_DISK}", name, str(folder))
