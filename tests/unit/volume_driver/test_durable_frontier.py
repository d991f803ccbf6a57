"""PGCL, VCL and VDL against counting the acknowledgements by hand."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from db_instance.volume_driver.durable_frontier import DurableFrontier, Round
from volume.ids import GroupId, Lsn
from volume.quorum import COPIES, WRITE_QUORUM

_GROUPS = (GroupId(0), GroupId(1))
_OPENED_AT = 10

rounds = st.lists(
    st.tuples(st.lists(st.sampled_from(_GROUPS), min_size=1, max_size=4), st.booleans()), max_size=6
)
acknowledgements = st.lists(
    st.tuples(st.sampled_from(_GROUPS), st.integers(0, COPIES - 1), st.integers(0, 40)), max_size=60
)


def _frontier() -> DurableFrontier:
    frontier = DurableFrontier(Lsn(_OPENED_AT))
    for group in _GROUPS:
        frontier.add_group(group, Lsn(9 - group))
    return frontier


def _rounds(described: list[tuple[list[GroupId], bool]]) -> list[Round]:
    """Rounds of records: the group of each, and whether the last one ends a commit."""
    found, lsn = [], _OPENED_AT
    for groups, ends_commit in described:
        ends = {group: Lsn(lsn + index + 1) for index, group in enumerate(groups)}
        lsn += len(groups)
        found.append(Round(Lsn(lsn), Lsn(lsn if ends_commit else 0), tuple(ends.items()), 100))
    return found


class ByHand:
    """Every acknowledgement ever heard, counted anew each time."""

    def __init__(self) -> None:
        self.heard: list[tuple[GroupId, int, int]] = []
        self.sealed: list[Round] = []

    def pgcl(self, group: GroupId) -> int:
        best = [max([0, *(s for g, slot, s in self.heard if (g, slot) == (group, n))]) for n in range(COPIES)]
        return max(lsn for lsn in [0, *best] if sum(each >= lsn for each in best) >= WRITE_QUORUM)

    def complete(self) -> list[Round]:
        done = []
        for each in self.sealed:
            if any(end > self.pgcl(group) for group, end in each.ends):
                break
            done.append(each)
        return done

    def vcl(self) -> int:
        return max([_OPENED_AT, *(each.last_lsn for each in self.complete())])

    def vdl(self) -> int:
        return max([_OPENED_AT, *(each.last_cpl for each in self.complete())])

    def durable_end(self, group: GroupId) -> int:
        return max([9 - group, *(end for each in self.complete() for g, end in each.ends if g == group)])


@settings(max_examples=200, deadline=None)
@given(rounds, acknowledgements, st.data())
def test_the_frontier_agrees_with_counting_hands(
    described: list[tuple[list[GroupId], bool]],
    heard: list[tuple[GroupId, int, int]],
    data: st.DataObject,
) -> None:
    frontier, by_hand = _frontier(), ByHand()
    to_seal, completed = _rounds(described), []
    last_lsn = to_seal[-1].last_lsn if to_seal else _OPENED_AT
    for group, slot, scl in heard:
        if to_seal and data.draw(st.booleans()):
            round_ = to_seal.pop(0)
            frontier.on_sealed(round_)
            by_hand.sealed.append(round_)
        scl = min(scl, frontier.last_sealed)
        by_hand.heard.append((group, slot, scl))
        completed += frontier.on_acknowledged(group, slot, Lsn(scl))
        assert frontier.pgcl(group) == by_hand.pgcl(group)
        assert completed == by_hand.complete(), "rounds in order, each once"
        assert (frontier.vcl, frontier.vdl) == (by_hand.vcl(), by_hand.vdl())
        assert frontier.vdl <= frontier.vcl <= frontier.last_sealed <= last_lsn
        assert [frontier.durable_end(each) for each in _GROUPS] == [by_hand.durable_end(g) for g in _GROUPS]
        assert frontier.in_flight == len(by_hand.sealed) - len(completed)
        best = [max([0, *(s for g, n, s in by_hand.heard if (g, n) == (group, at))]) for at in range(COPIES)]
        assert frontier.scl(group) == best


@pytest.mark.parametrize(
    ("why", "acknowledged", "vcl", "vdl"),
    [
        ("three are too few", [(0, 12), (1, 12), (2, 12)], 10, 10),
        ("four are enough", [(0, 12), (1, 12), (2, 12), (3, 12)], 12, 12),
        ("four in the middle of the round are not", [(0, 12), (1, 12), (2, 12), (3, 11)], 10, 10),
        ("the same one four times is one", [(0, 12)] * 4, 10, 10),
        ("a late one takes nothing back", [(0, 12), (1, 12), (2, 12), (3, 12), (0, 5)], 12, 12),
        ("a commit that is not whole moves the VCL only", [(slot, 13) for slot in range(4)], 13, 12),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_acknowledgements(why: str, acknowledged: list[tuple[int, int]], vcl: int, vdl: int) -> None:
    frontier = _frontier()
    frontier.on_sealed(Round(Lsn(12), Lsn(12), ((GroupId(0), Lsn(12)),), 1))
    frontier.on_sealed(Round(Lsn(13), Lsn(0), ((GroupId(0), Lsn(13)),), 1))
    for slot, scl in acknowledged:
        frontier.on_acknowledged(GroupId(0), slot, Lsn(scl))
    assert (frontier.vcl, frontier.vdl) == (vcl, vdl)


def test_one_group_that_lacks_its_quorum_holds_back_all_rounds_behind_it() -> None:
    frontier = _frontier()
    first = Round(Lsn(12), Lsn(12), ((GroupId(1), Lsn(11)), (GroupId(0), Lsn(12))), 1)
    second = Round(Lsn(13), Lsn(13), ((GroupId(0), Lsn(13)),), 1)
    frontier.on_sealed(first)
    frontier.on_sealed(second)
    for slot in range(6):
        assert frontier.on_acknowledged(GroupId(0), slot, Lsn(13)) == []
    assert frontier.vdl == 10
    assert [frontier.on_acknowledged(GroupId(1), slot, Lsn(11)) for slot in range(4)] == [
        [],
        [],
        [],
        [first, second],
    ]
    assert frontier.vdl == 13


def test_rounds_are_sealed_in_order_and_groups_added_once() -> None:
    frontier = _frontier()
    frontier.on_sealed(Round(Lsn(12), Lsn(12), ((GroupId(0), Lsn(12)),), 1))
    with pytest.raises(AssertionError):
        frontier.on_sealed(Round(Lsn(12), Lsn(12), ((GroupId(0), Lsn(12)),), 1))
    with pytest.raises(AssertionError):
        frontier.add_group(GroupId(0), Lsn(0))
