"""The network of the simulated cluster, and each host's end of it.

Requests may be late, lost, repeated, or overtaken by others; whoever asks sees no more than that the
answer did not come. A stream is ordered and reliable until it breaks, and then both ends see
PeerUnavailable (the serving end by the cancellation of its handler, as in gRPC, or by its next call).
A cut between two hosts swallows what is sent; streams that stay cut for longer than keep-alive break.
"""

import asyncio
import random
from collections import deque
from dataclasses import dataclass
from typing import Any, Final

from runtime.transport import Handlers, Server, Stream
from tests.simulation.process import Process
from volume.errors import (
    DeadlineExceeded,
    Internal,
    InvalidRequest,
    PeerUnavailable,
    VolumeError,
    error_by_name,
)
from volume.limits import MESSAGE_BYTES_MAX

KEEP_ALIVE_S: Final = 6.0
_RESEND_S: Final = 0.1
_UNDELIVERED_MAX: Final = 16
"""Messages one end of a stream may be ahead of the other: beyond it `send` waits."""


@dataclass(slots=True)
class NetworkFaults:
    """The dice of every message."""

    latency_s: tuple[float, float] = (0.0002, 0.002)
    late: float = 0.0
    """Chance that a message takes up to `late_s` instead."""
    late_s: float = 0.5
    lost: float = 0.0
    """Chance that a request or its answer is lost, or that a message breaks its stream."""
    repeated: float = 0.0


class Network:
    def __init__(self, dice: random.Random) -> None:
        self.faults = NetworkFaults()
        self.messages = 0
        self.bugs: list[str] = []
        """What handlers raised that is no VolumeError."""
        self._dice = dice
        self._hosts: dict[str, Host] = {}
        self._cuts: set[tuple[str, str]] = set()
        self._connections: dict[_Connection, None] = {}

    def host(self, name: str, process: Process) -> "Host":
        """A host (re)starts: this is its transport."""
        host = self._hosts[name] = Host(self, name, process)
        return host

    def kill(self, name: str) -> None:
        """The host's process is gone: nobody answers there, its streams break."""
        host = self._hosts.get(name)
        if host is not None:
            host.down = True
            host.handlers = None
            for connection in list(self._connections):
                if name in (connection.client.name, connection.server_name):
                    connection.fail(f"{name} is gone")

    def cut(self, source: str, target: str) -> None:
        """What `source` sends to `target` arrives nowhere."""
        self._cuts.add((source, target))
        asyncio.get_running_loop().call_later(KEEP_ALIVE_S, self._keep_alive, source, target)

    def heal(self, host: str | None = None) -> None:
        """All cuts, or those of one host."""
        self._cuts = {cut for cut in self._cuts if host is not None and host not in cut}

    def is_cut(self, source: str, target: str) -> bool:
        return (source, target) in self._cuts

    def _keep_alive(self, source: str, target: str) -> None:
        if (source, target) in self._cuts:
            for connection in list(self._connections):
                if {source, target} == {connection.client.name, connection.server_name}:
                    connection.fail(f"no sign of life from {source} to {target}")

    # Dice

    def latency(self) -> float:
        self.messages += 1
        faults = self.faults
        if faults.late and self._dice.random() < faults.late:
            return self._dice.uniform(0.0, faults.late_s)
        return self._dice.uniform(*faults.latency_s)

    def loses(self) -> bool:
        return self.faults.lost > 0 and self._dice.random() < self.faults.lost

    def repeats(self) -> bool:
        return self.faults.repeated > 0 and self._dice.random() < self.faults.repeated

    def coin(self) -> bool:
        return self._dice.random() < 0.5

    def listening(self, address: str) -> "Host | None":
        host = self._hosts.get(host_of(address))
        return host if host is not None and not host.down and host.handlers is not None else None


def host_of(address: str) -> str:
    return address.rpartition(":")[0]


def again(error: VolumeError) -> VolumeError:
    """The error as it arrives at the other end: by name and message."""
    kind = error_by_name(type(error).__name__)
    return kind(str(error)) if kind is not None else PeerUnavailable(str(error))


class Host:
    """One process's transport (runtime.transport.Transport)."""

    def __init__(self, network: Network, name: str, process: Process) -> None:
        self.network = network
        self.name = name
        self.process = process
        self.down = False
        self.handlers: Handlers | None = None

    async def serve(self, address: str, handlers: Handlers) -> Server:
        assert host_of(address) == self.name
        if self.handlers is not None:
            raise OSError(f"listen at {address}: address in use")
        self.handlers = handlers
        return _SimServer(self, f"{self.name}:1" if address.endswith(":0") else address)

    async def call(self, address: str, method: str, request: bytes, *, timeout_s: float) -> bytes:
        doing = f"{method} at {address}"
        if len(request) > MESSAGE_BYTES_MAX:
            raise InvalidRequest(f"{doing}: {len(request)} bytes")
        network, target = self.network, host_of(address)
        answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        serving: list[asyncio.Task[None]] = []
        for _ in range(2 if network.repeats() else 1):
            if not (network.loses() or network.is_cut(self.name, target)):
                delay = network.latency()
                asyncio.get_running_loop().call_later(
                    delay, self._arrive, address, method, request, answer, serving
                )
        try:
            async with asyncio.timeout(timeout_s):
                return await answer
        except TimeoutError:
            raise DeadlineExceeded(f"{doing}: no answer in time") from None
        finally:
            # Who gave up may or may not get through with that, as in gRPC.
            for handler in serving:
                if not handler.done() and network.coin():
                    handler.cancel()

    def _arrive(
        self,
        address: str,
        method: str,
        request: bytes,
        answer: "asyncio.Future[bytes]",
        serving: "list[asyncio.Task[None]]",
    ) -> None:
        host = self.network.listening(address)
        if host is None or host.handlers is None:
            self._reply(
                answer, host_of(address), PeerUnavailable(f"{method} at {address}: connection refused")
            )
            return
        handler = host.handlers.unary.get(method)
        if handler is None:
            self._reply(answer, host.name, InvalidRequest(f"{method} at {address}: no such method"))
            return

        async def serve() -> None:
            assert host is not None
            try:
                outcome: bytes | VolumeError = await handler(request)
                assert len(outcome) <= MESSAGE_BYTES_MAX  # type: ignore[arg-type]
            except VolumeError as error:
                outcome = again(error)
            except Exception as error:
                outcome = _bug(self.network, method, error)
            if not host.down:
                self._reply(answer, host.name, outcome)

        serving.append(host.process.spawn(serve))

    def _reply(self, answer: "asyncio.Future[bytes]", source: str, outcome: bytes | VolumeError) -> None:
        if self.network.loses() or self.network.is_cut(source, self.name):
            return
        asyncio.get_running_loop().call_later(self.network.latency(), _settle, answer, outcome)

    def open_stream(self, address: str, method: str) -> Stream:
        return _Connection(self, address, method).near

    async def close(self) -> None:
        for connection in list(self.network._connections):
            if connection.client is self:
                connection.fail("the transport was closed")


def _settle(answer: "asyncio.Future[bytes]", outcome: bytes | VolumeError) -> None:
    if answer.done():
        return
    if isinstance(outcome, VolumeError):
        answer.set_exception(outcome)
    else:
        answer.set_result(outcome)


def _bug(network: Network, method: str, error: Exception) -> VolumeError:
    if type(error).__name__ == "DecodeError":
        return InvalidRequest(f"{method}: the message cannot be decoded")
    network.bugs.append(f"{method}: {error!r}")
    return Internal(f"{method}: {type(error).__name__}")


class _SimServer:
    def __init__(self, host: Host, address: str) -> None:
        self.address = address
        self._host = host

    async def stop(self, grace_s: float = 1.0) -> None:
        self._host.handlers = None
        for connection in list(self._host.network._connections):
            if connection.server_name == self._host.name:
                connection.fail("the server stops")


class _End:
    """One end of a stream (runtime.transport.Stream)."""

    def __init__(self, connection: "_Connection", source: str, target: str) -> None:
        self._connection = connection
        self._source = source
        self._target = target
        self._arrived: deque[bytes | None] = deque()
        self._coming: deque[tuple[float, bytes | None]] = deque()
        self._changed = asyncio.Event()
        self._pumping = False
        self.other: _End
        self.broken: VolumeError | None = None

    async def send(self, message: bytes) -> None:
        assert len(message) <= MESSAGE_BYTES_MAX
        # One turn of the loop at least, as for a real socket.
        await asyncio.sleep(0)
        while self.broken is None and self._connection.open and self.other.undelivered >= _UNDELIVERED_MAX:
            self._changed.clear()
            await self._changed.wait()
        if self.broken is not None:
            raise self.broken
        if not self._connection.open:
            raise PeerUnavailable(f"{self._connection.doing}: the stream has ended")
        if self._connection.network.loses():
            self._connection.fail("connection reset")
            return
        self.other.expect(message)

    async def receive(self) -> bytes | None:
        while not self._arrived:
            if self.broken is not None:
                raise self.broken
            self._changed.clear()
            await self._changed.wait()
        message = self._arrived.popleft()
        if message is None:
            self._arrived.append(None)
        self.other._changed.set()
        return message

    def cancel(self) -> None:
        self._connection.fail("cancelled")

    # The way here

    @property
    def undelivered(self) -> int:
        return len(self._coming) + len(self._arrived)

    def expect(self, message: bytes | None) -> None:
        """The other end sent this; it arrives in order, each message later than the one before."""
        loop = asyncio.get_running_loop()
        earliest = self._coming[-1][0] if self._coming else 0.0
        self._coming.append((max(earliest, loop.time() + self._connection.network.latency()), message))
        if not self._pumping:
            self._pumping = True
            loop.call_at(self._coming[0][0], self._pump)

    def _pump(self) -> None:
        self._pumping = False
        loop = asyncio.get_running_loop()
        network = self._connection.network
        if network.is_cut(self._target, self._source):
            # Sent again until the cut heals, or until keep-alive gives the stream up.
            if self._coming and self.broken is None:
                self._pumping = True
                loop.call_later(_RESEND_S, self._pump)
            return
        while self._coming and self._coming[0][0] <= loop.time():
            self._arrived.append(self._coming.popleft()[1])
            self._changed.set()
        if self._coming:
            self._pumping = True
            loop.call_at(self._coming[0][0], self._pump)

    def break_off(self, reason: VolumeError) -> None:
        if self.broken is None:
            self.broken = reason
            self._coming.clear()
            self._changed.set()


class _Connection:
    """A stream: the asking end, the serving end, and the handler's task."""

    def __init__(self, client: Host, address: str, method: str) -> None:
        self.network = client.network
        self.client = client
        self.server_name = host_of(address)
        self.doing = f"{method} at {address}"
        self.near = _End(self, client.name, self.server_name)
        self.far = _End(self, self.server_name, client.name)
        self.near.other, self.far.other = self.far, self.near
        self.open = True
        self._handler: asyncio.Task[Any] | None = None
        self.network._connections[self] = None
        loop = asyncio.get_running_loop()
        loop.call_later(self.network.latency(), self._connect, address, method, loop.time() + KEEP_ALIVE_S)

    def _connect(self, address: str, method: str, give_up: float) -> None:
        loop = asyncio.get_running_loop()
        if not self.open:
            return
        cut = self.network.is_cut(self.client.name, self.server_name)
        if cut and loop.time() < give_up:
            loop.call_later(_RESEND_S, self._connect, address, method, give_up)
            return
        host = self.network.listening(address)
        if cut or host is None or host.handlers is None or method not in host.handlers.stream:
            self.fail("connection refused")
            return
        handler = host.handlers.stream[method]
        self._handler = host.process.spawn(lambda: handler(self.far))
        self._handler.add_done_callback(self._on_handler_done)

    def _on_handler_done(self, task: "asyncio.Task[Any]") -> None:
        if not self.open:
            # Its end of a broken stream: how it fared is its own business, unless it is a bug.
            error = None if task.cancelled() else task.exception()
            if error is not None and not isinstance(error, VolumeError):
                self.network.bugs.append(f"{self.doing}: {error!r}")
            return
        error = asyncio.CancelledError() if task.cancelled() else task.exception()
        if error is None:
            self.near.expect(None)
            self._close()
        elif isinstance(error, VolumeError):
            # The status comes after what was already sent.
            self._close()
            delay = self.network.latency()
            asyncio.get_running_loop().call_later(delay, self.near.break_off, again(error))
        else:
            if isinstance(error, Exception):
                _bug(self.network, self.doing, error)
            self.fail("the handler is gone")

    def _close(self) -> None:
        self.open = False
        self.network._connections.pop(self, None)

    def fail(self, why: str) -> None:
        """Both ends learn of it, each in its own time."""
        if not self.open:
            return
        self._close()
        loop = asyncio.get_running_loop()
        reason = PeerUnavailable(f"{self.doing}: {why}")
        loop.call_later(self.network.latency(), self.near.break_off, reason)
        if self._handler is not None and self.network.coin():
            loop.call_later(self.network.latency(), self._handler.cancel)
        else:
            loop.call_later(self.network.latency(), self.far.break_off, reason)
