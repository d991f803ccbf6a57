"""Sixfold and PostgreSQL with six standbys, the same work, one run: the whole comparison.

Both run all the time, side by side, on ports and in a folder of their own; only one at a time is given
work. Rounds of a workload take turns, so that a machine that is slow for a while is slow for both.
"""

import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import psycopg
from rich.console import Console

from bench.commands import catch_interrupts, work_folder
from bench.errors import BenchFailed
from bench.figures import Comparison, Outcome, failures_of
from bench.machine import description, postgres_version
from bench.measure import idle_cpu, measure
from bench.options import POSTGRES_PORT_STEP, Settings, parse_arguments
from bench.pgbench import Pgbench
from bench.plot import plot
from bench.postgres import check_installed, postgres_side
from bench.report import markdown, table
from bench.screen import Screen
from bench.side import Side
from bench.sixfold_side import sixfold_side
from bench.tables import console
from bench.workloads import INSERT_SETUP, Workload

PAUSE_S: Final = 0.5
"""Between runs, for what a database puts off until after the answer."""

IDLE_S: Final = 3.0


@dataclass(frozen=True, slots=True)
class Contest:
    """The two databases while they run, and what they are set to do."""

    settings: Settings
    pgbench: Pgbench
    ours: Side
    theirs: Side
    screen: Screen

    def run(self, comparisons: list[Comparison]) -> Iterator[None]:
        """Work through all workloads; stops after each of them, with its figures in `comparisons`."""
        scale = 0
        for workload in self.settings.workloads:
            if workload.scale != scale:
                scale = workload.scale
                self._fill(scale)
            comparison = Comparison(workload)
            comparisons.append(comparison)
            for number in range(1, self.settings.rounds + 1):
                for side, outcome in ((self.ours, comparison.ours), (self.theirs, comparison.theirs)):
                    self.screen.now(f"{workload.name}: round {number}, {side.name}")
                    self._once(side, workload, outcome)
                    self.screen.step(comparisons)
            yield

    def _fill(self, scale: int) -> None:
        for side in (self.ours, self.theirs):
            self.screen.now(f"filling pgbench's tables, scale {scale}: {side.name}")
            self.pgbench.fill(side.endpoint, scale)
            with psycopg.connect(side.endpoint.dsn, autocommit=True) as connection:
                for statement in INSERT_SETUP:
                    connection.execute(statement)

    def _once(self, side: Side, workload: Workload, outcome: Outcome) -> None:
        time.sleep(PAUSE_S)
        try:
            outcome.rounds.append(measure(self.pgbench, side, workload, self.settings.seconds))
        except BenchFailed as error:
            # The other workloads may still tell something; this one is told in the report.
            outcome.failures.append(str(error))


def compare(settings: Settings, screen: Console) -> list[Comparison]:
    """Start both, measure, write the report as it grows, stop both."""
    check_installed(settings.pg_bin)
    progress = Screen(screen, 2 * settings.rounds * len(settings.workloads))
    comparisons: list[Comparison] = []
    with work_folder(settings.folder) as folder, progress.shown():
        progress.now("starting PostgreSQL and its six standbys")
        peer_port = settings.base_port + POSTGRES_PORT_STEP
        with postgres_side(settings.pg_bin, folder / "postgres", peer_port, settings.cache_mib) as theirs:
            progress.now("starting Sixfold")
            with sixfold_side(folder / "sixfold", settings.base_port, settings.cache_mib) as ours:
                environment = [*description(), ("PostgreSQL", postgres_version(settings.pg_bin))]
                environment.append(("buffer pool", f"{settings.cache_mib} MiB on both sides"))
                progress.now("looking at what they do when idle")
                environment.append(("CPU when idle", _idle((ours, theirs))))
                pgbench = Pgbench(settings.pg_bin / "pgbench", folder / "transaction.sql")
                for _ in Contest(settings, pgbench, ours, theirs, progress).run(comparisons):
                    report = markdown(comparisons, environment, settings.rounds, settings.seconds)
                    (settings.output / "results.md").write_text(report)
    return comparisons


def _idle(sides: Sequence[Side]) -> str:
    return ", ".join(f"{side.name} {idle_cpu(side, IDLE_S):.1%} of a core" for side in sides)


def main() -> int:
    settings = parse_arguments()
    catch_interrupts()
    screen = console()
    try:
        settings.output.mkdir(parents=True, exist_ok=True)
        comparisons = compare(settings, screen)
    except (BenchFailed, psycopg.Error, OSError) as error:
        print(f"bench: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("bench: interrupted; both databases are stopped", file=sys.stderr)
        return 130
    if not screen.is_terminal:
        screen.print(table(comparisons).drawn())
    written = [settings.output / "results.md"]
    if plot(comparisons, settings.output / "results.png"):
        written.append(settings.output / "results.png")
    screen.print(f"Written: {', '.join(str(path) for path in written)}")
    for failure in (failures := failures_of(comparisons)):
        print(f"bench: {failure}", file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    raise SystemExit(main())
