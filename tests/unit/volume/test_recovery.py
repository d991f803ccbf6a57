"""Recovery: small cases by hand, and random histories against a model of the whole volume.

A failing history prints its seed; `_live_through(seed)` replays it.
"""

import random
from itertools import combinations

import pytest

from tests.unit.volume.recovery_model import ModelVolume
from volume.errors import QuorumLost
from volume.ids import LSN_ZERO, Epoch, GroupId, Lsn
from volume.limits import LSN_ALLOCATION_LIMIT as LAL
from volume.recovery import Recovered, SegmentTail, recover
from volume.timeline import EMPTY_TIMELINE, Timeline


def _tail(
    slot: int,
    *runs: tuple[int, int],
    cpls: tuple[int, ...] = (),
    group: int = 0,
    base: int = 0,
    vdl: int = 0,
    timeline: Timeline = EMPTY_TIMELINE,
) -> SegmentTail:
    """A segment whose chain ends at `base`, with `runs` above its known VDL."""
    scl = Lsn(runs[0][1] if runs else base)
    own = tuple((Lsn(first), Lsn(last)) for first, last in runs)
    ends = tuple(Lsn(cpl) for cpl in cpls)
    return SegmentTail(GroupId(group), slot, scl, Lsn(vdl), timeline, own, ends, Lsn(base))


def _recover(*tails: SegmentTail, groups: int = 1, epoch: int = 9) -> Recovered:
    return recover(tails, [GroupId(group) for group in range(groups)], Epoch(epoch))


def test_an_empty_volume_begins_above_its_first_annulled_range() -> None:
    found = _recover(_tail(0), _tail(1), _tail(2))
    assert (found.vcl, found.vdl, found.next_lsn) == (0, 0, LAL + 1)
    assert found.timeline == Timeline(Epoch(9), ((LSN_ZERO, Lsn(LAL)),))
    assert found.group_ends == {0: 0}


@pytest.mark.parametrize("answers", [0, 1, 2])
def test_two_of_six_are_not_enough(answers: int) -> None:
    tails = [_tail(slot) for slot in range(answers)]
    with pytest.raises(QuorumLost, match=f"{answers} segments of pg0"):
        _recover(*tails)


def test_one_segment_that_answers_thrice_is_one() -> None:
    with pytest.raises(QuorumLost):
        _recover(_tail(0), _tail(0), _tail(0))


def test_every_group_needs_three() -> None:
    with pytest.raises(QuorumLost, match="pg1"):
        _recover(_tail(0), _tail(1), _tail(2), _tail(0, group=1), _tail(1, group=1), groups=2)


def test_the_union_counts_and_ends_at_the_first_hole() -> None:
    found = _recover(
        _tail(0, (1, 2), cpls=(2,)),
        _tail(1, (3, 4), (7, 9), cpls=(4, 9)),
        _tail(2, (1, 1), (5, 5)),
    )
    assert (found.vcl, found.vdl) == (5, 4)
    assert found.group_ends == {0: 4}


def test_a_commit_over_two_groups_is_whole_or_gone() -> None:
    zero = [_tail(slot, (1, 1), (3, 3), cpls=(1, 3)) for slot in range(3)]
    one = [_tail(slot, group=1) for slot in range(2)]
    without = _recover(*zero, *one, _tail(2, group=1), groups=2)
    assert (without.vdl, without.group_ends) == (1, {0: 1, 1: 0})
    whole = _recover(*zero, *one, _tail(2, (2, 2), group=1), groups=2)
    assert (whole.vdl, whole.group_ends) == (3, {0: 3, 1: 2})


def test_what_one_segment_knows_to_be_durable_is_not_asked_of_the_others() -> None:
    # Slot 0 was told VDL 50 and reports from there; the others lag and report from 0.
    found = _recover(
        _tail(0, (51, 52), cpls=(52,), base=48, vdl=50),
        _tail(1, (1, 3), (7, 9), cpls=(3, 9)),
        _tail(2, base=30, vdl=30),
    )
    assert (found.known_vdl, found.vdl, found.group_ends) == (50, 52, {0: 52})


def test_a_group_that_lies_behind_ends_where_its_chain_does() -> None:
    zero = [_tail(slot, (51, 51), cpls=(51,), base=50, vdl=50) for slot in range(3)]
    one = [_tail(0, group=1, base=12, vdl=50), _tail(1, group=1, base=7, vdl=20), _tail(2, group=1)]
    assert _recover(*zero, *one, groups=2).group_ends == {0: 51, 1: 12}


def test_what_a_newer_timeline_annulled_is_passed_over() -> None:
    # Epoch 2 cut the log after 4 and went on at LAL + 1. Slot 2 missed that and still has 5..8.
    newer = EMPTY_TIMELINE.annul(Epoch(2), Lsn(4), Lsn(LAL))
    found = _recover(
        _tail(0, (3, 4), (LAL + 1, LAL + 2), cpls=(4, LAL + 2), base=2, vdl=2, timeline=newer),
        _tail(1, base=4, vdl=4, timeline=newer),
        _tail(2, (1, 8), cpls=(2, 4, 8)),
    )
    assert (found.vdl, found.group_ends) == (LAL + 2, {0: LAL + 2})
    assert found.timeline.annulled == ((4, LAL), (LAL + 2, 2 * LAL + 2))
    assert found.next_lsn == 2 * LAL + 3


def test_openings_without_a_write_make_one_growing_range() -> None:
    tails = [_tail(0), _tail(1), _tail(2)]
    for epoch in range(1, 5):
        found = _recover(*tails, epoch=epoch)
        assert found.timeline.annulled == ((0, epoch * LAL),)
        assert found.next_lsn == epoch * LAL + 1
        tails = [_tail(slot, timeline=found.timeline) for slot in range(3)]


def test_an_opening_broken_off_before_completion_leaves_no_promise_to_keep() -> None:
    """Epoch 2 found the commit at 6 on one segment, installed its timeline somewhere, and died.

    The one segment does not answer the next opening: nobody was told that 6 is durable, so it goes, and
    the new LSNs begin above all that either opening annulled.
    """
    before = [_tail(0, (1, 3), cpls=(3,)), _tail(1, (1, 3), cpls=(3,)), _tail(2, (1, 6), cpls=(3, 6))]
    second = _recover(*before, epoch=2)
    assert (second.vdl, second.known_vdl) == (6, 0)
    after = [_tail(slot, (1, 3), cpls=(3,), timeline=second.timeline) for slot in (0, 1, 3)]
    third = _recover(*after, epoch=3)
    assert third.vdl == 3
    assert third.timeline.annulled == ((3, LAL + 6),)
    assert third.next_lsn == LAL + 7


def test_any_three_tell_of_what_four_hold() -> None:
    full = [_tail(slot, (1, 9), cpls=(9,)) for slot in range(4)]
    for asked in combinations([*full, _tail(4), _tail(5, (1, 1), (4, 5))], 3):
        assert _recover(*asked).vdl == 9


def _live_through(seed: int) -> ModelVolume:
    """Several writers in a row, each with commits, losses, gossip and openings that are broken off."""
    dice = random.Random(seed)
    volume = ModelVolume(dice, groups=dice.randint(1, 3))
    for _ in range(dice.randint(2, 6)):
        if volume.open() is None:
            for _ in range(dice.choice([0, 0, 3])):
                volume.gossip()
            continue
        reach = dice.choice([0.3, 0.6, 0.9, 1.0])
        waiting = []
        for _ in range(dice.randint(0, 8)):
            waiting += volume.commit()
            volume.deliver(waiting, reach)
            if dice.random() < 0.5:
                waiting = []
            if dice.random() < 0.3:
                volume.gossip()
    return volume


@pytest.mark.parametrize("hundred", range(15))
def test_random_histories_lose_nothing_and_show_no_half(hundred: int) -> None:
    announced = openings = broken_off = 0
    for seed in range(100 * hundred, 100 * hundred + 100):
        try:
            volume = _live_through(seed)
        except AssertionError as error:
            raise AssertionError(f"seed {seed}: {error}") from error
        announced += len(volume.announced)
        openings += volume.openings
        broken_off += volume.broken_off
    # A history in which nothing happens proves nothing.
    assert min(announced, openings, broken_off) > 30
