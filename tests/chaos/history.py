"""What the clients asked for and what they were told."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

import psycopg

from tests.checkers.history import Outcome
from tests.checkers.list_append import Transaction
from tests.checkers.register import Operation

_UNKNOWN_CLASSES: Final = ("08", "57")
"""Connection exceptions; operator interventions: a cancelled or shut down COMMIT may have been one already."""


def outcome_of(error: psycopg.Error, *, committing: bool) -> Outcome:
    """What became of a transaction that ended with this error."""
    if not committing:
        return Outcome.FAILED
    if error.sqlstate is None or error.sqlstate.startswith(_UNKNOWN_CLASSES):
        return Outcome.UNKNOWN
    return Outcome.FAILED


Span = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Sample:
    workload: str
    begin: float
    end: float
    outcome: Outcome
    error: str = ""


@dataclass(slots=True)
class History:
    """Filled by many threads: each only ever appends."""

    samples: list[Sample] = field(default_factory=list)
    transactions: list[Transaction] = field(default_factory=list)
    operations: list[Operation] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Figures:
    ok: int
    failed: int
    unknown: int
    p50_s: float
    p99_s: float
    longest_s: float


def figures(samples: Iterable[Sample]) -> Figures:
    samples = list(samples)
    counts = {outcome: sum(each.outcome is outcome for each in samples) for outcome in Outcome}
    latencies = sorted(each.end - each.begin for each in samples if each.outcome is Outcome.OK)
    return Figures(
        counts[Outcome.OK],
        counts[Outcome.FAILED],
        counts[Outcome.UNKNOWN],
        quantile(latencies, 0.5),
        quantile(latencies, 0.99),
        latencies[-1] if latencies else 0.0,
    )


def quantile(ascending: list[float], share: float) -> float:
    return ascending[min(len(ascending) - 1, int(share * len(ascending)))] if ascending else 0.0


def longest_silence_s(
    samples: Iterable[Sample], begin: float, end: float, rests: Iterable[Span] = ()
) -> float:
    """The longest time without a commit of any workload, but for when the clients were to rest."""
    moments = [begin, end, *(each.end for each in samples if each.outcome is Outcome.OK)]
    events = [(moment, moment) for moment in moments if begin <= moment <= end]
    events = sorted([*events, *rests])
    silences = (later[0] - earlier[1] for earlier, later in zip(events, events[1:], strict=False))
    return max(0.0, *silences)
