"""More of the same comparison: a bulk load, a cache that is too small, many connections, latency at half the rate.

As for `make bench`, Sixfold and PostgreSQL with six standbys stand side by side, and one at a time is given
work. Each part takes what its name says:

copy         COPY of one file, one transaction, into databases that are new in each of three rounds: the client's
             seconds, and all processes' CPU seconds, in the median
cold         the last of these tables grows to twice that, and is read by key and as a whole, with buffer pools far
             smaller
connections  pgbench -N, prepared, from one connection to 256
cores        point selects and TPC-B on one core, and on all: what another one brings; and how busy the busiest
             process is that was there all the time (PostgreSQL's come and go with the clients)
latency      pgbench -N at half the throughput that 16 clients reach, for minutes: what the slowest commits take
"""

import argparse
import os
import random
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any, Final

import psycopg

from bench.commands import work_folder
from bench.errors import BenchFailed
from bench.load import SETUP, TABLE, Loader
from bench.machine import description, postgres_version
from bench.measure import measure
from bench.options import POSTGRES_PORT_STEP
from bench.pgbench import Pgbench
from bench.plot import PLOT_LIBRARY
from bench.postgres import BIN_DIR, check_installed, postgres_side
from bench.probe import Latency, latency_of
from bench.processes import cpu_seconds, own_cpu_seconds, tree
from bench.script import exit_status, parser_of
from bench.side import Side
from bench.sixfold_side import sixfold_side
from bench.tables import TextTable, bullets, console
from bench.workloads import Workload
from sixfold.layout import parse_size

PARTS: Final = ("copy", "cold", "connections", "cores", "latency")
CONNECTIONS: Final = (1, 4, 16, 64, 256)
SECONDS: Final = 5
PAUSE_S: Final = 1.0
READS: Final = 2000
CLIENTS: Final = 16
COPY_CHUNK_BYTES: Final = 1 << 20
MIB: Final = 1 << 20
SCALE: Final = 10
COPIES: Final = 3
SETTLE_S_MAX: Final = 120.0
SETTLE_LOOK_S: Final = 3.0
BUSY_CORES: Final = 0.3
"""After a load both databases put away what it brought; with less than this in use they are done."""


@dataclass(slots=True)
class Report:
    """What is known so far, part by part; written anew after each."""

    path: Path
    head: str
    tables: list[tuple[str, TextTable]]

    def add(self, title: str, table: TextTable) -> None:
        self.tables.append((title, table))
        parts = "".join(f"\n## {title}\n\n{table.markdown()}" for title, table in self.tables)
        self.path.write_text(self.head + parts)
        console().print(f"\n{title}")
        console().print(table.drawn())


@dataclass(frozen=True, slots=True)
class Pair:
    """Both databases while they run."""

    ours: Side
    theirs: Side
    pgbench: Pgbench
    folder: Path

    def settle(self) -> None:
        """Wait for the end of what a load has left to do in the background, but not for ever."""
        deadline = time.monotonic() + SETTLE_S_MAX
        pids = [*self.ours.pids(), *self.theirs.pids()]
        cores = float(os.cpu_count() or 1)
        while cores > BUSY_CORES and time.monotonic() < deadline:
            before = cpu_seconds(pids)
            time.sleep(SETTLE_LOOK_S)
            cores = (cpu_seconds(pids) - before) / SETTLE_LOOK_S


def main() -> int:
    parser = parser_of("bench.further", __doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--only", default=",".join(PARTS), help="some of the parts (default %(default)s)")
    parser.add_argument("--size", default="1GB", help="of the file that is copied (default %(default)s)")
    parser.add_argument("--small-cache", type=int, default=64, help="MiB, for `cold` (default %(default)s)")
    parser.add_argument("--minutes", type=float, default=5.0, help="of `latency` (default %(default)s)")
    settings = parser.parse_args()
    parts = settings.only.split(",")
    if not set(parts) <= set(PARTS):
        parser.error(f"--only: the parts are {', '.join(PARTS)}")
    return exit_status(lambda: _measure(settings, parts))


def _measure(settings: argparse.Namespace, parts: Sequence[str]) -> None:
    check_installed(BIN_DIR)
    pairs = [*description(), ("PostgreSQL", postgres_version(BIN_DIR))]
    output = settings.output.absolute()
    output.mkdir(parents=True, exist_ok=True)
    head = (
        "# Sixfold beside PostgreSQL, further\n\nWritten by `make bench-further`; what is measured says"
        f" `python -m bench.further --help`.\n\n{bullets(pairs)}"
    )
    report = Report(output / "further.md", head, [])
    if {"copy", "cold"} & set(parts):
        _load(settings, report, rounds=COPIES if "copy" in parts else 1, read="cold" in parts)
    if {"connections", "cores", "latency"} & set(parts):
        with _both(settings, 128) as pair:
            for side in (pair.ours, pair.theirs):
                pair.pgbench.fill(side.endpoint, SCALE)
            if "connections" in parts:
                report.add("Throughput by connections, pgbench -N prepared", _connections(pair))
            if "cores" in parts:
                report.add("Throughput by cores", _cores(pair))
            if "latency" in parts:
                report.add(
                    f"Latency at half the rate, pgbench -N prepared, {CLIENTS} clients,"
                    f" {settings.minutes:g} minutes",
                    _latency(pair, settings.minutes * 60, output / "further-latency.png"),
                )


@contextmanager
def _both(settings: argparse.Namespace, cache_mib: int) -> Iterator[Pair]:
    """The two databases, new, with buffer pools of this size."""
    port = settings.base_port
    with (
        work_folder(settings.dir.absolute()) as folder,
        postgres_side(BIN_DIR, folder / "postgres", port + POSTGRES_PORT_STEP, cache_mib) as theirs,
        sixfold_side(folder / "sixfold", port, cache_mib) as ours,
    ):
        yield Pair(ours, theirs, Pgbench(BIN_DIR / "pgbench", folder / "transaction.sql"), folder)


# Bulk load, and a cache that is too small


def _load(settings: argparse.Namespace, report: Report, *, rounds: int, read: bool) -> None:
    size_bytes = parse_size(settings.size)
    copies: list[tuple[_Copied, _Copied]] = []
    for number in range(1, rounds + 1):
        with _both(settings, settings.small_cache) as pair:
            loader = Loader()
            path, rows = _file_of(pair.folder / "rows", loader, size_bytes)
            pair.settle()
            ours = _copy_anew(pair.ours, path)
            pair.settle()
            copies.append((ours, _copy_anew(pair.theirs, path)))
            if number < rounds:
                continue
            size = path.stat().st_size
            report.add(
                f"COPY of {size / 1e6:,.0f} MB, {rows:,} rows, one transaction; median of {rounds} (lowest..highest)",
                _copies(copies, rows, size),
            )
            if read:
                more, _ = _file_of(pair.folder / "more", loader, 2 * size_bytes)
                report.add(
                    f"Reads of a table of {2 * size / 1e6:,.0f} MB with a cache of {settings.small_cache} MiB",
                    _cold(pair, more, loader.rows),
                )


@dataclass(frozen=True, slots=True)
class _Copied:
    seconds: float
    cpu_seconds: float


def _copy_anew(side: Side, path: Path) -> _Copied:
    with psycopg.connect(side.endpoint.dsn, autocommit=True) as connection:
        connection.execute(SETUP)
        before = cpu_seconds(side.pids())
        seconds = _copy(connection, path)
        return _Copied(seconds, cpu_seconds(side.pids()) - before)


def _copies(copies: Sequence[tuple[_Copied, _Copied]], rows: int, size: int) -> TextTable:
    table = TextTable(("COPY", "Sixfold", "PostgreSQL", "ratio"))
    taken = [[each[side].seconds for each in copies] for side in (0, 1)]
    cpu = [median(each[side].cpu_seconds for each in copies) for side in (0, 1)]
    ours, theirs = map(median, taken)
    ratio = f"{theirs / ours:.2f}"
    told = (f"{median(each):.1f} ({min(each):.1f}..{max(each):.1f})" for each in taken)
    table.add("seconds", *told, ratio)
    table.add("rows/s", f"{rows / ours:,.0f}", f"{rows / theirs:,.0f}", ratio)
    table.add("MB/s", f"{size / ours / 1e6:.1f}", f"{size / theirs / 1e6:.1f}", ratio)
    table.add("CPU seconds", f"{cpu[0]:.0f}", f"{cpu[1]:.0f}", f"{cpu[1] / cpu[0]:.2f}")
    return table


def _file_of(path: Path, loader: Loader, up_to_bytes: int) -> tuple[Path, int]:
    before = loader.rows
    with path.open("w") as file:
        file.writelines(loader.lines(up_to_bytes))
    return path, loader.rows - before


def _copy(connection: "psycopg.Connection[Any]", path: Path) -> float:
    started_at = time.monotonic()
    copying = connection.cursor().copy(f"COPY {TABLE} FROM STDIN")
    with path.open("rb") as file, copying as copy:
        while chunk := file.read(COPY_CHUNK_BYTES):
            copy.write(chunk)
    return time.monotonic() - started_at


def _cold(pair: Pair, more: Path, rows: int) -> TextTable:
    keys = random.Random(rows).sample(range(1, rows + 1), READS)
    table = TextTable(("reads", "Sixfold", "PostgreSQL", "ratio"))
    reads: list[Latency] = []
    scans: list[float] = []
    for side in (pair.ours, pair.theirs):
        with psycopg.connect(side.endpoint.dsn, autocommit=True) as connection:
            _copy(connection, more)
            pair.settle()
            reads.append(latency_of(_timed_reads(connection, keys)))
            started_at = time.monotonic()
            found = connection.execute(f"SELECT count(*), sum(length(body)) FROM {TABLE}").fetchone()
            scans.append(time.monotonic() - started_at)
            if found is None or found[0] != rows:
                raise BenchFailed(f"{side.name} has {found} of {rows} rows")
    for name, of in (("by key, median ms", "median_ms"), ("by key, p99 ms", "p99_ms")):
        ours, theirs = (getattr(each, of) for each in reads)
        table.add(name, f"{ours:.2f}", f"{theirs:.2f}", f"{theirs / ours:.2f}")
    table.add("p99 in terms of the median", *(f"{each.p99_ms / each.median_ms:.1f}" for each in reads), "–")
    table.add("scan of all, s", *(f"{each:.1f}" for each in scans), f"{scans[1] / scans[0]:.2f}")
    return table


def _timed_reads(connection: "psycopg.Connection[Any]", keys: Iterable[int]) -> list[float]:
    found = []
    for key in keys:
        started_at = time.perf_counter()
        row = connection.execute(f"SELECT amount FROM {TABLE} WHERE id = %s", (key,)).fetchone()
        found.append(time.perf_counter() - started_at)
        if row is None:
            raise BenchFailed(f"the row with key {key} is not there")
    return found


# Many connections


def _connections(pair: Pair) -> TextTable:
    table = TextTable(("connections", "Sixfold tps", "PostgreSQL tps", "ratio", "latency ms", "(PG)"))
    for clients in CONNECTIONS:
        workload = Workload("simple", SCALE, "prepared", clients, ("-N",))
        found = []
        for side in (pair.ours, pair.theirs):
            time.sleep(PAUSE_S)
            found.append(measure(pair.pgbench, side, workload, SECONDS))
        ours, theirs = found
        table.add(
            str(clients),
            f"{ours.tps:,.0f}",
            f"{theirs.tps:,.0f}",
            f"{ours.tps / theirs.tps:.2f}",
            f"{ours.latency_ms:.1f}",
            f"{theirs.latency_ms:.1f}",
        )
    return table


# Cores


def _cores(pair: Pair) -> TextTable:
    table = TextTable(("work", "side", "one core", "all cores", "gain", "busiest process"))
    works = (
        Workload("select", SCALE, "prepared", 8, ("-S",)),
        Workload("tpcb", SCALE, "prepared", CLIENTS),
    )
    everything = os.sched_getaffinity(0)
    for work in works:
        for side in (pair.ours, pair.theirs):
            found = []
            for cores in ({min(everything)}, everything):
                _pin([os.getpid(), *side.pids()], cores)
                time.sleep(PAUSE_S)
                before, since = own_cpu_seconds(side.pids()), time.monotonic()
                found.append(measure(pair.pgbench, side, work, SECONDS).tps)
                after, elapsed = own_cpu_seconds(side.pids()), time.monotonic() - since
            one, all_ = found
            busiest = max(after[pid] - before[pid] for pid in before.keys() & after.keys()) / elapsed
            table.add(
                work.name, side.name, f"{one:,.0f}", f"{all_:,.0f}", f"{all_ / one:.2f}", f"{busiest:.0%}"
            )
    return table


def _pin(pids: Iterable[int], cores: set[int]) -> None:
    """These processes and their descendants, with all their threads, run on these cores only."""
    for pid in tree(pids):
        with suppress(OSError):  # one that has ended meanwhile
            for task in Path(f"/proc/{pid}/task").iterdir():
                os.sched_setaffinity(int(task.name), cores)


# Latency at half the rate


def _latency(pair: Pair, seconds: float, plot: Path) -> TextTable:
    """Each at half of what it can do: a commit waits for nobody else then, and shows what else there is."""
    table = TextTable(("side", "rate tps", "p50 ms", "p99 ms", "p99.9 ms", "longest ms", "commits"))
    drawn = []
    for side in (pair.ours, pair.theirs):
        top = Workload("simple", SCALE, "prepared", CLIENTS, ("-N",))
        rate = measure(pair.pgbench, side, top, SECONDS).tps / 2
        time.sleep(PAUSE_S)
        prefix = pair.folder / f"latency-{side.name}"
        options = ("-N", f"--rate={rate:.0f}", "-l", f"--log-prefix={prefix}")
        paced = Workload("simple", SCALE, "prepared", CLIENTS, options)
        with pair.pgbench.start(side.endpoint, paced, round(seconds)) as process:
            pair.pgbench.finish(process, round(seconds))
        commits = sorted(_logged(prefix))
        taken = sorted(ms for _, ms in commits)
        drawn.append((side.name, commits))
        table.add(
            side.name,
            f"{rate:,.0f}",
            *(f"{taken[int(part * (len(taken) - 1))]:.1f}" for part in (0.5, 0.99, 0.999, 1.0)),
            f"{len(taken):,}",
        )
    _draw(drawn, plot)
    return table


def _logged(prefix: Path) -> list[tuple[float, float]]:
    """When each transaction ended, in seconds, and what it took from when it was due, in milliseconds."""
    found = []
    for path in prefix.parent.glob(f"{prefix.name}.*"):
        for line in path.read_text().splitlines():
            _, _, taken_us, _, second, micros, *_ = line.split()
            found.append((int(second) + int(micros) / 1e6, int(taken_us) / 1e3))
    if not found:
        raise BenchFailed(f"pgbench wrote no {prefix}.*")
    return found


def _draw(sides: Sequence[tuple[str, list[tuple[float, float]]]], path: Path) -> None:
    """Second by second: the median, and the longest."""
    if find_spec(PLOT_LIBRARY) is None:
        return
    import_module(PLOT_LIBRARY).use("Agg")
    pyplot: Any = import_module(f"{PLOT_LIBRARY}.pyplot")
    figure, axes = pyplot.subplots(figsize=(10.0, 4.5), layout="constrained")
    for name, commits in sides:
        seconds: dict[int, list[float]] = {}
        for at, taken in commits:
            seconds.setdefault(int(at - commits[0][0]), []).append(taken)
        places = sorted(seconds)
        (line,) = axes.plot(places, [median(seconds[place]) for place in places], label=f"{name}, median")
        longest = [max(seconds[place]) for place in places]
        axes.plot(places, longest, color=line.get_color(), alpha=0.4, label=f"{name}, longest")
    axes.set_yscale("log")
    axes.set_ylabel("ms (log scale)")
    axes.set_xlabel("seconds")
    axes.set_title(
        "Commits in each second, at half of the throughput that the database can reach", fontsize=10
    )
    axes.legend()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


if __name__ == "__main__":
    raise SystemExit(main())
