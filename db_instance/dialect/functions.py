"""Functions of PostgreSQL that SQLite lacks, as plain Python. The engine gives them to each connection.

Each is (name, number of arguments or -1, function, deterministic).
"""

import hashlib
import math
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import ROUND_HALF_UP, Decimal
from typing import Any, Final, Protocol

from db_instance.dialect import types
from db_instance.dialect.statement import SqlError, null_in_key

VERSION: Final = "PostgreSQL 15.0 (Sixfold 0.1.0)"

_LONGEST_TEXT: Final = 10_000_000
_INT8_MAX: Final = (1 << 63) - 1

Function = tuple[str, int, Callable[..., Any], bool]


def _told(moment: datetime) -> str:
    return moment.isoformat(" ").replace("+00:00", "+00")


def _integer(oid: int) -> Callable[[Any], int]:
    """A cast to an integer: PostgreSQL rounds, half to even, where SQLite cuts off, and each type has its range."""
    limit = 1 << (8 * types.SIZES[oid] - 1)

    def cast(value: Any) -> int:
        rounded: int = types.decode_text(oid, value.encode()) if isinstance(value, str) else round(value)
        if not -limit <= rounded < limit:
            raise SqlError("22003", f"{types.PLAIN_NAMES[oid]} out of range")
        return rounded

    return cast


def _boolean(value: Any) -> int:
    """A cast to boolean: SQLite would take a text for a number."""
    return int(types.decode_text(types.BOOL, value.encode()) if isinstance(value, str) else bool(value))


def _float(value: Any) -> float:
    """A cast to a floating-point number of what may be text, which SQLite would read as far as it goes."""
    if isinstance(value, int | float):
        return float(value)
    found: float = types.decode_text(types.FLOAT8, value if isinstance(value, bytes) else value.encode())
    return found


def _round(value: Any) -> float:
    """Of a floating-point number: half to even, where SQLite goes away from zero."""
    number = _float(value)
    return float(round(number)) if math.isfinite(number) else number


def _text(value: Any) -> str:
    """A cast to text of what may be a float: 100, where SQLite says 100.0."""
    return value if isinstance(value, str) else types.encode_text(types.TEXT, value).decode()


def _time_text(value: Any) -> str:
    return types.encode_text(types.TIMESTAMP, str(value)).decode()


def _boolean_text(value: Any) -> str:
    return "true" if value else "false"


def _read_as(oid: int) -> Callable[[Any], Any]:
    """A cast of what SQLite holds to a type that is no number: it would read the text as a number, up to the hyphen."""

    def cast(value: Any) -> Any:
        if oid == types.BYTEA and isinstance(value, bytes):
            return value
        if not isinstance(value, str):
            raise SqlError("42846", f"cannot cast type {type(value).__name__} to {types.type_name(oid)}")
        if oid == types.DATE and len(value) > 10 and value[10] in " T":
            value = str(types.decode_text(types.TIMESTAMP, value.encode()))[:10]
        if oid == types.TIME and len(value) > 10 and value[10] in " T":
            value = value[11:].removesuffix("+00")
        return types.decode_text(oid, value.encode())

    return cast


READ_AS: Final = {
    types.DATE: "sixfold_date",
    types.TIME: "sixfold_time",
    types.TIMESTAMP: "sixfold_timestamp",
    types.TIMESTAMPTZ: "sixfold_timestamptz",
    types.UUID: "sixfold_uuid",
    types.BYTEA: "sixfold_bytea",
    types.JSON: "sixfold_json",
    types.JSONB: "sixfold_jsonb",
}


INTEGER_CASTS: Final = {
    types.INT2: "sixfold_smallint",
    types.INT4: "sixfold_int",
    types.INT8: "sixfold_integer",  # what all three were, in defaults that were written before
}


def _several_rows() -> None:
    raise SqlError("21000", "more than one row returned by a subquery used as an expression")


def _strict(function: Callable[..., Any]) -> Callable[..., Any]:
    """NULL in, NULL out, as nearly all of PostgreSQL's functions do."""
    return lambda *arguments: None if None in arguments else function(*arguments)


def _quotient(dividend: Any, divisor: Any) -> int | float:
    """PostgreSQL's division: of integers it cuts off, and by zero it is an error where SQLite says NULL."""
    dividend, divisor = _number(dividend), _number(divisor)
    _check_divisor(divisor)
    if isinstance(dividend, float) or isinstance(divisor, float):
        quotient: float = dividend / divisor
        return quotient
    whole: int = abs(dividend) // abs(divisor)
    if (dividend < 0) != (divisor < 0):
        return -whole
    if whole > _INT8_MAX:
        raise SqlError("22003", "bigint out of range")
    return whole


def _remainder(dividend: Any, divisor: Any) -> int | float:
    """Its sign is the dividend's. Of numbers with fractions, by their decimal digits."""
    dividend, divisor = _number(dividend), _number(divisor)
    _check_divisor(divisor)
    if isinstance(dividend, float) or isinstance(divisor, float):
        return float(Decimal(repr(dividend)) % Decimal(repr(divisor)))
    rest: int = abs(dividend) % abs(divisor)
    return -rest if dividend < 0 else rest


def _rounded(value: Any, digits: int) -> int | float:
    """A numeric to so many digits behind the point, before it if negative: half away from zero."""
    number = _number(value)
    exact = Decimal(repr(number))
    if not exact.is_finite() or -int(exact.as_tuple().exponent) <= digits:
        return number
    rounded = (
        exact.quantize(Decimal(1).scaleb(-digits), ROUND_HALF_UP) if exact.adjusted() >= -digits - 1 else 0
    )
    return int(rounded) if isinstance(number, int) else float(rounded)


def _square_root(value: Any) -> float:
    number = _float(value)
    if number < 0:
        raise SqlError("2201F", "cannot take square root of a negative number")
    return math.sqrt(number)


def _logarithm(value: Any) -> float:
    number = _float(value)
    if number <= 0:
        raise SqlError("2201E", f"cannot take logarithm of {'a negative number' if number else 'zero'}")
    return math.log(number)


def _power(base: Any, exponent: Any) -> float:
    base, exponent = _float(base), _float(exponent)
    if not base and exponent < 0:
        raise SqlError("2201F", "zero raised to a negative power is undefined")
    if base < 0 and exponent != math.floor(exponent):
        raise SqlError("2201F", "a negative number raised to a non-integer power yields a complex result")
    return _in_range(lambda: math.pow(base, exponent))


def _in_range(calculated: Callable[[], float]) -> float:
    try:
        return calculated()
    except OverflowError:
        raise SqlError("22003", "value out of range: overflow") from None


def _number(value: Any) -> int | float:
    if isinstance(value, int | float):
        return value
    try:
        return int(value)
    except ValueError:
        return _float(value)


def _check_divisor(divisor: int | float) -> None:
    if not divisor:
        raise SqlError("22012", "division by zero")


def _split_part(text: str, delimiter: str, number: int) -> str:
    """A negative number counts from the end."""
    if number == 0:
        raise SqlError("22023", "field position must not be zero")
    parts = text.split(delimiter) if delimiter else [text]
    at = number - 1 if number > 0 else len(parts) + number
    return parts[at] if 0 <= at < len(parts) else ""


def _substring(text: Any, start: int, length: int | None = None) -> str:
    """Characters from `start`, of which the first one is 1, also where that is before the text."""
    whole = _text(text)
    if length is not None and length < 0:
        raise SqlError("22011", "negative substring length not allowed")
    end = len(whole) if length is None else max(0, start - 1 + length)
    return whole[max(0, start - 1) : end]


def _padded(size: int, text: str, fill: str) -> str:
    """What is put beside a text to make it `size` long."""
    return (fill * max(0, min(size, _LONGEST_TEXT)))[: max(0, min(size, _LONGEST_TEXT) - len(text))]


def _lpad(text: str, size: int, fill: str = " ") -> str:
    return (_padded(size, text, fill) + text)[: max(0, size)]


def _rpad(text: str, size: int, fill: str = " ") -> str:
    return (text + _padded(size, text, fill))[: max(0, size)]


def _null_in_key(table: str, column: str) -> None:
    raise null_in_key(table, column)


FUNCTIONS: Final[list[Function]] = [
    *((name, 1, _strict(_integer(oid)), True) for oid, name in INTEGER_CASTS.items()),
    ("sixfold_boolean", 1, _strict(_boolean), True),
    ("sixfold_float", 1, _strict(_float), True),
    ("sixfold_text", 1, _strict(_text), True),
    ("sixfold_round", 1, _strict(_round), True),
    ("sixfold_several_rows", 0, _several_rows, False),
    ("sixfold_boolean_text", 1, _strict(_boolean_text), True),
    ("sixfold_time_text", 1, _strict(_time_text), True),
    *((name, 1, _strict(_read_as(oid)), True) for oid, name in READ_AS.items()),
    ("sixfold_quotient", 2, _strict(_quotient), True),
    ("sixfold_remainder", 2, _strict(_remainder), True),
    ("sixfold_rounded", 2, _strict(_rounded), True),
    ("sqrt", 1, _strict(_square_root), True),
    ("ln", 1, _strict(_logarithm), True),
    ("exp", 1, _strict(lambda value: _in_range(lambda: math.exp(_float(value)))), True),
    *((name, 2, _strict(_power), True) for name in ("pow", "power")),
    # Not deterministic, or SQLite would call it whether or not it is needed.
    ("sixfold_null_in_key", 2, _null_in_key, False),
    ("clock_timestamp", 0, lambda: _told(datetime.now(UTC)), False),
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
        _strict(lambda text, count: text * max(0, min(count, _LONGEST_TEXT // max(1, len(text))))),
        True,
    ),
    ("reverse", 1, _strict(lambda text: text[::-1]), True),
    ("strpos", 2, _strict(lambda text, part: text.find(part) + 1), True),
    ("starts_with", 2, _strict(lambda text, part: int(text.startswith(part))), True),
    *(
        (name, count, _strict(pad), True)
        for name, pad in (("lpad", _lpad), ("rpad", _rpad))
        for count in (2, 3)
    ),
    *(("sixfold_substring", count, _strict(_substring), True) for count in (2, 3)),
]


class RunBy(Protocol):
    """The transaction that a function is called in."""

    user: str

    def moment(self) -> float:
        """When it began, Unix time."""
        ...


OF_TRANSACTIONS: Final[list[tuple[str, Callable[[RunBy], Any]]]] = [
    ("sixfold_now", lambda transaction: _told(datetime.fromtimestamp(transaction.moment(), UTC))),
    ("sixfold_user", lambda transaction: transaction.user),
]
"""Functions without arguments that say the same throughout a transaction."""
