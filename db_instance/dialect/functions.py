"""Functions of PostgreSQL that SQLite lacks, as plain Python. The engine gives them to each connection.

Each is (name, number of arguments or -1, function, deterministic).
"""

import hashlib
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final

from db_instance.dialect.statement import SqlError

VERSION: Final = "PostgreSQL 15.0 (Sixfold 0.1.0)"

Function = tuple[str, int, Callable[..., Any], bool]


def _now() -> str:
    return datetime.now(UTC).isoformat(" ").replace("+00:00", "+00")


def _integer(value: Any) -> int:
    """A cast to an integer: PostgreSQL rounds, half to even, where SQLite cuts off."""
    if isinstance(value, str):
        try:
            return int(value)
        except ValueError:
            raise SqlError("22P02", f'invalid input syntax for type integer: "{value}"') from None
    rounded: int = round(value)
    return rounded


def _strict(function: Callable[..., Any]) -> Callable[..., Any]:
    """NULL in, NULL out, as nearly all of PostgreSQL's functions do."""
    return lambda *arguments: None if None in arguments else function(*arguments)


def _split_part(text: str, delimiter: str, number: int) -> str:
    parts = text.split(delimiter)
    return parts[number - 1] if 0 < number <= len(parts) else ""


FUNCTIONS: Final[list[Function]] = [
    ("sixfold_now", 0, _now, False),
    ("sixfold_integer", 1, _strict(_integer), True),
    ("clock_timestamp", 0, _now, False),
    ("version", 0, lambda: VERSION, True),
    ("current_database", 0, lambda: "main", True),
    ("current_schema", 0, lambda: "public", True),
    ("pg_is_in_recovery", 0, lambda: 0, True),
    ("gen_random_uuid", 0, lambda: str(uuid.uuid4()), False),
    ("md5", 1, _strict(lambda text: hashlib.md5(text.encode()).hexdigest()), True),
    ("split_part", 3, _strict(_split_part), True),
    ("left", 2, _strict(lambda text, count: text[:count]), True),
    ("right", 2, _strict(lambda text, count: text[-count:] if count else ""), True),
    (
        "repeat",
        2,
        _strict(lambda text, count: text * max(0, min(count, 10_000_000 // max(1, len(text))))),
        True,
    ),
    ("reverse", 1, _strict(lambda text: text[::-1]), True),
    ("strpos", 2, _strict(lambda text, part: text.find(part) + 1), True),
    ("starts_with", 2, _strict(lambda text, part: int(text.startswith(part))), True),
    ("lpad", 2, _strict(lambda text, size: text.rjust(size)[:size]), True),
    ("rpad", 2, _strict(lambda text, size: text.ljust(size)[:size]), True),
]
