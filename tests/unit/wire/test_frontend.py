import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from db_instance.wire.postgres.frontend import FrontendParser, ProtocolViolation
from db_instance.wire.postgres.messages import (
    Bind,
    CancelRequest,
    Close,
    CopyFail,
    Describe,
    Execute,
    GssEncRequest,
    NotText,
    Parse,
    Query,
    RunPrepared,
    SslRequest,
    Startup,
    Sync,
    Terminate,
)


def message(kind: bytes, body: bytes) -> bytes:
    return kind + struct.pack(">I", len(body) + 4) + body


def startup(body: bytes) -> bytes:
    return struct.pack(">I", len(body) + 4) + body


EXTENDED = (
    message(b"P", b"s\0select $1\0\0\1\0\0\0\x17")
    + message(b"B", b"\0s\0\0\1\0\1\0\2\0\0\0\4\0\0\0\7\xff\xff\xff\xff\0\0")
    + message(b"D", b"Ss\0")
    + message(b"E", b"\0\0\0\0\5")
    + message(b"C", b"Pp\0")
    + message(b"S", b"")
)
EXTENDED_MESSAGES = [
    Parse("s", "select $1", (23,)),
    Bind("", "s", (1,), [b"\0\0\0\7", None], ()),
    Describe("S", "s"),
    Execute("", 5),
    Close("P", "p"),
    Sync(),
]


def all_of(parser: FrontendParser) -> list[object]:
    found: list[object] = []
    while (each := parser.next_message()) is not None:
        found.append(each)
    return found


def test_messages_come_out_whole_however_the_bytes_arrive() -> None:
    parser = FrontendParser()
    seen = []
    for byte in b"Q\x00\x00\x00\x0dSELECT 1\x00X\x00\x00\x00\x04":
        parser.feed(bytes([byte]))
        if (each := parser.next_message()) is not None:
            seen.append(each)
    assert seen == [Query("SELECT 1"), Terminate()]


@given(st.lists(st.integers(0, len(EXTENDED)), max_size=6))
def test_any_cut_gives_the_same_messages(cuts: list[int]) -> None:
    parser = FrontendParser()
    seen: list[object] = []
    places = [0, *sorted(cuts), len(EXTENDED)]
    for start, end in zip(places, places[1:], strict=False):
        parser.feed(EXTENDED[start:end])
        seen += all_of(parser)
    assert seen == EXTENDED_MESSAGES
    assert parser.waiting_bytes == 0


@pytest.mark.parametrize("described", [True, False])
def test_what_runs_a_statement_is_one_message_unless_it_is_unfolded(described: bool) -> None:
    bind, execute, sync = message(b"B", b"\0s" + b"\0" * 7), message(b"E", b"\0" * 5), message(b"S", b"")
    describe = message(b"D", b"P\0") if described else b""
    parser = FrontendParser()
    parser.feed(bind + describe + execute + sync + bind)
    folded = parser.next_message()
    assert isinstance(folded, RunPrepared)
    assert folded == RunPrepared(Bind("", "s", (), [], ()), described)
    parser.unfold(folded)
    assert all_of(parser) == [Describe("P", "")] * described + [Execute("", 0), Sync(), folded.bind]


@pytest.mark.parametrize(
    ("why", "sent", "expected"),
    [
        ("ssl", startup(struct.pack(">I", 80877103)), SslRequest()),
        ("gss", startup(struct.pack(">I", 80877104)), GssEncRequest()),
        ("cancel", startup(struct.pack(">II", 80877102, 7) + b"abcd"), CancelRequest(7, b"abcd")),
        ("plain", startup(b"\0\3\0\0user\0me\0\0"), Startup(0, {"user": "me"}, [])),
        (
            "a value that is empty",
            startup(b"\0\3\0\0user\0me\0application_name\0\0database\0x\0\0"),
            Startup(0, {"user": "me", "application_name": "", "database": "x"}, []),
        ),
        ("3.2", startup(b"\0\3\0\2user\0me\0_pq_.x\x001\0\0"), Startup(2, {"user": "me"}, ["_pq_.x"])),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_startup(why: str, sent: bytes, expected: object) -> None:
    parser = FrontendParser()
    parser.feed(sent[:-1])
    assert parser.next_startup() is None
    parser.feed(sent[-1:])
    assert parser.next_startup() == expected


@pytest.mark.parametrize(
    ("why", "sent"),
    [
        ("unknown kind", b"!\0\0\0\4"),
        ("size below itself", b"Q\0\0\0\3"),
        ("oversized", b"Q\x7f\xff\xff\xff"),
        ("no terminator", message(b"Q", b"select 1")),
        ("bytes after the terminator", message(b"Q", b"select 1\0x")),
        ("parse without types", message(b"P", b"\0select 1\0")),
        ("bind with a truncated value", message(b"B", b"\0\0\0\0\0\1\0\0\0\x09abc\0\0")),
        ("bind with a negative size", message(b"B", b"\0\0\0\0\0\1\xff\xff\xff\xf0\0\0")),
        ("describe of nothing known", message(b"D", b"Zx\0")),
        ("empty describe", message(b"D", b"")),
        ("sync with a body", message(b"S", b"x")),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_no_message_is_refused(why: str, sent: bytes) -> None:
    parser = FrontendParser()
    parser.feed(sent)
    with pytest.raises(ProtocolViolation):
        parser.next_message()


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        (message(b"Q", b"select '\xff'\0"), NotText(b"\xff", extended=False)),
        (message(b"P", b"\0select '\xe9t\0\0\0"), NotText(b"\xe9", extended=True)),
        (message(b"D", b"Sn\xfcr\0"), NotText(b"\xfc", extended=True)),
        (message(b"f", b"n\xfcr\0"), CopyFail("n\ufffdr")),
    ],
)
def test_a_message_whose_text_is_no_utf_8_is_told_apart(sent: bytes, expected: object) -> None:
    parser = FrontendParser()
    parser.feed(sent + message(b"S", b""))
    assert [parser.next_message(), parser.next_message()] == [expected, Sync()]


@pytest.mark.parametrize(
    ("why", "sent"),
    [
        ("too short", b"\0\0\0\4"),
        ("too long", b"\0\1\0\0"),
        ("protocol 2", startup(b"\0\2\0\0\0")),
        ("no end", startup(b"\0\3\0\0user")),
        ("no value", startup(b"\0\3\0\0user\0\0")),
        ("no name that ends them", startup(b"\0\3\0\0user\0me\0")),
        ("no utf-8", startup(b"\0\3\0\0us\xffer\0me\0\0")),
        ("short cancel", startup(struct.pack(">I", 80877102) + b"abc")),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_no_startup_is_refused(why: str, sent: bytes) -> None:
    parser = FrontendParser()
    parser.feed(sent)
    with pytest.raises(ProtocolViolation):
        parser.next_startup()


@given(st.binary(max_size=300), st.booleans())
def test_random_bytes_are_messages_or_a_violation(data: bytes, begins: bool) -> None:
    parser = FrontendParser()
    parser.feed(data)
    try:
        if begins:
            parser.next_startup()
        else:
            all_of(parser)
    except ProtocolViolation:
        pass
