"""GET /metrics for Prometheus and /healthz, on a port of its own; it refuses everything else."""

import asyncio
import os
import resource
from bisect import bisect_left
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily, HistogramMetricFamily, Metric

_REQUEST_BYTES_MAX: Final = 8192
_REQUEST_S: Final = 5.0


_SECONDS: Final = (0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)


class Durations:
    """How long something takes, for a histogram: cheap enough for every commit."""

    def __init__(self) -> None:
        self._counts = [0] * (len(_SECONDS) + 1)
        self._sum = 0.0

    def observe(self, seconds: float) -> None:
        self._counts[bisect_left(_SECONDS, seconds)] += 1
        self._sum += seconds

    def metric(self, name: str, documentation: str) -> Metric:
        buckets, total = [], 0
        for edge, count in zip((*map(str, _SECONDS), "+Inf"), self._counts, strict=True):
            total += count
            buckets.append((edge, total))
        return HistogramMetricFamily(name, documentation, buckets=buckets, sum_value=self._sum)


def memory_metrics() -> Iterator[Metric]:
    """What this process uses of the machine's memory."""
    resident = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    yield GaugeMetricFamily("sixfold_memory_bytes", "Memory used", value=resident)
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    yield GaugeMetricFamily("sixfold_memory_max_bytes", "Most memory used so far", value=most)


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
