"""The rule of a group whose segments are replaced, against every product of choices that it stands for."""

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.volume.quorum_model import members, quorum_set
from volume.ids import LSN_ZERO, Lsn
from volume.quorum import COPIES, READ_QUORUM, WRITE_QUORUM, group_complete_lsn
from volume.quorum_set import Member, QuorumSet, problem_with

_SLOTS = ("a", "a+A", "+A")
"""What may hold a slot: the one who votes, with its replacement beside it, or the replacement alone."""


@st.composite
def quorum_sets(draw: st.DrawFn) -> QuorumSet:
    kinds = draw(st.lists(st.sampled_from(_SLOTS), min_size=COPIES, max_size=COPIES))
    names = zip("abcdef", kinds, strict=True)
    words = (kind.replace("a", name).replace("A", name.upper()) for name, kind in names)
    return quorum_set(" ".join(words))


lsns = st.fixed_dictionaries({}, optional={node: st.integers(0, 9).map(Lsn) for node in "abcdefABCDEF"})
nodes = st.sets(st.sampled_from("abcdefABCDEF"))


def _choices(quorum: QuorumSet) -> list[tuple[Member | None, ...]]:
    """All ways to take one member of each slot; a slot without a vote is one that nobody can answer for."""
    slots: list[list[Member | None]] = []
    for slot in range(COPIES):
        own = [member for member in quorum.members if member.slot == slot]
        slots.append(list(own) if any(not member.filling for member in own) else [None])
    return list(product(*slots))


@given(quorum_sets(), lsns)
def test_the_complete_lsn_is_that_of_the_worst_choice(quorum: QuorumSet, scl: dict[str, Lsn]) -> None:
    """Written is what is written to 4/6 of ABCDEF and to 4/6 of ABCDEG, whatever else is being replaced."""
    by_hand = min(
        group_complete_lsn(scl.get(each.node, LSN_ZERO) if each is not None else LSN_ZERO for each in choice)
        for choice in _choices(quorum)
    )
    assert quorum.complete_lsn(scl) == by_hand


@given(quorum_sets(), nodes)
def test_a_slot_counts_when_it_does_in_every_choice(quorum: QuorumSet, done: set[str]) -> None:
    by_hand = {
        slot
        for slot in range(COPIES)
        if all((each := choice[slot]) is not None and each.node in done for choice in _choices(quorum))
    }
    assert quorum.slots_where(lambda member: member.node in done) == by_hand
    assert quorum.count(done) == len(by_hand)


@given(quorum_sets(), nodes, st.data())
def test_whoever_asks_three_votes_meets_whatever_four_slots_have(
    quorum: QuorumSet, wrote: set[str], data: st.DataObject
) -> None:
    """Recovery hears of all that was acknowledged, and nothing is acknowledged past three promises."""
    written = quorum.slots_where(lambda member: member.node in wrote)
    if len(written) < WRITE_QUORUM or len(quorum.voters) < READ_QUORUM:
        return
    asked = data.draw(st.permutations(quorum.voters))[:READ_QUORUM]
    assert any(voter.node in wrote for voter in asked)


@given(quorum_sets(), lsns)
def test_the_lsn_of_a_slot_is_what_all_its_members_have(quorum: QuorumSet, scl: dict[str, Lsn]) -> None:
    by_slot = quorum.slot_lsns(scl)
    for lsn in range(1, 10):
        reached = {node for node, own in scl.items() if own >= lsn}
        assert {slot for slot in range(COPIES) if by_slot[slot] >= lsn} == quorum.slots_where(
            lambda member, reached=reached: member.node in reached  # type: ignore[misc]
        )


@given(quorum_sets())
def test_what_may_be_is_no_problem(quorum: QuorumSet) -> None:
    assert problem_with(quorum.members) == ""
    assert [voter.slot for voter in quorum.voters] == sorted(
        {m.slot for m in quorum.members if not m.filling}
    )
    assert quorum.changes == any(m.node.isupper() for m in quorum.members)
    for member in quorum.members:
        assert quorum.of(member.node) == member
    assert quorum.of("z") is None


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        ("a b c d e", "slots [0, 1, 2, 3, 4]: there are 6"),
        ("a b c d e f g", "slots [0, 1, 2, 3, 4, 5, 6]: there are 6"),
        ("", "slots []: there are 6"),
        ("a b c d e a", "a node holds two of its segments"),
        ("a b c d e f+a", "a node holds two of its segments"),
        ("a b c d e f+f", "a node holds two of its segments"),
        ("a b c d e f+g+h", "a slot has two members that fill"),
        ("a b c d e +g+h", "a slot has two members that fill"),
    ],
)
def test_what_is_no_group(words: str, problem: str) -> None:
    assert problem_with(members(words)) == problem
    with pytest.raises(AssertionError):
        quorum_set(words)


def test_two_that_vote_in_a_slot_are_no_group() -> None:
    assert problem_with((*members("a b c d e f"), Member(5, "g", "g:1", "az3"))) == (
        "a slot has two members that vote"
    )


@pytest.mark.parametrize(
    ("why", "words", "scl", "lsn"),
    [
        ("four of six", "a b c d e f", "a7 b7 c7 d7", 7),
        ("three of six", "a b c d e f", "a7 b7 c7", 0),
        ("F and G count as one", "a b c d e f+g", "a7 b7 f7 g7", 0),
        ("together they do", "a b c d e f+g", "a7 b7 c7 f7 g7", 7),
        ("what the one further behind has", "a b c d e f+g", "a7 b7 c7 f7 g5", 5),
        ("without either it takes four others", "a b c d e f+g", "a7 b7 c7 d7 g7", 7),
        ("nobody votes in the slot", "a b c d e +g", "a7 b7 c7 g9", 0),
        ("three are being replaced", "a b c d+g e+h f+i", "a7 b7 c7 d7 e7 f7", 0),
        ("one of them has its log", "a b c d+g e+h f+i", "a7 b7 c7 d7 e7 f7 h6", 6),
        ("whoever is no member", "a b c d e f", "a7 b7 c7 z7 y7", 0),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_complete_lsn(why: str, words: str, scl: str, lsn: int) -> None:
    assert quorum_set(words).complete_lsn({each[0]: Lsn(int(each[1:])) for each in scl.split()}) == lsn
