"""One client's socket: bytes to messages, answers to bytes, and limits on both.

The socket is read only while few bytes wait to be understood, and written with one call for all
answers of what arrived together. A client that does not read its answers makes its session wait;
one that does not read them for long is dropped.
"""

import asyncio
import socket
from collections.abc import Callable, Coroutine
from typing import Any, Final, TypeVar, cast

from db_instance.session.channel import ClientGone, IdleTooLong
from db_instance.session.errors import FatalError
from db_instance.wire.postgres.frontend import FrontendParser
from db_instance.wire.postgres.messages import Message, RunPrepared, StartupMessage
from db_instance.wire.postgres.stepping import Stepper, need_bytes
from db_instance.wire.postgres.vigil import Vigil
from runtime.events import get_logger

events = get_logger("wire")

T = TypeVar("T")

_UNREAD_BYTES_MAX: Final = 1024 * 1024
"""Bytes of messages not yet begun; more stay in the socket's buffer and slow the client down."""

_UNSENT_BYTES_MAX: Final = 256 * 1024
"""Answers written and not yet sent, at which the session waits for the client to read."""

_SLOW_CLIENT_S: Final = 300.0
"""A client that reads nothing of its answers for so long is gone."""

_MESSAGES_A_TURN: Final = 256
"""Pipelined messages answered before other connections have their turn."""


class Connection(asyncio.Protocol):
    def __init__(
        self,
        serve: Callable[["Connection"], Coroutine[Any, Any, None]],
        on_close: Callable[["Connection"], None],
        vigil: Vigil,
    ) -> None:
        self.parser = FrontendParser()
        self._serve = serve
        self._on_close = on_close
        self._vigil = vigil
        self._transport: asyncio.Transport | None = None
        self._stepper: Stepper | None = None
        self._loop = asyncio.get_running_loop()
        self._out: list[bytes] = []
        self._out_bytes = 0
        self._whole_answers = 0
        self._reading = True
        self._gone = False
        self._doom: FatalError | None = None
        self._room: asyncio.Future[None] | None = None
        self._taken = 0
        self._idle_until: float | None = None
        self._idle_timer: asyncio.TimerHandle | None = None
        self._idle_limit_s: Callable[[], float | None] | None = None
        self._handed: Any = None
        self._last_words_timer: asyncio.TimerHandle | None = None

    # The socket's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=_UNSENT_BYTES_MAX)
        _keep_alive(transport.get_extra_info("socket"))
        self._stepper = Stepper(self._serve(self), self._before_wait, self._ended)
        self._stepper.resume()

    def data_received(self, data: bytes) -> None:
        stepper = self._stepper
        assert stepper is not None
        if stepper.ended:
            return
        if stepper.idle and self.answer is not None and not self.parser.waiting_bytes and self._room is None:
            told = self.answer(data)
            if type(told) is bytes:
                assert self._transport is not None
                self._transport.write(told)
                self._vigil.prolong()
                self._arm()
                return
            if told is not None:
                self._handed = told
                stepper.resume()
                return
        self.parser.feed(data)
        if stepper.idle:
            stepper.resume()
        elif self._reading and self.parser.waiting_bytes > _UNREAD_BYTES_MAX:
            assert self._transport is not None
            self._reading = False
            self._transport.pause_reading()

    def connection_lost(self, error: Exception | None) -> None:
        self._gone = True
        if self._last_words_timer is not None:
            self._last_words_timer.cancel()
        if self._room is not None and not self._room.done():
            self._room.set_result(None)
        assert self._stepper is not None
        if not self._stepper.ended:
            if self._stepper.idle:
                self._stepper.resume(ClientGone("connection closed"))
            elif self.on_doom is not None:
                self.on_doom(FatalError("08006", "connection to client lost"))
        self._on_close(self)

    def pause_writing(self) -> None:
        if self._room is None:
            self._room = self._loop.create_future()

    def resume_writing(self) -> None:
        if self._room is not None:
            room, self._room = self._room, None
            if not room.done():
                room.set_result(None)

    # The server's side

    answer: Callable[[bytes], Any] | None = None
    """Asked first for the answer to what has come: bytes to send, None if it is to be decoded, or what the
    session is to receive in its place."""

    on_doom: Callable[[FatalError], None] | None = None
    """Told when the session must end while it is busy: it cancels what can be cancelled."""

    def terminate(self, reason: FatalError) -> None:
        """End the session with this error: now if it is idle, else as soon as its statement allows."""
        stepper = self._stepper
        if stepper is None or stepper.ended or self._doom is not None:
            return
        self._doom = reason
        if stepper.idle:
            stepper.resume(reason)
        elif self.on_doom is not None:
            self.on_doom(reason)

    def abort(self) -> None:
        """Close the socket without a word."""
        if self._transport is not None:
            self._transport.abort()

    # The session's side (session/channel.py)

    def poll(self) -> Message | None:
        if self._gone or self._doom is not None or self._taken >= _MESSAGES_A_TURN:
            return None
        if self._room is not None or self.full:
            return None
        self._taken += 1
        return self.parser.next_message()

    async def receive(self, idle_limit_s: Callable[[], float | None] | None = None) -> Message:
        if self._gone or self._doom is not None:
            self._raise_if_over()
        if self._room is not None or self.full:
            await self.flush()
            self._raise_if_over()
        if self._taken >= _MESSAGES_A_TURN:
            self._taken = 0
            await asyncio.sleep(0)
        message = self.parser.next_message()
        if message is not None:
            self._taken += 1
            return message
        return await self._wait_for(self.parser.next_message, idle_limit_s)

    def unfold(self, message: RunPrepared) -> None:
        self.parser.unfold(message)

    def put_back(self, packet: bytes) -> None:
        self.parser.put_back(packet)

    async def receive_startup(self) -> StartupMessage:
        message = self.parser.next_startup()
        return message if message is not None else await self._wait_for(self.parser.next_startup, None)

    async def _wait_for(
        self, parse: Callable[[], T | None], idle_limit_s: Callable[[], float | None] | None
    ) -> T:
        """Send what was said, then wait for a whole message."""
        if self._out:
            if self._room is None:
                self._send(len(self._out))
            else:
                await self.flush()
                self._raise_if_over()
                message = parse()  # it may have come meanwhile
                if message is not None:
                    return message
        self._idle_limit_s = idle_limit_s
        self._arm()
        try:
            while True:
                self._taken = 0
                self._raise_if_over()
                if not self._reading:
                    assert self._transport is not None
                    self._reading = True
                    self._transport.resume_reading()
                await need_bytes()
                if self._handed is not None:
                    message, self._handed = self._handed, None
                    return message  # type: ignore[no-any-return]
                message = parse()
                if message is not None:
                    return message
        finally:
            self._idle_until = None

    def _raise_if_over(self) -> None:
        if self._gone:
            raise ClientGone("connection closed")
        if self._doom is not None:
            raise self._doom

    def write(self, data: bytes) -> None:
        self._out.append(data)
        self._out_bytes += len(data)

    @property
    def full(self) -> bool:
        return self._out_bytes >= _UNSENT_BYTES_MAX

    def sequence_ends(self) -> None:
        self._whole_answers = len(self._out)

    async def flush(self) -> None:
        self._send(len(self._out))
        if self._room is None:
            return
        try:
            async with asyncio.timeout(_SLOW_CLIENT_S):
                await asyncio.wait([self._room])
        except TimeoutError:
            self.abort()
            raise ClientGone("client reads nothing") from None
        if self._gone:
            raise ClientGone("connection closed")

    def _send(self, parts: int) -> None:
        """Hand the first parts of what was written to the socket, in one piece."""
        if not parts:
            return
        chunk = self._out[0] if parts == 1 else b"".join(self._out[:parts])
        del self._out[:parts]
        self._out_bytes -= len(chunk)
        self._whole_answers = 0
        if not self._gone:
            assert self._transport is not None
            self._transport.write(chunk)
            self._vigil.prolong()

    def _before_wait(self) -> None:
        """The session waits for something else than its client: who has a whole answer gets it now."""
        self._send(self._whole_answers)

    def _arm(self) -> None:
        """One timer serves many idle times: it looks, when it fires, until when we may be idle now."""
        limit_s = self._idle_limit_s() if self._idle_limit_s is not None else None
        if limit_s is None:
            self._idle_until = None
            return
        self._idle_until = self._loop.time() + limit_s
        if self._idle_timer is not None and self._idle_timer.when() > self._idle_until:
            self._idle_timer.cancel()
            self._idle_timer = None
        if self._idle_timer is None:
            self._idle_timer = self._loop.call_at(self._idle_until, self._look_at_idle)

    def _look_at_idle(self) -> None:
        self._idle_timer = None
        stepper = self._stepper
        if self._idle_until is None or stepper is None or stepper.ended:
            return
        if self._loop.time() < self._idle_until:
            self._idle_timer = self._loop.call_at(self._idle_until, self._look_at_idle)
        elif stepper.idle:
            stepper.resume(IdleTooLong())

    def _ended(self, error: BaseException | None) -> None:
        """The serving coroutine is over: say the last words and hang up."""
        if error is not None and not isinstance(error, asyncio.CancelledError | ClientGone):
            events.error("session.bug", exc_info=error)
        if self._idle_timer is not None:
            self._idle_timer.cancel()
        self._send(len(self._out))
        if self._transport is not None:
            self._transport.close()
            if not self._gone:
                # It closes once all is sent, which a client that reads nothing would keep from happening.
                self._last_words_timer = self._loop.call_later(_SLOW_CLIENT_S, self._transport.abort)


def _keep_alive(sock: socket.socket | None) -> None:
    """A client whose machine vanished is noticed within two minutes, not two hours."""
    if sock is None or sock.family not in (socket.AF_INET, socket.AF_INET6):
        return
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 60)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 10)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 6)
