import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from db_instance.wire.postgres import backend


def split(data: bytes) -> list[tuple[bytes, bytes]]:
    """Kind and body of each message; fails unless the lengths add up."""
    found = []
    while data:
        (size,) = struct.unpack_from(">I", data, 1)
        assert len(data) >= 1 + size
        found.append((data[:1], data[5 : 1 + size]))
        data = data[1 + size :]
    return found


def read_row(body: bytes) -> list[bytes | None]:
    (count,) = struct.unpack_from(">H", body)
    at = 2
    values: list[bytes | None] = []
    for _ in range(count):
        (size,) = struct.unpack_from(">i", body, at)
        at += 4
        values.append(None if size < 0 else body[at : at + size])
        at += max(0, size)
    assert at == len(body)
    return values


@given(st.lists(st.tuples(*[st.none() | st.binary(max_size=2000)] * 3), max_size=20))
def test_rows_read_back(rows: list[tuple[Any, ...]]) -> None:
    messages = split(backend.data_rows(rows, [bytes, bytes, bytes]))
    assert [kind for kind, _ in messages] == [b"D"] * len(rows)
    assert [tuple(read_row(body)) for _, body in messages] == rows


def test_rows_without_columns() -> None:
    assert split(backend.data_rows([(), ()], [])) == [(b"D", b"\0\0")] * 2


def test_row_description() -> None:
    fields = [backend.Field("a", 23, 4, -1, 0), backend.Field("b", 25, -1, -1, 1)]
    assert split(backend.row_description(fields)) == [
        (
            b"T",
            b"\0\2"
            + b"a\0\0\0\0\0\0\0\0\0\0\x17\0\4\xff\xff\xff\xff\0\0"
            + b"b\0\0\0\0\0\0\0\0\0\0\x19\xff\xff\xff\xff\xff\xff\0\1",
        )
    ]


def test_error_fields() -> None:
    told = backend.error_response({"S": "ERROR", "C": "42601", "M": "zero\0inside"})
    assert split(told) == [(b"E", b"SERROR\0C42601\0Mzeroinside\0\0")]


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("R", backend.AUTHENTICATION_OK),
        ("1", backend.PARSE_COMPLETE),
        ("2", backend.BIND_COMPLETE),
        ("3", backend.CLOSE_COMPLETE),
        ("n", backend.NO_DATA),
        ("I", backend.EMPTY_QUERY),
        ("s", backend.PORTAL_SUSPENDED),
        ("c", backend.COPY_DONE),
        ("Z", backend.ready_for_query(b"T")),
        ("C", backend.command_complete("SELECT 1")),
        ("K", backend.backend_key_data(7, b"abcd")),
        ("S", backend.parameter_status("TimeZone", "UTC")),
        ("t", backend.parameter_description([23, 25])),
        ("v", backend.negotiate_protocol_version(0, ["_pq_.x"])),
        ("G", backend.copy_in_response(3)),
        ("H", backend.copy_out_response(0)),
        ("d", backend.copy_data(b"1\t2\n")),
        ("N", backend.notice_response({"M": "so"})),
    ],
)
def test_each_message_is_framed(name: str, data: bytes) -> None:
    assert [kind for kind, _ in split(data)] == [name.encode()]
