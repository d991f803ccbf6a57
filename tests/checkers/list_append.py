"""Is a history of list-append transactions strictly serializable?

A transaction appends values to lists, each value to a list only once ever, and reads whole lists. The
order of the values in the longest read of a list is the order of the transactions that appended them; so
each read tells what it followed and what it came before. A cycle of these dependencies and of real time
(one was done before the other began) is a contradiction. The method is Elle's: Kingsbury and Alvaro,
"Elle: Inferring Isolation Anomalies from Experimental Observations" (2020).
"""

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import inf
from typing import Final

from tests.checkers.cycles import Edges, short_cycle
from tests.checkers.history import Outcome

_SHOWN_MAX: Final = 10


@dataclass(frozen=True, slots=True)
class Append:
    key: int
    value: int


@dataclass(frozen=True, slots=True)
class Read:
    key: int
    values: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Transaction:
    id: int
    begin: float
    end: float
    outcome: Outcome
    operations: tuple[Append | Read, ...]


def check(history: Sequence[Transaction]) -> list[str]:
    """What contradicts strict serializability, in words; empty if nothing does."""
    by_id = {transaction.id: transaction for transaction in history}
    assert len(by_id) == len(history), "two transactions have one id"
    writers = _writers(history)
    problems = [*_inner_contradictions(history), *_impossible_reads(history, writers)]
    orders, unordered = _orders(history)
    problems += unordered
    problems += _turned_appends(history, orders)
    problems += _lost_appends(history, orders)
    if problems:
        return problems[:_SHOWN_MAX]
    happened = {id for id, each in by_id.items() if each.outcome is Outcome.OK}
    happened |= {writers[key, value].id for key, order in orders.items() for value in order}
    edges = _dependencies(history, happened, writers, orders)
    _add_real_time([by_id[id] for id in sorted(happened)], edges, first_moment=max(by_id, default=0) + 1)
    cycle = short_cycle(edges)
    return [_describe(cycle, edges, by_id)] if cycle else []


def _writers(history: Sequence[Transaction]) -> dict[tuple[int, int], Transaction]:
    writers: dict[tuple[int, int], Transaction] = {}
    for transaction in history:
        for each in transaction.operations:
            if isinstance(each, Append):
                assert (each.key, each.value) not in writers, f"{each} is asked for twice"
                writers[each.key, each.value] = transaction
    return writers


def _reads(history: Sequence[Transaction]) -> Iterator[tuple[Transaction, Read, list[int]]]:
    """The reads of transactions that are done, each with what its transaction had appended itself before."""
    for transaction in history:
        if transaction.outcome is not Outcome.OK:
            continue
        own: dict[int, list[int]] = {}
        for each in transaction.operations:
            if isinstance(each, Append):
                own.setdefault(each.key, []).append(each.value)
            else:
                yield transaction, each, own.get(each.key, [])


def _inner_contradictions(history: Sequence[Transaction]) -> Iterator[str]:
    """A transaction sees its own appends, last of all, and twice the same otherwise."""
    seen: dict[tuple[int, int], tuple[int, ...]] = {}
    for transaction, read, own in _reads(history):
        if list(read.values[len(read.values) - len(own) :]) != own:
            yield f"transaction {transaction.id} does not see its own appends to list {read.key}"
            continue
        before = read.values[: len(read.values) - len(own)]
        if seen.setdefault((transaction.id, read.key), before) != before:
            yield f"transaction {transaction.id} reads list {read.key} twice, and it changed"


def _impossible_reads(
    history: Sequence[Transaction], writers: dict[tuple[int, int], Transaction]
) -> Iterator[str]:
    for transaction, read, own in _reads(history):
        if len(set(read.values)) != len(read.values):
            yield f"transaction {transaction.id} reads a value of list {read.key} twice"
        for value in read.values[: len(read.values) - len(own)]:
            writer = writers.get((read.key, value))
            if writer is None:
                yield f"transaction {transaction.id} reads {value} in list {read.key}: nobody appended it"
            elif writer is transaction:
                yield f"transaction {transaction.id} reads {value} in list {read.key} before it appends it"
            elif writer.outcome is Outcome.FAILED:
                yield f"transaction {transaction.id} reads {value} in list {read.key}, of failed {writer.id}"


def _orders(history: Sequence[Transaction]) -> tuple[dict[int, tuple[int, ...]], list[str]]:
    """By list: the longest read. Every other read must be a beginning of it."""
    longest: dict[int, tuple[int, ...]] = {}
    for _, read, _ in _reads(history):
        if len(read.values) > len(longest.get(read.key, ())):
            longest[read.key] = read.values
    problems = [
        f"transaction {transaction.id} reads list {read.key} in another order than others do"
        for transaction, read, _ in _reads(history)
        if longest.get(read.key, ())[: len(read.values)] != read.values
    ]
    return longest, problems


def _turned_appends(history: Sequence[Transaction], orders: dict[int, tuple[int, ...]]) -> Iterator[str]:
    """What one transaction appends to a list stands there in the order in which it did so."""
    places = {(key, value): at for key, order in orders.items() for at, value in enumerate(order)}
    for transaction in history:
        last: dict[int, int] = {}
        for each in transaction.operations:
            if isinstance(each, Append) and (place := places.get((each.key, each.value))) is not None:
                if place < last.get(each.key, -1):
                    yield f"transaction {transaction.id} appends {each.value} to list {each.key} last, and it is not"
                last[each.key] = place


def _lost_appends(history: Sequence[Transaction], orders: dict[int, tuple[int, ...]]) -> list[str]:
    """Acknowledged before a read began that does not have it."""
    places = {(key, value): at for key, order in orders.items() for at, value in enumerate(order)}
    acknowledged: dict[int, list[tuple[float, int, Append]]] = {}
    for transaction in history:
        if transaction.outcome is Outcome.OK:
            for each in transaction.operations:
                if isinstance(each, Append):
                    acknowledged.setdefault(each.key, []).append((transaction.end, transaction.id, each))
    problems = []
    last_read: dict[int, float] = {}
    for transaction, read, _ in _reads(history):
        last_read[read.key] = max(last_read.get(read.key, -inf), transaction.begin)
    for key, appends in acknowledged.items():
        for end, id, append in appends:
            if end < last_read.get(key, -inf) and (key, append.value) not in places:
                problems.append(
                    f"append of {append.value} to list {key} by {id} was acknowledged, and is lost"
                )
    return problems


def _dependencies(
    history: Sequence[Transaction],
    happened: set[int],
    writers: dict[tuple[int, int], Transaction],
    orders: dict[int, tuple[int, ...]],
) -> Edges:
    edges: Edges = {}

    def add(before: int, after: int, why: str) -> None:
        if before != after:
            edges.setdefault(before, {}).setdefault(after, why)

    for key, order in orders.items():
        for one, other in pairwise(order):
            add(writers[key, one].id, writers[key, other].id, f"appended {one} before {other} to list {key}")
    for transaction, read, own in _reads(history):
        order = orders.get(read.key, ())
        count = len(read.values) - len(own)
        if count:
            last = order[count - 1]
            add(writers[read.key, last].id, transaction.id, f"appended {last} to list {read.key}, seen by")
        after = len(read.values)
        if after < len(order):
            add(
                transaction.id,
                writers[read.key, order[after]].id,
                f"read list {read.key} without {order[after]}, appended by",
            )
    return _with_unread_appends(history, happened, orders, edges)


def _with_unread_appends(
    history: Sequence[Transaction], happened: set[int], orders: dict[int, tuple[int, ...]], edges: Edges
) -> Edges:
    """An append that happened and that nobody has read comes after every read, and after what was read."""
    known = {(key, value) for key, order in orders.items() for value in order}
    unread: dict[int, list[int]] = {}
    for transaction in history:
        if transaction.id in happened:
            for each in transaction.operations:
                if isinstance(each, Append) and (each.key, each.value) not in known:
                    unread.setdefault(each.key, []).append(transaction.id)
    for transaction, read, _ in _reads(history):
        for later in unread.get(read.key, ()):
            if later != transaction.id:
                edges.setdefault(transaction.id, {}).setdefault(later, f"read list {read.key} before")
    return edges


def _add_real_time(happened: Sequence[Transaction], edges: Edges, first_moment: int) -> None:
    """A chain of moments, one for each end: a transaction comes before the moment of its end, and after the
    last moment before it began. So time costs an edge or two a transaction, not one a pair."""
    done = sorted((each.end, each.id) for each in happened if each.outcome is Outcome.OK)
    ends = [end for end, _ in done]
    for number, (_, id) in enumerate(done):
        edges.setdefault(id, {}).setdefault(first_moment + number, "was done before")
        if number:
            edges.setdefault(first_moment + number - 1, {})[first_moment + number] = ""
    for each in happened:
        earlier = bisect_left(ends, each.begin) - 1
        if earlier >= 0:
            edges.setdefault(first_moment + earlier, {})[each.id] = ""


def _describe(cycle: list[int], edges: Edges, by_id: dict[int, Transaction]) -> str:
    steps = []
    for node, after in zip(cycle, [*cycle[1:], cycle[0]], strict=True):
        if node in by_id:
            steps.append(f"{node} {edges[node][after]}")
    return "a cycle: " + ", ".join(steps) + f" {next(node for node in cycle if node in by_id)}"
