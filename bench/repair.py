"""A storage node loses its disk: how fast its segment is made anew, and what clients notice of it.

    make bench-repair ARGS="--size 500MB"

The rate stands beside that of `cp` and fsync of the same layers on the same disk, in turn, a few times. The first use
of memory that a virtual machine has given back to its host is several times slower than all that is measured here, and
what is free for seconds is given back: so right before each of both as much memory becomes free as it will fill.
Nothing else runs meanwhile. Then the same again under load: commits of a few clients, before and during.
"""

import json
import os
import shutil
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from statistics import median, quantiles
from typing import Any, Final

from bench import probe
from bench.errors import BenchFailed
from bench.load import SETUP, Loader
from bench.script import Say, parser_of, report, sizes_of
from bench.sixfold_side import SixfoldSide, sixfold_side
from bench.tables import TextTable
from control_plane.local_cluster import ClusterFolder

NODE: Final = "s3"
CLIENTS: Final = 4
QUIET_S: Final = 15.0
ROUNDS: Final = 4
REPAIRED_S_MAX: Final = 600.0
LOOK_EVERY_S: Final = 0.05


@dataclass(frozen=True, slots=True)
class Copied:
    bytes: int
    seconds: float

    @property
    def mb_per_s(self) -> float:
        return self.bytes / 1e6 / self.seconds


@dataclass(frozen=True, slots=True)
class Commits:
    count: int
    p50_ms: float
    p99_ms: float
    longest_ms: float


class Clients:
    """A few clients that commit single rows, and remember when and how long each took."""

    def __init__(self, side: SixfoldSide) -> None:
        self._side = side
        self._stop = threading.Event()
        self.done: list[tuple[float, float]] = []
        """(when it was answered, how long it took), in seconds of the wall clock."""
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(CLIENTS)]

    def __enter__(self) -> "Clients":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:
        with self._side.connect() as connection:
            while not self._stop.is_set():
                started = time.perf_counter()
                connection.execute(probe.INSERT, (1,))
                self.done.append((time.time(), time.perf_counter() - started))

    def between(self, start: float, end: float) -> Commits:
        took = [seconds for when, seconds in self.done if start <= when <= end]
        if len(took) < 100:
            raise BenchFailed(f"{len(took)} commits in {end - start:.1f} s are too few to tell anything")
        cuts = quantiles(took, n=100, method="inclusive")
        return Commits(len(took), cuts[49] * 1000, cuts[98] * 1000, max(took) * 1000)


def lose_disk(side: SixfoldSide, folder: Path) -> float:
    """The node comes back with nothing; when that was, by the wall clock."""
    side.command("kill", NODE)
    for name in ("segments", "hot"):
        shutil.rmtree(folder / NODE / name, ignore_errors=True)  # without log since its start there is no hot
    lost_at = time.time()
    side.command("start", NODE)
    return lost_at


class WarmMemory:
    """Memory in use, for a file that nobody needs, until `free`."""

    def __init__(self, path: Path, size: int) -> None:
        self._path = path
        chunk = os.urandom(1 << 20)
        with path.open("wb") as file:
            for _ in range(size // len(chunk) + 1):
                file.write(chunk)
            file.flush()
            os.fsync(file.fileno())

    def free(self) -> None:
        self._path.unlink(missing_ok=True)


def wait_for_repair(
    folder: Path, since: float, on_begun: Callable[[], None] = lambda: None
) -> dict[str, tuple[float, dict[str, Any]]]:
    """The events of a repair that began after `since`, by name: when, and what they say."""
    deadline = time.monotonic() + REPAIRED_S_MAX
    while time.monotonic() < deadline:
        logs = (folder / "control/log/control.log", folder / NODE / "log" / f"{NODE}.log")
        found = {name: entry for log in logs for name, entry in _events(log, since)}
        if "repair.begun" in found:
            on_begun()
        if "repair.done" in found and "segment.layers_copied" in found:
            return found
        time.sleep(LOOK_EVERY_S)
    raise BenchFailed(f"the segment of {NODE} was not repaired within {REPAIRED_S_MAX:.0f} s")


def _events(log: Path, since: float) -> list[tuple[str, tuple[float, dict[str, Any]]]]:
    found = []
    for line in log.read_text().splitlines():
        event = json.loads(line)
        when = _seconds(event["timestamp"])
        if when >= since:
            found.append((event["event"], (when, event)))
    return found


def _seconds(timestamp: str) -> float:
    return datetime.fromisoformat(timestamp.replace("Z", "+00:00")).timestamp()


def layers_of(node: Path) -> list[Path]:
    return sorted(node.glob("segments/*/*.layer"))


def size_of(layers: Sequence[Path]) -> int:
    return sum(layer.stat().st_size for layer in layers)


def cp_and_fsync(source: Path, target: Path) -> Copied:
    """What the disk and the kernel can do: the layers of a peer, copied and synced one by one."""
    target.mkdir()
    layers = layers_of(source)
    size = size_of(layers)
    WarmMemory(target / "warm", size).free()
    started = time.perf_counter()
    for layer in layers:
        shutil.copyfile(layer, target / layer.name)
        fd = os.open(target / layer.name, os.O_RDONLY)
        os.fsync(fd)
        os.close(fd)
    seconds = time.perf_counter() - started
    shutil.rmtree(target)
    return Copied(size, seconds)


def measure(size: int, folder: Path, base_port: int, say: Say) -> TextTable:
    table = TextTable(("", "figure"))
    cluster = folder / "sixfold"
    with sixfold_side(cluster, base_port, 128) as side:
        assert ClusterFolder(cluster).exists()
        with side.connect() as connection:
            connection.execute(SETUP)
            connection.execute(probe.COMMIT_SETUP)
            Loader().load_to(connection, size, lambda done: say(f"loaded {done / 1e6:.0f} MB"))
        say("waiting for compaction to come to rest")
        _until_quiet(cluster)
        say("repair, nothing else going on")
        plain, fills = [], []
        source = NODE
        for _ in range(ROUNDS):
            plain.append(cp_and_fsync(cluster / source, folder / "cp").mb_per_s)
            warm = WarmMemory(folder / "warm", size_of(layers_of(cluster / source)))
            events = wait_for_repair(cluster, lose_disk(side, cluster), warm.free)
            copied = events["segment.layers_copied"][1]
            fills.append(Copied(copied["bytes"], copied["seconds"]).mb_per_s)
            source = copied["source"]
        table.add("layers copied", f"{copied['bytes'] / 1e6:.0f} MB")
        table.add("repair, nothing else going on, in turn with", f"{_rates(fills)} MB/s")
        table.add("cp and fsync of the same", f"{_rates(plain)} MB/s")
        table.add("ratio of the medians", f"{median(fills) / median(plain):.2f}")
        say("repair under load")
        with Clients(side) as clients:
            time.sleep(QUIET_S)
            quiet_end = time.time()
            events = wait_for_repair(cluster, lose_disk(side, cluster))
            begun, done = events["repair.begun"][0], events["repair.done"][0]
            time.sleep(1.0)
        quiet, busy = clients.between(quiet_end - QUIET_S + 1, quiet_end), clients.between(begun, done)
        changes = clients.between(begun - 1, begun + 1), clients.between(done - 1, done + 1)
        copied = events["segment.layers_copied"][1]
        rate = Copied(copied["bytes"], copied["seconds"])
        table.add(f"commits of {CLIENTS} clients, quiet: p50 / p99 / longest", _row(quiet))
        table.add("during the repair: p50 / p99 / longest", _row(busy))
        table.add("p99, ratio", f"{busy.p99_ms / quiet.p99_ms:.2f}")
        table.add(
            "longest commit within 1 s of a membership change",
            f"{max(each.longest_ms for each in changes):.1f} ms",
        )
        table.add("repair under load", f"{rate.mb_per_s:.0f} MB/s, {done - begun:.1f} s from begun to done")
    return table


def _rates(found: Sequence[float]) -> str:
    return ", ".join(f"{each:.0f}" for each in found)


def _row(commits: Commits) -> str:
    return f"{commits.p50_ms:.2f} / {commits.p99_ms:.2f} / {commits.longest_ms:.1f} ms"


def _until_quiet(cluster: Path) -> None:
    """Layers come and go until compaction has nothing left to do."""
    before: list[str] = []
    deadline = time.monotonic() + 120.0
    while time.monotonic() < deadline:
        now = sorted(str(path) for path in cluster.glob("s*/segments/*/*.layer"))
        if now == before:
            return
        before = now
        time.sleep(5.0)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = parser_of("bench.repair", __doc__)
    parser.add_argument("--size", default="500MB", help="of the volume (default %(default)s)")
    found = parser.parse_args(arguments)
    (size,) = sizes_of(parser, "--size", found.size)[:1]
    return report(
        found,
        "repair",
        "A segment made anew",
        lambda folder, say: measure(size, folder, found.base_port, say),
    )


if __name__ == "__main__":
    raise SystemExit(main())
