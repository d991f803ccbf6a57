"""kill -9 of the writer under load: how long until the first commit, at 1, 10 and 100 times as much redo.

    make bench-recovery ARGS="--sizes 10MB,100MB"

The redo is what the volume has taken in since its start; little of it has become page images by then. The
figure holds all that a client waits for: the death is noticed, the process starts again (Python and its
libraries), the volume is recovered, the leases of the dead writer end, the first insert is answered.
"""

import json
import os
import signal
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Final

import psycopg

from bench import probe
from bench.errors import BenchFailed
from bench.load import SETUP, Loader
from bench.script import Say, parser_of, report, sizes_of
from bench.sixfold_side import SixfoldSide, sixfold_side
from bench.tables import TextTable

KILLS: Final = 3
CLIENTS: Final = 8
UNDER_LOAD_S: Final = 11.0
"""A process that ended sooner after its start counts as crashing, and is started again later each time."""
AGAIN_S: Final = 0.01
BACK_S_MAX: Final = 60.0


def kill_and_wait(side: SixfoldSide, folder: Path) -> tuple[float, float]:
    """Seconds from the kill to the first commit, and milliseconds of the opening."""
    stop = threading.Event()
    threads = [threading.Thread(target=_load, args=(side, stop), daemon=True) for _ in range(CLIENTS)]
    for thread in threads:
        thread.start()
    time.sleep(UNDER_LOAD_S)
    writer = side.writer()
    os.kill(side.processes()[writer], signal.SIGKILL)
    killed_at = time.monotonic()
    stop.set()
    while True:
        try:
            with psycopg.connect(side.endpoint.dsn, autocommit=True, connect_timeout=2) as connection:
                connection.execute(probe.INSERT, (0,))
                took = time.monotonic() - killed_at
                break
        except psycopg.Error:
            if time.monotonic() - killed_at > BACK_S_MAX:
                raise BenchFailed("the writer did not come back") from None
            time.sleep(AGAIN_S)
    for thread in threads:
        thread.join()
    return took, _opened_ms(folder / "sixfold" / writer / "log" / f"{writer}.log")


def _load(side: SixfoldSide, stop: threading.Event) -> None:
    try:
        with side.connect() as connection:
            while not stop.is_set():
                connection.execute(probe.INSERT, (1,))
    except psycopg.Error:
        pass  # that was the kill


def _opened_ms(log: Path) -> float:
    opened = [
        event
        for line in log.read_text().splitlines()
        if (event := json.loads(line))["event"] == "volume.opened"
    ]
    return float(opened[-1]["took_ms"])


def measure(sizes: Sequence[int], folder: Path, base_port: int, say: Say) -> TextTable:
    table = TextTable(("redo taken in", "first commit after kill -9, median", "longest", "of it the opening"))
    with sixfold_side(folder / "sixfold", base_port, 128) as side:
        with side.connect() as connection:
            connection.execute(SETUP)
            connection.execute(probe.COMMIT_SETUP)
        loader = Loader()
        for size in sizes:
            with side.connect() as connection:
                loader.load_to(connection, size, lambda done: say(f"loaded {done / 1e6:.0f} MB"))
            found = [kill_and_wait(side, folder) for _ in range(KILLS)]
            commits, openings = [took for took, _ in found], [took_ms for _, took_ms in found]
            table.add(
                f"{size / 1e6:.0f} MB",
                f"{median(commits):.2f} s",
                f"{max(commits):.2f} s",
                f"{median(openings) / 1000:.2f} s",
            )
    return table


def main(arguments: Sequence[str] | None = None) -> int:
    parser = parser_of("bench.recovery", __doc__)
    parser.add_argument("--sizes", default="10MB,100MB,1GB", help="one after the other (default %(default)s)")
    found = parser.parse_args(arguments)
    sizes = sizes_of(parser, "--sizes", found.sizes)
    return report(
        found,
        "recovery",
        "A writer killed",
        lambda folder, say: measure(sizes, folder, found.base_port, say),
    )


if __name__ == "__main__":
    raise SystemExit(main())
