"""The frontend protocol by hand: what no driver would send, or not in this order."""

import asyncio
import struct
from typing import Final

from tests.harness.sql_server import SqlServer


def startup(minor: int = 0, *words: bytes) -> bytes:
    body = (
        struct.pack(">HH", 3, minor) + b"".join(word + b"\0" for word in (words or (b"user", b"app"))) + b"\0"
    )
    return struct.pack(">I", len(body) + 4) + body


def message(kind: bytes, body: bytes = b"") -> bytes:
    return kind + struct.pack(">I", len(body) + 4) + body


def query(sql: str) -> bytes:
    return b"Q" + struct.pack(">I", len(sql) + 5) + sql.encode() + b"\0"


def parse(name: str, sql: str) -> bytes:
    return message(b"P", f"{name}\0{sql}\0".encode() + bytes(2))


def bind(portal: str, statement: str, *values: str) -> bytes:
    given = b"".join(struct.pack(">I", len(each)) + each.encode() for each in values)
    return message(
        b"B", f"{portal}\0{statement}\0".encode() + struct.pack(">HH", 0, len(values)) + given + bytes(2)
    )


def describe(portal: str) -> bytes:
    return message(b"D", f"P{portal}\0".encode())


def execute(portal: str, rows: int = 0) -> bytes:
    return message(b"E", f"{portal}\0".encode() + struct.pack(">I", rows))


SYNC: Final = message(b"S")
FLUSH: Final = message(b"H")


async def read_message(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    head = await reader.readexactly(5)
    return head[:1], await reader.readexactly(struct.unpack(">I", head[1:])[0] - 4)


async def read_until(reader: asyncio.StreamReader, kind: bytes) -> list[tuple[bytes, bytes]]:
    found = []
    async with asyncio.timeout(10):
        while not found or found[-1][0] != kind:
            found.append(await read_message(reader))
    return found


def sqlstate(body: bytes) -> str:
    return next(field[1:].decode() for field in body.split(b"\0") if field[:1] == b"C")


async def introduced(sql: SqlServer) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await sql.raw()
    writer.write(startup())
    await read_until(reader, b"Z")
    return reader, writer
