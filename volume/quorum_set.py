"""Who holds a group, and what counts as a quorum of it while a segment is being replaced. Pure.

A group has six slots. A slot is held by one member that votes; while its segment is replaced, a second
member, the replacement, fills beside it. The design asks for 4/6 of ABCDEF and 4/6 of ABCDEG (Verbitski
et al. 2018, section 4). In every such product of choices the worst set takes the member that is further
behind in each slot, so all of them come down to one rule:

    a slot has what all its members have; a slot without a voting member has nothing

and the quorums count slots: four to write, three to promise. Only voting members tell what they hold: a
replacement has no vote before it has everything.

Invariants: every slot has one member or two, never two that vote, never two that fill; no node twice.
"""

from collections.abc import Callable, Collection, Container, Mapping
from dataclasses import dataclass

from volume.ids import LSN_ZERO, Lsn
from volume.quorum import COPIES, group_complete_lsn


@dataclass(frozen=True, slots=True, order=True)
class Member:
    """A segment of a group: its slot, and the node that hosts it."""

    slot: int
    node: str
    address: str
    az: str
    filling: bool = False
    """A replacement that does not have everything yet: it has no vote."""


def problem_with(members: Collection[Member]) -> str:
    """Why these members are no group; empty if they are one."""
    if {member.slot for member in members} != set(range(COPIES)):
        return f"slots {sorted({member.slot for member in members})}: there are {COPIES}"
    if len({member.node for member in members}) != len(members):
        return "a node holds two of its segments"
    for kind in (True, False):
        slots = [member.slot for member in members if member.filling is kind]
        if len(slots) != len(set(slots)):
            return f"a slot has two members that {'fill' if kind else 'vote'}"
    return ""


@dataclass(frozen=True, slots=True)
class QuorumSet:
    """The members of a group in one membership epoch."""

    epoch: int
    members: tuple[Member, ...]

    def __post_init__(self) -> None:
        assert not problem_with(self.members), problem_with(self.members)

    def of(self, node: str) -> Member | None:
        """The node's segment of the group."""
        return next((member for member in self.members if member.node == node), None)

    @property
    def voters(self) -> tuple[Member, ...]:
        return tuple(member for member in self.members if not member.filling)

    @property
    def changes(self) -> bool:
        """Is a segment being replaced?"""
        return any(member.filling for member in self.members)

    def slots_where(self, done: Callable[[Member], bool]) -> set[int]:
        """The slots that count: one with a vote, and all its members have done it."""
        voting = {member.slot for member in self.voters}
        return voting - {member.slot for member in self.members if not done(member)}

    def count(self, nodes: Container[str]) -> int:
        """How many slots count if these nodes have done it."""
        return len(self.slots_where(lambda member: member.node in nodes))

    def slot_lsns(self, scl_by_node: Mapping[str, Lsn]) -> list[Lsn]:
        """By slot: the LSN up to which it is complete."""
        lsns = [LSN_ZERO] * COPIES
        for member in self.voters:
            lsns[member.slot] = scl_by_node.get(member.node, LSN_ZERO)
        for member in self.members:
            lsns[member.slot] = min(lsns[member.slot], scl_by_node.get(member.node, LSN_ZERO))
        return lsns

    def complete_lsn(self, scl_by_node: Mapping[str, Lsn]) -> Lsn:
        """PGCL: what four slots have."""
        return group_complete_lsn(self.slot_lsns(scl_by_node))
