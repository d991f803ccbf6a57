"""Sixfold at growing sizes: what must not grow with the volume, and what a byte of it costs."""

import argparse
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from bench import probe
from bench.commands import work_folder
from bench.load import SETUP, Loader
from bench.machine import description
from bench.processes import resident_and_peak
from bench.script import exit_status
from bench.sixfold_side import BASE_PORT, REPOSITORY, SixfoldSide, sixfold_side
from bench.tables import console
from bench.volume_report import ProcessMemory, VolumeFigures, markdown, memory_table, size_name, table
from sixfold.layout import parse_size

SIZES: Final = "10MB,1GB,5GB"
SAMPLES: Final = 1000
CACHE_MIB: Final = 128
DISK_BLOCK_BYTES: Final = 512
"""The unit of st_blocks, whatever the file system's own is."""


@dataclass(frozen=True, slots=True)
class Settings:
    sizes_bytes: tuple[int, ...]
    samples: int
    cache_mib: int
    base_port: int
    folder: Path
    output: Path


def parse_arguments(arguments: Sequence[str] | None = None) -> Settings:
    parser = argparse.ArgumentParser(
        prog="python -m bench.volume", description="Fill a Sixfold volume and look at it at several sizes."
    )
    parser.add_argument(
        "--sizes",
        default=SIZES,
        help="logical sizes, one after the other, as in 10MB,1GB (default %(default)s)",
    )
    parser.add_argument(
        "--samples", type=int, default=SAMPLES, help="commits and reads at each size (default %(default)s)"
    )
    parser.add_argument(
        "--cache-mib", type=int, default=CACHE_MIB, help="buffer pool of the writer (default %(default)s)"
    )
    parser.add_argument(
        "--base-port", type=int, default=BASE_PORT, help="of the cluster (default %(default)s)"
    )
    parser.add_argument(
        "--dir",
        type=Path,
        default=REPOSITORY / ".bench",
        help="for the cluster, removed at the end (default .bench)",
    )
    parser.add_argument(
        "--output", type=Path, default=REPOSITORY / "bench", help="folder for volume.md (default bench)"
    )
    found = parser.parse_args(arguments)
    try:
        sizes = tuple(sorted(parse_size(size) for size in found.sizes.split(",")))
    except ValueError as error:
        parser.error(f"--sizes: {error}")
    if found.samples < 2 or found.cache_mib < 1 or sizes[0] < 1:
        parser.error("--samples is above one, --cache-mib and --sizes above zero")
    folder, output = found.dir.absolute(), found.output.absolute()
    return Settings(sizes, found.samples, found.cache_mib, found.base_port, folder, output)


def grow(settings: Settings, screen: Console) -> list[VolumeFigures]:
    """Fill and look, size after size; the report is written after each."""
    found: list[VolumeFigures] = []
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with work_folder(settings.folder) as folder, Progress(*columns, console=screen, transient=True) as bar:
        task = bar.add_task("starting Sixfold", total=settings.sizes_bytes[-1])
        with sixfold_side(folder / "sixfold", settings.base_port, settings.cache_mib) as side:
            environment = [*description(), ("buffer pool", f"{settings.cache_mib} MiB")]
            with side.connect() as connection:
                connection.execute(SETUP)
                connection.execute(probe.COMMIT_SETUP)
            loader = Loader()
            for size in settings.sizes_bytes:
                found.append(_at(size, side, loader, settings.samples, bar, task))
                (settings.output / "volume.md").write_text(markdown(found, environment))
                # Above the bar, so that what is known is seen while the next size loads.
                bar.print(table(found[-1:]).drawn())
    return found


def _at(
    size: int, side: SixfoldSide, loader: Loader, samples: int, bar: Progress, task: TaskID
) -> VolumeFigures:
    """Grow to one size and look at everything there."""

    def now(what: str) -> None:
        bar.update(task, description=f"{size_name(size)}: {what}")
        if not bar.console.is_terminal:
            bar.console.print(f"{size_name(size)}: {what}")

    now("loading")
    with side.connect() as connection:
        loaded = loader.load_to(connection, size, lambda done: bar.update(task, completed=done))
    memory_loaded = _memory(side)
    now("stopping and starting")
    side.down()
    start_s = probe.seconds_to_first_commit(side)
    now("committing")
    with side.connect() as connection:
        commit = probe.commits(connection, samples)
    now("reading, with an empty buffer pool")
    cold = probe.cold_reads(side, loader, samples)
    disk = sum(_disk_bytes(folder) for folder in side.data_dirs()) / len(side.data_dirs())
    return VolumeFigures(
        size_bytes=size,
        rows=loader.rows,
        loaded=loaded,
        start_s=start_s,
        commit=commit,
        cold=cold,
        disk_bytes_per_byte=disk / loader.size_bytes,
        memory_loaded=memory_loaded,
        memory_read=_memory(side),
    )


def _memory(side: SixfoldSide) -> dict[str, ProcessMemory]:
    return {name: ProcessMemory(*resident_and_peak(pid)) for name, pid in side.processes().items()}


def _disk_bytes(folder: Path) -> int:
    """What the file system has given to the files below; some may vanish while we look."""
    total = 0
    for directory, _, names in os.walk(folder):
        for name in names:
            try:
                total += (Path(directory) / name).stat().st_blocks * DISK_BLOCK_BYTES
            except FileNotFoundError:
                continue
    return total


def main() -> int:
    settings = parse_arguments()
    screen = console()

    def work() -> None:
        settings.output.mkdir(parents=True, exist_ok=True)
        found = grow(settings, screen)
        screen.print(table(found).drawn())
        screen.print(memory_table(found).drawn())
        screen.print(f"Written: {settings.output / 'volume.md'}")

    return exit_status(work)


if __name__ == "__main__":
    raise SystemExit(main())
