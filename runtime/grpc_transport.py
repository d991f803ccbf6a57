"""Transport over gRPC: our own bytes in and out, one long-lived channel a peer.

Streams go over sockets of their own (socket_stream.py), whose port is asked for by gRPC: a message costs gRPC
in Python about four times what it costs there.

Every call tells the version of the contracts in proto/; one that this release does not know is refused.
A release speaks the version before its own as well, so that a cluster can be restarted node by node.

A handler's VolumeError ends the call with the status UNKNOWN and the details "ClassName: message"; the
caller raises the same class again. Everything unexpected becomes Internal, and is logged where it happened.
"""

from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, Final

import grpc
import grpc.aio
from google.protobuf.message import DecodeError

from proto import runtime_pb2
from runtime.addresses import host_and_port
from runtime.events import get_logger
from runtime.socket_stream import StreamServer, connect
from runtime.transport import Handlers, Stream, Unary
from volume.errors import (
    DeadlineExceeded,
    Internal,
    InvalidRequest,
    PeerUnavailable,
    UnknownFormat,
    VolumeError,
    error_by_name,
)
from volume.limits import CONNECT_TIMEOUT_S, MESSAGE_BYTES_MAX

events = get_logger("runtime.grpc")

_LOCATE: Final = "/sixfold.runtime.Streams/Locate"

PROTOCOL: Final = 2
"""1: members of a group never change, and calls tell no version. 2: they do, and writers hold leases."""

PROTOCOL_OLDEST: Final = 1
_PROTOCOL_KEY: Final = "sixfold-protocol"
_PROTOCOLS: Final = frozenset(str(version) for version in range(PROTOCOL_OLDEST, PROTOCOL + 1))
_METADATA: Final = ((_PROTOCOL_KEY, str(PROTOCOL)),)

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


def _unary(method: str, handler: Unary) -> Any:
    async def answer(request: bytes, context: Any) -> bytes:
        try:
            _check_protocol(context.invocation_metadata(), method)
            return await handler(request)
        except Exception as error:
            await context.abort(grpc.StatusCode.UNKNOWN, _status(error, method))
            raise AssertionError("abort raises") from error

    return grpc.unary_unary_rpc_method_handler(answer)


def _check_protocol(metadata: Iterable[tuple[str, Any]], method: str) -> None:
    for key, value in metadata:
        if key == _PROTOCOL_KEY and value not in _PROTOCOLS:
            raise UnknownFormat(
                f"{method}: the caller speaks protocol {value}, this release knows {PROTOCOL_OLDEST} to {PROTOCOL}"
            )


def _locating(streams: StreamServer) -> Unary:
    async def locate(_request: bytes) -> bytes:
        return runtime_pb2.LocateReply(port=streams.port, process=streams.process).SerializeToString()

    return locate


def _host(address: str) -> str:
    return address.rpartition(":")[0]


class _Table(grpc.GenericRpcHandler):
    def __init__(self, handlers: Mapping[str, Unary]) -> None:
        self._methods = {name: _unary(name, handler) for name, handler in handlers.items()}

    def service(self, handler_call_details: Any) -> Any:
        return self._methods.get(handler_call_details.method)


class GrpcServer:
    def __init__(self, server: Any, address: str, streams: StreamServer | None) -> None:
        self._server = server
        self._streams = streams
        self.address = address

    async def stop(self, grace_s: float = 1.0) -> None:
        if self._streams is not None:
            await self._streams.stop()
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
            return await multicallable(request, timeout=timeout_s, metadata=_METADATA)
        except grpc.aio.AioRpcError as error:
            raise _volume_error(error, f"{method} at {address}") from None

    def open_stream(self, address: str, method: str) -> Stream:
        return connect(self._locate_streams(address), method, f"{method} at {address}")

    async def _locate_streams(self, address: str) -> tuple[str, int, str]:
        request = runtime_pb2.LocateRequest().SerializeToString()
        reply = await self.call(address, _LOCATE, request, timeout_s=CONNECT_TIMEOUT_S)
        found = runtime_pb2.LocateReply.FromString(reply)
        return host_and_port(address)[0], found.port, found.process

    async def serve(self, address: str, handlers: Handlers) -> GrpcServer:
        """Raises OSError if the address is in use."""
        unary = dict(handlers.unary)
        streams = None
        if handlers.stream:
            streams = StreamServer(handlers.stream)
            await streams.start(host_and_port(address)[0])
            unary[_LOCATE] = _locating(streams)
        server = grpc.aio.server(options=_SERVER_OPTIONS)
        server.add_generic_rpc_handlers((_Table(unary),))
        try:
            port = server.add_insecure_port(address)
        except RuntimeError as error:
            raise OSError(f"listen at {address}: {error}") from None
        if port == 0:
            raise OSError(f"listen at {address}: address in use")
        await server.start()
        return GrpcServer(server, f"{_host(address)}:{port}", streams)

    async def close(self) -> None:
        for channel in self._channels.values():
            await channel.close()
        self._channels.clear()
        self._calls.clear()
