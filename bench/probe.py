"""What one client sees of a Sixfold volume: how long a commit takes, and a read that finds no page cached."""

import random
import time
from collections.abc import Iterable
from dataclasses import dataclass
from statistics import median, quantiles
from typing import Any, Final

import psycopg

from bench.errors import BenchFailed
from bench.load import TABLE, Loader
from bench.sixfold_side import SixfoldSide

COMMIT_TABLE: Final = "bench_commit"
COMMIT_SETUP: Final = f"CREATE TABLE {COMMIT_TABLE} (id bigserial PRIMARY KEY, v bigint NOT NULL)"
INSERT: Final = f"INSERT INTO {COMMIT_TABLE} (v) VALUES (%s)"
SELECT: Final = f"SELECT amount FROM {TABLE} WHERE id = %s"

ROWS_TO_A_READ: Final = 40
"""A page has some nine rows: with one read for so many, few of them meet in one page."""


@dataclass(frozen=True, slots=True)
class Latency:
    count: int
    median_ms: float
    p99_ms: float


def latency_of(seconds: Iterable[float]) -> Latency:
    """Of two durations at least."""
    found = list(seconds)
    return Latency(len(found), median(found) * 1000, quantiles(found, n=100, method="inclusive")[98] * 1000)


def commits(connection: psycopg.Connection[Any], count: int) -> Latency:
    """Of single-row inserts, one after the other."""
    return latency_of(_timed(connection, INSERT, (number,)) for number in range(count))


@dataclass(frozen=True, slots=True)
class ColdReads:
    latency: Latency
    pages_a_read: float
    """Pages that came from storage for a select: below 1, not all of them were cold."""


def cold_reads(side: SixfoldSide, loader: Loader, count: int) -> ColdReads:
    """Of selects of random keys, on a writer whose buffer pool is empty: it is killed and started first."""
    writer = side.writer()
    side.command("kill", writer)
    side.command("start", writer)
    count = max(2, min(count, loader.rows // ROWS_TO_A_READ))
    keys = random.Random(count).sample(range(1, loader.rows + 1), count)
    with side.connect() as connection:
        before = side.metrics()["sixfold_pages_read_total"]
        latency = latency_of([_timed(connection, SELECT, (key,)) for key in keys])
        pages = side.metrics()["sixfold_pages_read_total"] - before
    return ColdReads(latency, pages / count)


def seconds_to_first_commit(side: SixfoldSide) -> float:
    """From `sixfold up`, on a cluster that is down, until an insert is answered."""
    started_at = time.monotonic()
    side.up()
    with side.connect() as connection:
        connection.execute(INSERT, (0,))
        return time.monotonic() - started_at


def _timed(connection: psycopg.Connection[Any], sql: str, parameters: tuple[int, ...]) -> float:
    started_at = time.perf_counter()
    cursor = connection.execute(sql, parameters)
    elapsed = time.perf_counter() - started_at
    if cursor.description is not None and cursor.fetchone() is None:
        raise BenchFailed(f"the row with key {parameters[0]} is not there")
    return elapsed
