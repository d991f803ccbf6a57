"""What processes cost, told from /proc: CPU seconds and memory, of a whole tree at once.

A server that forks for each client (PostgreSQL) ends those processes before we look again. Their CPU
time is not lost: the kernel adds it to their parent's account of ended children, which counts here.
"""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

PROC: Final = Path("/proc")
KIB: Final = 1024
TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")

# Fields of /proc/PID/stat, counted from the state that follows the program's name.
_PARENT: Final = 1
_OWN_TIMES: Final = slice(11, 13)
_TIMES: Final = slice(11, 15)
"""utime, stime, cutime, cstime: its own and that of its children that have ended."""


@dataclass(frozen=True, slots=True)
class Memory:
    rss_bytes: int
    """Memory in use, where a page that n processes share counts n times."""

    pss_bytes: int
    """The same, where such a page counts once."""


def tree(roots: Iterable[int]) -> set[int]:
    """These processes and all that descend from them."""
    children: dict[int, list[int]] = {}
    for entry in PROC.iterdir():
        if entry.name.isdigit() and (fields := _stat(int(entry.name))):
            children.setdefault(int(fields[_PARENT]), []).append(int(entry.name))
    found: set[int] = set()
    waiting = list(roots)
    while waiting:
        pid = waiting.pop()
        if pid not in found:
            found.add(pid)
            waiting += children.get(pid, [])
    return found


def cpu_seconds(roots: Iterable[int]) -> float:
    """CPU time that these processes and their descendants, also ended ones, have used so far."""
    ticks = sum(int(ticks) for pid in tree(roots) for ticks in _stat(pid)[_TIMES])
    return ticks / TICKS_PER_S


def own_cpu_seconds(roots: Iterable[int]) -> dict[int, float]:
    """CPU time of each of these processes and their descendants for itself."""
    found = {pid: _stat(pid) for pid in tree(roots)}
    return {pid: sum(map(int, fields[_OWN_TIMES])) / TICKS_PER_S for pid, fields in found.items() if fields}


def memory(roots: Iterable[int]) -> Memory:
    """What these processes and their descendants hold now."""
    rollups = [_fields(pid, "smaps_rollup") for pid in tree(roots)]
    return Memory(
        sum(found.get("Rss", 0) for found in rollups), sum(found.get("Pss", 0) for found in rollups)
    )


def resident_and_peak(pid: int) -> tuple[int, int]:
    """Memory that one process holds now, and the most it has held, in bytes; zeros if it is gone."""
    found = _fields(pid, "status")
    return found.get("VmRSS", 0), found.get("VmHWM", 0)


def _stat(pid: int) -> list[str]:
    """The fields from the state on; none of a process that is gone."""
    try:
        # The program's name before them is in parentheses and may hold anything.
        return (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def _fields(pid: int, file: str) -> dict[str, int]:
    """The lines `Name:  123 kB` of one of its files, in bytes."""
    try:
        lines = (PROC / str(pid) / file).read_text().splitlines()
    except OSError:
        return {}
    words = [line.split() for line in lines]
    return {line[0].rstrip(":"): int(line[1]) * KIB for line in words if len(line) == 3 and line[2] == "kB"}
