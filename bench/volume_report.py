"""Sixfold at growing sizes, as tables and as volume.md. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from bench.load import Loaded
from bench.probe import ColdReads, Latency
from bench.tables import TextTable, bullets

MIB: Final = 1 << 20
COLUMNS: Final = (
    "logical size",
    "rows",
    "load rows/s",
    "load MiB/s",
    "start s",
    "commit ms (p99)",
    "cold read ms (p99)",
    "pages/read",
    "disk bytes/byte",
)

LEGEND: Final = """\
A Sixfold cluster whose volume is filled by COPY to one size after the other, all on this one machine. Made by
`make bench-volume`.

- **logical size**: bytes of the rows' text, as COPY carries it
- **load**: by one client, in transactions of 16 MiB
- **start**: after `sixfold down`, from `sixfold up` until the first commit is answered
- **commit**: median of one client's single-row inserts; p99 in parentheses
- **cold read**: median of selects by random keys after the writer was killed and started again, so that its
  buffer pool is empty; **pages/read** says how many pages came from storage for each
- **disk bytes/byte**: what one of the six copies takes on disk for a logical byte, after all of this
- **memory**: of each process, MiB: at the end of the load, and after the restart and the reads; the most it had
  by then in parentheses
"""


@dataclass(frozen=True, slots=True)
class ProcessMemory:
    resident_bytes: int
    peak_bytes: int


@dataclass(frozen=True, slots=True)
class VolumeFigures:
    """What was seen at one size."""

    size_bytes: int
    rows: int
    loaded: Loaded
    start_s: float
    commit: Latency
    cold: ColdReads
    disk_bytes_per_byte: float
    memory_loaded: Mapping[str, ProcessMemory]
    """At the end of the load, by the process's name."""

    memory_read: Mapping[str, ProcessMemory]
    """After the restart and the reads."""


def table(figures: Sequence[VolumeFigures]) -> TextTable:
    found = TextTable(COLUMNS)
    for each in figures:
        found.add(
            size_name(each.size_bytes),
            f"{each.rows:,}",
            f"{each.loaded.rows / each.loaded.seconds:,.0f}",
            f"{each.loaded.size_bytes / MIB / each.loaded.seconds:,.2f}",
            f"{each.start_s:,.2f}",
            _latency(each.commit),
            _latency(each.cold.latency),
            f"{each.cold.pages_a_read:,.2f}",
            f"{each.disk_bytes_per_byte:,.2f}",
        )
    return found


def memory_table(figures: Sequence[VolumeFigures]) -> TextTable:
    """A line for each process, two columns for each size."""
    sizes = [size_name(each.size_bytes) for each in figures]
    columns = [title for size in sizes for title in (f"{size} loaded", f"{size} read")]
    found = TextTable(("process", *columns))
    for name in figures[0].memory_loaded if figures else ():
        snapshots = [seen for each in figures for seen in (each.memory_loaded, each.memory_read)]
        found.add(name, *(_memory(seen.get(name)) for seen in snapshots))
    return found


def markdown(figures: Sequence[VolumeFigures], environment: Sequence[tuple[str, str]]) -> str:
    tables = [table(figures).markdown(), memory_table(figures).markdown()]
    return "\n".join(["# Sixfold at growing sizes\n", LEGEND, *tables, bullets(environment)])


def size_name(size_bytes: int) -> str:
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if size_bytes < 1024 or unit == "GiB":
            break
        size_bytes //= 1024
    return f"{size_bytes} {unit}"


def _latency(latency: Latency) -> str:
    return f"{latency.median_ms:,.2f} ({latency.p99_ms:,.2f})"


def _memory(seen: ProcessMemory | None) -> str:
    return "–" if seen is None else f"{seen.resident_bytes // MIB:,} ({seen.peak_bytes // MIB:,})"
