"""What a hostile peer may send to a port, made by dice. It knows the greeting of each of our protocols."""

import contextlib
import random
import socket
import struct
from collections.abc import Iterator
from typing import Any, Final

import grpc
from google.protobuf.descriptor import FieldDescriptor, MethodDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from proto import control_pb2, instance_pb2, runtime_pb2, storage_pb2

_STARTUP: Final = struct.pack(">IHH", 16, 3, 0) + b"user\0a\0\0"
_HTTP2: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(3) + b"\4\0" + bytes(4)
_HTTP: Final = b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"


def _hello(method: bytes) -> bytes:
    return struct.pack("<8sHH", b"SXSTREAM", 1, len(method)) + method


_STREAM: Final = _hello(b"/sixfold.storage.Storage/AppendLog")
_GREETINGS: Final = (_STARTUP, _HTTP2, _HTTP, _STREAM)

_OVERSIZED: Final = (
    b"\x7f\xff\xff\xff" + bytes(100),
    _STARTUP + b"Q\x7f\xff\xff\xff" + bytes(100),
    _STARTUP + b"B\xff\xff\xff\xff",
    _HTTP2 + b"\xff\xff\xff\0\0\0\0\0\1" + bytes(100),
    b"GET /" + b"x" * 100_000,
    _STREAM + b"\xff\xff\xff\xff\0" + bytes(100),
    _STREAM + b"\xff\xff\xff\x7f\2",
    struct.pack("<8sHH", b"SXSTREAM", 1, 65_535) + bytes(100),
    struct.pack("<8sHH", b"SXSTREAM", 999, 4) + b"what",
    _hello(b"/no/such.Method"),
)

_SERVICES: Final = [
    service
    for module in (control_pb2, storage_pb2, instance_pb2, runtime_pb2)
    for service in module.DESCRIPTOR.services_by_name.values()
]
_ONLY_UNDECODABLE: Final = {"OpenVolume", "Shutdown"}
"""An empty message is a valid one there, and does what it says: no wonder, and no fault."""

_UNDECODABLE: Final = b"\xff" * 24
_NUMBERS: Final = (0, 1, 2, 5, 6, 255, 1 << 20, (1 << 31) - 1)
_LARGE_NUMBERS: Final = (*_NUMBERS, 1 << 32, (1 << 63) - 1, (1 << 64) - 1)
_FOREIGN_VOLUME: Final = (1 << 40) + 7


def payloads(dice: random.Random) -> Iterator[bytes]:
    """For any port: noise, beginnings that break off, lengths that cannot be, valid beginnings with noise."""
    for _ in range(4):
        yield dice.randbytes(dice.choice([1, 7, 100, 5_000]))
    for greeting in _GREETINGS:
        yield greeting[: dice.randrange(1, len(greeting))]
        yield greeting + dice.randbytes(dice.choice([3, 60, 3_000]))
    yield from _OVERSIZED
    for _ in range(3):
        kind, body = dice.randrange(6), dice.randbytes(dice.randrange(200))
        yield _STREAM + struct.pack("<IB", len(body), kind) + body
    yield _STREAM + b"".join(struct.pack("<IB", len(each), 0) + each for each in _append_requests(dice))


def _append_requests(dice: random.Random) -> list[bytes]:
    return [_random_message(storage_pb2.AppendRequest(), dice).SerializeToString() for _ in range(5)]


def connect(port: int) -> socket.socket:
    made = socket.create_connection(("127.0.0.1", port), timeout=2)
    made.settimeout(0.03)
    return made


def send(port: int, data: bytes, dice: random.Random) -> socket.socket | None:
    """Send it, and then stop sending, break off, or hang: then the connection is returned."""
    connection = connect(port)
    with contextlib.suppress(OSError):  # a server may well be gone before the end
        connection.sendall(data)
    match dice.randrange(3):
        case 0:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_WR)
                connection.recv(65_536)
        case 1:
            reset = struct.pack("ii", 1, 0)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, reset)
        case _:
            return connection
    connection.close()
    return None


# gRPC


def call_every_method(address: str, dice: random.Random, messages: int) -> int:
    """Garbage for each method of proto/*.proto, served there or not. How many calls were answered."""
    with grpc.insecure_channel(address) as channel:
        calls = [
            channel.unary_unary(f"/{service.full_name}/{method.name}").future(data, timeout=5)
            for service in _SERVICES
            for method in service.methods
            for data in _garbage(method, dice, messages)
        ]
        codes = [call.code() for call in calls]
    return sum(code is not grpc.StatusCode.DEADLINE_EXCEEDED for code in codes)


def _garbage(method: MethodDescriptor, dice: random.Random, messages: int) -> Iterator[bytes]:
    yield _UNDECODABLE
    if method.name not in _ONLY_UNDECODABLE:
        for _ in range(messages):
            whole = _random_message(GetMessageClass(method.input_type)(), dice).SerializeToString()
            yield whole
            yield whole[: dice.randrange(len(whole) + 1)]


def _random_message(message: Message, dice: random.Random) -> Message:
    """Decodable, and nonsense. Of volumes that are not there: what a valid epoch may do is not the question."""
    for field in message.DESCRIPTOR.fields:
        if field.name == "volume":
            foreign: Any = _FOREIGN_VOLUME if field.type != FieldDescriptor.TYPE_STRING else "no such volume"
            setattr(message, field.name, foreign)
        elif field.is_repeated:
            values = getattr(message, field.name)
            for _ in range(dice.choice([0, 1, 6, 50])):
                if field.type == FieldDescriptor.TYPE_MESSAGE:
                    _random_message(values.add(), dice)
                else:
                    values.append(_random_value(field, dice))
        elif field.type == FieldDescriptor.TYPE_MESSAGE:
            _random_message(getattr(message, field.name), dice)
        else:
            setattr(message, field.name, _random_value(field, dice))
    return message


def _random_value(field: FieldDescriptor, dice: random.Random) -> Any:
    match field.type:
        case FieldDescriptor.TYPE_STRING:
            return dice.choice(["", "x", "../../etc/passwd", "s1\0", "\u2603" * 300])
        case FieldDescriptor.TYPE_BYTES:
            return dice.randbytes(dice.choice([0, 1, 40, 3_000]))
        case FieldDescriptor.TYPE_BOOL:
            return dice.random() < 0.5
        case FieldDescriptor.TYPE_UINT64 | FieldDescriptor.TYPE_FIXED64:
            return dice.choice(_LARGE_NUMBERS)
        case _:
            return dice.choice(_NUMBERS)
