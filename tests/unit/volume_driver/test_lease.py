"""A lease is over when a newer writer may have acknowledged something, and never later."""

from dataclasses import dataclass, field
from typing import Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from db_instance.volume_driver.lease import Lease
from tests.unit.volume.quorum_model import quorum_set
from volume.limits import LEASE_S
from volume.quorum import READ_QUORUM

_S: Final = 1_000_000
"""Beats carry microseconds."""


def _after(beats: str, words: str = "a b c d e f") -> Lease:
    """`a3 b4`: A has confirmed what was sent in second 3, then B what was sent in second 4."""
    lease = Lease()
    for beat in beats.split():
        lease.on_confirmed(beat[0], int(float(beat[1:]) * _S), quorum_set(words))
    return lease


@pytest.mark.parametrize(
    ("why", "words", "beats", "until"),
    [
        ("nobody has confirmed anything", "a b c d e f", "", 0),
        ("three are too few", "a b c d e f", "a5 b5 c5", 0),
        ("four are enough", "a b c d e f", "a5 b5 c5 d5", 5),
        ("as long as the fourth one says", "a b c d e f", "a5 b6 c7 d3 e4", 4),
        ("a late answer takes nothing back", "a b c d e f", "a5 b5 c5 d5 a2 d3", 5),
        ("the same one again is one", "a b c d e f", "a5 a6 a7 a8 a9", 0),
        ("whoever is no member does not count", "a b c d e f", "a5 b5 c5 z5", 0),
        ("F and its replacement are one slot", "a b c d e f+g", "a5 b5 f5 g5", 0),
        ("both of them must confirm", "a b c d e f+g", "a5 b5 c5 f5", 0),
        ("the later of both does not count", "a b c d e f+g", "a5 b5 c5 f5 g4", 4),
        ("nobody votes in the slot", "a b c d e +g", "a5 b5 c5 g5", 0),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_storage_confirms(why: str, words: str, beats: str, until: int) -> None:
    assert _after(beats, words).until_s == (until + LEASE_S if until else 0)


def test_it_runs_from_when_the_beat_was_sent_and_not_from_when_it_was_answered() -> None:
    assert _after("a5 b5 c5 d5.25").until_s == 5 + LEASE_S


def test_the_control_plane_confirms_where_storage_does_not() -> None:
    lease = _after("a5 b5")
    lease.on_granted(8.0)
    assert lease.until_s == 8 + LEASE_S
    lease.on_granted(7.0)
    assert lease.until_s == 8 + LEASE_S, "a late answer takes nothing back"
    lease.on_confirmed("c", 5 * _S, quorum_set("a b c d e f"))
    lease.on_confirmed("d", 5 * _S, quorum_set("a b c d e f"))
    assert lease.until_s == 8 + LEASE_S, "nor does storage that has confirmed less"
    for node in "abcd":
        lease.on_confirmed(node, 9 * _S, quorum_set("a b c d e f"))
    assert lease.until_s == 9 + LEASE_S


def test_other_members_may_end_a_lease_that_only_storage_gave() -> None:
    lease = _after("a5 b5 c5 d5")
    lease.on_members(quorum_set("a b c d+g e f", 2))
    assert lease.until_s == 0, "D no longer answers for its slot alone"
    lease.on_confirmed("g", 6 * _S, quorum_set("a b c d+g e f", 2))
    assert lease.until_s == 5 + LEASE_S
    lease.on_members(quorum_set("a b c g e f", 3))
    assert lease.until_s == 5 + LEASE_S


def test_other_members_leave_what_the_control_plane_gave() -> None:
    lease = Lease()
    lease.on_granted(5.0)
    lease.on_members(quorum_set("a b c d+g e f", 2))
    assert lease.until_s == 5 + LEASE_S


# The promise that a lease is, in a small world


@dataclass
class Storage:
    """What a segment of group 0 remembers (storage_node/node.py): to whom it is promised, and a lease."""

    promised: int = 1
    lease_until_s: float = 0.0

    def on_beat(self, epoch: int, now_s: float) -> bool:
        if epoch < self.promised:
            return False
        self.lease_until_s = now_s + LEASE_S
        return True

    def promise(self, epoch: int, now_s: float) -> float:
        """How long the older writer may still read."""
        self.promised = epoch
        return max(0.0, self.lease_until_s - now_s)


@dataclass
class World:
    now_s: float = 10.0
    storage: dict[str, Storage] = field(default_factory=lambda: {node: Storage() for node in "abcdef"})
    lease: Lease = field(default_factory=Lease)
    coming: list[tuple[str, int]] = field(default_factory=list)
    """Confirmations on their way back: they may arrive at any time."""

    def send_beat(self, heard_by: set[str], on_the_way_s: float) -> None:
        sent_us = int(self.now_s * _S)
        self.now_s += on_the_way_s
        for node in sorted(heard_by):
            if self.storage[node].on_beat(1, self.now_s):
                self.coming.append((node, sent_us))

    def arrive(self, of: set[str]) -> None:
        for node, sent_us in self.coming:
            if node in of:
                self.lease.on_confirmed(node, sent_us, quorum_set("a b c d e f"))
        self.coming = [each for each in self.coming if each[0] not in of]

    def open_by_a_newer_writer(self, asked: list[str]) -> float:
        """Until when it waits."""
        return self.now_s + max(self.storage[node].promise(2, self.now_s) for node in asked)


some_nodes = st.sets(st.sampled_from("abcdef"))
beats = st.lists(st.tuples(some_nodes, some_nodes, st.floats(0.0, LEASE_S)), max_size=12)


@settings(max_examples=300, deadline=None)
@given(beats, beats, st.permutations("abcdef"))
def test_once_a_newer_writer_has_waited_the_older_one_reads_no_more(
    before: list[tuple[set[str], set[str], float]],
    after: list[tuple[set[str], set[str], float]],
    asked: list[str],
) -> None:
    """Whichever three have promised, and however late any answer comes."""
    world = World()

    def go_on(beats: list[tuple[set[str], set[str], float]]) -> None:
        for heard_by, answers_of, on_the_way_s in beats:
            world.send_beat(heard_by, on_the_way_s)
            world.arrive(answers_of)

    go_on(before)
    waits_until_s = world.open_by_a_newer_writer(asked[:READ_QUORUM])
    go_on(after)
    world.arrive(set("abcdef"))
    assert world.lease.until_s <= waits_until_s + 1e-6
