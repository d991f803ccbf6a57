"""Which segment to ask for a page: those whose SCL covers the read, nearest and quickest first. Pure."""

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from volume.ids import LSN_ZERO, Lsn

_SMOOTHING: Final = 0.1
_FORGETTING: Final = 0.98
"""A tenth is left after some twelve seconds."""

_FOREIGN_AZ_FACTOR: Final = 1.5
"""An answer from another AZ is taken to cost half as much again, until measured otherwise."""

HEDGE_AFTER_MIN_S: Final = 0.02
HEDGE_AFTER_MAX_S: Final = 1.0
"""A second segment is asked once the first takes longer than four times its usual, within these."""


class Candidate(NamedTuple):
    slot: int
    node: str
    az: str
    connected: bool


class Latencies:
    """A running mean of each node's answer time, in seconds."""

    def __init__(self) -> None:
        self._mean: dict[str, float] = {}

    def observe(self, node: str, seconds: float) -> None:
        before = self._mean.get(node, seconds)
        self._mean[node] = before + _SMOOTHING * (seconds - before)

    def relax(self) -> None:
        """Called ten times a second: what was slow once is forgotten after a while, and tried again."""
        for node in self._mean:
            self._mean[node] *= _FORGETTING

    def of(self, node: str) -> float:
        return self._mean.get(node, 0.0)

    def hedge_after(self, node: str, asked_before: int = 0) -> float:
        """Each further segment is given twice the time of the one before: what takes all of them long is work,
        and to ask everybody for it makes it take longer."""
        usual = max(HEDGE_AFTER_MIN_S, 4 * self.of(node))
        return min(HEDGE_AFTER_MAX_S, usual * float(1 << asked_before))


def read_order(
    candidates: Sequence[Candidate], scl: Mapping[str, Lsn], required: Lsn, own_az: str, latencies: Latencies
) -> list[Candidate]:
    """The segments to ask, best first. Those not known to be complete come last: they may be by now."""

    def rank(candidate: Candidate) -> tuple[bool, bool, float, int]:
        distance = 1.0 if candidate.az == own_az else _FOREIGN_AZ_FACTOR
        return (
            scl.get(candidate.node, LSN_ZERO) < required,
            not candidate.connected,
            max(latencies.of(candidate.node), 1e-4) * distance,
            candidate.slot,
        )

    return sorted(candidates, key=rank)
