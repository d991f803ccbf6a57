"""Reads the PostgreSQL frontend protocol. Bytes in, messages out; it owns no socket.

    parser = FrontendParser()
    parser.feed(b"Q\\x00\\x00\\x00\\x0dSELECT 1\\x00")
    parser.next_message()        # -> Query(sql="SELECT 1")
    parser.next_message()        # -> None: more bytes are needed

A connection starts with messages without a kind byte: `next_startup` reads those. Whatever a client
sends that is no protocol raises ProtocolViolation; the connection cannot go on after that.
db_instance/wire/postgres/server.py holds the socket.
"""

import struct
from collections.abc import Callable
from typing import Any, Final

from db_instance.wire.postgres.messages import (
    PROTOCOL_3,
    Bind,
    CancelRequest,
    Close,
    CopyData,
    CopyDone,
    CopyFail,
    Describe,
    Execute,
    Flush,
    FunctionCall,
    GssEncRequest,
    Message,
    NotText,
    Parse,
    Password,
    Query,
    RunPrepared,
    SslRequest,
    Startup,
    StartupMessage,
    Sync,
    Terminate,
)
from volume.limits import MIB

CLIENT_MESSAGE_BYTES_MAX: Final = 16 * MIB
"""One message of a session, and so one parameter. A larger one is refused before it is read."""

STARTUP_BYTES_MAX: Final = 10_000
"""One message of a client that has not told who it is, as PostgreSQL has it."""

PASSWORD_BYTES_MAX: Final = 65_536
"""The largest message while a client is still proving who it is."""

_HEADER: Final = struct.Struct(">BI")
_SIZE: Final = struct.Struct(">I")
_CODE: Final = struct.Struct(">I")
_INT16: Final = struct.Struct(">H")
_INT32: Final = struct.Struct(">i")

_CANCEL_CODE: Final = 80877102
_SSL_CODE: Final = 80877103
_GSSENC_CODE: Final = 80877104


_SHORT_BYTES_MAX: Final = 32
_SHORT_MAX: Final = 1000
_REPEATED: Final = frozenset(b"DECSH")
_EXTENDED: Final = frozenset(b"PBDEC")
_SHORT: Final[dict[bytes, "Message"]] = {}
"""Short messages that carry no values, by their bytes: they need not be decoded again."""


_DESCRIBE: Final = b"D\x00\x00\x00\x06P\x00"
_EXECUTE_AND_SYNC: Final = b"E\x00\x00\x00\x09\x00\x00\x00\x00\x00S\x00\x00\x00\x04"
_DESCRIBE_EXECUTE_AND_SYNC: Final = _DESCRIBE + _EXECUTE_AND_SYNC
"""What follows a Bind of the unnamed portal when its rows are wanted at once."""


class ProtocolViolation(Exception):
    """The client sent bytes that are no message of the protocol, or one that is too large."""

    sqlstate = "08P01"


class FrontendParser:
    def __init__(self) -> None:
        self._buffer = bytearray()
        self._at = 0
        self.bytes_max = PASSWORD_BYTES_MAX
        """The largest message accepted now; the server raises it once the client is let in."""

    def feed(self, data: bytes) -> None:
        if self._at:
            del self._buffer[: self._at]
            self._at = 0
        self._buffer += data

    @property
    def waiting_bytes(self) -> int:
        """Bytes that have arrived and are not yet part of a message handed out."""
        return len(self._buffer) - self._at

    def next_startup(self) -> StartupMessage | None:
        """The next message of a client that has not told who it is; None: more bytes are needed."""
        if self.waiting_bytes < _SIZE.size:
            return None
        (size,) = _SIZE.unpack_from(self._buffer, self._at)
        if not 8 <= size <= STARTUP_BYTES_MAX:
            raise ProtocolViolation(f"invalid length of startup packet: {size}")
        if self.waiting_bytes < size:
            return None
        body = bytes(self._buffer[self._at + _SIZE.size : self._at + size])
        self._at += size
        return _decode_startup(body)

    def next_message(self) -> Message | None:
        """The next whole message; None: more bytes are needed."""
        at = self._at
        buffer = self._buffer
        available = len(buffer) - at
        if available < 5:
            return None
        kind, size = _HEADER.unpack_from(buffer, at)
        decode = _DECODERS.get(kind)
        if decode is None:
            raise ProtocolViolation(f"invalid frontend message type {kind}")
        if 4 <= size <= _SHORT_BYTES_MAX and available > size:
            # Most messages are short and come again and again: Describe, Execute, Sync.
            known = _SHORT.get(bytes(buffer[at : at + 1 + size]))
            if known is not None:
                self._at = at + 1 + size
                return known
        if not 4 <= size <= self.bytes_max:
            raise ProtocolViolation(f"message {chr(kind)!r}: length {size} is out of range")
        if available <= size:
            return None
        end = at + 1 + size
        body = bytes(buffer[at + 5 : end])
        self._at = end
        try:
            message = decode(body)
        except UnicodeDecodeError as error:
            # Its frame is sound: only the request is not understood.
            return NotText(error.object[error.start : error.end], kind in _EXTENDED)
        except (struct.error, IndexError, ValueError) as error:
            raise ProtocolViolation(f"message {chr(kind)!r} is malformed: {error}") from None
        if type(message) is Bind:
            return self._with_what_follows(message)
        if size <= _SHORT_BYTES_MAX and kind in _REPEATED and len(_SHORT) < _SHORT_MAX:
            _SHORT[bytes(buffer[at:end])] = message
        return message

    def _with_what_follows(self, bind: Bind) -> Message:
        """The Bind, or one message of it and what runs it, if all that is here."""
        if bind.portal:
            return bind
        if self._buffer.startswith(_DESCRIBE_EXECUTE_AND_SYNC, self._at):
            self._at += len(_DESCRIBE_EXECUTE_AND_SYNC)
            return RunPrepared(bind, described=True)
        if self._buffer.startswith(_EXECUTE_AND_SYNC, self._at):
            self._at += len(_EXECUTE_AND_SYNC)
            return RunPrepared(bind, described=False)
        return bind

    def unfold(self, message: RunPrepared) -> None:
        """Only its Bind was taken: what follows comes again, message by message."""
        self.put_back(_DESCRIBE_EXECUTE_AND_SYNC if message.described else _EXECUTE_AND_SYNC)

    def put_back(self, data: bytes) -> None:
        """These bytes come next, before what has arrived since."""
        self._buffer[self._at : self._at] = data


class BindPattern:
    """A packet that runs a prepared statement (RunPrepared): its bytes but for the values.

    Clients send it again and again with other values; those can be taken out without decoding the rest.
    """

    STATEMENT_AT: Final = 6
    """Where the statement's name begins: behind the head and the empty name of the portal."""

    def __init__(self, message: RunPrepared) -> None:
        bind = message.bind
        self._before = b"\0" + _formats(bind.param_formats) + _INT16.pack(len(bind.params))
        result_formats = _formats(bind.result_formats)
        self._after = result_formats + (
            _DESCRIBE_EXECUTE_AND_SYNC if message.described else _EXECUTE_AND_SYNC
        )
        self._bind_rest = len(result_formats) - 1

    @staticmethod
    def statement_ends(packet: bytes) -> int:
        """Where the name of the statement ends, if the packet begins with a Bind of the unnamed portal; else 0."""
        if packet[:1] != b"B" or packet[5:6] != b"\0":
            return 0
        return max(0, packet.find(0, BindPattern.STATEMENT_AT))

    def values(self, packet: bytes, at: int, decoders: list[Callable[[bytes], Any]]) -> list[Any] | None:
        """The decoded values of a packet of this pattern, none of which is NULL; None for any other packet.

        `at`: where the statement's name ends. Raises what a decoder raises, who may see bytes of another packet.
        """
        if not packet.startswith(self._before, at):
            return None
        at += len(self._before)
        values = []
        for decode in decoders:
            start = at + 4
            at = start + int.from_bytes(packet[at:start], "big")
            values.append(decode(packet[start:at]))
        if packet[at:] != self._after or int.from_bytes(packet[1:5], "big") != at + self._bind_rest:
            return None
        return values


def _formats(formats: tuple[int, ...]) -> bytes:
    return struct.pack(f">H{len(formats)}h", len(formats), *formats)


def _decode_startup(body: bytes) -> StartupMessage:
    (code,) = _CODE.unpack_from(body)
    if code == _SSL_CODE:
        return SslRequest()
    if code == _GSSENC_CODE:
        return GssEncRequest()
    if code == _CANCEL_CODE:
        if len(body) < 12:
            raise ProtocolViolation("cancel request is truncated")
        return CancelRequest(_CODE.unpack_from(body, 4)[0], body[8:])
    major, minor = code >> 16, code & 0xFFFF
    if major != PROTOCOL_3:
        raise ProtocolViolation(f"unsupported frontend protocol {major}.{minor}: server supports 3.0")
    return _decode_parameters(minor, body[4:])


def _decode_parameters(minor: int, body: bytes) -> Startup:
    if not body.endswith(b"\x00"):
        raise ProtocolViolation("invalid startup packet layout: expected terminator as last byte")
    try:
        words = body.decode().split("\x00")
    except UnicodeDecodeError:
        raise ProtocolViolation("startup packet is not valid UTF-8") from None
    # An empty name ends them; a value may well be empty.
    ends = next((at for at in range(0, len(words), 2) if not words[at]), len(words))
    pairs = words[:ends]
    if len(pairs) % 2 or ends >= len(words) - 1:
        raise ProtocolViolation("invalid startup packet layout: a parameter has no value")
    parameters = dict(zip(pairs[::2], pairs[1::2], strict=True))
    unknown = [name for name in parameters if name.startswith("_pq_.")]
    for name in unknown:
        del parameters[name]
    return Startup(minor, parameters, unknown)


def _text(body: bytes, at: int) -> tuple[str, int]:
    """The zero-terminated string at the offset, and where the next field begins."""
    end = body.index(0, at)
    return body[at:end].decode(), end + 1


def _expect_end(body: bytes, at: int) -> None:
    if at != len(body):
        raise ValueError(f"{len(body) - at} bytes too many")


def _int16s(body: bytes, at: int) -> tuple[tuple[int, ...], int]:
    (count,) = _INT16.unpack_from(body, at)
    end = at + 2 + 2 * count
    if count == 0:
        return (), end
    return struct.unpack_from(f">{count}h", body, at + 2), end


def _decode_query(body: bytes) -> Query:
    sql, at = _text(body, 0)
    _expect_end(body, at)
    return Query(sql)


def _decode_parse(body: bytes) -> Parse:
    name, at = _text(body, 0)
    sql, at = _text(body, at)
    (count,) = _INT16.unpack_from(body, at)
    types = struct.unpack_from(f">{count}I", body, at + 2)
    _expect_end(body, at + 2 + 4 * count)
    return Parse(name, sql, types)


def _decode_bind(body: bytes) -> Bind:
    portal_end = body.index(0)
    at = body.index(0, portal_end + 1)
    portal = body[:portal_end].decode() if portal_end else ""
    statement = body[portal_end + 1 : at].decode()
    param_formats, at = _int16s(body, at + 1)
    (count,) = _INT16.unpack_from(body, at)
    at += 2
    params: list[bytes | None] = []
    for _ in range(count):
        (size,) = _INT32.unpack_from(body, at)
        at += 4
        if size < 0:
            if size != -1:
                raise ValueError(f"parameter of size {size}")
            params.append(None)
            continue
        if at + size > len(body):
            raise ValueError(f"parameter of size {size} is truncated")
        params.append(body[at : at + size])
        at += size
    result_formats, at = _int16s(body, at)
    _expect_end(body, at)
    return Bind(portal, statement, param_formats, params, result_formats)


def _kind_and_name(body: bytes) -> tuple[str, str]:
    kind = chr(body[0])
    if kind not in "SP":
        raise ValueError(f"invalid subtype {kind!r}")
    name, at = _text(body, 1)
    _expect_end(body, at)
    return kind, name


def _decode_execute(body: bytes) -> Execute:
    portal, at = _text(body, 0)
    (max_rows,) = _INT32.unpack_from(body, at)
    _expect_end(body, at + 4)
    return Execute(portal, max(0, max_rows))


def _decode_copy_fail(body: bytes) -> CopyFail:
    end = body.index(0)
    _expect_end(body, end + 1)
    return CopyFail(body[:end].decode("utf-8", "replace"))


def _empty(message: Message) -> Callable[[bytes], Message]:
    def decode(body: bytes) -> Message:
        _expect_end(body, 0)
        return message

    return decode


_DECODERS: Final[dict[int, Callable[[bytes], Message]]] = {
    ord("Q"): _decode_query,
    ord("P"): _decode_parse,
    ord("B"): _decode_bind,
    ord("D"): lambda body: Describe(*_kind_and_name(body)),
    ord("E"): _decode_execute,
    ord("C"): lambda body: Close(*_kind_and_name(body)),
    ord("S"): _empty(Sync()),
    ord("H"): _empty(Flush()),
    ord("X"): _empty(Terminate()),
    ord("d"): CopyData,
    ord("c"): _empty(CopyDone()),
    ord("f"): _decode_copy_fail,
    ord("p"): Password,
    ord("F"): lambda body: FunctionCall(),
}
