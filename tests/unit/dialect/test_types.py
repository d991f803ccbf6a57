"""Values on the wire: there and back, and against what psycopg makes of them."""

import math
import struct
import uuid
from datetime import UTC, date, datetime, time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from psycopg.adapt import PyFormat, Transformer
from psycopg.pq import Format

from db_instance.dialect import types
from db_instance.dialect.types import InvalidValue, decode_binary, decode_text, encode_binary, encode_text

_TEXT = st.text(st.characters(blacklist_characters="\0", blacklist_categories=["Cs"]), max_size=20)
_DATES = st.dates(date(1, 1, 1), date(9999, 12, 31))
_MOMENTS = st.datetimes(datetime(1, 1, 1), datetime(9999, 12, 31))

VALUES: dict[int, tuple[st.SearchStrategy[Any], Any]] = {
    types.BOOL: (st.booleans(), int),
    types.INT2: (st.integers(-(2**15), 2**15 - 1), int),
    types.INT4: (st.integers(-(2**31), 2**31 - 1), int),
    types.INT8: (st.integers(-(2**63), 2**63 - 1), int),
    types.FLOAT8: (st.floats(allow_nan=False), float),
    types.TEXT: (_TEXT, str),
    types.BYTEA: (st.binary(max_size=20), bytes),
    types.UUID: (st.uuids(), str),
    types.DATE: (_DATES, date.isoformat),
    types.TIME: (st.times(), time.isoformat),
    types.TIMESTAMP: (_MOMENTS, lambda value: value.isoformat(" ")),
    types.TIMESTAMPTZ: (
        _MOMENTS.map(lambda value: value.replace(tzinfo=UTC)),
        lambda value: value.replace(tzinfo=None).isoformat(" ") + "+00",
    ),
}
"""What a client holds, and what SQLite holds for it."""


@pytest.mark.parametrize("oid", VALUES, ids=types.type_name)
def test_values_go_out_and_come_back_and_psycopg_reads_them(oid: int) -> None:
    strategy, stored = VALUES[oid]
    clients = Transformer()

    @settings(max_examples=25, deadline=None)
    @given(strategy)
    def law(value: Any) -> None:
        held = stored(value)
        for encode, decode, format in (
            (encode_text, decode_text, Format.TEXT),
            (encode_binary, decode_binary, Format.BINARY),
        ):
            data = encode(oid, held)
            assert decode(oid, data) == held
            assert clients.get_loader(oid, format).load(data) == value
            assert types.SIZES.get(oid, len(data)) == len(data) or format is Format.TEXT

    law()


@pytest.mark.parametrize("oid", VALUES, ids=types.type_name)
def test_what_psycopg_writes_is_what_we_read(oid: int) -> None:
    strategy, stored = VALUES[oid]
    clients = Transformer()

    @settings(max_examples=25, deadline=None)
    @given(strategy)
    def law(value: Any) -> None:
        for format, decode in ((PyFormat.TEXT, decode_text), (PyFormat.BINARY, decode_binary)):
            if (oid, format) == (types.BYTEA, PyFormat.TEXT):
                continue  # without a connection psycopg escapes it for a literal
            dumper = clients.get_dumper(value, format)
            dumped = dumper.dump(value)
            assert dumped is not None
            assert decode(dumper.oid or oid, bytes(dumped)) == stored(value)

    law()


@settings(max_examples=200, deadline=None)
@given(st.sampled_from([*VALUES, types.FLOAT4, types.OID, types.JSONB, types.JSON]), st.binary(max_size=20))
def test_garbage_is_a_value_or_refused(oid: int, data: bytes) -> None:
    for decode in (decode_text, decode_binary):
        sqlstate = "22P02"
        try:
            decode(oid, data)
        except InvalidValue as error:
            sqlstate = error.sqlstate
        assert sqlstate in {"22P02", "22003", "22007", "22008", "22021", "22P03", "0A000"}


@pytest.mark.parametrize(
    ("why", "oid", "text", "sqlstate"),
    [
        ("no number", types.INT4, "x", "22P02"),
        ("a number too large", types.INT4, "2147483648", "22003"),
        ("no truth", types.BOOL, "maybe", "22P02"),
        ("no day of any month", types.DATE, "2026-02-30", "22008"),
        ("no hour", types.TIME, "25:00", "22008"),
        ("no uuid", types.UUID, "x", "22P02"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_text_is_refused(why: str, oid: int, text: str, sqlstate: str) -> None:
    with pytest.raises(InvalidValue) as raised:
        decode_text(oid, text.encode())
    assert raised.value.sqlstate == sqlstate


@pytest.mark.parametrize("oid", [types.TEXT, types.VARCHAR, types.JSON])
@pytest.mark.parametrize("data", [b"a\0", b"\xff"])
def test_text_that_is_none_is_refused(oid: int, data: bytes) -> None:
    for decode in (decode_text, decode_binary):
        with pytest.raises(InvalidValue) as raised:
            decode(oid, data)
        assert raised.value.sqlstate == "22021"


def test_numbers_print_as_postgresql_prints_them() -> None:
    printed = [encode_text(types.FLOAT8, each) for each in (1.0, 0.1, math.inf, -math.inf, math.nan)]
    assert printed == [b"1", b"0.1", b"Infinity", b"-Infinity", b"NaN"]
    with pytest.raises(InvalidValue):
        encode_binary(types.INT2, 70_000)
    assert struct.unpack("!h", encode_binary(types.INT2, -2)) == (-2,)
    assert uuid.UUID(bytes=encode_binary(types.UUID, str(uuid.UUID(int=5)))).int == 5


_DIGITS = st.text("0123456789-+_ x.", max_size=12) | st.integers(-(2**64), 2**64).map(str)


@given(
    st.sampled_from([types.INT2, types.INT4, types.INT8]),
    st.lists(st.none() | _DIGITS.map(str.encode), min_size=1),
)
def test_integers_decoded_at_once_are_those_decoded_one_by_one(oid: int, fields: list[bytes | None]) -> None:
    found = types.decode_integers(oid, fields)
    if found is not None:
        assert found == [decode_text(oid, field) for field in fields if field is not None]
        assert None not in fields


def test_plain_integers_are_decoded_at_once() -> None:
    assert types.decode_integers(types.INT2, [b"1", b" -32768", b"32767 "]) == [1, -32768, 32767]
    for bad in (b"32768", b"-32769", b"1_0", b"x", None):
        assert types.decode_integers(types.INT2, [b"1", bad]) is None
    with pytest.raises(InvalidValue):
        decode_text(types.INT4, b"1_0")


@pytest.mark.parametrize(
    ("oid", "text", "printed"),
    [
        (types.TIMESTAMP, "2024-01-01 10:00:00.5", b"2024-01-01 10:00:00.5"),
        (types.TIMESTAMPTZ, "2024-01-01 10:00:10.10020+00", b"2024-01-01 10:00:10.1002+00"),
        (types.TIME, "10:20:30.123456", b"10:20:30.123456"),
        (types.TIMESTAMP, "2024-01-01 10:00:00", b"2024-01-01 10:00:00"),
    ],
)
def test_fractions_are_printed_without_zeros(oid: int, text: str, printed: bytes) -> None:
    assert types.encode_text(oid, types.decode_text(oid, text.encode())) == printed
