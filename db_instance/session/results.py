"""What the columns of a result are for the client, and how their values are written.

A column's type comes from the first of these that knows: the translation (static types), the declared
type of the table's column, and, where nothing was promised to the client yet, the first row's value.
What nobody knows is text.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, Final, NamedTuple

from db_instance.dialect import Statement, types
from db_instance.engine.lease import Row
from db_instance.session.errors import SessionError
from db_instance.wire.postgres.backend import Encode, Field, row_description

UNKNOWN: Final = 0


class OutputColumn(NamedTuple):
    name: str
    oid: int
    """UNKNOWN: the first row's value will tell."""
    typmod: int = -1


Columns = tuple[OutputColumn, ...]


def static_columns(statement: Statement) -> Columns | None:
    """What the translation knows; None if it does not even know how many there are."""
    if statement.columns is None:
        return None
    return tuple(OutputColumn(column.name, column.oid, column.typmod) for column in statement.columns)


def merge(static: Columns | None, described: Sequence[tuple[str, str | None]]) -> Columns:
    """Complete what is known with what the engine says of the statement."""
    if static is None or len(static) != len(described):
        static = tuple(OutputColumn(name, UNKNOWN) for name, _ in described)
    return tuple(
        column if column.oid or decltype is None else OutputColumn(column.name, declared_oid(decltype))
        for column, (_, decltype) in zip(static, described, strict=True)
    )


@lru_cache(maxsize=1000)
def declared_oid(decltype: str) -> int:
    return types.oid_of_decltype(decltype)


def is_complete(columns: Columns) -> bool:
    return all(column.oid for column in columns)


def settle(columns: Columns, first_row: Row | None) -> Columns:
    """Give every column a type."""
    if is_complete(columns):
        return columns
    values: Sequence[Any] = first_row if first_row is not None else [None] * len(columns)
    return tuple(
        column if column.oid else OutputColumn(column.name, types.oid_of_value(value))
        for column, value in zip(columns, values, strict=True)
    )


def spread_formats(formats: tuple[int, ...], count: int) -> tuple[int, ...]:
    """One format for each value: none given means text, a single one holds for all."""
    if not formats:
        return (0,) * count
    if len(formats) == 1:
        return formats * count
    if len(formats) != count:
        raise SessionError("08P01", f"{len(formats)} formats for {count} values")
    return formats


class Writer(NamedTuple):
    """How a result is told: its description, and a function for each column's values."""

    description: bytes
    """The RowDescription message."""
    encoders: tuple[Encode, ...]


@lru_cache(maxsize=2000)
def writer(columns: Columns, formats: tuple[int, ...]) -> Writer:
    spread = spread_formats(formats, len(columns))
    fields = tuple(
        Field(column.name, column.oid, types.SIZES.get(column.oid, -1), column.typmod, format)
        for column, format in zip(columns, spread, strict=True)
    )
    encoders = tuple(_encoder(column.oid, format) for column, format in zip(columns, spread, strict=True))
    return Writer(row_description(fields), encoders)


def _plain_text(value: Any) -> bytes:
    """Values whose text is their own, whatever SQLite stored: integers and strings."""
    if type(value) is int:
        return b"%d" % value
    if type(value) is str:
        return value.encode()
    return types.encode_text(types.TEXT, value)


def _int4_text(value: Any) -> bytes:
    if type(value) is int:
        if -0x8000_0000 <= value <= 0x7FFF_FFFF:
            return b"%d" % value
        raise types.InvalidValue("22003", "integer out of range")  # SQLite goes on with 64 bits
    return _integer_text(value)


def _integer_text(value: Any) -> bytes:
    if type(value) is int:
        return b"%d" % value
    if type(value) is float and not -(2.0**63) <= value < 2.0**63:
        raise types.InvalidValue("22003", "bigint out of range")  # SQLite goes on with floats
    return types.encode_text(types.INT8, value)


@lru_cache(maxsize=200)
def _encoder(oid: int, format: int) -> Encode:
    if format == 0:
        if oid in (types.INT2, types.INT4):
            return _int4_text
        if oid in (types.INT8, types.OID):
            return _integer_text
        if oid in (types.TEXT, types.VARCHAR, types.BPCHAR):
            return _plain_text
        return lambda value: types.encode_text(oid, value)
    if format == 1:
        return lambda value: types.encode_binary(oid, value)
    raise SessionError("22023", f"unsupported format code: {format}")


Decode = Callable[[bytes], Any]


@lru_cache(maxsize=500)
def column_decoder(oid: int) -> Callable[[Sequence[bytes | None]], list[Any]]:
    """Many texts of one type, None among them, to what SQLite gets. The result raises InvalidValue, UnicodeError."""
    decode = decoder(oid, 0)

    def values(fields: Sequence[bytes | None]) -> list[Any]:
        return [None if field is None else decode(field) for field in fields]

    def integers(fields: Sequence[bytes | None]) -> list[Any]:
        return types.decode_integers(oid, fields) or values(fields)

    def texts(fields: Sequence[bytes | None]) -> list[Any]:
        if b"\0" in b"".join(filter(None, fields)):
            return values(fields)
        return [None if field is None else field.decode() for field in fields]

    if decode is types.decode_utf8:
        return texts
    return integers if types.is_integer(oid) else values


def decoder(oid: int, format: int) -> Decode:
    """Bytes of a parameter, or of COPY, to what SQLite gets."""
    if format == 0:
        if oid in (UNKNOWN, types.TEXT, types.VARCHAR):
            return types.decode_utf8
        return lambda data: types.decode_text(oid, data)
    if format == 1:
        return lambda data: types.decode_binary(oid, data)
    raise SessionError("22023", f"unsupported format code: {format}")
