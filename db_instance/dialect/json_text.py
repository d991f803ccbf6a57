"""JSON as text: what is none is told, and one of type jsonb is written in one way only, so that equal values are
equal texts."""

import json
from decimal import Decimal
from typing import Any


class _Number(str):
    """As it was written: a float would lose digits."""


def checked(text: str) -> str:
    """The same text. Raises ValueError."""
    _parsed(text)
    return text


def canonical(text: str) -> str:
    """As PostgreSQL prints jsonb: keys once, short ones first, a space behind commas and colons. Raises ValueError."""
    return _written(_parsed(text))


def _parsed(text: str) -> Any:
    try:
        return json.loads(text, parse_int=_Number, parse_float=_Number, parse_constant=_refuse)
    except RecursionError:
        raise ValueError("nested too deep") from None


def _refuse(word: str) -> None:
    raise ValueError(word)


def _written(value: Any) -> str:
    if isinstance(value, _Number):
        return format(Decimal(value), "f") if "e" in value.lower() else str(value)
    if isinstance(value, dict):
        pairs = sorted(value.items(), key=lambda pair: (len(pair[0].encode()), pair[0].encode()))
        return "{" + ", ".join(f"{_string(key)}: {_written(each)}" for key, each in pairs) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_written, value)) + "]"
    return _string(value) if isinstance(value, str) else json.dumps(value)


def _string(value: str) -> str:
    if "\0" in value:
        raise ValueError("\\u0000 cannot be text")
    return json.dumps(value, ensure_ascii=False)
