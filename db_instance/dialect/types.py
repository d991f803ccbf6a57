"""PostgreSQL's types on the wire, and the values SQLite holds for them.

    boolean 0/1 · integers int · real, double float · text str · bytea bytes · json, uuid str
    date "2026-01-31" · time "12:30:00" · timestamp "2026-01-31 12:30:00.5" · timestamptz the same in UTC, with +00

Text and binary formats are those of https://www.postgresql.org/docs/15/protocol-overview.html and the
types' send and receive functions.
"""

import re
import struct
import uuid
from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any, Final

from db_instance.dialect import json_text

BOOL, BYTEA, NAME, INT8, INT2, INT4, TEXT, OID = 16, 17, 19, 20, 21, 23, 25, 26
JSON, FLOAT4, FLOAT8, UNKNOWN = 114, 700, 701, 705
BPCHAR, VARCHAR, DATE, TIME, TIMESTAMP, TIMESTAMPTZ = 1042, 1043, 1082, 1083, 1114, 1184
NUMERIC, UUID, VOID, JSONB = 1700, 2950, 2278, 3802

INTEGERS: Final = frozenset((INT2, INT4, INT8))
NOT_NUMBERS: Final = frozenset((BOOL, BYTEA, UUID, DATE, TIME, TIMESTAMP, TIMESTAMPTZ, JSON, JSONB))
"""Of which no number is a value."""

SIZES: Final = {BOOL: 1, INT8: 8, INT2: 2, INT4: 4, OID: 4, FLOAT4: 4, FLOAT8: 8, DATE: 4, TIME: 8}
"""Bytes of the types of fixed size; -1 for others, in RowDescription."""
SIZES.update({TIMESTAMP: 8, TIMESTAMPTZ: 8, UUID: 16})

_BY_NAME: Final = {
    "boolean": BOOL, "bool": BOOL, "bytea": BYTEA, "name": NAME, "blob": BYTEA,
    "bigint": INT8, "int8": INT8, "bigserial": INT8, "serial8": INT8,
    "smallint": INT2, "int2": INT2, "smallserial": INT2, "serial2": INT2,
    "integer": INT4, "int": INT4, "int4": INT4, "serial": INT4, "serial4": INT4, "oid": OID,
    "text": TEXT, "varchar": VARCHAR, "character varying": VARCHAR, "char": BPCHAR, "character": BPCHAR, "bpchar": BPCHAR,
    "real": FLOAT4, "float4": FLOAT4, "double precision": FLOAT8, "double": FLOAT8, "float8": FLOAT8, "float": FLOAT8,
    "date": DATE, "time": TIME, "timestamp": TIMESTAMP, "datetime": TIMESTAMP, "timestamptz": TIMESTAMPTZ,
    "timestamp without time zone": TIMESTAMP, "timestamp with time zone": TIMESTAMPTZ,
    "numeric": NUMERIC, "decimal": NUMERIC, "json": JSON, "jsonb": JSONB, "uuid": UUID,
    "json text": JSON, "jsonb text": JSONB, "name text": NAME,
}  # fmt: skip

PLAIN_NAMES: Final = {
    INT2: "smallint",
    INT4: "integer",
    INT8: "bigint",
    NUMERIC: "numeric",
    FLOAT4: "real",
    FLOAT8: "double precision",
}
"""As PostgreSQL calls them in its messages."""

_EPOCH: Final = datetime(2000, 1, 1)
_EPOCH_DATE: Final = date(2000, 1, 1)


class InvalidValue(ValueError):
    """The text or bytes are no value of the type: SQLSTATE 22P02, 22003, 22007 or 22008."""

    def __init__(self, sqlstate: str, message: str) -> None:
        super().__init__(message)
        self.sqlstate = sqlstate
        self.message = message


def oid_of_decltype(declared: str | None) -> int:
    """The type of a column declared so in a CREATE TABLE; 0 if it is none of ours."""
    if not declared:
        return 0
    name = re.sub(r"\s*\(.*\)", "", declared).strip().lower()
    return _BY_NAME.get(name, 0)


def oid_of_value(value: object) -> int:
    """The type to announce for an expression's value."""
    if isinstance(value, int):
        return INT8
    if isinstance(value, float):
        return FLOAT8
    return BYTEA if isinstance(value, bytes) else TEXT


def type_name(oid: int) -> str:
    return next((name for name, each in _BY_NAME.items() if each == oid), "text")


# Values to the wire


def encode_text(oid: int, value: Any) -> bytes:
    """A value, not None, as PostgreSQL prints it."""
    if oid == BOOL:
        return b"t" if value else b"f"
    if isinstance(value, bytes):
        return b"\\x" + value.hex().encode()
    if isinstance(value, float):
        return _float_text(value)
    if oid in _WITH_FRACTIONS and isinstance(value, str):
        return _FRACTION.sub(r"\1", value).encode()
    return str(value).encode()


_WITH_FRACTIONS: Final = frozenset((TIME, TIMESTAMP, TIMESTAMPTZ))
_FRACTION: Final = re.compile(r"(\.\d*[1-9])0+(?!\d)")
"""PostgreSQL does not print the zeros at its end, which SQLite has to have: its texts are compared."""


def _float_text(value: float) -> bytes:
    if value != value:
        return b"NaN"
    if value in (float("inf"), float("-inf")):
        return b"Infinity" if value > 0 else b"-Infinity"
    return repr(value).removesuffix(".0").encode()


_INT2: Final = struct.Struct("!h")
_INT4: Final = struct.Struct("!i")
_INT8: Final = struct.Struct("!q")
_UINT4: Final = struct.Struct("!I")
_FLOAT4: Final = struct.Struct("!f")
_FLOAT8: Final = struct.Struct("!d")
_NUMERIC: Final = struct.Struct("!HhHH")


def _micros(value: str) -> int:
    moment = datetime.fromisoformat(value)
    if moment.tzinfo is not None:
        moment = moment.astimezone(UTC).replace(tzinfo=None)
    return (moment - _EPOCH) // timedelta(microseconds=1)


def _text(value: Any) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode()


_TO_BINARY: Final[dict[int, Callable[[Any], bytes]]] = {
    BOOL: lambda value: b"\1" if value else b"\0",
    INT2: _INT2.pack,
    INT4: _INT4.pack,
    INT8: _INT8.pack,
    OID: _UINT4.pack,
    FLOAT4: _FLOAT4.pack,
    FLOAT8: _FLOAT8.pack,
    DATE: lambda value: _INT4.pack((date.fromisoformat(value) - _EPOCH_DATE).days),
    TIME: lambda value: _INT8.pack(_time_micros(value)),
    TIMESTAMP: lambda value: _INT8.pack(_micros(value)),
    TIMESTAMPTZ: lambda value: _INT8.pack(_micros(value)),
    NUMERIC: lambda value: _numeric_bytes(Decimal(encode_text(NUMERIC, value).decode())),
    UUID: lambda value: uuid.UUID(value).bytes,
    JSONB: lambda value: b"\1" + _text(value),
}


def _numeric_bytes(value: Decimal) -> bytes:
    """Groups of four decimal digits (numeric_send in PostgreSQL's numeric.c)."""
    if not value.is_finite():
        sign = 0xC000 if value.is_nan() else 0xD000 if value > 0 else 0xF000
        return _NUMERIC.pack(0, 0, sign, 0)
    sign, digits, exponent = value.as_tuple()
    assert isinstance(exponent, int)
    scale = max(0, -exponent)
    text = "".join(map(str, digits)) + "0" * (max(0, exponent) + -scale % 4)
    text = text.zfill(len(text) + -len(text) % 4)
    groups = [int(text[at : at + 4]) for at in range(0, len(text), 4)]
    weight = len(groups) - 1 - (scale + 3) // 4
    return _NUMERIC.pack(len(groups), weight, 0x4000 if sign else 0, scale) + struct.pack(
        f"!{len(groups)}H", *groups
    )


def _numeric(data: bytes) -> float:
    count, weight, sign, _ = _NUMERIC.unpack_from(data)
    if sign not in (0, 0x4000):
        raise InvalidValue("0A000", "NaN and Infinity of type numeric are not supported")
    groups = struct.unpack_from(f"!{count}H", data, _NUMERIC.size)
    digits = int("".join(f"{group:04d}" for group in groups) or "0")
    found = float(Decimal(digits).scaleb(4 * (weight + 1 - count)))
    return -found if sign else found


def _time_micros(value: str) -> int:
    moment = time.fromisoformat(value)
    return ((moment.hour * 60 + moment.minute) * 60 + moment.second) * 1_000_000 + moment.microsecond


def encode_binary(oid: int, value: Any) -> bytes:
    """A value, not None, in the type's binary format. Raises InvalidValue if it does not fit the type."""
    encoder = _TO_BINARY.get(oid, _text)
    try:
        return encoder(value)
    except (struct.error, ValueError, TypeError, OverflowError):
        raise InvalidValue("22003", f"value {value!r} does not fit type {type_name(oid)}") from None


# Values from the wire

_BOOLS: Final = {
    "t": 1,
    "true": 1,
    "y": 1,
    "yes": 1,
    "on": 1,
    "1": 1,
    "f": 0,
    "false": 0,
    "n": 0,
    "no": 0,
    "off": 0,
    "0": 0,
}
_INT_RANGES: Final = {INT2: 15, INT4: 31, INT8: 63}


def is_integer(oid: int) -> bool:
    return oid in _INT_RANGES


def decode_integers(oid: int, fields: Sequence[bytes | None]) -> list[int] | None:
    """As `decode_text` of each, all at once; None if one of them needs a closer look."""
    limit = 1 << _INT_RANGES[oid]
    try:
        found = list(map(int, fields))  # type: ignore[arg-type]
        if -limit <= min(found) and max(found) < limit and b"_" not in b"".join(fields):  # type: ignore[arg-type]
            return found
    except (TypeError, ValueError):
        pass
    return None


def decode_text(oid: int, data: bytes) -> Any:
    """The value of a parameter or COPY field in text format. Raises InvalidValue."""
    text = decode_utf8(data)
    if oid in _INT_RANGES:
        return _int(oid, text)
    reader = _FROM_TEXT.get(oid)
    if reader is None:
        return text
    try:
        return reader(text)
    except InvalidValue:
        raise
    except (ValueError, KeyError):
        if oid in (DATE, TIME, TIMESTAMP, TIMESTAMPTZ) and _LOOKS_LIKE_A_TIME.fullmatch(text):
            raise InvalidValue("22008", f'date/time field value out of range: "{text}"') from None
        code = "22007" if oid in (DATE, TIME, TIMESTAMP, TIMESTAMPTZ) else "22P02"
        raise InvalidValue(code, f'invalid input syntax for type {type_name(oid)}: "{text}"') from None
    except OverflowError:
        raise InvalidValue("22008", f'{type_name(oid)} out of range: "{text}"') from None


_LOOKS_LIKE_A_TIME: Final = re.compile(r"(?:\d{4}-\d\d-\d\d|\d\d:\d\d)(?:[T :.+-][\d :.+-]*)?")


def decode_utf8(data: bytes) -> str:
    """Text, which holds no NUL. Raises InvalidValue."""
    if b"\0" in data:
        raise InvalidValue("22021", 'invalid byte sequence for encoding "UTF8": 0x00')
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise InvalidValue("22021", 'invalid byte sequence for encoding "UTF8"') from None


def _int(oid: int, text: str) -> int:
    try:
        if "_" in text:
            raise ValueError
        value = int(text)
    except ValueError:
        raise InvalidValue("22P02", f'invalid input syntax for type {type_name(oid)}: "{text}"') from None
    if not -(1 << _INT_RANGES[oid]) <= value < 1 << _INT_RANGES[oid]:
        raise InvalidValue("22003", f'value "{text}" is out of range for type {type_name(oid)}')
    return value


def _float(text: str) -> float:
    if "_" in text:
        raise ValueError
    return _kept(float(text))


def _kept(value: float) -> float:
    """SQLite would hold NULL for it, and say nothing."""
    if value != value:
        raise InvalidValue("0A000", "NaN is not supported")
    return value


def _bytea(text: str) -> bytes:
    if text.startswith("\\x"):
        return bytes.fromhex(text[2:])
    return re.sub(
        rb"\\(\\|[0-7]{3})", lambda m: b"\\" if m[1] == b"\\" else bytes([int(m[1], 8)]), text.encode()
    )


def _timestamp(text: str) -> str:
    moment = datetime.fromisoformat(text.strip())
    return moment.replace(tzinfo=None).isoformat(" ")


def _timestamptz(text: str) -> str:
    moment = datetime.fromisoformat(text.strip())
    moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    return moment.isoformat(" ").replace("+00:00", "+00")


_FROM_TEXT: Final[dict[int, Callable[[str], Any]]] = {
    BOOL: lambda text: _BOOLS[text.strip().lower()],
    FLOAT4: _float,
    FLOAT8: _float,
    NUMERIC: _float,
    OID: int,
    BYTEA: _bytea,
    UUID: lambda text: str(uuid.UUID(text)),
    DATE: lambda text: date.fromisoformat(text.strip()).isoformat(),
    TIME: lambda text: time.fromisoformat(text.strip()).isoformat(),
    TIMESTAMP: _timestamp,
    TIMESTAMPTZ: _timestamptz,
    JSON: json_text.checked,
    JSONB: json_text.canonical,
}

_FROM_BINARY: Final[dict[int, Callable[[bytes], Any]]] = {
    BOOL: lambda data: data[0],
    INT2: lambda data: _INT2.unpack(data)[0],
    INT4: lambda data: _INT4.unpack(data)[0],
    INT8: lambda data: _INT8.unpack(data)[0],
    OID: lambda data: _UINT4.unpack(data)[0],
    FLOAT4: lambda data: _kept(_FLOAT4.unpack(data)[0]),
    FLOAT8: lambda data: _kept(_FLOAT8.unpack(data)[0]),
    NUMERIC: _numeric,
    BYTEA: bytes,
    UUID: lambda data: str(uuid.UUID(bytes=data)),
    DATE: lambda data: (_EPOCH_DATE + timedelta(days=_INT4.unpack(data)[0])).isoformat(),
    TIME: lambda data: (_EPOCH + timedelta(microseconds=_INT8.unpack(data)[0])).time().isoformat(),
    TIMESTAMP: lambda data: (_EPOCH + timedelta(microseconds=_INT8.unpack(data)[0])).isoformat(" "),
    TIMESTAMPTZ: lambda data: (_EPOCH + timedelta(microseconds=_INT8.unpack(data)[0])).isoformat(" ") + "+00",
    JSON: lambda data: json_text.checked(decode_utf8(data)),
    JSONB: lambda data: json_text.canonical(decode_utf8(data[1:])),
}


def decode_binary(oid: int, data: bytes) -> Any:
    """The value of a parameter in binary format. Raises InvalidValue."""
    reader = _FROM_BINARY.get(oid, decode_utf8)
    try:
        return reader(data)
    except InvalidValue:
        raise
    except (struct.error, ValueError, IndexError, OverflowError):
        raise InvalidValue("22P03", f"incorrect binary data format for type {type_name(oid)}") from None
