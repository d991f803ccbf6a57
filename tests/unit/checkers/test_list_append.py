"""The judge of list-append histories: what happened in some order passes, each known anomaly does not."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.checkers.history import Outcome
from tests.checkers.list_append import Append, Read, Transaction, check

OK, FAILED, UNKNOWN = Outcome.OK, Outcome.FAILED, Outcome.UNKNOWN


def _serial(seed: int, count: int) -> list[Transaction]:
    """Transactions that take effect one after the other, at a moment between their begin and their end."""
    dice = random.Random(seed)
    lists: dict[int, list[int]] = {}
    history = []
    value = 0
    for id in range(1, count + 1):
        outcome = dice.choices([OK, FAILED, UNKNOWN], [8, 1, 1])[0]
        takes_effect = outcome is OK or (outcome is UNKNOWN and dice.random() < 0.5)
        state = {key: list(values) for key, values in lists.items()}
        operations: list[Append | Read] = []
        for _ in range(dice.randint(1, 4)):
            key = dice.randrange(3)
            if dice.random() < 0.5:
                value += 1
                state.setdefault(key, []).append(value)
                operations.append(Append(key, value))
            else:
                operations.append(Read(key, tuple(state.get(key, ()))))
        if takes_effect:
            lists = state
        moment = 10.0 * id
        begin, end = moment - dice.uniform(0, 50), moment + dice.uniform(0, 50)
        history.append(Transaction(id, begin, end, outcome, tuple(operations)))
    return dice.sample(history, len(history))


@given(st.integers(0, 10_000), st.integers(0, 60))
def test_what_happened_in_some_order_passes(seed: int, count: int) -> None:
    assert check(_serial(seed, count)) == []


def _one(id: int, *operations: Append | Read, at: float = 0.0, outcome: Outcome = OK) -> Transaction:
    return Transaction(id, at, at + 1.0, outcome, operations)


@pytest.mark.parametrize(
    ("anomaly", "history"),
    [
        ("is lost", [_one(1, Append(1, 1)), _one(2, Read(1, ()), at=5)]),
        ("of failed", [_one(1, Append(1, 1), outcome=FAILED), _one(2, Read(1, (1,)))]),
        ("nobody appended it", [_one(1, Read(1, (7,)))]),
        ("a value of list 1 twice", [_one(1, Append(1, 1)), _one(2, Read(1, (1, 1)))]),
        ("its own appends", [_one(1, Append(1, 1), Read(1, ()))]),
        ("it changed", [_one(1, Read(1, ()), Read(1, (5,))), _one(2, Append(1, 5))]),
        (
            "another order",
            [_one(1, Append(1, 1)), _one(2, Append(1, 2)), _one(3, Read(1, (1, 2))), _one(4, Read(1, (2,)))],
        ),
        # Write skew: each reads what the other one appends to.
        (
            "cycle",
            [
                _one(1, Read(1, ()), Append(2, 1)),
                _one(2, Read(2, ()), Append(1, 2)),
                _one(3, Read(1, (2,)), Read(2, (1,))),
            ],
        ),
        # Half a transaction is seen.
        (
            "cycle",
            [
                _one(1, Append(1, 1), Append(2, 2)),
                _one(2, Read(1, (1,)), Read(2, ())),
                _one(3, Read(2, (2,))),
            ],
        ),
        # A read that began after another one had seen the append, and does not see it itself.
        (
            "cycle",
            [
                Transaction(1, 0, 100, OK, (Append(1, 1),)),
                _one(2, Read(1, (1,)), at=10),
                _one(3, Read(1, ()), at=20),
            ],
        ),
    ],
)
def test_each_anomaly_is_named(anomaly: str, history: list[Transaction]) -> None:
    problems = check(history)
    assert problems
    assert anomaly in problems[0]


@given(st.integers(0, 10_000))
def test_an_acknowledged_append_that_vanishes_is_found(seed: int) -> None:
    """The last value that somebody read is taken out of every list: its append has not happened after all."""
    history = _serial(seed, 40)
    seen = [
        (each.begin, operation.key, operation.values[-1])
        for each in history
        if each.outcome is OK
        for operation in each.operations
        if isinstance(operation, Read) and operation.values
    ]
    if not seen:
        return
    _, key, value = max(seen)
    writer = next(each for each in history if Append(key, value) in each.operations)
    later = Transaction(1000, 10_000, 10_001, OK, (Read(key, ()),))
    if writer.outcome is OK:
        assert check([*history, later])


def test_an_unknown_append_may_have_happened_or_not() -> None:
    lost = _one(1, Append(1, 1), outcome=UNKNOWN)
    assert check([lost, _one(2, Read(1, ()), at=5)]) == []
    assert check([lost, _one(2, Read(1, (1,)), at=5)]) == []
    # Once seen it stays.
    assert check([lost, _one(2, Read(1, (1,)), at=5), _one(3, Read(1, ()), at=10)])


def test_five_thousand_are_judged_in_no_time() -> None:
    assert check(_serial(3, 5_000)) == []
