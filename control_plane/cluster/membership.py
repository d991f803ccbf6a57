"""Which segments are replaced, by whom, and when a replacement is done. Pure.

What is known goes in, the next steps come out. Every step may be repeated, and may be lost: the next look
finds what is still to be done. In the order in which a replacement G of F goes through them:

    begin    the metadata name G beside F, in the next membership epoch
    (create  reconcile.py asks G's node for it)
    tell     the members learn the epoch; once a read quorum has, no writer that does not know G is acknowledged
             by a write quorum any more. What they then had is the mark that G must reach: the fence
    finish   G has reached the mark, has made the promises that the others have given, and every lease from
             before the fence is over: the metadata name G alone, in the next epoch. Or:
    revert   F is back first, or G is gone: the metadata name F alone, in the next epoch
    drop     a node that is no member any more forgets its segment

Where an operator has accepted the loss of a read quorum, fewer are enough for all of this, until there is one again.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from control_plane.cluster.model import (
    Group,
    Member,
    Node,
    NodeId,
    Reason,
    SegmentReport,
    Volume,
    is_of_the_disk,
    lacks_room,
)
from control_plane.cluster.placement import replacement_for
from volume.ids import LSN_ZERO, Epoch, GroupId, Lsn, VolumeId
from volume.limits import LEASE_S
from volume.quorum import COPIES, READ_QUORUM

MOVES_AT_ONCE: Final = 4
"""Segments that go elsewhere without need; repairs are never held back."""

_NO_EPOCH: Final = Epoch(0)

Key = tuple[VolumeId, GroupId, NodeId]


@dataclass(frozen=True, slots=True)
class Patience:
    unreachable_s: float = 30.0
    """A node that has not answered for so long is taken to be gone: a restart is over sooner."""
    failed_s: float = 5.0
    """A segment that says that it failed, or is not there, gets so long to come back by itself."""


@dataclass(frozen=True, slots=True)
class Fence:
    """What the members of a group had when they learned its membership epoch."""

    epoch: Epoch
    since_s: float
    """When enough of them had learned it first."""
    enough: bool
    scl: Lsn = LSN_ZERO
    timeline_epoch: Epoch = _NO_EPOCH
    promised: Epoch = _NO_EPOCH


@dataclass(frozen=True, slots=True)
class Facts:
    now_s: float
    nodes: Sequence[Node]
    silent_s: Mapping[NodeId, float]
    """By node: how long ago it answered last, or since when we have been asking."""
    reports: Mapping[Key, SegmentReport]
    """The newest report of each segment; of nodes that are silent now it may be old."""
    bad_since_s: Mapping[Key, float] = field(default_factory=dict)
    """By segment: when its node first answered that it is failed or missing, and never else since."""
    fences: Mapping[tuple[VolumeId, GroupId], Fence] = field(default_factory=dict)
    unfit: Collection[NodeId] = ()
    """Nodes that can keep no log any more, whatever segments they have, or have never answered yet."""
    refusing: Collection[NodeId] = ()
    """Nodes that answer, and whose disk had no segment made when they were asked for one, or has no room to fill one."""


@dataclass(frozen=True, slots=True)
class Begin:
    volume: Volume
    group: Group
    slot: int
    target: NodeId
    reason: Reason
    why: str


@dataclass(frozen=True, slots=True)
class Tell:
    volume: Volume
    group: Group
    awaited: Collection[NodeId] = ()
    """Where a loss is accepted: those that are left, and must be heard before anything is decided."""


@dataclass(frozen=True, slots=True)
class Finish:
    volume: Volume
    group: Group
    replacement: Member
    promised: Epoch
    awaited: Collection[NodeId] = ()
    """As of Tell, for the membership that follows."""


@dataclass(frozen=True, slots=True)
class Revert:
    volume: Volume
    group: Group
    replacement: Member
    why: str


@dataclass(frozen=True, slots=True)
class Drop:
    volume: Volume
    group: Group
    node: NodeId


@dataclass(frozen=True, slots=True)
class EndLoss:
    """Three that vote are well: from here on nothing is decided by fewer."""

    volume: Volume
    group: Group


Step = Begin | Tell | Finish | Revert | Drop | EndLoss

_ANSWERING_S: Final = 3.0


def plan_membership(volumes: Iterable[Volume], facts: Facts, patience: Patience) -> list[Step]:
    """At most one change of a group's epoch at a time: each is planned on what the metadata say now."""
    volumes = list(volumes)
    planner = _Planner(volumes, facts, patience)
    return [step for volume in volumes for group in volume.groups for step in planner.steps(volume, group)]


def fence_of(
    group: Group,
    told: Mapping[NodeId, tuple[Lsn, Epoch, Epoch]],
    before: Fence | None,
    now_s: float,
    awaited: Collection[NodeId] = (),
) -> Fence:
    """From what the members that learned the group's epoch answered: SCL, timeline epoch, promise.

    Where a loss is accepted, all that are `awaited` are needed: what one of them alone has is not lost.
    """
    slots = {member.slot for member in group.voters if member.node in told}
    left = slots | {member.slot for member in group.voters if member.node in awaited}
    needed = min(READ_QUORUM, len(left)) if group.loss_accepted and slots else READ_QUORUM
    known = before is not None and before.epoch == group.membership_epoch and before.enough
    since_s = before.since_s if before is not None and known else now_s
    if len(slots) < needed:
        return before if before is not None and known else Fence(group.membership_epoch, now_s, enough=False)
    voters = [told[member.node] for member in group.voters if member.node in told]
    return Fence(
        group.membership_epoch,
        since_s,
        True,
        max(scl for scl, _, _ in voters),
        max(timeline for _, timeline, _ in voters),
        max(promised for _, _, promised in voters),
    )


class _Planner:
    def __init__(self, volumes: Sequence[Volume], facts: Facts, patience: Patience) -> None:
        self._facts = facts
        self._patience = patience
        self._nodes = {node.id: node for node in facts.nodes}
        members = [member for v in volumes for group in v.groups for member in group.members]
        self._load: dict[NodeId, int] = {node.id: 0 for node in facts.nodes}
        for member in members:
            self._load[member.node] = self._load.get(member.node, 0) + 1
        self._usable = self._find_usable()
        self._holders: dict[tuple[VolumeId, GroupId], list[NodeId]] = {}
        """By group: the nodes that say they have a segment of it."""
        for of_volume, of_group, node_id in facts.reports:
            self._holders.setdefault((of_volume, of_group), []).append(node_id)
        self._moves = sum(member.reason is Reason.MOVE for member in members)

    def steps(self, volume: Volume, group: Group) -> list[Step]:
        if group.loss_accepted and self._well(volume, group) >= READ_QUORUM:
            return [EndLoss(volume, group)]
        change = self._change(volume, group)
        steps: list[Step] = [change] if change is not None else []
        if change is None and self._must_tell(volume, group):
            steps.append(Tell(volume, group, self._awaited(volume, group)))
        return steps + self._drops(volume, group)

    def _change(self, volume: Volume, group: Group) -> Begin | Finish | Revert | None:
        for replacement in group.replacements:
            step = self._go_on(volume, group, replacement)
            if step is not None:
                return step
        changing = {member.slot for member in group.replacements}
        suspects = {
            member.slot: why
            for member in group.voters
            if member.slot not in changing and (why := self._suspicion(volume, group, member))
        }
        for slot, why in suspects.items():
            if (step := self._repair(volume, group, slot, why)) is not None:
                return step
        if not changing and not suspects and self._moves < MOVES_AT_ONCE:
            return self._move(volume, group)
        return None

    # A change that has begun

    def _go_on(self, volume: Volume, group: Group, replacement: Member) -> Begin | Finish | Revert | None:
        voter = group.voter_of(replacement.slot)
        if voter is not None and replacement.reason is Reason.REPAIR and self._is_well(volume, group, voter):
            return Revert(volume, group, replacement, f"{voter.node} is back")
        fence = self._facts.fences.get((volume.id, group.id))
        if fence is not None and self._is_filled(volume, group, replacement, fence):
            # A writer that is granted an epoch may have heard of no replacement yet: it keeps the older ones out.
            promised = max(fence.promised, volume.epoch)
            return Finish(volume, group, replacement, promised, self._awaited(volume, group))
        why = self._suspicion(volume, group, replacement) or self._refusal(volume, group, replacement)
        if not why:
            return None
        if voter is not None:
            return Revert(volume, group, replacement, f"its replacement: {why}")
        return self._repair(volume, group, replacement.slot, f"its replacement: {why}")

    def _is_filled(self, volume: Volume, group: Group, replacement: Member, fence: Fence) -> bool:
        report = self._report(volume, group, replacement.node)
        return (
            replacement.created  # or it would be asked for again, and be empty, when it has a vote
            and fence.enough
            and fence.epoch == group.membership_epoch
            and self._facts.now_s - fence.since_s >= LEASE_S
            and self._silent_s(replacement.node) <= _ANSWERING_S
            and report is not None
            and report.state == "filling"
            and report.scl >= fence.scl
            and report.timeline_epoch >= fence.timeline_epoch
        )

    # Suspects

    def _suspicion(self, volume: Volume, group: Group, member: Member) -> str:
        """Why the segment should be replaced; empty if it should not, or not yet."""
        silent_s = self._silent_s(member.node)
        if silent_s >= self._patience.unreachable_s:
            return f"{member.node} has not answered for {silent_s:.0f} s"
        since_s = self._facts.bad_since_s.get((volume.id, group.id, member.node))
        answered_s = self._facts.now_s - silent_s
        if since_s is None or answered_s - since_s < self._patience.failed_s:
            return ""
        report = self._report(volume, group, member.node)
        if report is not None:
            return report.state
        if group.may_be_made(member) and (member.filling or member.node not in self._facts.refusing):
            return ""
        return f"{member.node} does not have it"

    def _refusal(self, volume: Volume, group: Group, replacement: Member) -> str:
        """Why a replacement that cannot be made, or filled, is given up. A repair that could go nowhere else waits
        for it, and so does whatever is made already."""
        if replacement.node not in self._facts.refusing:
            return ""
        report = self._report(volume, group, replacement.node)
        without_room = report is not None and lacks_room(report.state)
        if replacement.created and not without_room:
            return ""
        slot = replacement.slot
        other = replacement_for(group, slot, self._facts.nodes, self._load, self._usable)
        if other is None and (replacement.reason is Reason.REPAIR or replacement.created):
            return ""
        return f"{replacement.node} cannot {'hold' if without_room else 'make'} it"

    def _is_well(self, volume: Volume, group: Group, member: Member) -> bool:
        report = self._report(volume, group, member.node)
        answers = self._silent_s(member.node) <= _ANSWERING_S
        return answers and report is not None and report.state in ("ok", "behind")

    def _awaited(self, volume: Volume, group: Group) -> Collection[NodeId]:
        """Voters that may only be away for a moment, where not even three of them are left."""
        if not group.loss_accepted:
            return ()
        return frozenset(
            voter.node
            for voter in group.voters
            if not self._suspicion(volume, group, voter)
            and not (group.may_be_made(voter) and self._report(volume, group, voter.node) is None)
        )

    def _well(self, volume: Volume, group: Group) -> int:
        return sum(self._is_well(volume, group, member) for member in group.voters)

    def _repair(self, volume: Volume, group: Group, slot: int, why: str) -> Begin | None:
        """Who should hold the slot instead. None while nobody can be filled, or there is nobody to do it."""
        if self._well(volume, group) < (1 if group.loss_accepted else READ_QUORUM):
            return None
        voter = group.voter_of(slot) or next(m for m in group.members if m.slot == slot)
        report = self._report(volume, group, voter.node)
        if voter.node in self._usable and report is None:
            # The node is well, and what it had is gone: it may have it again.
            return Begin(volume, group, slot, voter.node, Reason.REPAIR, why)
        target = replacement_for(group, slot, self._facts.nodes, self._load, self._usable)
        if target is None:
            return None
        self._load[target] = self._load.get(target, 0) + 1
        return Begin(volume, group, slot, target, Reason.REPAIR, why)

    # Moves

    def _move(self, volume: Volume, group: Group) -> Begin | None:
        """A segment that is well and would be better elsewhere: one of a group at a time, and only if all are well."""
        if len(group.voters) < COPIES or not all(self._is_well(volume, group, m) for m in group.voters):
            return None
        for member in group.voters:
            why, target = self._better_place(group, member)
            if target is not None:
                self._moves += 1
                self._load[target] += 1
                self._load[member.node] -= 1
                return Begin(volume, group, member.slot, target, Reason.MOVE, why)
        return None

    def _better_place(self, group: Group, member: Member) -> tuple[str, NodeId | None]:
        target = replacement_for(group, member.slot, self._facts.nodes, self._load, self._usable)
        if target is None:
            return "", None
        node = self._nodes[member.node]
        if node.draining:
            return f"{member.node} is drained", target
        zones = [self._nodes[other.node].az for other in group.voters]
        to = self._nodes[target].az
        if zones.count(node.az) > 2 > zones.count(to):
            return f"{zones.count(node.az)} of the group are in {node.az}", target
        if to == node.az and self._load[member.node] - self._load[target] >= 2:
            return f"{target} has room", target
        return "", None

    # The rest

    def _must_tell(self, volume: Volume, group: Group) -> bool:
        """Some member that answers does not know the epoch, or a replacement waits for its mark."""
        if group.replacements:
            return True
        for member in group.members:
            report = self._report(volume, group, member.node)
            knows = report is not None and report.membership_epoch >= group.membership_epoch
            if report is not None and not knows and self._silent_s(member.node) <= _ANSWERING_S:
                return True
        return False

    def _drops(self, volume: Volume, group: Group) -> list[Step]:
        members = {member.node for member in group.members}
        known = sum(
            (report := self._report(volume, group, member.node)) is not None
            and report.membership_epoch >= group.membership_epoch
            for member in group.voters
        )
        if known < READ_QUORUM:
            return []
        return [
            Drop(volume, group, node)
            for node in self._holders.get((volume.id, group.id), ())
            if node not in members and node in self._nodes and self._silent_s(node) <= _ANSWERING_S
        ]

    def _report(self, volume: Volume, group: Group, node: NodeId) -> SegmentReport | None:
        return self._facts.reports.get((volume.id, group.id, node))

    def _silent_s(self, node: NodeId) -> float:
        return self._facts.silent_s.get(node, 0.0)

    def _find_usable(self) -> Collection[NodeId]:
        """Nodes that segments may be placed on."""
        failed = {
            node for (_, _, node), report in self._facts.reports.items() if is_of_the_disk(report.state)
        }
        return {
            node.id
            for node in self._facts.nodes
            if not node.draining
            and self._silent_s(node.id) <= _ANSWERING_S
            and node.id not in failed
            and node.id not in self._facts.unfit
            and node.id not in self._facts.refusing
        }
