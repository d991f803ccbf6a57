"""A query's result as aligned text, the way psql shows it. Pure."""

from collections.abc import Iterator, Sequence

from rich.cells import cell_len

Row = Sequence[str | None]


def aligned(names: Sequence[str], rows: Sequence[Row], numeric: Sequence[bool]) -> Iterator[str]:
    """The lines of the table: names, a rule, the rows, and how many there are. NULL shows as nothing."""
    cells = [[_printable(value) for value in row] for row in rows]
    widths = [
        max([cell_len(name), *(cell_len(row[column]) for row in cells)]) for column, name in enumerate(names)
    ]
    yield " " + " | ".join(_centred(name, width) for name, width in zip(names, widths, strict=True))
    yield "-" + "-+-".join("-" * width for width in widths) + "-"
    for row in cells:
        padded = (
            _padded(cell, width, right) for cell, width, right in zip(row, widths, numeric, strict=True)
        )
        yield (" " + " | ".join(padded)).rstrip()
    yield f"({len(rows)} row{'' if len(rows) == 1 else 's'})"


def _printable(value: str | None) -> str:
    """One line, and nothing in it that a terminal would obey."""
    if value is None:
        return ""
    if value.isprintable():
        return value
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in value)


def _centred(text: str, width: int) -> str:
    room = width - cell_len(text)
    return " " * (room // 2) + text + " " * (room - room // 2)


def _padded(text: str, width: int, right: bool) -> str:
    room = " " * (width - cell_len(text))
    return room + text if right else text + room
