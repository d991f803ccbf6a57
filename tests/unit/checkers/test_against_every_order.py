"""The judges beside a slower one that tries every order: both must agree, on good histories and on bad ones."""

import random
from collections.abc import Callable, Iterator
from itertools import combinations
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.checkers import list_append, register
from tests.checkers.cycles import short_cycle
from tests.checkers.history import Outcome
from tests.checkers.list_append import Append, Read, Transaction
from tests.checkers.register import Operation

OK, FAILED, UNKNOWN = Outcome.OK, Outcome.FAILED, Outcome.UNKNOWN
KEYS = (0, 1)


def _some_order_explains(asked: list[Any], state: Any, apply: Callable[[Any, Any], Any]) -> bool:
    """Any order, of all that is done and any of the unknown, in which nothing comes before what was done
    before it began. `apply` gives the state after one of them, or None if it cannot have been so."""

    def goes_on(left: list[Any], state: Any) -> bool:
        for each in left:
            rest = [other for other in left if other is not each]
            if all(other.outcome is UNKNOWN or other.end >= each.begin for other in rest):
                after = apply(each, state)
                if after is not None and goes_on(rest, after):
                    return True
        return not left

    done = [each for each in asked if each.outcome is OK]
    unknown = [each for each in asked if each.outcome is UNKNOWN]
    choices = (chosen for count in range(len(unknown) + 1) for chosen in combinations(unknown, count))
    return any(goes_on([*done, *chosen], state) for chosen in choices)


def _applied(
    transaction: Transaction, lists: dict[int, tuple[int, ...]]
) -> dict[int, tuple[int, ...]] | None:
    lists = dict(lists)
    for each in transaction.operations:
        if isinstance(each, Append):
            lists[each.key] = (*lists.get(each.key, ()), each.value)
        elif transaction.outcome is OK and lists.get(each.key, ()) != each.values:
            return None
    return lists


def _set(operation: Operation, held: tuple[int | None]) -> tuple[int | None] | None:
    if operation.kind == "write":
        return (operation.value,)
    if operation.kind == "read":
        return held if operation.outcome is UNKNOWN or held == (operation.value,) else None
    return (operation.value,) if held == (operation.expected,) else None


def _transactions(dice: random.Random) -> list[Transaction]:
    """What happened in some order, and then, perhaps, was tampered with."""
    lists: dict[int, tuple[int, ...]] = {}
    history = []
    values = iter(range(1, 100))
    for id in range(1, dice.randint(3, 6)):
        outcome = dice.choices([OK, FAILED, UNKNOWN], [7, 1, 2])[0]
        operations: tuple[Append | Read, ...] = ()
        after = lists
        for _ in range(dice.randint(1, 3)):
            key = dice.choice(KEYS)
            if dice.random() < 0.5:
                operations += (Append(key, next(values)),)
                after = {**after, key: (*after.get(key, ()), operations[-1].value)}
            else:
                operations += (Read(key, after.get(key, ())),)
        if outcome is OK or (outcome is UNKNOWN and dice.random() < 0.5):
            lists = after
        begin, end = 10 * id - dice.uniform(0, 25), 10 * id + dice.uniform(0, 25)
        history.append(Transaction(id, begin, end, outcome, operations))
    for _ in range(dice.randint(0, 2)):
        place = dice.randrange(len(history))
        history[place] = _tampered(history[place], dice)
    if dice.random() < 0.5:
        history += [Transaction(100 + key, 999, 1000, OK, (Read(key, lists.get(key, ())),)) for key in KEYS]
    return dice.sample(history, len(history))


def _tampered(transaction: Transaction, dice: random.Random) -> Transaction:
    id, begin, end, outcome = transaction.id, transaction.begin, transaction.end, transaction.outcome
    operations = list(transaction.operations)
    match dice.randrange(5):
        case 0:
            outcome = dice.choice([OK, FAILED, UNKNOWN])
        case 1:
            later = dice.uniform(-40, 40)
            begin, end = begin + later, end + later
        case _:
            place = dice.randrange(len(operations))
            if isinstance(read := operations[place], Read):
                operations[place] = Read(read.key, _other_values(read.values, dice))
    return Transaction(id, begin, end, outcome, tuple(operations))


def _other_values(values: tuple[int, ...], dice: random.Random) -> tuple[int, ...]:
    match dice.randrange(3):
        case 0 if values:
            missing = dice.choice(values)
            return tuple(value for value in values if value != missing)
        case 1:
            return tuple(dice.sample(values, len(values)))
        case _:
            return (*values, dice.randint(1, 6))


def _operations(dice: random.Random) -> Iterator[Operation]:
    value: int | None = None
    for number in range(1, dice.randint(3, 7)):
        kind = dice.choice(["read", "write", "cas"])
        outcome = dice.choices([OK, UNKNOWN, FAILED], [7, 2, 1])[0]
        begin, end = 10 * number - dice.uniform(0, 25), 10 * number + dice.uniform(0, 25)
        held = value if dice.random() < 0.75 else dice.choice([None, 1, 2, 3])
        if kind == "read":
            yield Operation(1, kind, begin, end, outcome, held)
            continue
        yield Operation(1, kind, begin, end, outcome, number, held if kind == "cas" else None)
        if outcome is OK or (outcome is UNKNOWN and dice.random() < 0.5):
            value = number


@settings(max_examples=1_000, deadline=None)
@given(st.integers(0, 1_000_000))
def test_transactions_pass_if_and_only_if_an_order_explains_them(seed: int) -> None:
    history = _transactions(random.Random(seed))
    assert (list_append.check(history) == []) is _some_order_explains(history, {}, _applied)


@settings(max_examples=1_000, deadline=None)
@given(st.integers(0, 1_000_000))
def test_operations_pass_if_and_only_if_an_order_explains_them(seed: int) -> None:
    history = list(_operations(random.Random(seed)))
    assert (register.check(history) == []) is _some_order_explains(history, (None,), _set)


@pytest.mark.parametrize(
    ("told", "operations", "seen"),
    [
        ("before it appends it", (Read(1, (1,)), Append(1, 1)), (1,)),
        ("last, and it is not", (Append(1, 1), Append(1, 2)), (2, 1)),
    ],
)
def test_a_transaction_goes_through_its_own_appends_in_order(
    told: str, operations: tuple[Append | Read, ...], seen: tuple[int, ...]
) -> None:
    history = [Transaction(1, 0, 1, OK, operations), Transaction(2, 2, 3, OK, (Read(1, seen),))]
    assert told in list_append.check(history)[0]


def test_two_that_overwrite_each_other_are_a_cycle() -> None:
    """G0 (Adya): of two lists, each transaction is the later one in one of them."""
    history = [
        Transaction(1, 0, 9, OK, (Append(1, 10), Append(2, 20))),
        Transaction(2, 0, 9, OK, (Append(1, 11), Append(2, 21))),
        Transaction(3, 10, 11, OK, (Read(1, (10, 11)),)),
        Transaction(4, 10, 11, OK, (Read(2, (21, 20)),)),
    ]
    told = list_append.check(history)[0]
    assert "appended 10 before 11 to list 1" in told
    assert "appended 21 before 20 to list 2" in told


def test_fifty_thousand_transactions_are_judged() -> None:
    """With lists that are given up for new ones, as long histories have them."""
    dice = random.Random(7)
    lists: dict[int, tuple[int, ...]] = {}
    history = []
    for id in range(1, 50_001):
        key = id // 200 * 5 + dice.randrange(5)
        operations = (Read(key, lists.get(key, ())), Append(key, id))
        lists[key] = (*lists.get(key, ()), id)
        begin, end = 10 * id - dice.uniform(0, 50), 10 * id + dice.uniform(0, 50)
        history.append(Transaction(id, begin, end, OK, operations))
    assert list_append.check(history) == []
    last = history[-1]
    stale = Transaction(last.id + 1, last.end + 100, last.end + 101, OK, (Read(last.operations[0].key, ()),))
    assert list_append.check([*history, stale])


def test_of_two_ways_around_the_shorter_is_told() -> None:
    assert short_cycle({1: {2: "", 3: ""}, 2: {1: ""}, 3: {4: ""}, 4: {1: ""}}) == [1, 2]
    assert short_cycle({1: {2: ""}, 2: {3: ""}, 3: {1: "", 2: ""}}) == [2, 3]
    assert short_cycle({1: {2: "", 3: ""}, 2: {3: ""}}) == []
