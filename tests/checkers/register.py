"""Is a history of single registers linearizable? Wing and Gong's search, with Lowe's memory of states.

Each key is a register that begins as None. Operations on different keys do not matter to each other, so
each key is searched alone (linearizability is local: Herlihy and Wing, 1990). What is unknown may take
effect at any time after it began, or never.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from typing import Final

from tests.checkers.history import Outcome

_STATES_MAX: Final = 2_000_000
"""Beyond it the search gives up, and says so."""


@dataclass(frozen=True, slots=True)
class Operation:
    key: int
    kind: str
    """"read", "write" or "cas"."""
    begin: float
    end: float
    outcome: Outcome
    value: int | None
    """What was read, or written."""
    expected: int | None = None
    """Of a cas: what had to be there. A cas that found something else is FAILED."""


def check(history: Sequence[Operation]) -> list[str]:
    """The keys whose history no order explains; empty if all are linearizable."""
    by_key: dict[int, list[Operation]] = {}
    for operation in history:
        if operation.outcome is Outcome.FAILED:
            continue
        if operation.kind == "read" and operation.outcome is Outcome.UNKNOWN:
            continue
        by_key.setdefault(operation.key, []).append(operation)
    problems = []
    for key, operations in sorted(by_key.items()):
        if problem := _search(operations):
            problems.append(f"register {key}: {problem}")
    return problems


def _search(operations: Sequence[Operation]) -> str:
    """Empty if some order explains them. A state: how many are surely done, which others are, and the value."""
    operations = sorted(operations, key=lambda each: each.begin)
    ends = [each.end if each.outcome is Outcome.OK else inf for each in operations]
    stack: list[tuple[int, frozenset[int], int | None]] = [(0, frozenset(), None)]
    seen = set(stack)
    furthest = 0
    while stack:
        first, ahead, value = stack.pop()
        if all(ends[at] == inf for at in range(first, len(operations)) if at not in ahead):
            return ""
        furthest = max(furthest, first)
        for at in _next_ones(operations, ends, first, ahead):
            for after in _effects(operations[at], value):
                state = _state(len(operations), first, ahead | {at}, after)
                if state not in seen:
                    seen.add(state)
                    stack.append(state)
        if len(seen) > _STATES_MAX:
            return f"{len(operations)} operations are too many to search"
    return (
        f"no order explains what was read; it fails at about {operations[min(furthest, len(operations) - 1)]}"
    )


def _next_ones(
    operations: Sequence[Operation], ends: Sequence[float], first: int, ahead: frozenset[int]
) -> list[int]:
    """Those that may come next: they began before any other that is left was done."""
    found = []
    earliest_end = inf
    for at in range(first, len(operations)):
        if operations[at].begin > earliest_end:
            break
        if at not in ahead:
            found.append(at)
            earliest_end = min(earliest_end, ends[at])
    return [at for at in found if operations[at].begin <= earliest_end]


def _effects(operation: Operation, value: int | None) -> list[int | None]:
    """The values that it may leave behind; none if it cannot happen now."""
    if operation.kind == "read":
        return [value] if operation.value == value else []
    if operation.kind == "write":
        return [operation.value]
    return [operation.value] if operation.expected == value else []


def _state(
    count: int, first: int, ahead: frozenset[int], value: int | None
) -> tuple[int, frozenset[int], int | None]:
    while first < count and first in ahead:
        ahead -= {first}
        first += 1
    return first, ahead, value
