"""What one run of a workload yields, and what several of them together say. Pure."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import median

from bench.workloads import Workload


@dataclass(frozen=True, slots=True)
class Figures:
    tps: float
    latency_ms: float
    cpu_s_per_1000: float
    """CPU seconds of all processes of the database (not pgbench's) for a thousand transactions."""

    pss_bytes: float
    """Memory of all its processes in mid-run; what they share counts once."""

    rss_bytes: float
    """The same, where what they share counts in each."""

    batches_per_commit: float | None = None
    """Messages of redo that one copy was sent; None where nothing was committed, or is not told."""

    bytes_per_commit: float | None = None
    """Redo that one copy was sent."""


@dataclass(frozen=True, slots=True)
class Spread:
    """The median of some figures and how far they lie apart."""

    median: float
    low: float
    high: float


@dataclass(slots=True)
class Outcome:
    """One workload on one database: the figures of each round, and why rounds failed."""

    rounds: list[Figures] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def spread(self, of: Callable[[Figures], float | None]) -> Spread | None:
        """None while there is no such figure."""
        found = [figure for each in self.rounds if (figure := of(each)) is not None]
        return Spread(median(found), min(found), max(found)) if found else None


@dataclass(frozen=True, slots=True)
class Comparison:
    workload: Workload
    ours: Outcome = field(default_factory=Outcome)
    theirs: Outcome = field(default_factory=Outcome)

    @property
    def ratio(self) -> float | None:
        """Our median throughput in terms of theirs: above 1 we are faster."""
        ours, theirs = self.ours.spread(tps), self.theirs.spread(tps)
        return None if ours is None or theirs is None else ours.median / theirs.median

    def failures(self) -> list[str]:
        sides = (("Sixfold", self.ours), ("PostgreSQL", self.theirs))
        return [f"{self.workload.name}: {name}: {why}" for name, side in sides for why in side.failures]


def failures_of(comparisons: Sequence[Comparison]) -> list[str]:
    return [failure for each in comparisons for failure in each.failures()]


def tps(figures: Figures) -> float:
    return figures.tps
