"""Runs one workload on one database once, and looks at what it costs meanwhile."""

import time

from bench.errors import BenchFailed
from bench.figures import Figures
from bench.pgbench import Pgbench, Reported
from bench.processes import cpu_seconds, memory
from bench.side import Shipped, Side
from bench.workloads import Workload


def measure(pgbench: Pgbench, side: Side, workload: Workload, seconds: int) -> Figures:
    """Raises BenchFailed when a transaction failed or the database could not be asked."""
    pids = side.pids()
    cpu_before, shipped_before = cpu_seconds(pids), side.shipped()
    with pgbench.start(side.endpoint, workload, seconds) as process:
        # Not at the end: a database with a process for each client has them in mid-run only.
        time.sleep(seconds / 2)
        used = memory(pids)
        reported = pgbench.finish(process, seconds)
    cpu = cpu_seconds(pids) - cpu_before
    batches, size = _per_commit(shipped_before, side.shipped(), reported)
    return Figures(
        tps=reported.tps,
        latency_ms=reported.latency_ms,
        cpu_s_per_1000=_per_1000(cpu, reported),
        pss_bytes=used.pss_bytes,
        rss_bytes=used.rss_bytes,
        batches_per_commit=batches,
        bytes_per_commit=size,
    )


def idle_cpu(side: Side, seconds: float) -> float:
    """The part of one core that the database uses while nobody asks anything of it."""
    pids = side.pids()
    before = cpu_seconds(pids)
    time.sleep(seconds)
    return (cpu_seconds(pids) - before) / seconds


def _per_1000(cpu_s: float, reported: Reported) -> float:
    if cpu_s < 0:
        raise BenchFailed("a process of the database ended during the run")
    return cpu_s * 1000 / reported.transactions


def _per_commit(
    before: Shipped | None, after: Shipped | None, reported: Reported
) -> tuple[float | None, float | None]:
    """Batches and bytes that one copy was sent for a commit."""
    if before is None or after is None:
        return None, None
    commits = after.commits - before.commits
    if commits < reported.transactions / 2:
        return None, None  # a workload that only reads: these few are what pgbench does to begin with
    batches = after.batches_per_copy - before.batches_per_copy
    return batches / commits, (after.bytes_per_copy - before.bytes_per_copy) / commits
