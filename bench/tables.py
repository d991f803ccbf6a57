"""A table of text, for a terminal and for a Markdown file."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from rich.console import Console
from rich.table import Table

PIPE_WIDTH = 200
"""Where nobody looks, a table is not folded: 80 columns would tear its figures apart."""


@dataclass(frozen=True, slots=True)
class TextTable:
    """Text in its first column, figures in the others."""

    columns: tuple[str, ...]
    rows: list[tuple[str, ...]] = field(default_factory=list)

    def add(self, *cells: str) -> None:
        assert len(cells) == len(self.columns)
        self.rows.append(cells)

    def drawn(self) -> Table:
        table = Table(box=None, header_style="bold", padding=(0, 1))
        for number, column in enumerate(self.columns):
            table.add_column(column, justify="right" if number else "left", no_wrap=number == 0)
        for row in self.rows:
            table.add_row(*row)
        return table

    def markdown(self) -> str:
        lines = [self.columns, ("---", *["---:"] * (len(self.columns) - 1)), *self.rows]
        return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def console() -> Console:
    found = Console(highlight=False)
    return found if found.is_terminal else Console(highlight=False, width=PIPE_WIDTH)


def bullets(pairs: Sequence[tuple[str, str]]) -> str:
    return "".join(f"- {name}: {value}\n" for name, value in pairs)
