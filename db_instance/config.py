"""What a db instance is told at its start."""

import argparse
from dataclasses import dataclass
from pathlib import Path

from runtime.addresses import address_argument
from volume.limits import MIB


@dataclass(frozen=True, slots=True)
class InstanceConfig:
    id: str
    az: str
    dir: Path
    control: str
    listen: str
    sql: str
    metrics: str
    cache_mib: int
    commit_timeout_s: float
    max_connections: int

    @property
    def cache_bytes(self) -> int:
        return self.cache_mib * MIB


def parse_arguments(arguments: list[str] | None = None) -> InstanceConfig:
    parser = argparse.ArgumentParser(
        prog="python -m db_instance", description="A Sixfold db instance: SQL on the volume."
    )
    parser.add_argument("--id", required=True, help="name of this instance in the cluster")
    parser.add_argument("--az", required=True, help="availability zone; its segments are read first")
    parser.add_argument("--dir", required=True, type=Path, help="folder for logs and temporary files")
    parser.add_argument(
        "--control", required=True, type=address_argument, metavar="HOST:PORT", help="the control plane"
    )
    parser.add_argument(
        "--listen", required=True, type=address_argument, metavar="HOST:PORT", help="gRPC, for the cluster"
    )
    parser.add_argument(
        "--sql",
        required=True,
        type=address_argument,
        metavar="HOST:PORT",
        help="PostgreSQL's protocol, for clients",
    )
    parser.add_argument(
        "--metrics", required=True, type=address_argument, metavar="HOST:PORT", help="HTTP /metrics"
    )
    parser.add_argument("--cache-mib", type=int, default=128, help="buffer pool (default %(default)s)")
    parser.add_argument(
        "--commit-timeout",
        type=float,
        default=30.0,
        metavar="SECONDS",
        help="how long a commit waits for four of six copies before its client hears that the outcome is"
        " unknown (default %(default)s)",
    )
    parser.add_argument(
        "--max-connections", type=int, default=500, help="client sessions (default %(default)s)"
    )
    found = parser.parse_args(arguments)
    if found.cache_mib < 1 or found.commit_timeout <= 0 or found.max_connections < 1:
        parser.error("--cache-mib, --commit-timeout and --max-connections are above zero")
    return InstanceConfig(
        found.id,
        found.az,
        found.dir,
        found.control,
        found.listen,
        found.sql,
        found.metrics,
        found.cache_mib,
        found.commit_timeout,
        found.max_connections,
    )
