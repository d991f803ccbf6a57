"""GET /metrics for Prometheus and /healthz, on a port of its own; it refuses everything else."""

import asyncio
from typing import Final

from prometheus_client import CollectorRegistry, generate_latest

_REQUEST_BYTES_MAX: Final = 8192
_REQUEST_S: Final = 5.0


async def serve_metrics(host: str, port: int, registry: CollectorRegistry) -> asyncio.Server:
    """Answer until closed. Raises OSError if the port is in use."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(_REQUEST_S):
                head = await reader.readuntil(b"\r\n\r\n")
                writer.write(_response(head, registry))
                await writer.drain()
        except (TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, ConnectionError):
            pass  # a client that does not finish its request gets no answer
        finally:
            writer.close()

    return await asyncio.start_server(answer, host, port, limit=_REQUEST_BYTES_MAX)


def _response(head: bytes, registry: CollectorRegistry) -> bytes:
    line = head.split(b"\r\n", 1)[0].split(b" ")
    if len(line) != 3 or line[0] != b"GET":
        return _reply(b"405 Method Not Allowed", b"only GET\n")
    path = line[1].split(b"?", 1)[0]
    if path == b"/metrics":
        return _reply(b"200 OK", generate_latest(registry))
    if path == b"/healthz":
        return _reply(b"200 OK", b"ok\n")
    return _reply(b"404 Not Found", b"/metrics and /healthz\n")


def _reply(status: bytes, body: bytes) -> bytes:
    head = b"HTTP/1.1 %s\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\nContent-Length: %d\r\n"
    return head % (status, len(body)) + b"Connection: close\r\n\r\n" + body
