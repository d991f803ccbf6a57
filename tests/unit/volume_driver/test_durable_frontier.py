"""PGCL, VCL and VDL against counting the acknowledgements by hand."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from db_instance.volume_driver.durable_frontier import DurableFrontier, Round
from tests.unit.volume.quorum_model import quorum_set
from volume.ids import GroupId, Lsn
from volume.quorum import WRITE_QUORUM
from volume.quorum_set import QuorumSet

_GROUPS = (GroupId(0), GroupId(1))
_OPENED_AT = 10
_NODES = "abcdef"

rounds = st.lists(
    st.tuples(st.lists(st.sampled_from(_GROUPS), min_size=1, max_size=4), st.booleans()), max_size=6
)
acknowledgements = st.lists(
    st.tuples(st.sampled_from(_GROUPS), st.sampled_from(_NODES), st.integers(0, 40)), max_size=60
)


def _frontier() -> DurableFrontier:
    frontier = DurableFrontier(Lsn(_OPENED_AT))
    for group in _GROUPS:
        frontier.add_group(group, quorum_set("a b c d e f"), Lsn(9 - group))
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
        self.heard: list[tuple[GroupId, str, int]] = []
        self.sealed: list[Round] = []

    def scl(self, group: GroupId) -> dict[str, int]:
        heard = self.heard
        return {node: max([0, *(s for g, n, s in heard if (g, n) == (group, node))]) for node in _NODES}

    def pgcl(self, group: GroupId) -> int:
        best = self.scl(group).values()
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
    heard: list[tuple[GroupId, str, int]],
    data: st.DataObject,
) -> None:
    frontier, by_hand = _frontier(), ByHand()
    to_seal, completed = _rounds(described), []
    last_lsn = to_seal[-1].last_lsn if to_seal else _OPENED_AT
    for group, node, scl in heard:
        if to_seal and data.draw(st.booleans()):
            round_ = to_seal.pop(0)
            frontier.on_sealed(round_)
            by_hand.sealed.append(round_)
        scl = min(scl, frontier.last_sealed)
        by_hand.heard.append((group, node, scl))
        completed += frontier.on_acknowledged(group, node, Lsn(scl))
        assert frontier.pgcl(group) == by_hand.pgcl(group)
        assert completed == by_hand.complete(), "rounds in order, each once"
        assert (frontier.vcl, frontier.vdl) == (by_hand.vcl(), by_hand.vdl())
        assert frontier.vdl <= frontier.vcl <= frontier.last_sealed <= last_lsn
        assert [frontier.durable_end(each) for each in _GROUPS] == [by_hand.durable_end(g) for g in _GROUPS]
        assert frontier.in_flight == len(by_hand.sealed) - len(completed)
        assert frontier.scl(group) == by_hand.scl(group)


@pytest.mark.parametrize(
    ("why", "acknowledged", "vcl", "vdl"),
    [
        ("three are too few", "a12 b12 c12", 10, 10),
        ("four are enough", "a12 b12 c12 d12", 12, 12),
        ("four in the middle of the round are not", "a12 b12 c12 d11", 10, 10),
        ("the same one four times is one", "a12 a12 a12 a12", 10, 10),
        ("a late one takes nothing back", "a12 b12 c12 d12 a5", 12, 12),
        ("one of a node that is no member is nothing", "a12 b12 c12 z12", 10, 10),
        ("a commit that is not whole moves the VCL only", "a13 b13 c13 d13", 13, 12),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_acknowledgements(why: str, acknowledged: str, vcl: int, vdl: int) -> None:
    frontier = _frontier()
    frontier.on_sealed(Round(Lsn(12), Lsn(12), ((GroupId(0), Lsn(12)),), 1))
    frontier.on_sealed(Round(Lsn(13), Lsn(0), ((GroupId(0), Lsn(13)),), 1))
    for each in acknowledged.split():
        frontier.on_acknowledged(GroupId(0), each[0], Lsn(int(each[1:])))
    assert (frontier.vcl, frontier.vdl) == (vcl, vdl)


def test_one_group_that_lacks_its_quorum_holds_back_all_rounds_behind_it() -> None:
    frontier = _frontier()
    first = Round(Lsn(12), Lsn(12), ((GroupId(1), Lsn(11)), (GroupId(0), Lsn(12))), 1)
    second = Round(Lsn(13), Lsn(13), ((GroupId(0), Lsn(13)),), 1)
    frontier.on_sealed(first)
    frontier.on_sealed(second)
    for node in _NODES:
        assert frontier.on_acknowledged(GroupId(0), node, Lsn(13)) == []
    assert frontier.vdl == 10
    assert [frontier.on_acknowledged(GroupId(1), node, Lsn(11)) for node in "abcd"] == [
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
        frontier.add_group(GroupId(0), quorum_set("a b c d e f"), Lsn(0))


# A group whose members change


class Changing:
    """One group, its rounds of one record each, and what is heard of it: `a12 b9`."""

    def __init__(self, words: str = "a b c d e f", rounds: range = range(0)) -> None:
        self.frontier = DurableFrontier(Lsn(_OPENED_AT))
        self.epoch = 1
        self.frontier.add_group(GroupId(0), quorum_set(words), Lsn(_OPENED_AT))
        self.hear("a10 b10 c10 d10 e10 f10")
        for lsn in rounds:
            self.frontier.on_sealed(Round(Lsn(lsn), Lsn(lsn), ((GroupId(0), Lsn(lsn)),), 1))

    def hear(self, acknowledged: str) -> list[int]:
        """The rounds that this completes."""
        found: list[Round] = []
        for each in acknowledged.split():
            found += self.frontier.on_acknowledged(GroupId(0), each[0], Lsn(int(each[1:])))
        return [round_.last_lsn for round_ in found]

    def change(self, words: str) -> list[int]:
        self.epoch += 1
        members = quorum_set(words, self.epoch)
        return [round_.last_lsn for round_ in self.frontier.change_members(GroupId(0), members)]

    @property
    def vdl(self) -> int:
        return self.frontier.vdl

    @property
    def scl(self) -> dict[str, Lsn]:
        return self.frontier.scl(GroupId(0))


def test_while_a_replacement_is_filled_its_slot_counts_what_both_have() -> None:
    group = Changing(rounds=range(11, 14))
    assert group.change("a b c d e f+g") == []
    assert group.hear("a11 b11 c11 f11") == [], "F alone is no slot any more"
    assert group.hear("g11") == [11]
    assert group.hear("a12 b12 c12 d12") == [12], "four others do without it"
    assert group.hear("a13 b13 c13 g13") == []
    assert group.hear("f13") == [13]


def test_what_was_durable_stays_so_when_the_new_members_have_less() -> None:
    group = Changing(rounds=range(11, 14))
    assert group.hear("a12 b12 c12 f12") == [11, 12]
    assert group.change("a b c d e f+g") == []
    assert (group.vdl, group.frontier.pgcl(GroupId(0)), group.frontier.durable_end(GroupId(0))) == (
        12,
        12,
        12,
    )
    assert group.hear("g11 d11 e11") == []
    assert group.vdl == 12
    assert group.hear("g12 a13 b13 c13") == []
    assert group.hear("d13") == [13]


def test_a_replacement_on_the_node_of_the_segment_that_is_gone_begins_with_nothing() -> None:
    group = Changing(rounds=range(11, 12))
    group.hear("f11")
    group.change("a b c d e +f")
    assert group.scl == {"a": 10, "b": 10, "c": 10, "d": 10, "e": 10, "f": 0}
    assert group.hear("a11 b11 c11") == []
    assert group.hear("f11") == [], "a slot without a vote has nothing"
    assert group.change("a b c d e f") == [11]


def test_a_replacement_that_is_filled_keeps_what_it_told_when_it_gets_its_vote() -> None:
    group = Changing(rounds=range(11, 12))
    group.change("a b c d e f+g")
    assert group.hear("a11 b11 c11 g11") == []
    assert group.change("a b c d e g") == [11]
    assert group.hear("g11") == []


def test_a_change_completes_the_rounds_that_waited_for_the_one_that_goes() -> None:
    group = Changing(rounds=range(11, 14))
    group.change("a b c d e f+g")
    assert group.hear("a12 b12 c12 g12") == []
    assert group.change("a b c d e g") == [11, 12], "F was all that was lacking"
    assert group.vdl == 12


def test_after_changes_that_were_missed_all_tell_again_what_they_have() -> None:
    """F may have lost its segment meanwhile, and have been filled again: what it once had says nothing."""
    group = Changing(rounds=range(11, 13))
    assert group.hear("a12 b12 c11 d11 f12") == [11]
    group.epoch = 2  # `a b c d e +f`, of which nothing was heard
    assert group.change("a b c d e f") == []
    assert group.scl == dict.fromkeys("abcdef", 0)
    assert (group.vdl, group.frontier.pgcl(GroupId(0))) == (11, 11)
    assert group.hear("a12 b12 c12 f11") == []
    assert group.hear("f12") == [12]


def test_one_that_was_replaced_is_not_listened_to() -> None:
    group = Changing(rounds=range(11, 12))
    group.change("a b c d e g")
    assert group.hear("a11 b11 c11 f11") == []
    assert "f" not in group.scl
    assert group.hear("g11") == [11]


def test_members_of_an_epoch_that_is_not_newer_are_a_bug() -> None:
    group = Changing()
    with pytest.raises(AssertionError):
        group.frontier.change_members(GroupId(0), quorum_set("a b c d e g", 1))


_shapes = st.sampled_from(
    [
        "a b c d e f",
        "a b c d e f+g",
        "a b c d e g",
        "a b c+h d e f+g",
        "a b h d e g",
        "a b c d e +f",
        "g b c d e a+f",
    ]
)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.one_of(_shapes, st.tuples(st.sampled_from("abcdefgh"), st.integers(0, 25))), max_size=40))
def test_through_any_changes_the_vdl_is_what_counting_hands_found_at_some_time(
    played: list[str | tuple[str, int]],
) -> None:
    """And the frontier falls behind no count: it is the best that was ever counted."""
    rounds = range(11, 26)
    group = Changing(rounds=rounds)
    now: QuorumSet = quorum_set("a b c d e f")
    heard = dict.fromkeys("abcdef", 10)
    counted = [_OPENED_AT]
    for step in played:
        if isinstance(step, str):
            group.change(step)
            now = quorum_set(step)
            nodes = {member.node: member for member in now.members}
            heard = {n: 0 if member.filling else heard.get(n, 0) for n, member in nodes.items()}
        else:
            group.hear(f"{step[0]}{step[1]}")
            if step[0] in heard:
                heard[step[0]] = max(heard[step[0]], step[1])
        counted.append(sorted(now.slot_lsns({n: Lsn(lsn) for n, lsn in heard.items()}))[-WRITE_QUORUM])
        assert group.scl == heard
        assert group.vdl == max(counted)


def test_what_a_disk_has_not_kept_does_not_count_any_more_for_what_is_not_complete() -> None:
    frontier = DurableFrontier(Lsn(_OPENED_AT))
    frontier.add_group(GroupId(0), quorum_set("a b c d e f"), Lsn(_OPENED_AT))
    end = Lsn(_OPENED_AT + 1)
    frontier.on_sealed(Round(end, end, ((GroupId(0), end),), 100))
    for node in "abc":
        assert frontier.on_acknowledged(GroupId(0), node, end) == []
    assert frontier.on_joined(GroupId(0), "a", Lsn(_OPENED_AT)) == []
    assert frontier.on_acknowledged(GroupId(0), "d", end) == []
    assert frontier.vdl == _OPENED_AT, "three have it"
    assert len(frontier.on_joined(GroupId(0), "a", end)) == 1
    assert frontier.vdl == end
    frontier.on_joined(GroupId(0), "a", Lsn(0))
    assert frontier.on_joined(GroupId(0), "stranger", end) == []
    assert (frontier.vdl, frontier.pgcl(GroupId(0))) == (end, end), "what was durable is promised"
