"""The judge of registers: what took effect in some order passes, what did not does not."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.checkers.history import Outcome
from tests.checkers.register import Operation, check

OK, FAILED, UNKNOWN = Outcome.OK, Outcome.FAILED, Outcome.UNKNOWN


def _atomic(seed: int, count: int) -> list[Operation]:
    """Operations that take effect at one moment between begin and end."""
    dice = random.Random(seed)
    values: dict[int, int | None] = {}
    history = []
    for number in range(1, count + 1):
        key, moment = dice.randrange(2), 10.0 * number
        begin, end = moment - dice.uniform(0, 25), moment + dice.uniform(0, 25)
        outcome = OK if dice.random() < 0.85 else UNKNOWN
        kind = dice.choice(["read", "write", "cas"])
        now = values.get(key)
        if kind == "read":
            history.append(Operation(key, kind, begin, end, outcome, now))
            continue
        expected = dice.choice([now, number]) if kind == "cas" else None
        if kind == "cas" and expected != now:
            outcome = FAILED
        elif outcome is OK or dice.random() < 0.5:
            values[key] = number
        history.append(Operation(key, kind, begin, end, outcome, number, expected))
    return history


@given(st.integers(0, 10_000), st.integers(0, 40))
def test_what_took_effect_in_some_order_passes(seed: int, count: int) -> None:
    assert check(_atomic(seed, count)) == []


def _op(
    kind: str, begin: float, end: float, value: int | None, outcome: Outcome = OK, expected: int | None = None
) -> Operation:
    return Operation(1, kind, begin, end, outcome, value, expected)


@pytest.mark.parametrize(
    "history",
    [
        [_op("write", 0, 1, 1), _op("read", 2, 3, None)],
        [_op("write", 0, 1, 1), _op("write", 2, 3, 2), _op("read", 4, 5, 1)],
        [_op("read", 0, 1, 7)],
        # Seen by one, and not by one that began later.
        [_op("write", 0, 100, 1), _op("read", 1, 2, 1), _op("read", 3, 4, None)],
        # Two that both took the place of the same value.
        [_op("write", 0, 1, 1), _op("cas", 2, 3, 2, OK, 1), _op("cas", 2, 3, 3, OK, 1)],
        [_op("write", 0, 1, 1, FAILED), _op("read", 2, 3, 1)],
    ],
)
def test_what_no_order_explains_is_found(history: list[Operation]) -> None:
    assert check(history)


def test_an_unknown_write_may_take_effect_late_or_never() -> None:
    unknown = _op("write", 0, 1, 1, UNKNOWN)
    assert check([unknown, _op("read", 50, 51, None), _op("read", 60, 61, 1)]) == []
    assert check([unknown, _op("read", 50, 51, None)]) == []
    assert check([unknown, _op("read", 50, 51, 1), _op("read", 60, 61, None)])
