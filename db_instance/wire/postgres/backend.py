"""Writes the PostgreSQL backend protocol: each function returns the bytes of one or more messages.

    ready_for_query(b"I")                      # -> b"Z\\x00\\x00\\x00\\x05I"
    command_complete("SELECT 1")
    data_rows([(1, None)], [encode_int, encode_int])   # all rows in one bytes object

Nothing here waits or keeps state; session/ decides what is said, server.py sends it.
"""

import struct
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, NamedTuple

_SIZE: Final = struct.Struct(">i").pack
_ROW_HEAD: Final = struct.Struct(">BiH").pack
_FIELD: Final = struct.Struct(">IhIhih").pack

Encode = Callable[[Any], bytes]
"""One value, which is not None, as the client wants to see it."""

AUTHENTICATION_OK: Final = b"R\x00\x00\x00\x08\x00\x00\x00\x00"
PARSE_COMPLETE: Final = b"1\x00\x00\x00\x04"
BIND_COMPLETE: Final = b"2\x00\x00\x00\x04"
CLOSE_COMPLETE: Final = b"3\x00\x00\x00\x04"
NO_DATA: Final = b"n\x00\x00\x00\x04"
EMPTY_QUERY: Final = b"I\x00\x00\x00\x04"
PORTAL_SUSPENDED: Final = b"s\x00\x00\x00\x04"
COPY_DONE: Final = b"c\x00\x00\x00\x04"
SSL_REFUSED: Final = b"N"

_READY: Final = {state: b"Z\x00\x00\x00\x05" + state for state in (b"I", b"T", b"E")}
_NULL: Final = b"\xff\xff\xff\xff"
_SMALL: Final = [_SIZE(size) for size in range(1024)]
"""Lengths of values, written out: most values are short."""


class Field(NamedTuple):
    """One column of a result, as RowDescription tells it."""

    name: str
    type_oid: int
    type_size: int
    """Bytes of the type, -1 if its values differ in size."""
    typmod: int
    """What stands in brackets behind the type's name, in PostgreSQL's own way; -1 for nothing."""
    format: int
    """0 text, 1 binary."""


def _message(kind: bytes, body: bytes) -> bytes:
    return kind + _SIZE(len(body) + 4) + body


def _text(value: str) -> bytes:
    """Zero-terminated; a zero within cannot be told to the client and is left out."""
    return value.replace("\x00", "").encode("utf-8", "replace") + b"\x00"


def backend_key_data(process_id: int, secret: bytes) -> bytes:
    return _message(b"K", process_id.to_bytes(4, "big") + secret)


def negotiate_protocol_version(version: int, unknown_options: Sequence[str]) -> bytes:
    """`version`: the newest that we speak, as a startup message has it: the major one in the upper 16 bits."""
    options = b"".join(map(_text, unknown_options))
    return _message(b"v", struct.pack(">ii", version, len(unknown_options)) + options)


def parameter_status(name: str, value: str) -> bytes:
    return _message(b"S", _text(name) + _text(value))


def ready_for_query(state: bytes) -> bytes:
    return _READY[state]


def command_complete(tag: str) -> bytes:
    return _message(b"C", tag.encode() + b"\x00")


def parameter_description(types: Sequence[int]) -> bytes:
    return _message(b"t", struct.pack(f">H{len(types)}I", len(types), *types))


def row_description(fields: Sequence[Field]) -> bytes:
    parts = [struct.pack(">H", len(fields))]
    for field in fields:
        parts.append(_text(field.name))
        parts.append(_FIELD(0, 0, field.type_oid, field.type_size, field.typmod, field.format))
    return _message(b"T", b"".join(parts))


def data_rows(rows: Iterable[Sequence[Any]], encoders: Sequence[Encode]) -> bytes:
    """A DataRow for each row, in one bytes object: one call for a whole batch is what makes this fast."""
    parts: list[bytes] = []
    append = parts.append
    columns = len(encoders)
    for row in rows:
        values: list[bytes] = []
        size = 6 + 4 * columns
        for value, encode in zip(row, encoders, strict=True):
            if value is None:
                values.append(_NULL)
                continue
            encoded = encode(value)
            length = len(encoded)
            size += length
            values.append(_SMALL[length] if length < 1024 else _SIZE(length))
            values.append(encoded)
        append(_ROW_HEAD(0x44, size, columns))
        parts += values
    return b"".join(parts)


def copy_in_response(columns: int, *, binary: bool = False) -> bytes:
    return _copy_response(b"G", columns, binary)


def copy_out_response(columns: int, *, binary: bool = False) -> bytes:
    return _copy_response(b"H", columns, binary)


def _copy_response(kind: bytes, columns: int, binary: bool) -> bytes:
    return _message(kind, struct.pack(f">bH{columns}h", binary, columns, *[int(binary)] * columns))


def copy_data(chunk: bytes) -> bytes:
    return _message(b"d", chunk)


def error_response(fields: dict[str, str]) -> bytes:
    """`fields` by PostgreSQL's letters: S severity, C SQLSTATE, M message, D detail, H hint, P position."""
    return _message(b"E", _report(fields))


def notice_response(fields: dict[str, str]) -> bytes:
    return _message(b"N", _report(fields))


def _report(fields: dict[str, str]) -> bytes:
    return b"".join(letter.encode() + _text(value) for letter, value in fields.items()) + b"\x00"
