"""Streams over loopback: ordered, bounded, checked, and over when the other end is."""

import asyncio
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from proto import runtime_pb2
from runtime import socket_stream
from runtime.socket_stream import SocketStream, StreamServer, connect
from runtime.transport import Stream
from volume.errors import InvalidRequest, PeerUnavailable, StaleEpoch
from volume.limits import MESSAGE_BYTES_MAX

pytestmark = pytest.mark.filterwarnings("error")
_LIMIT_S = 5.0


async def _echo(stream: Stream) -> None:
    while (message := await stream.receive()) is not None:
        await stream.send(message)


@asynccontextmanager
async def _served(**handlers: Callable[[Stream], Awaitable[None]]) -> AsyncIterator[StreamServer]:
    server = StreamServer({"echo": _echo, **handlers})
    await server.start("127.0.0.1")
    try:
        async with asyncio.timeout(_LIMIT_S):
            yield server
    finally:
        await server.stop()


def _open(server: StreamServer, method: str = "echo", process: str = "") -> SocketStream:
    async def located() -> tuple[str, int, str]:
        return "127.0.0.1", server.port, process

    return connect(located(), method, f"stream to {method}")


async def _works(server: StreamServer) -> None:
    stream = _open(server)
    await stream.send(b"still here")
    assert await stream.receive() == b"still here"
    stream.cancel()


async def test_a_stream_that_is_meant_for_another_process_is_refused() -> None:
    async with _served() as server:
        meant = _open(server, process=server.process)
        await meant.send(b"you")
        assert await meant.receive() == b"you"
        stream = _open(server, process="0" * 32)
        with pytest.raises(PeerUnavailable, match="meant for a process that is gone"):
            await stream.receive()
        await _works(server)
        meant.cancel()


async def test_messages_go_both_ways_in_order_whatever_their_size() -> None:
    async with _served() as server:
        stream = _open(server)
        sizes = [0, 1, 4, 65_530, 65_531, 65_532, 7, 65_535, 65_536, 65_537, 300_000, 0, 2]
        messages = [bytes([at]) * size for at, size in enumerate(sizes)]
        for message in messages:
            await stream.send(message)
        assert [await stream.receive() for _ in messages] == messages
        stream.cancel()


@pytest.mark.parametrize("piece", [1, 3, 64, 70_000])
async def test_messages_are_put_together_from_any_pieces(piece: int) -> None:
    sizes = [0, 3, 200] if piece < 64 else [0, 65_531, 3, 65_532, 200_000, 200, 70_000]
    messages = [bytes([at + 1]) * size for at, size in enumerate(sizes)]
    sent = b"".join(struct.pack("<IB", len(message), 0) + message for message in messages)
    async with _served() as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        for start in range(0, len(everything := _HELLO + sent), piece):
            writer.write(everything[start : start + piece])
            await asyncio.sleep(0)
        assert await reader.readexactly(len(sent)) == sent
        writer.close()


async def test_the_largest_message_goes_and_a_larger_one_is_refused() -> None:
    async with _served() as server:
        stream = _open(server)
        with pytest.raises(InvalidRequest, match="in one message"):
            await stream.send(bytes(MESSAGE_BYTES_MAX + 1))
        await stream.send(bytes(MESSAGE_BYTES_MAX))
        received = await stream.receive()
        assert received is not None and len(received) == MESSAGE_BYTES_MAX
        stream.cancel()


async def test_a_sender_waits_while_the_receiver_does_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket_stream, "_UNREAD_BYTES_MAX", 100_000)
    monkeypatch.setattr(socket_stream, "_UNSENT_BYTES_MAX", 100_000)
    go, received = asyncio.Event(), []

    async def lazy(stream: Stream) -> None:
        await go.wait()
        while len(received) < 400:
            message = await stream.receive()
            assert message is not None
            received.append(int.from_bytes(message[:4], "big"))

    async with _served(lazy=lazy) as server:
        stream, sent = _open(server, "lazy"), 0

        async def sending() -> None:
            nonlocal sent
            for number in range(400):
                await stream.send(number.to_bytes(4, "big") + bytes(100_000))
                sent += 1

        task = asyncio.create_task(sending())
        before = -1
        while before != sent:
            before = sent
            await asyncio.sleep(0.05)
        assert sent < 400, "40 MB are more than all buffers between us hold"
        go.set()
        await task
        assert await stream.receive() is None
        assert received == list(range(400))


async def test_the_error_of_a_handler_arrives_as_itself() -> None:
    async def fenced(stream: Stream) -> None:
        await stream.send(b"first")
        raise StaleEpoch("append in epoch 3: epoch 4 is promised")

    async with _served(fenced=fenced) as server:
        stream = _open(server, "fenced")
        for _ in range(2):
            with pytest.raises(StaleEpoch, match="epoch 4 is promised"):
                while True:
                    await stream.receive()
        with pytest.raises(StaleEpoch):
            await stream.send(b"x")


async def test_what_was_sent_before_the_end_arrives_and_then_none() -> None:
    async def three(stream: Stream) -> None:
        for message in (b"1", b"2", b"3"):
            await stream.send(message)

    async with _served(three=three) as server:
        stream = _open(server, "three")
        assert [await stream.receive() for _ in range(5)] == [b"1", b"2", b"3", None, None]


async def test_a_bug_of_the_handler_breaks_its_stream_only() -> None:
    async def bug(stream: Stream) -> None:
        raise KeyError("ours")

    async with _served(bug=bug) as server:
        with pytest.raises(PeerUnavailable):
            await _open(server, "bug").receive()
        await _works(server)


async def test_a_method_that_is_not_there() -> None:
    async with _served() as server:
        with pytest.raises(InvalidRequest, match="no method is called 'nothing'"):
            await _open(server, "nothing").receive()
        await _works(server)


_HELLO = struct.pack("<8sHH", b"SXSTREAM", 1, 4) + b"echo"


@pytest.mark.parametrize(
    ("why", "data"),
    [
        ("garbage", b"GET / HTTP/1.1\r\n\r\n"),
        ("zeros", bytes(100)),
        ("half a hello", _HELLO[:5]),
        ("a hello without its method", _HELLO[:13]),
        ("a method's name that is too long", struct.pack("<8sHH", b"SXSTREAM", 1, 201) + b"x" * 201),
        ("another format", struct.pack("<8sHH", b"SXSTREAM", 9, 4) + b"echo"),
        ("a method's name that is no text", struct.pack("<8sHH", b"SXSTREAM", 1, 4) + b"\xff\xfe\xfd\xfc"),
        ("a message too large", _HELLO + struct.pack("<IB", MESSAGE_BYTES_MAX + 1, 0)),
        ("a kind that is none", _HELLO + struct.pack("<IB", 0, 9)),
        ("half a message", _HELLO + struct.pack("<IB", 100, 0) + b"half"),
        ("an error that is no text", _HELLO + struct.pack("<IB", 2, 2) + b"\xff\xff"),
        ("nothing", b""),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_hostile_bytes_end_their_own_connection_and_no_other(
    why: str, data: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket_stream, "CONNECT_TIMEOUT_S", 0.1)
    monkeypatch.setattr(socket_stream, "PING_S", 0.05)
    monkeypatch.setattr(socket_stream, "SILENCE_S", 0.15)
    loop = asyncio.get_running_loop()
    unhandled: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda _loop, context: unhandled.append(context))
    async with _served() as server:
        other = _open(server)
        await other.send(b"before")
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(data)
        try:
            await reader.read()  # pings, perhaps, and then the end
        except ConnectionError:
            pass
        writer.close()
        await other.send(b"after")
        assert [await other.receive(), await other.receive()] == [b"before", b"after"]
        other.cancel()
        await _works(server)
    assert unhandled == []


@pytest.mark.parametrize("head", [struct.pack("<IB", MESSAGE_BYTES_MAX + 1, 0), struct.pack("<IB", 0, 9)])
async def test_a_head_that_is_none_ends_the_connection_at_once(head: bytes) -> None:
    """Long before anything is silent, and before a byte of what it announces is kept."""
    async with _served() as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(_HELLO + head)
        with pytest.raises(ConnectionError):
            async with asyncio.timeout(1):
                await reader.read()
                raise ConnectionError
        writer.close()


async def test_a_stream_arrives_whole_however_its_bytes_do() -> None:
    async with _served() as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        for byte in _HELLO + struct.pack("<IB", 3, 0) + b"abc" + struct.pack("<IB", 0, 1):
            writer.write(bytes([byte]))
            await writer.drain()
            await asyncio.sleep(0)
        expected = struct.pack("<IB", 3, 0) + b"abc" + struct.pack("<IB", 0, 1)
        assert await reader.read() == expected
        writer.close()


async def test_silence_is_noticed_and_an_idle_stream_is_not_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket_stream, "PING_S", 0.03)
    monkeypatch.setattr(socket_stream, "SILENCE_S", 0.12)

    async def mute(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    listener = await asyncio.start_server(mute, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]

    async def located() -> tuple[str, int, str]:
        return "127.0.0.1", port, ""

    async with _served() as server:
        idle, dead = _open(server), connect(located(), "echo", "stream to a stopped process")
        with pytest.raises(PeerUnavailable, match="no sign of life"):
            await dead.receive()
        await asyncio.sleep(0.1)
        await idle.send(b"x")
        assert await idle.receive() == b"x"
        idle.cancel()
    listener.close()


async def test_who_is_not_read_for_long_is_not_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket_stream, "PING_S", 0.03)
    monkeypatch.setattr(socket_stream, "SILENCE_S", 0.12)
    monkeypatch.setattr(socket_stream, "_UNREAD_BYTES_MAX", 100_000)

    async def slow(stream: Stream) -> None:
        for number in range(3):
            await asyncio.sleep(0.2)  # its disk takes so long for one message
            message = await stream.receive()
            assert message is not None and message[0] == number
        await stream.send(b"all")

    async with _served(slow=slow) as server:
        stream = _open(server, "slow")
        for number in range(3):
            await stream.send(bytes([number]) + bytes(1_000_000))
        assert await stream.receive() == b"all"


@pytest.mark.parametrize(
    "kind", ["refused", "unknown", "never", "no port", "no host", "garbage", "cancelled"]
)
async def test_a_peer_that_cannot_be_reached(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket_stream, "CONNECT_TIMEOUT_S", 0.05)

    async def located() -> tuple[str, int, str]:
        if kind == "unknown":
            raise PeerUnavailable("nobody knows it")
        if kind == "never":
            await asyncio.sleep(60)
        if kind == "garbage":
            runtime_pb2.LocateReply.FromString(b"\xff")
        if kind == "cancelled":  # as a channel's calls are when it is closed
            raise asyncio.CancelledError
        return "a..b" if kind == "no host" else "127.0.0.1", 70_000 if kind == "no port" else 1, ""

    stream = connect(located(), "echo", "stream to nobody")
    async with asyncio.timeout(5):
        with pytest.raises(PeerUnavailable):
            await stream.send(b"x")
        with pytest.raises(PeerUnavailable):
            await stream.receive()


async def test_stopping_ends_streams_handlers_and_the_port() -> None:
    ended = asyncio.Event()

    async def waits(stream: Stream) -> None:
        try:
            await asyncio.sleep(60)
        finally:
            ended.set()

    async with _served(waits=waits) as server:
        stream, idle = _open(server, "waits"), _open(server)
        await stream.send(b"x")
        await idle.send(b"x")
        assert await idle.receive() == b"x"
        await server.stop()
        assert ended.is_set()
        for each in (stream, idle):
            with pytest.raises(PeerUnavailable):
                await each.receive()
        with pytest.raises(PeerUnavailable):
            await _open(server).receive()


async def test_cancelling_wakes_whoever_waits_and_the_other_end() -> None:
    broken = asyncio.Event()

    async def waits(stream: Stream) -> None:
        try:
            await stream.receive()
        except PeerUnavailable:
            broken.set()
            raise

    async with _served(waits=waits) as server:
        stream = _open(server, "waits")
        waiting = asyncio.create_task(stream.receive())
        await asyncio.sleep(0.05)
        stream.cancel()
        with pytest.raises(PeerUnavailable, match="cancelled"):
            await waiting
        await broken.wait()


async def test_too_many_connections_are_turned_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket_stream, "_CONNECTIONS_MAX", 1)
    async with _served() as server:
        first = _open(server)
        await first.send(b"x")
        assert await first.receive() == b"x"
        with pytest.raises(PeerUnavailable):
            await _open(server).receive()
        await first.send(b"y")
        assert await first.receive() == b"y"
        first.cancel()
