"""pgbench: the words that start it, and what it says at its end."""

import re
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from subprocess import Popen
from typing import Final

from bench.commands import finish, run, started
from bench.errors import BenchFailed
from bench.side import Endpoint
from bench.workloads import Workload

THREADS_MAX: Final = 2
LATE_S_MAX: Final = 90.0
"""How long after its time pgbench may take to end: its clients wait for their last answers."""

FILL_S_MAX: Final = 600.0

_TPS: Final = re.compile(r"^tps = ([\d.]+) \(without initial", re.MULTILINE)
_LATENCY: Final = re.compile(r"^latency average = ([\d.]+) ms", re.MULTILINE)
_PROCESSED: Final = re.compile(r"^number of transactions actually processed: (\d+)", re.MULTILINE)
_FAILED: Final = re.compile(r"^number of failed transactions: ([1-9]\d*)", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Reported:
    transactions: int
    tps: float
    latency_ms: float


class Pgbench:
    def __init__(self, program: Path, script_file: Path) -> None:
        self._program = program
        self._script_file = script_file
        """Where the transaction of a workload with a script of its own is put."""

    def fill(self, endpoint: Endpoint, scale: int) -> None:
        """Create pgbench's tables anew."""
        words: list[str | Path] = [
            self._program,
            "-i",
            "-q",
            "-s",
            str(scale),
            *endpoint.options,
            endpoint.database,
        ]
        run(words, timeout_s=FILL_S_MAX)

    def start(
        self, endpoint: Endpoint, workload: Workload, seconds: int
    ) -> AbstractContextManager["Popen[str]"]:
        words: list[str | Path] = [self._program, "-M", workload.protocol, "-T", str(seconds)]
        words += ["-c", str(workload.clients), "-j", str(min(workload.clients, THREADS_MAX))]
        words += workload.options
        if workload.script:
            self._script_file.write_text(workload.script)
            words += ["-f", self._script_file]
        return started([*words, *endpoint.options, endpoint.database])

    def finish(self, process: "Popen[str]", seconds: int) -> Reported:
        """Wait for its end. Raises BenchFailed when it, or a transaction, failed."""
        return parse_report(finish(process, "pgbench", seconds + LATE_S_MAX))


def parse_report(text: str) -> Reported:
    """Raises BenchFailed unless every transaction was answered and all figures are there."""
    if failed := _FAILED.search(text):
        raise BenchFailed(f"pgbench: {failed[1]} transactions failed")
    tps, latency, processed = _TPS.search(text), _LATENCY.search(text), _PROCESSED.search(text)
    if tps is None or latency is None or processed is None or processed[1] == "0":
        raise BenchFailed("pgbench: no transaction was answered")
    return Reported(int(processed[1]), float(tps[1]), float(latency[1]))
