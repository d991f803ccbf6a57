"""What is seen while the comparison runs: its table so far, and how far it is."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from bench.figures import Comparison
from bench.report import table


class Screen:
    """The table as far as it is known, and below it how far we are; lines where nobody watches."""

    def __init__(self, screen: Console, steps: int) -> None:
        self._console = screen
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        self._progress = Progress(*columns, console=screen)
        self._task = self._progress.add_task("starting", total=steps)
        self._live = Live(self._progress, console=screen, refresh_per_second=4)

    @contextmanager
    def shown(self) -> Iterator[None]:
        # Elsewhere a moving picture would be printed once, at the end: lines tell more.
        if not self._console.is_terminal:
            yield
            return
        with self._live:
            yield

    def now(self, what: str) -> None:
        self._progress.update(self._task, description=what)
        if not self._console.is_terminal:
            self._console.print(what)

    def step(self, comparisons: Sequence[Comparison]) -> None:
        self._progress.advance(self._task)
        self._live.update(Group(table(comparisons).drawn(), self._progress))
