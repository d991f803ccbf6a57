"""Where and on what a measurement was made: without it a figure says nothing."""

import os
import platform
import sys
from datetime import datetime
from importlib.metadata import version
from pathlib import Path

import apsw

from bench.commands import run
from bench.errors import BenchFailed
from bench.sixfold_side import REPOSITORY


def description() -> list[tuple[str, str]]:
    """Names and values, to be shown as they are."""
    return [
        ("date", datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z")),
        ("machine", f"{os.cpu_count()} cores ({_processor()}), {_memory_gib():.0f} GiB, {platform.system()}"),
        ("Sixfold", f"{version('sixfold')}, {_revision()}"),
        ("SQLite", apsw.sqlite_lib_version()),
        ("Python", f"{platform.python_version()} ({_builder()})"),
    ]


def postgres_version(bin_dir: Path) -> str:
    return run([bin_dir / "postgres", "--version"]).strip().removeprefix("postgres (PostgreSQL) ")


def _revision() -> str:
    try:
        return f"commit {run(['git', 'describe', '--always', '--dirty'], cwd=REPOSITORY).strip()}"
    except BenchFailed:
        return "not from a git checkout"


def _builder() -> str:
    """Distributions build Python with the help of a profile, which makes a tenth; others often do not."""
    return "the distribution's" if sys.base_prefix == "/usr" else "not the distribution's"


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return platform.machine()


def _memory_gib() -> float:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / (1 << 30)
