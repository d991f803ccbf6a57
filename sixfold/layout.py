"""What a new local cluster consists of, and which ports it takes. Pure.

base + 0         SQL of the writer                 5440
base + 10        control plane                     5450
base + 11..16    storage nodes s1..s6              5451..5456
base + 20        db instance w1                    5460
base + 30..40    metrics: 20 above the address     5470..5480
base + 41 on     storage nodes that were added: the next two free ports after all others
"""

import re
from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from typing import Final

from control_plane.local_cluster import ClusterSpec, ProcessSpec
from runtime.addresses import PORT_MAX, host_and_port
from sixfold.errors import CommandFailed

BASE_PORT: Final = 5440
BASE_PORT_MAX: Final = PORT_MAX - 40
STORAGE_NODES: Final = 6
NODES_PER_AZ: Final = 2
HOST: Final = "127.0.0.1"

MIB: Final = 1 << 20

SIZE: Final = re.compile(r"(\d+)\s*(?:([KMGT])(?:i?B)?|B)?", re.IGNORECASE)
SCALE: Final = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


def cluster_spec(segment_size: int, base_port: int, cache_size: int | None) -> ClusterSpec:
    nodes = [_storage(number, base_port) for number in range(1, STORAGE_NODES + 1)]
    control = ProcessSpec(
        id="control",
        role="control",
        az="",
        address=f"{HOST}:{base_port + 10}",
        metrics=f"{HOST}:{base_port + 30}",
    )
    return ClusterSpec("main", segment_size, base_port, (control, *nodes, _writer(base_port, cache_size)))


def _storage(number: int, base_port: int) -> ProcessSpec:
    return ProcessSpec(
        id=f"s{number}",
        role="storage",
        az=f"az{(number - 1) // NODES_PER_AZ + 1}",
        address=f"{HOST}:{base_port + 10 + number}",
        metrics=f"{HOST}:{base_port + 30 + number}",
    )


def _writer(base_port: int, cache_size: int | None) -> ProcessSpec:
    return ProcessSpec(
        id="w1",
        role="instance",
        az="az1",
        address=f"{HOST}:{base_port + 20}",
        metrics=f"{HOST}:{base_port + 40}",
        sql=f"{HOST}:{base_port}",
        options=() if cache_size is None else cache_options(cache_size),
    )


def cache_options(cache_size: int) -> tuple[str, ...]:
    return "--cache-mib", str(cache_size // MIB)


def next_storage(spec: ClusterSpec, az: str, is_free: Callable[[int], bool]) -> ProcessSpec:
    """One more storage node: the next name, and free ports after those of all others."""
    numbers = [int(process.id[1:]) for process in spec.processes if re.fullmatch(r"s\d+", process.id)]
    after = max(port for port, _, _ in ports(spec))
    free = list(islice(filter(is_free, range(after + 1, PORT_MAX + 1)), 2))
    if len(free) < 2:
        raise CommandFailed(f"no two ports above {after} are free")
    address, metrics = (f"{HOST}:{port}" for port in free)
    return ProcessSpec(f"s{max(numbers, default=0) + 1}", "storage", az, address, metrics)


def moved(process: ProcessSpec, by: int) -> ProcessSpec:
    """The same on ports that lie so much higher."""

    def higher(address: str) -> str:
        if not address:
            return ""
        host, _, _ = address.rpartition(":")
        port = port_of(address)
        if port + by > PORT_MAX:
            raise CommandFailed(f"{process.id} would listen on port {port + by}: there are {PORT_MAX}")
        return f"{host}:{port + by}"

    addresses = higher(process.address), higher(process.metrics), higher(process.sql)
    return replace(process, address=addresses[0], metrics=addresses[1], sql=addresses[2])


def ports(spec: ClusterSpec) -> list[tuple[int, str, str]]:
    """Every port the cluster listens on: (port, process, what for)."""
    found = []
    for process in spec.processes:
        for what, address in (
            ("SQL", process.sql),
            (process.role, process.address),
            ("metrics", process.metrics),
        ):
            if address:
                found.append((port_of(address), process.id, what))
    return found


def port_of(address: str) -> int:
    return host_and_port(address)[1]


def parse_size(text: str) -> int:
    """Bytes, from as in "64MiB", "10G" or "4096". Raises ValueError."""
    match = SIZE.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{text!r} is not a size such as 64MiB or 10GiB")
    return int(match[1]) * SCALE.get((match[2] or "").upper(), 1)
