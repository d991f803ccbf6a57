"""What the scripts that hurt a Sixfold cluster of their own have in common: their options, and how they end."""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import psycopg

from bench.commands import catch_interrupts, work_folder
from bench.errors import BenchFailed
from bench.machine import description
from bench.sixfold_side import BASE_PORT, REPOSITORY
from bench.tables import TextTable, bullets, console
from sixfold.layout import parse_size

Say = Callable[[str], None]


def parser_of(program: str, about: str | None) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=f"python -m {program}", description=about)
    parser.add_argument(
        "--base-port", type=int, default=BASE_PORT, help="of the cluster (default %(default)s)"
    )
    parser.add_argument(
        "--dir", type=Path, default=REPOSITORY / ".bench", help="for the cluster (default .bench)"
    )
    parser.add_argument("--output", type=Path, default=REPOSITORY / "bench", help="folder of the report")
    return parser


def sizes_of(parser: argparse.ArgumentParser, option: str, text: str) -> list[int]:
    """The sizes in bytes, ascending. Ends the program if they are none."""
    try:
        return sorted(parse_size(size) for size in text.split(","))
    except ValueError as error:
        parser.error(f"{option}: {error}")


def report(
    settings: argparse.Namespace, name: str, title: str, measure: Callable[[Path, Say], TextTable]
) -> int:
    """Measure, show and write the table; the program's exit status."""
    screen = console()

    def work() -> None:
        with work_folder(settings.dir.absolute()) as folder:
            table = measure(folder, lambda what: screen.print(what, highlight=False))
        text = f"# {title}\n\nWritten by `make bench-{name}`.\n\n{bullets(description())}\n{table.markdown()}"
        settings.output.mkdir(parents=True, exist_ok=True)
        (settings.output / f"{name}.md").write_text(text)
        screen.print(table.drawn())

    return exit_status(work)


def exit_status(work: Callable[[], None]) -> int:
    """Do the work; what keeps it from its end is told in one line."""
    catch_interrupts()
    try:
        work()
    except (BenchFailed, psycopg.Error, OSError) as error:
        print(f"bench: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("bench: interrupted; the cluster is stopped", file=sys.stderr)
        return 130
    return 0
