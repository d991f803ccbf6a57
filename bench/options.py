"""What `python -m bench.run` can be asked."""

import argparse
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench.postgres import BIN_DIR
from bench.sixfold_side import BASE_PORT, REPOSITORY
from bench.workloads import WORKLOADS, Workload

POSTGRES_PORT_STEP: Final = 100
"""A Sixfold cluster takes some forty ports from its first on; PostgreSQL's follow at a distance."""

CACHE_MIB: Final = 128
SECONDS: Final = 5
ROUNDS: Final = 3
QUICK_SECONDS: Final = 2
QUICK_ROUNDS: Final = 1


@dataclass(frozen=True, slots=True)
class Settings:
    workloads: tuple[Workload, ...]
    seconds: int
    rounds: int
    cache_mib: int
    base_port: int
    folder: Path
    output: Path
    pg_bin: Path


def parse_arguments(arguments: Sequence[str] | None = None) -> Settings:
    parser = argparse.ArgumentParser(
        prog="python -m bench.run",
        description="Compare Sixfold with PostgreSQL with six synchronous standbys, by pgbench.",
        epilog="Workloads: " + ", ".join(each.name for each in WORKLOADS) + ".",
    )
    parser.add_argument("--seconds", type=int, help=f"of each run (default {SECONDS})")
    parser.add_argument("--rounds", type=int, help=f"of each workload on each database (default {ROUNDS})")
    parser.add_argument(
        "--quick",
        action="store_true",
        help=f"{QUICK_ROUNDS} round of {QUICK_SECONDS} s, to see that it works",
    )
    parser.add_argument("--only", metavar="REGEX", default="", help="workloads whose name matches")
    parser.add_argument(
        "--cache-mib", type=int, default=CACHE_MIB, help="buffer pool of both databases (default %(default)s)"
    )
    parser.add_argument(
        "--base-port",
        type=int,
        default=BASE_PORT,
        help=f"Sixfold's; PostgreSQL's are {POSTGRES_PORT_STEP} above (default %(default)s)",
    )
    parser.add_argument(
        "--dir",
        type=Path,
        default=REPOSITORY / ".bench",
        help="for the databases, removed at the end (default .bench)",
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=REPOSITORY / "bench",
        help="folder for results.md and .png (default bench)",
    )
    parser.add_argument(
        "--pg-bin", type=Path, default=BIN_DIR, help="PostgreSQL's programs (default %(default)s)"
    )
    found = parser.parse_args(arguments)
    seconds = found.seconds or (QUICK_SECONDS if found.quick else SECONDS)
    rounds = found.rounds or (QUICK_ROUNDS if found.quick else ROUNDS)
    if min(seconds, rounds, found.cache_mib) < 1:
        parser.error("--seconds, --rounds and --cache-mib are above zero")
    try:
        workloads = tuple(each for each in WORKLOADS if re.search(found.only, each.name))
    except re.error as error:
        parser.error(f"--only {found.only!r}: {error}")
    if not workloads:
        parser.error(f"--only {found.only!r} matches none of: {', '.join(each.name for each in WORKLOADS)}")
    folder, output = found.dir.absolute(), found.output.absolute()
    return Settings(
        workloads, seconds, rounds, found.cache_mib, found.base_port, folder, output, found.pg_bin
    )
