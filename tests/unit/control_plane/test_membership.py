"""Which segments are replaced, by whom and when, as scenes: who holds the group, what is seen, what is to be done.

A group is written as in the tests of quorum_set: `a b c d e f+g` has G filling beside F; `f>g` is a move.
A to F lie two by two in three zones, G and the others where a scene says.
"""

from dataclasses import dataclass, field, replace
from typing import Final

import pytest

from control_plane.cluster.membership import (
    MOVES_AT_ONCE,
    Begin,
    Drop,
    EndLoss,
    Facts,
    Fence,
    Finish,
    Key,
    Patience,
    Revert,
    Step,
    Tell,
    fence_of,
    plan_membership,
)
from control_plane.cluster.model import Group, Member, Node, NodeId, Reason, SegmentReport, Volume
from control_plane.cluster.placement import replacement_for
from volume.ids import LSN_ZERO, Epoch, GroupId, Lsn, SegmentId, VolumeId
from volume.limits import LEASE_S

_NOW_S: Final = 1000.0
_VOLUME: Final = VolumeId(1)
_SIX: Final = "a b c d e f"
_ZONES: Final = {"a": "az1", "b": "az1", "c": "az2", "d": "az2", "e": "az3", "f": "az3"}


def group_of(words: str, id: int = 0, epoch: int = 1) -> Group:
    members = []
    for slot, word in enumerate(words.split()):
        reason = Reason.MOVE if ">" in word else Reason.REPAIR
        for place, node in enumerate(word.replace(">", "+").split("+")):
            if node:
                members.append(Member(slot, NodeId(node), created=True, reason=reason if place else None))
    return Group(GroupId(id), Epoch(epoch), LSN_ZERO, tuple(members))


@dataclass
class Scene:
    groups: list[Group]
    zones: dict[str, str]
    draining: set[str] = field(default_factory=set)
    silent_s: dict[str, float] = field(default_factory=dict)
    bad_s: dict[Key, float] = field(default_factory=dict)
    reports: dict[Key, SegmentReport] = field(default_factory=dict)
    fences: dict[int, Fence] = field(default_factory=dict)
    unfit: set[str] = field(default_factory=set)
    refusing: set[str] = field(default_factory=set)

    def silent(self, **seconds: float) -> "Scene":
        self.silent_s |= seconds
        return self

    def says(self, node: str, state: str = "ok", *, group: int = 0, **fields: int) -> "Scene":
        """What the node reports of its segment of the group."""
        known = self.reports.get((_VOLUME, GroupId(group), NodeId(node))) or _report(group, 0, state)
        self.reports[_VOLUME, GroupId(group), NodeId(node)] = replace(known, state=state, **fields)
        return self

    def bad(self, node: str, for_s: float, state: str = "", *, group: int = 0) -> "Scene":
        """The node answers, and what it should have failed so long ago; without a state it is not there."""
        key = _VOLUME, GroupId(group), NodeId(node)
        self.bad_s[key] = for_s
        if state:
            return self.says(node, state, group=group)
        self.reports.pop(key, None)
        return self

    def fence(self, group: int = 0, *, ago_s: float = LEASE_S, **fields: int | bool) -> "Scene":
        known = Fence(self.groups[group].membership_epoch, _NOW_S - ago_s, enough=True, scl=Lsn(90))
        self.fences[group] = replace(known, **fields)  # type: ignore[arg-type]
        return self

    def plan(self) -> list[str]:
        return [_told(step) for step in self.steps()]

    def steps(self) -> list[Step]:
        nodes = [
            Node(NodeId(name), az, f"{name}:1", name in self.draining) for name, az in self.zones.items()
        ]
        facts = Facts(
            _NOW_S,
            nodes,
            {node.id: self.silent_s.get(node.id, 0.1) for node in nodes},
            self.reports,
            {key: _NOW_S - for_s for key, for_s in self.bad_s.items()},
            {(_VOLUME, GroupId(id)): fence for id, fence in self.fences.items()},
            {NodeId(node) for node in self.unfit},
            {NodeId(node) for node in self.refusing},
        )
        volume = Volume(_VOLUME, "main", 1 << 20, Epoch(1), "w1", tuple(self.groups))
        return plan_membership([volume], facts, Patience())


def scene(*words: str, epoch: int = 1, loss_accepted: bool = False, **zones: str) -> Scene:
    """Groups whose members are all well; `zones`: of the nodes besides A to F."""
    groups = [
        replace(group_of(each, id, epoch), loss_accepted=loss_accepted) for id, each in enumerate(words)
    ]
    found = Scene(groups, _ZONES | zones)
    for group in groups:
        for member in group.members:
            state = "filling" if member.filling else "ok"
            found.reports[_VOLUME, group.id, member.node] = _report(group.id, member.slot, state, epoch)
    return found


def _report(group: int, slot: int, state: str, membership: int = 1) -> SegmentReport:
    return SegmentReport(
        volume=_VOLUME,
        id=SegmentId(GroupId(group), slot),
        scl=Lsn(100),
        known_vdl=Lsn(100),
        promised_epoch=Epoch(1),
        timeline_epoch=Epoch(1),
        membership_epoch=Epoch(membership),
        state=state,
        hot_bytes=0,
        delta_layers=0,
        image_layers=0,
        layer_bytes=0,
    )


def _told(step: Step) -> str:
    match step:
        case Begin(_, group, slot, target, reason, why):
            return f"pg{group.id}: {target} for {'abcdef'[slot]} ({reason}: {why})"
        case Tell(_, group):
            return f"pg{group.id}: tell {group.membership_epoch}"
        case Finish(_, group, replacement, promised):
            return f"pg{group.id}: {replacement.node} is filled, promised {promised}"
        case Revert(_, group, replacement, why):
            return f"pg{group.id}: {replacement.node} goes ({why})"
        case Drop(_, group, node):
            return f"pg{group.id}: {node} drops"
        case EndLoss(_, group):
            return f"pg{group.id}: its loss is over"


# Suspects


def test_a_group_that_is_well_is_left_alone() -> None:
    assert scene(_SIX, g="az3").plan() == []


@pytest.mark.parametrize(
    ("why", "seen", "expected"),
    [
        ("a node that restarts gets its time", scene(_SIX, g="az3").silent(f=29.9), []),
        (
            "a node that is gone",
            scene(_SIX, g="az3").silent(f=30),
            ["pg0: g for f (repair: f has not answered for 30 s)"],
        ),
        ("a segment that fails gets its time", scene(_SIX, g="az3").bad("f", 4.9, "failed: hot log"), []),
        (
            "a segment that has failed",
            scene(_SIX, g="az3").bad("f", 5.2, "failed: hot log"),
            ["pg0: g for f (repair: failed: hot log)"],
        ),
        ("what is missing gets its time", scene(_SIX, g="az3").bad("f", 4.9), []),
        (
            "what is missing is made anew where it was",
            scene(_SIX, g="az3").bad("f", 5.2),
            ["pg0: f for f (repair: f does not have it)"],
        ),
        (
            "what was missing when the node answered last may be there by now",
            scene(_SIX, g="az3").bad("f", 7).silent(f=2.5),
            [],
        ),
        ("a gap is no failure", scene(_SIX, g="az3").says("f", "behind"), []),
        ("nobody is there to take it", scene(_SIX).silent(f=99), []),
        ("whoever would take it is silent", scene(_SIX, g="az3").silent(f=99, g=3.1), []),
        (
            "whoever would take it has a bad disk",
            scene(_SIX, g="az3").silent(f=99).says("g", "failed: hot log: [Errno 5] I/O error", group=7),
            [],
        ),
        (
            "whoever would take it has damage, which peers mend",
            scene(_SIX, g="az3").silent(f=99).says("g", "failed: layers missing or damaged: x", group=7),
            ["pg0: g for f (repair: f has not answered for 99 s)"],
        ),
        (
            "whoever would take it keeps no log, or has not answered yet",
            replace(scene(_SIX, g="az3").silent(f=99), unfit={"g"}),
            [],
        ),
        (
            "with three left the group can be filled from",
            scene(_SIX, g="az3", h="az2").silent(f=99, e=5, d=5),
            ["pg0: g for f (repair: f has not answered for 99 s)"],
        ),
        ("with two left it cannot", scene(_SIX, g="az3").silent(f=99, e=5, d=5, c=5), []),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_suspects(why: str, seen: Scene, expected: list[str]) -> None:
    assert seen.plan() == expected


def test_what_is_missing_on_a_node_that_is_drained_is_made_elsewhere() -> None:
    seen = scene(_SIX, g="az3").bad("f", 5.2)
    seen.draining = {"f"}
    assert seen.plan() == ["pg0: g for f (repair: f does not have it)"]


@pytest.mark.parametrize(
    ("made", "expected"),
    [("abc", []), ("abcd", ["pg0: f for f (repair: f does not have it)"])],
    ids=["nobody can have written to three", "four may have been written to, and it with them"],
)
def test_what_was_never_made_is_missing_once_the_group_can_be_written(made: str, expected: list[str]) -> None:
    seen = scene(_SIX, g="az3").bad("f", 99)
    (group,) = seen.groups
    seen.groups = [replace(group, members=tuple(replace(m, created=m.node in made) for m in group.members))]
    assert seen.plan() == expected


def test_a_segment_that_fails_before_anybody_confirmed_it_is_replaced() -> None:
    seen = scene(_FILLING, g="az3", h="az3").silent(f=99).bad("g", 5.2, "failed: hot log")
    (group,) = seen.groups
    members = tuple(replace(member, created=member.node != "g") for member in group.members)
    seen.groups = [replace(group, members=members)]
    assert seen.plan() == ["pg0: g goes (its replacement: failed: hot log)"]


def test_a_group_of_which_only_three_could_be_made_is_made_elsewhere() -> None:
    half = scene(_SIX, g="az3")
    members = [replace(each, created=each.node in "abc") for each in half.groups[0].members]
    half.groups[0] = replace(half.groups[0], members=tuple(members))
    for node in "def":
        half.bad(node, 99)
    assert half.plan() == [], "they will be made as soon as their nodes are asked"
    half.refusing = {"e", "f"}
    assert half.plan() == ["pg0: g for e (repair: e does not have it)"]


def test_a_loss_that_is_accepted_leaves_one_to_fill_from() -> None:
    lost = {"b": 99.0, "c": 99.0, "d": 99.0, "e": 99.0, "f": 99.0}
    assert scene(_SIX, g="az3").silent(**lost).plan() == []
    assert scene(_SIX, loss_accepted=True, g="az3").silent(**lost).plan() == [
        "pg0: g for c (repair: c has not answered for 99 s)"
    ]
    assert scene(_SIX, loss_accepted=True, g="az3").silent(**lost, a=99).plan() == []


@pytest.mark.parametrize("away", ["def", "ef", ""])
def test_an_accepted_loss_is_over_once_three_are_well(away: str) -> None:
    lost = dict.fromkeys(away, 99.0)
    assert scene(_SIX, loss_accepted=True, g="az3").silent(**lost).plan() == ["pg0: its loss is over"]


def test_two_suspects_of_a_group_are_replaced_one_after_the_other() -> None:
    two = {"e": 99.0, "f": 99.0}
    assert scene(_SIX, g="az3", h="az3").silent(**two).plan() == [
        "pg0: g for e (repair: e has not answered for 99 s)"
    ]
    assert scene("a b c d e+g f", epoch=2, g="az3", h="az3").silent(**two).plan() == [
        "pg0: h for f (repair: f has not answered for 99 s)"
    ]


def test_of_two_groups_each_is_changed_and_the_work_is_shared_out() -> None:
    assert scene(_SIX, _SIX, g="az3", h="az3").silent(f=99).plan() == [
        "pg0: g for f (repair: f has not answered for 99 s)",
        "pg1: h for f (repair: f has not answered for 99 s)",
    ]


# A change that has begun

_FILLING = "a b c d e f+g"


@pytest.mark.parametrize(
    ("why", "seen", "expected"),
    [
        ("while it is filled it is told", scene(_FILLING, g="az3").silent(f=99), ["pg0: tell 1"]),
        ("the suspect is back first", scene(_FILLING, g="az3"), ["pg0: g goes (f is back)"]),
        (
            "the suspect is back, and behind",
            scene(_FILLING, g="az3").says("f", "behind"),
            ["pg0: g goes (f is back)"],
        ),
        (
            "the suspect is back with a bad disk",
            scene(_FILLING, g="az3").says("f", "failed: hot log"),
            ["pg0: tell 1"],
        ),
        (
            "the suspect that is back stays, even when the other is filled",
            scene(_FILLING, g="az3").fence(),
            ["pg0: g goes (f is back)"],
        ),
        (
            "it is filled",
            scene(_FILLING, g="az3").silent(f=99).fence(promised=4),
            ["pg0: g is filled, promised 4"],
        ),
        (
            "the replacement is gone",
            scene(_FILLING, g="az3", h="az3").silent(f=99, g=40),
            ["pg0: g goes (its replacement: g has not answered for 40 s)"],
        ),
        (
            "the replacement has failed",
            scene(_FILLING, g="az3").silent(f=99).bad("g", 5.2, "failed: hot log"),
            ["pg0: g goes (its replacement: failed: hot log)"],
        ),
        (
            "nobody votes in the slot, and who fills it is gone",
            scene("a b c d e +g", g="az3", h="az3").silent(f=99, g=40),
            ["pg0: h for f (repair: its replacement: g has not answered for 40 s)"],
        ),
        (
            "nobody votes in the slot, and who fills it has lost it again",
            scene("a b c d e +f", g="az3").bad("f", 5.2),
            ["pg0: f for f (repair: its replacement: f does not have it)"],
        ),
        ("a move goes on while all is well", scene("a b c d e f>g", g="az3"), ["pg0: tell 1"]),
        (
            "a move is done",
            scene("a b c d e f>g", g="az3").fence(promised=4),
            ["pg0: g is filled, promised 4"],
        ),
        (
            "a move goes on when who is moved is gone",
            scene("a b c d e f>g", g="az3").silent(f=99),
            ["pg0: tell 1"],
        ),
        (
            "another suspect, while one is replaced",
            scene(_FILLING, g="az3", h="az2").silent(f=99, c=30),
            ["pg0: h for c (repair: c has not answered for 30 s)"],
        ),
        (
            "one of two is filled; the newest epoch that is granted counts as promised",
            scene("a b c+h d e f+g", g="az3", h="az2").silent(f=99, c=99).says("h", "filling", scl=Lsn(9)).fence(),
            ["pg0: g is filled, promised 1"],
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_a_change_goes_on(why: str, seen: Scene, expected: list[str]) -> None:
    assert seen.plan() == expected


@pytest.mark.parametrize(
    ("why", "seen"),
    [
        ("nobody was told yet", scene(_FILLING, g="az3")),
        ("too few were told", scene(_FILLING, g="az3").fence(enough=False)),
        ("they were told of an older epoch", scene(_FILLING, epoch=2, g="az3").fence(epoch=Epoch(1))),
        ("a lease from before may run", scene(_FILLING, g="az3").fence(ago_s=LEASE_S - 0.01)),
        ("it lacks log", scene(_FILLING, g="az3").fence(scl=Lsn(101))),
        ("it lacks the timeline", scene(_FILLING, g="az3").fence(timeline_epoch=Epoch(2))),
        ("it does not answer", scene(_FILLING, g="az3").silent(g=3.1).fence()),
        ("it thinks that it has a vote", scene(_FILLING, g="az3").says("g", "ok").fence()),
        ("it has failed", scene(_FILLING, g="az3").says("g", "failed: hot log").fence()),
        ("it is not there", scene(_FILLING, g="az3").bad("g", 0.1).fence()),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_replacement_gets_no_vote_while(why: str, seen: Scene) -> None:
    assert seen.silent(f=99).plan() == [f"pg0: tell {seen.groups[0].membership_epoch}"]


def test_a_replacement_gets_no_vote_before_its_node_has_confirmed_it() -> None:
    """Else it would be asked for again and again, and be made anew if it is lost: an empty segment with a vote."""
    seen = scene(_FILLING, g="az3").silent(f=99).fence()
    (group,) = seen.groups
    members = tuple(replace(member, created=member.node != "g") for member in group.members)
    seen.groups = [replace(group, members=members)]
    assert seen.plan() == ["pg0: tell 1"]


# Telling, and dropping


def test_a_member_that_does_not_know_the_epoch_is_told_once_it_answers() -> None:
    assert scene(_SIX, epoch=3).says("d", membership_epoch=Epoch(2)).plan() == ["pg0: tell 3"]
    assert scene(_SIX, epoch=3).says("d", membership_epoch=Epoch(2)).silent(d=5).plan() == []


def test_who_is_no_member_any_more_drops_its_segment() -> None:
    was_f = scene("a b c d e g", epoch=3, g="az3").says("f", "removed", membership_epoch=Epoch(2))
    assert was_f.plan() == ["pg0: f drops"]
    assert replace(was_f, silent_s={"f": 5.0}).plan() == []


def test_nobody_drops_before_three_that_vote_know_that_it_is_no_member() -> None:
    seen = scene("a b c d e g", epoch=3, g="az3").says("f", "removed", membership_epoch=Epoch(2))
    for node in "abcd":
        seen.says(node, membership_epoch=Epoch(2))
    assert seen.plan() == ["pg0: tell 3"]
    assert seen.says("d", membership_epoch=Epoch(3)).plan() == ["pg0: tell 3", "pg0: f drops"]


def test_a_segment_of_another_group_is_not_dropped() -> None:
    assert scene(_SIX, g="az3").says("g", group=5).plan() == []


# Moves


def _drained(node: str, seen: Scene) -> Scene:
    return replace(seen, draining={node})


@pytest.mark.parametrize(
    ("why", "seen", "expected"),
    [
        ("a drained node", _drained("f", scene(_SIX, g="az3")), ["pg0: g for f (move: f is drained)"]),
        ("not while one is suspect", _drained("f", scene(_SIX, g="az3").silent(a=40)), []),
        ("not while one is silent", _drained("f", scene(_SIX, g="az3").silent(a=4)), []),
        (
            "not while another one of the group is replaced",
            _drained("f", scene("a b c d e+h f", g="az3", h="az3").silent(e=99)),
            ["pg0: tell 1"],
        ),
        ("not to a node that is drained", _drained("g", scene(_SIX, g="az3")), []),
        ("the zone has no other node", _drained("f", scene(_SIX, g="az2")), []),
        (
            "a zone is back: the third one of another zone goes there",
            scene("a b g d e f", g="az1", c="az2"),
            ["pg0: c for a (move: 3 of the group are in az1)"],
        ),
        ("a node of the zone has no more room", scene(_SIX, "a b c d e g", g="az3"), []),
        (
            "a node of the zone has room",
            scene(_SIX, _SIX, g="az3"),
            ["pg0: g for e (move: g has room)"],
        ),
        ("a node of another zone is none", scene(_SIX, _SIX, g="az9"), []),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_moves(why: str, seen: Scene, expected: list[str]) -> None:
    assert seen.plan() == expected


def test_few_segments_go_elsewhere_without_need_at_a_time() -> None:
    many = [_SIX] * (MOVES_AT_ONCE + 3)
    begun = _drained("f", scene(*many, g="az3", h="az3")).plan()
    assert len(begun) == MOVES_AT_ONCE
    assert {each.split()[1] for each in begun} == {"g", "h"}
    going = ["a b c d e f>g"] * 3 + [_SIX] * 5
    steps = _drained("f", scene(*going, g="az3", h="az3")).plan()
    assert sum("move" in step for step in steps) == MOVES_AT_ONCE - 3
    assert sum("tell" in step for step in steps) == 3


def test_repairs_are_not_held_back_by_moves() -> None:
    going = ["a b c d e f>g"] * MOVES_AT_ONCE + [_SIX]
    assert scene(*going, g="az3", h="az1").silent(a=30).plan()[-1] == (
        f"pg{MOVES_AT_ONCE}: h for a (repair: a has not answered for 30 s)"
    )


# What the members had when they learned the epoch

Told = dict[NodeId, tuple[Lsn, Epoch, Epoch]]


def _told_by(nodes: str, scl: int = 7, timeline: int = 2, promised: int = 3) -> Told:
    return {NodeId(node): (Lsn(scl), Epoch(timeline), Epoch(promised)) for node in nodes}


def test_three_that_vote_make_a_fence() -> None:
    group = group_of(_FILLING, epoch=2)
    told = _told_by("a") | _told_by("b", scl=9, timeline=1) | _told_by("c", promised=5)
    assert fence_of(group, told, None, 10.0) == Fence(Epoch(2), 10.0, True, Lsn(9), Epoch(2), Epoch(5))


def test_two_that_vote_and_the_one_that_fills_make_none() -> None:
    found = fence_of(group_of(_FILLING, epoch=2), _told_by("abg", scl=99), None, 10.0)
    assert (found.enough, found.scl) == (False, 0)


def test_what_the_one_that_fills_has_is_no_mark() -> None:
    found = fence_of(group_of(_FILLING, epoch=2), _told_by("abc") | _told_by("g", scl=99), None, 10.0)
    assert found == Fence(Epoch(2), 10.0, True, Lsn(7), Epoch(2), Epoch(3))


def test_a_fence_stands_since_it_was_first_made() -> None:
    group = group_of(_FILLING, epoch=2)
    first = fence_of(group, _told_by("abc"), None, 10.0)
    assert fence_of(group, _told_by("abcd", scl=8), first, 12.0) == replace(first, scl=Lsn(8))
    assert fence_of(group, _told_by("a", scl=8), first, 12.0) == first, (
        "later it is enough that it stood once"
    )


def test_a_fence_of_an_older_epoch_is_none() -> None:
    old = fence_of(group_of(_FILLING, epoch=2), _told_by("abc"), None, 10.0)
    newer = group_of("a b c+h d e f+g", epoch=3)
    assert fence_of(newer, _told_by("abc"), old, 12.0).since_s == 12.0
    assert not fence_of(newer, _told_by("ab"), old, 12.0).enough


def test_time_without_a_fence_does_not_count() -> None:
    group = group_of(_FILLING, epoch=2)
    before = fence_of(group, _told_by("ab"), None, 10.0)
    assert fence_of(group, _told_by("abc"), before, 15.0).since_s == 15.0


def test_where_loss_is_accepted_those_that_are_left_make_a_fence() -> None:
    lost = replace(group_of(_FILLING, epoch=2), loss_accepted=True)
    assert fence_of(lost, _told_by("a"), None, 10.0).enough
    assert not fence_of(lost, {}, None, 10.0).enough


def test_of_those_that_are_left_all_are_heard_before_anything_is_decided() -> None:
    lost = replace(group_of(_FILLING, epoch=2), loss_accepted=True)
    assert not fence_of(lost, _told_by("a"), None, 10.0, {"a", "b"}).enough
    both = fence_of(lost, _told_by("a") | _told_by("b", scl=8), None, 11.0, {"a", "b"})
    assert (both.enough, both.scl) == (True, 8)
    assert fence_of(lost, _told_by("a"), both, 12.0, {"a", "b"}) == both, "what b has alone stays the mark"
    assert fence_of(lost, _told_by("a"), both, 40.0, {"a"}).scl == 7, "until it is gone as well"


def test_who_is_left_is_told_with_the_plan() -> None:
    lost = scene(_FILLING, loss_accepted=True, g="az3").silent(b=20, c=99, d=99, e=99, f=99)
    assert [step.awaited for step in lost.steps() if isinstance(step, Tell)] == [{"a", "b"}]
    well = scene(_FILLING, g="az3").silent(b=20, f=99)
    assert [step.awaited for step in well.steps() if isinstance(step, Tell)] == [()]


# Where a replacement goes


@pytest.mark.parametrize(
    ("why", "words", "slot", "more", "away", "load", "expected"),
    [
        ("to the same zone", _SIX, 5, "g3 h2", "", {}, "g"),
        ("to the emptier node", _SIX, 5, "g3 h3", "", {"g": 2, "h": 1}, "h"),
        ("of two equals by name", _SIX, 5, "h3 g3", "", {}, "g"),
        ("not to one that holds another slot", _SIX, 5, "", "", {}, None),
        ("not to one that fills another slot", "a b c d e+g f", 5, "g3", "", {}, None),
        ("the zone lives and has no node free", _SIX, 5, "g1", "", {}, None),
        ("the zone is gone: to another one", _SIX, 5, "g1", "ef", {}, "g"),
        ("the zone is gone: to one of its own that is back", _SIX, 5, "g1 h3", "ef", {}, "h"),
        ("where no zone has room to the less crowded one", "a b c d g f", 5, "g1 h1 i2", "ef", {"h": 0, "i": 9}, "i"),
        ("a fourth zone has room", _SIX, 5, "g4", "ef", {}, "g"),
        ("its own zone before a fourth", _SIX, 5, "g4 h3", "", {"h": 9}, "h"),
        ("a slot that changes hands is where it will be", "a b c d e+g f", 5, "g1 h3 i1", "ef", {}, "h"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_replacement_for(
    why: str, words: str, slot: int, more: str, away: str, load: dict[str, int], expected: str | None
) -> None:
    zones = _ZONES | {each[0]: f"az{each[1]}" for each in more.split()}
    nodes = [Node(NodeId(name), az, f"{name}:1") for name, az in zones.items()]
    usable = {node.id for node in nodes} - {NodeId(name) for name in away}
    by_node = {NodeId(name): count for name, count in load.items()}
    assert replacement_for(group_of(words), slot, nodes, by_node, usable) == expected
