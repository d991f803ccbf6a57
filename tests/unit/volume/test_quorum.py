"""The group's complete LSN against counting hands, and what quorums must have in common."""

from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from volume.ids import Lsn
from volume.quorum import COPIES, READ_QUORUM, WRITE_QUORUM, describe, group_complete_lsn

lsns = st.lists(st.integers(0, 20).map(Lsn), min_size=COPIES, max_size=COPIES)


@given(lsns)
def test_pgcl_agrees_with_counting_hands(scl: list[Lsn]) -> None:
    by_hand = max(lsn for lsn in [0, *scl] if sum(s >= lsn for s in scl) >= WRITE_QUORUM)
    assert group_complete_lsn(scl) == by_hand


@given(lsns)
def test_any_read_quorum_has_a_segment_that_reaches_the_pgcl(scl: list[Lsn]) -> None:
    pgcl = group_complete_lsn(scl)
    for asked in combinations(scl, READ_QUORUM):
        assert max(asked) >= pgcl


@given(lsns, st.integers(0, COPIES - 1), st.integers(0, 5))
def test_pgcl_never_falls_when_a_segment_advances(scl: list[Lsn], slot: int, gain: int) -> None:
    before = group_complete_lsn(scl)
    scl[slot] = Lsn(scl[slot] + gain)
    assert group_complete_lsn(scl) >= before


@pytest.mark.parametrize("copies", [0, 3, 5, 7])
def test_a_group_has_six_copies(copies: int) -> None:
    with pytest.raises(AssertionError):
        group_complete_lsn([Lsn(1)] * copies)


def test_a_group_describes_itself() -> None:
    scl = {slot: Lsn(value) for slot, value in enumerate([95, 95, 90, 95, 90, 80])}
    assert describe(scl) == "pgcl=90 a=95 b=95 c=90 d=95 e=90 f=80 behind"
