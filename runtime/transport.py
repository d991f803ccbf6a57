"""The door to other processes. gRPC is one implementation (grpc_transport.py), the simulator another."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol


class Stream(Protocol):
    """One end of an ordered, reliable stream of messages, until it breaks."""

    async def send(self, message: bytes) -> None: ...

    async def receive(self) -> bytes | None:
        """The next message; None once the peer has ended the stream. Raises VolumeError if it broke."""
        ...

    def cancel(self) -> None: ...


Unary = Callable[[bytes], Awaitable[bytes]]
StreamHandler = Callable[[Stream], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Handlers:
    """What a server answers, by full method name: "/sixfold.storage.Storage/ReadPages"."""

    unary: Mapping[str, Unary] = field(default_factory=dict)
    stream: Mapping[str, StreamHandler] = field(default_factory=dict)


class Server(Protocol):
    address: str

    async def stop(self, grace_s: float = 1.0) -> None: ...


class Transport(Protocol):
    async def call(self, address: str, method: str, request: bytes, *, timeout_s: float) -> bytes:
        """Ask once. Raises the VolumeError the handler raised, PeerUnavailable or DeadlineExceeded."""
        ...

    def open_stream(self, address: str, method: str) -> Stream: ...

    async def serve(self, address: str, handlers: Handlers) -> Server:
        """Answer at "host:port"; port 0 picks one, and the server's `address` tells which."""
        ...

    async def close(self) -> None: ...
