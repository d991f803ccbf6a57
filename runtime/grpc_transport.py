"""Transport over gRPC: our own bytes in and out, one long-lived channel a peer.

A handler's VolumeError ends the call with the status UNKNOWN and the details "ClassName: message"; the
caller raises the same class again. Everything unexpected becomes Internal, and is logged where it happened.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final

import grpc
import grpc.aio
from google.protobuf.message import DecodeError

from runtime.events import get_logger
from runtime.transport import Handlers, Stream, StreamHandler, Unary
from volume.errors import (
    DeadlineExceeded,
    Internal,
    InvalidRequest,
    PeerUnavailable,
    VolumeError,
    error_by_name,
)
from volume.limits import MESSAGE_BYTES_MAX

events = get_logger("runtime.grpc")

_OPTIONS: Final = (
    ("grpc.max_send_message_length", MESSAGE_BYTES_MAX),
    ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
    ("grpc.keepalive_time_ms", 5_000),
    ("grpc.keepalive_timeout_ms", 3_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.enable_retries", 0),
    ("grpc.so_reuseport", 0),
)
_CLIENT_OPTIONS: Final = (
    *_OPTIONS,
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    ("grpc.use_local_subchannel_pool", 1),
)
_SERVER_OPTIONS: Final = (
    *_OPTIONS,
    ("grpc.http2.min_ping_interval_without_data_ms", 2_000),
    ("grpc.http2.max_ping_strikes", 0),
)


def _volume_error(error: grpc.aio.AioRpcError, doing: str) -> VolumeError:
    """What the peer raised, or what became of the connection."""
    code, details = error.code(), error.details() or ""
    name, _, message = details.partition(": ")
    raised = error_by_name(name)
    if code is grpc.StatusCode.UNKNOWN and raised is not None:
        return raised(message)
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return DeadlineExceeded(f"{doing}: no answer in time")
    if code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED, grpc.StatusCode.UNKNOWN):
        return PeerUnavailable(f"{doing}: {details or code.name.lower()}")
    if code in (grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.RESOURCE_EXHAUSTED):
        return InvalidRequest(f"{doing}: {details}")
    return Internal(f"{doing}: {code.name} {details}")


def _status(error: Exception, method: str) -> str:
    """The status details that an exception of a handler travels as."""
    if isinstance(error, VolumeError):
        return f"{type(error).__name__}: {error}"
    if isinstance(error, DecodeError):
        return f"InvalidRequest: {method}: the message cannot be decoded"
    events.error("rpc.bug", method=method, exc_info=error)
    return f"Internal: {method}: {type(error).__name__}, see the log of the one who answered"


class _ClientStream:
    def __init__(self, call: Any, doing: str) -> None:
        self._call = call
        self._doing = doing

    async def send(self, message: bytes) -> None:
        try:
            await self._call.write(message)
        except grpc.aio.AioRpcError as error:
            raise _volume_error(error, self._doing) from None
        except asyncio.InvalidStateError:
            raise PeerUnavailable(f"{self._doing}: the stream has ended") from None

    async def receive(self) -> bytes | None:
        try:
            message = await self._call.read()
        except grpc.aio.AioRpcError as error:
            raise _volume_error(error, self._doing) from None
        except asyncio.InvalidStateError:
            raise PeerUnavailable(f"{self._doing}: the stream has ended") from None
        return None if message is grpc.aio.EOF else message

    def cancel(self) -> None:
        self._call.cancel()


class _ServerStream:
    def __init__(self, context: Any) -> None:
        self._context = context

    async def send(self, message: bytes) -> None:
        try:
            await self._context.write(message)
        except (grpc.aio.AioRpcError, grpc.aio.UsageError, grpc.aio.InternalError, asyncio.InvalidStateError):
            raise PeerUnavailable("answer on a stream: the peer is gone") from None

    async def receive(self) -> bytes | None:
        try:
            message = await self._context.read()
        except (grpc.aio.AioRpcError, grpc.aio.UsageError, grpc.aio.InternalError, asyncio.InvalidStateError):
            raise PeerUnavailable("read from a stream: the peer is gone") from None
        return None if message is grpc.aio.EOF else message

    def cancel(self) -> None:
        self._context.cancel()


def _unary(method: str, handler: Unary) -> Any:
    async def answer(request: bytes, context: Any) -> bytes:
        try:
            return await handler(request)
        except Exception as error:
            await context.abort(grpc.StatusCode.UNKNOWN, _status(error, method))
            raise AssertionError("abort raises") from error

    return grpc.unary_unary_rpc_method_handler(answer)


def _streaming(method: str, handler: StreamHandler) -> Any:
    async def answer(_requests: Any, context: Any) -> None:
        try:
            await handler(_ServerStream(context))
        except Exception as error:
            await context.abort(grpc.StatusCode.UNKNOWN, _status(error, method))

    return grpc.stream_stream_rpc_method_handler(answer)


class _Table(grpc.GenericRpcHandler):
    def __init__(self, handlers: Handlers) -> None:
        self._methods = {name: _unary(name, handler) for name, handler in handlers.unary.items()}
        self._methods |= {name: _streaming(name, handler) for name, handler in handlers.stream.items()}

    def service(self, handler_call_details: Any) -> Any:
        return self._methods.get(handler_call_details.method)


class GrpcServer:
    def __init__(self, server: Any, address: str) -> None:
        self._server = server
        self.address = address

    async def stop(self, grace_s: float = 1.0) -> None:
        await self._server.stop(grace_s)


class GrpcTransport:
    def __init__(self) -> None:
        self._channels: dict[str, Any] = {}
        self._calls: dict[tuple[str, str], Callable[..., Awaitable[bytes]]] = {}

    def _channel(self, address: str) -> Any:
        channel = self._channels.get(address)
        if channel is None:
            channel = self._channels[address] = grpc.aio.insecure_channel(address, options=_CLIENT_OPTIONS)
        return channel

    async def call(self, address: str, method: str, request: bytes, *, timeout_s: float) -> bytes:
        multicallable = self._calls.get((address, method))
        if multicallable is None:
            multicallable = self._calls[address, method] = self._channel(address).unary_unary(method)
        try:
            return await multicallable(request, timeout=timeout_s)
        except grpc.aio.AioRpcError as error:
            raise _volume_error(error, f"{method} at {address}") from None

    def open_stream(self, address: str, method: str) -> Stream:
        call = self._channel(address).stream_stream(method)()
        return _ClientStream(call, f"{method} at {address}")

    async def serve(self, address: str, handlers: Handlers) -> GrpcServer:
        """Raises OSError if the address is in use."""
        server = grpc.aio.server(options=_SERVER_OPTIONS)
        server.add_generic_rpc_handlers((_Table(handlers),))
        try:
            port = server.add_insecure_port(address)
        except RuntimeError as error:
            raise OSError(f"listen at {address}: {error}") from None
        if port == 0:
            raise OSError(f"listen at {address}: address in use")
        await server.start()
        return GrpcServer(server, f"{address.rsplit(':', 1)[0]}:{port}")

    async def close(self) -> None:
        for channel in self._channels.values():
            await channel.close()
        self._channels.clear()
        self._calls.clear()
