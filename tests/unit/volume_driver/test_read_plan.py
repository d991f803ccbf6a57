"""Which segment a page is asked of, as a table."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from db_instance.volume_driver.read_plan import (
    HEDGE_AFTER_MAX_S,
    HEDGE_AFTER_MIN_S,
    Candidate,
    Latencies,
    read_order,
)
from volume.ids import Lsn

_ALL = [Candidate(slot, f"n{slot}", f"az{slot // 2}", True) for slot in range(6)]


def _by_node(scl: list[int]) -> dict[str, Lsn]:
    return {f"n{slot}": Lsn(each) for slot, each in enumerate(scl)}


_EVEN = {f"n{slot}": 0.002 for slot in range(6)}


def _by_node(scl: list[int]) -> dict[str, Lsn]:
    return {f"n{slot}": Lsn(each) for slot, each in enumerate(scl)}


@pytest.mark.parametrize(
    ("why", "scl", "away", "latency", "own_az", "order"),
    [
        ("nearest first, then by slot", [9] * 6, "", {}, "az1", "230145"),
        ("quickest first in one AZ", [9] * 6, "", {"n2": 0.0025}, "az1", "320145"),
        (
            "a near one that is slow loses to a far one",
            [9] * 6,
            "",
            {"n2": 0.009, "n3": 0.008},
            "az1",
            "014532",
        ),
        ("a near one a little slower does not", [9] * 6, "", {"n2": 0.0029, "n3": 0.0029}, "az1", "230145"),
        ("those behind come last", [9, 9, 4, 9, 9, 9], "", {}, "az1", "301452"),
        ("behind is below, not at", [5, 4, 5, 5, 4, 5], "", {}, "az1", "230514"),
        ("those away come after those connected", [9] * 6, "23", {}, "az1", "014523"),
        ("complete and away before connected and behind", [9, 9, 4, 9, 9, 9], "3", {}, "az1", "014532"),
        ("nobody is complete: all are asked", [0] * 6, "", {}, "az0", "012345"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_read_order(
    why: str, scl: list[int], away: str, latency: dict[str, float], own_az: str, order: str
) -> None:
    latencies = Latencies()
    for node, seconds in {**_EVEN, **latency}.items():
        latencies.observe(node, seconds)
    candidates = [each._replace(connected=str(each.slot) not in away) for each in _ALL]
    asked = read_order(candidates, _by_node(scl), Lsn(5), own_az, latencies)
    assert "".join(str(each.slot) for each in asked) == order


@given(st.lists(st.integers(0, 9), min_size=6, max_size=6), st.integers(0, 9), st.sets(st.integers(0, 5)))
def test_everyone_is_asked_once_and_the_complete_ones_first(
    scl: list[int], required: int, slots: set[int]
) -> None:
    candidates = [_ALL[slot] for slot in slots]
    asked = read_order(candidates, _by_node(scl), Lsn(required), "az1", Latencies())
    assert sorted(asked) == sorted(candidates)
    behind = [scl[each.slot] < required for each in asked]
    assert behind == sorted(behind)


@given(st.lists(st.floats(0.0001, 10), min_size=1, max_size=20))
def test_a_latency_is_a_mean_that_leans_to_the_new(seen: list[float]) -> None:
    latencies = Latencies()
    by_hand = seen[0]
    for seconds in seen:
        latencies.observe("n", seconds)
        by_hand = 0.9 * by_hand + 0.1 * seconds
    assert latencies.of("n") == pytest.approx(by_hand)
    assert min(seen) * 0.999 <= latencies.of("n") <= max(seen) * 1.001
    assert HEDGE_AFTER_MIN_S <= latencies.hedge_after("n") <= HEDGE_AFTER_MAX_S


@pytest.mark.parametrize(("mean", "after"), [(0.0, 0.02), (0.001, 0.02), (0.05, 0.2), (3.0, 1.0)])
def test_a_second_segment_is_asked_after(mean: float, after: float) -> None:
    latencies = Latencies()
    latencies.observe("n", mean)
    assert latencies.hedge_after("n") == pytest.approx(after)
    assert latencies.hedge_after("unknown") == HEDGE_AFTER_MIN_S
    assert latencies.hedge_after("unknown", 2) == 4 * HEDGE_AFTER_MIN_S, "each further one has twice the time"
    assert latencies.hedge_after("n", 9) == HEDGE_AFTER_MAX_S


def test_a_node_that_was_slow_once_is_tried_again_after_a_while() -> None:
    latencies = Latencies()
    latencies.observe("s1", 0.5)
    latencies.observe("s2", 0.002)
    candidates = [Candidate(0, "s1", "az1", True), Candidate(1, "s2", "az1", True)]

    def first() -> str:
        for _ in range(10):
            latencies.observe("s2", 0.002)  # the other one is read from meanwhile
        return read_order(candidates, {"s1": Lsn(5), "s2": Lsn(5)}, Lsn(5), "az1", latencies)[0].node

    assert first() == "s2"
    for _ in range(400):
        latencies.relax()
    assert first() == "s1"
