"""A cluster small enough to be believed: machines that hold segments, writers, and the real Repairs over them.

Of a segment's log only its length and its timeline are kept, and a timeline is where each opening has cut. The
metadata store and the writers' frontier are the real ones. Whatever is asked over the network may be lost, or be
done without an answer, or be done again later; `dice` decides.
"""

import asyncio
import random
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, cast

from control_plane.agents import Joined
from control_plane.cluster.health import answers
from control_plane.cluster.membership import Begin, Facts, Finish, Patience, Revert, Step, plan_membership
from control_plane.cluster.model import Group, Member, Node, NodeId, NodeReport, SegmentReport, Volume
from control_plane.cluster.placement import place
from control_plane.cluster.reconcile import plan_segments
from control_plane.cluster.refusals import Refusals
from control_plane.cluster.status import Seen
from control_plane.metadata.embedded import EmbeddedMetadata
from control_plane.repairs import Repairs
from db_instance.volume_driver.durable_frontier import DurableFrontier, Round
from storage_node.segment_store import FILLING_WITHOUT_ROOM
from volume import quorum_set
from volume.errors import DeadlineExceeded, PeerUnavailable, SegmentFailed, StaleMembership, UnknownSegment
from volume.ids import LSN_ZERO, Epoch, GroupId, Lsn, SegmentId, VolumeId
from volume.quorum import READ_QUORUM, WRITE_QUORUM
from volume.quorum_set import QuorumSet

PATIENCE: Final = Patience(unreachable_s=3.5, failed_s=1.0)
ROUND_S: Final = 0.5


@dataclass(eq=False)
class Segment:
    """As a node keeps it (storage_node/segment_store.py)."""

    node: NodeId
    slot: int
    members: QuorumSet
    promised: int = 0
    timeline: int = 0
    scl: int = 0
    failed: bool = False

    @property
    def state(self) -> str:
        own = self.members.of(self.node)
        if self.failed:
            return "failed: [Errno 5] disk"
        if own is None or own.slot != self.slot:
            return "removed"
        return "filling" if own.filling else "ok"

    def join(self, members: QuorumSet, promised: int) -> Joined:
        if self.failed:
            raise SegmentFailed(f"join {self.node}")
        if members.epoch < self.members.epoch:
            raise StaleMembership(f"join {self.node} in {members.epoch}: {self.members.epoch}")
        if members.epoch > self.members.epoch:
            self.members = members
        self.promised = max(self.promised, promised)
        return Joined(Lsn(self.scl), Epoch(self.timeline), Epoch(self.promised))


@dataclass(eq=False)
class Machine:
    node: Node
    up: bool = True
    full: bool = False
    """No segment can be made there."""
    cramped: bool = False
    """One can be made there, and has no room for a peer's layers."""
    segments: dict[GroupId, Segment] = field(default_factory=dict)
    seen: tuple[NodeReport, float] | None = None
    """What the control plane heard of it last."""

    def create(self, group: GroupId, slot: int, members: QuorumSet) -> None:
        known = self.segments.get(group)
        if known is not None and (known.slot != slot or known.failed):
            if members.epoch < known.members.epoch + (known.state != "removed"):
                raise StaleMembership(f"create pg{group} in {members.epoch}: {known.members.epoch}")
            known = None
        if known is None and self.full:
            raise SegmentFailed(f"create pg{group} at {self.node.id}: [Errno 28] No space left on device")
        if known is None:
            self.segments[group] = Segment(self.node.id, slot, members)
        elif members.epoch > known.members.epoch:
            known.join(members, 0)

    def wipe(self) -> None:
        """It has another disk."""
        self.segments.clear()

    def drop(self, group: GroupId, epoch: int) -> None:
        known = self.segments.get(group)
        if known is None:
            return
        if epoch < known.members.epoch or (epoch == known.members.epoch and known.state != "removed"):
            raise StaleMembership(f"drop pg{group} in {epoch}: {known.members.epoch}")
        del self.segments[group]

    def report(self) -> NodeReport:
        reports = [_report(group, segment) for group, segment in self.segments.items()]
        if self.cramped:
            reports = [
                replace(each, state=FILLING_WITHOUT_ROOM) if each.state == "filling" else each
                for each in reports
            ]
        return NodeReport(tuple(reports), 0 if self.full or self.cramped else 1 << 30)


def _report(group: GroupId, segment: Segment) -> SegmentReport:
    return SegmentReport(
        volume=VolumeId(1),
        id=SegmentId(group, segment.slot),
        scl=Lsn(segment.scl),
        known_vdl=LSN_ZERO,
        promised_epoch=Epoch(segment.promised),
        timeline_epoch=Epoch(segment.timeline),
        membership_epoch=Epoch(segment.members.epoch),
        state=segment.state,
        hot_bytes=0,
        delta_layers=0,
        image_layers=0,
        layer_bytes=0,
    )


class Writer:
    def __init__(self, group: GroupId, epoch: int, members: QuorumSet, vdl: int) -> None:
        self.group = group
        self.epoch = epoch
        self.last = vdl
        self.fenced = False
        self.frontier = DurableFrontier(Lsn(vdl))
        self.frontier.add_group(group, members, Lsn(vdl))

    @property
    def members(self) -> QuorumSet:
        return self.frontier.members(self.group)

    def learn(self, members: QuorumSet) -> None:
        if members.epoch > self.members.epoch:
            self.frontier.change_members(self.group, members)


class Log:
    """One group's log: where each opening has cut it, and what was promised to clients."""

    def __init__(self) -> None:
        self.granted = 0
        self.opened = 0
        """The newest epoch whose writer got through with its opening."""
        self.acknowledged = 0
        self.writers: list[Writer] = []
        self.cut_at = {0: 0}
        self._parent: dict[int, int] = {}

    def cut(self, epoch: int, parent: int, vdl: int) -> None:
        self._parent[epoch], self.cut_at[epoch] = parent, vdl

    def _line(self, timeline: int) -> list[int]:
        """From this timeline back to the first."""
        found = [timeline]
        while found[-1]:
            found.append(self._parent[found[-1]])
        return found

    def counted(self, scl: int, timeline: int, in_timeline: int) -> int:
        """How much of a log of that timeline and length counts in another one."""
        other = self._line(in_timeline)
        own = self._line(timeline)
        if in_timeline in own:
            return scl  # ours is the newer one: it has cut before us
        common = next(each for each in own if each in other)
        mine = own[: own.index(common)]
        theirs = other[: other.index(common)]
        return min([scl, *(self.cut_at[each] for each in (*mine, *theirs))])


class Opening:
    """A writer between its promises and its timeline: everything may happen meanwhile."""

    def __init__(self, group: GroupId, epoch: int, members: QuorumSet) -> None:
        self.group = group
        self.epoch = epoch
        self.members = members
        self.promised: list[Segment] = []
        self.vdl = 0


class Cluster:
    """Stands for the storage nodes, the network, the clock and the observer at the same time."""

    def __init__(self, zones: Mapping[str, str], groups: int, dice: random.Random) -> None:
        self.now_s = 100.0
        self.dice = dice
        self.machines = {NodeId(n): Machine(Node(NodeId(n), az, f"{n}:1")) for n, az in zones.items()}
        self.logs = {GroupId(id): Log() for id in range(groups)}
        self.metadata = EmbeddedMetadata(Path(":memory:"))
        self.repairs: Repairs
        self.second: Repairs | None = None
        """Another control plane that believes to be the only one."""
        self.unreliable = 0.0
        """The chance that a request is lost, and that its answer is."""
        self.skipped = 0.0
        """The chance that a step of a plan is not carried out."""
        self.hidden_from_control: set[NodeId] = set()
        self.hidden_from: dict[int, set[NodeId]] = {}
        """By the epoch of a writer: nodes that it does not reach."""
        self._refusals = Refusals()
        self.openings: list[Opening] = []
        self.unheard: Collection[str] = ()
        self.late: list[tuple[str, Any]] = []
        self.steps: list[Step] = []
        """All that were ever planned."""

    async def start(self, unheard: Collection[str] = ()) -> None:
        """`unheard`: nodes that make their segments, and the control plane does not hear of it."""
        await self.metadata.put_nodes([machine.node for machine in self.machines.values()], [])
        await self.metadata.create_volume("main", 1 << 20)
        load: dict[NodeId, int] = {}
        for group in self.logs:
            members = place(await self.metadata.nodes(), load, set(self.machines))
            for member in members:
                load[member.node] = load.get(member.node, 0) + 1
            await self.metadata.add_group("main", group, LSN_ZERO, members)
        self.restart_control()
        self.look()
        self.unheard = unheard
        await self.create_missing()
        self.unheard = ()
        for group in self.logs:
            await self.open(group)

    # The control plane and what it asks

    def restart_control(self) -> None:
        for machine in self.machines.values():
            machine.seen = None
        self.repairs = self._repairs()

    def monotonic(self) -> float:
        return self.now_s

    def node_reports(self) -> dict[NodeId, Seen[NodeReport]]:
        seen = {id: machine.seen for id, machine in self.machines.items()}
        return {id: Seen(each[0], self.now_s - each[1]) for id, each in seen.items() if each is not None}

    def answering(self) -> frozenset[NodeId]:
        return frozenset(id for id, seen in self.node_reports().items() if answers(seen.ago_s))

    def look(self) -> None:
        for machine in self.machines.values():
            if machine.up and machine.node.id not in self.hidden_from_control:
                machine.seen = machine.report(), self.now_s
                self._refusals.look(machine.node.id, machine.report(), self.now_s)

    def _loses(self) -> bool:
        return self.dice.random() < self.unreliable

    def _arrives(self, node: NodeId, request: tuple[str, Any]) -> Machine:
        machine = self.machines[node]
        if not machine.up or node in self.hidden_from_control:
            raise PeerUnavailable(f"call {node}")
        if self._loses():
            self.late.append(request)
            raise DeadlineExceeded(f"call {node}")
        return machine

    def _answers(self, node: NodeId) -> None:
        if node in self.unheard or self._loses():
            raise DeadlineExceeded(f"call {node}")

    async def set_membership(
        self, volume: Volume, group: Group, member: Member, nodes: Mapping[NodeId, Node], promised: Epoch
    ) -> Joined:
        await asyncio.sleep(0)
        request = ("join", (member.node, group.id, self.members_of(group), promised))
        machine = self._arrives(member.node, request)
        segment = machine.segments.get(group.id)
        if segment is None:
            raise UnknownSegment(f"join pg{group.id} at {member.node}")
        joined = segment.join(self.members_of(group), promised)
        self._answers(member.node)
        return joined

    async def drop_segment(self, volume: VolumeId, group: Group, address: str) -> None:
        await asyncio.sleep(0)
        node = NodeId(address.partition(":")[0])
        request = ("drop", (node, group.id, group.membership_epoch))
        self._arrives(node, request).drop(group.id, group.membership_epoch)
        self._answers(node)

    async def create_missing(self) -> None:
        """What control_plane/volumes.py does with the plan."""
        for wanted in plan_segments(await self.metadata.volumes(), self.answering()):
            group, member = wanted.group, wanted.member
            request = ("create", (member.node, group.id, member.slot, self.members_of(group)))
            try:
                self._arrives(member.node, request).create(group.id, member.slot, self.members_of(group))
                self._answers(member.node)
            except (PeerUnavailable, DeadlineExceeded, StaleMembership):
                continue
            except SegmentFailed:
                self._refusals.note(member.node, self.now_s)
                continue
            await self.metadata.mark_created("main", group.id, member.slot, member.node)

    def deliver_a_late_one(self) -> None:
        """A request that somebody gave up long ago arrives."""
        if not self.late:
            return
        kind, about = self.late.pop(self.dice.randrange(len(self.late)))
        node, group, *rest = about
        machine = self.machines[node]
        segment = machine.segments.get(group)
        try:
            if not machine.up:
                return
            if kind == "join" and segment is not None:
                segment.join(*rest)
            elif kind == "drop":
                machine.drop(group, *rest)
            elif kind == "create":
                machine.create(group, *rest)
        except (StaleMembership, SegmentFailed):
            return

    async def round(self, seconds: float = ROUND_S) -> None:
        """What the supervisor does; some of it is not done."""
        self.now_s += seconds
        self.look()
        await self.create_missing()
        await self.repairs.act()

    async def two_at_once(self) -> None:
        """Another control plane, which has seen nothing yet, acts on the same metadata between our steps."""
        self.look()
        self.second = self.second or self._repairs()
        await asyncio.gather(self.repairs.act(), self.second.act())

    def _repairs(self) -> Repairs:
        itself = cast(Any, self)
        return Repairs(self.metadata, itself, itself, itself, PATIENCE, lambda *_: False)

    def refusing(self) -> frozenset[NodeId]:
        """What control_plane/observer.py says."""
        return self._refusals.current(self.now_s)

    def planned(self, volumes: Any, facts: Facts, patience: Patience) -> list[Step]:
        """In place of `plan_membership`: the plan is looked at, and its steps come in any order, if they come."""
        volumes = list(volumes)
        steps = plan_membership(volumes, facts, patience)
        self.steps += steps
        changes = [(s.volume.id, s.group.id) for s in steps if isinstance(s, Begin | Finish | Revert)]
        assert len(changes) == len(set(changes)), f"a group is changed twice in {steps}"
        for step in steps:
            self._check(step, facts)
        self.dice.shuffle(steps)
        return [step for step in steps if self.dice.random() >= self.skipped]

    def _check(self, step: Step, facts: Facts) -> None:
        match step:
            case Begin(_, group, slot, target):
                holds = next((member for member in group.members if member.node == target), None)
                assert holds is None or holds.slot == slot, f"{target} would hold two segments"
                wanted = next(node for node in facts.nodes if node.id == target)
                assert not wanted.draining
                assert facts.silent_s[target] <= PATIENCE.unreachable_s
            case Finish(volume, group, replacement, promised):
                fence = facts.fences[volume.id, group.id]
                segment = facts.reports[volume.id, group.id, replacement.node]
                assert fence.enough and fence.epoch == group.membership_epoch
                assert segment.scl >= fence.scl, "the mark is not reached"
                assert promised == fence.promised

    # Machines

    def members_of(self, group: Group) -> QuorumSet:
        nodes = {id: machine.node for id, machine in self.machines.items()}
        members = tuple(
            quorum_set.Member(
                each.slot, each.node, nodes[each.node].address, nodes[each.node].az, each.filling
            )
            for each in group.members
        )
        return QuorumSet(group.membership_epoch, members)

    async def groups(self) -> tuple[Group, ...]:
        return (await self.metadata.volume("main")).groups

    def segment(self, node: NodeId | str, group: GroupId) -> Segment | None:
        return self.machines[NodeId(node)].segments.get(group)

    def reach(self, node: NodeId | str, group: GroupId) -> Segment | None:
        machine = self.machines[NodeId(node)]
        segment = machine.segments.get(group) if machine.up else None
        return segment if segment is not None and not segment.failed else None

    async def add(self, name: str, az: str) -> None:
        """The operator adds a storage node."""
        node = Node(NodeId(name), az, f"{name}:1")
        self.machines[node.id] = Machine(node)
        await self.metadata.put_nodes([node], [])

    async def can_spare(self, node: NodeId) -> bool:
        """Are three left of each group that vote, without this one?"""
        return all(
            sum(
                voter.node != node and (s := self.segment(voter.node, group.id)) is not None and not s.failed
                for voter in group.voters
            )
            >= READ_QUORUM
            for group in await self.groups()
        )

    def gossip(self, chance: float = 1.0) -> None:
        """Each segment takes what one of its peers has."""
        for machine in self.machines.values():
            for group in list(machine.segments):
                own = self.reach(machine.node.id, group)
                if own is None or own.state == "removed" or (machine.cramped and own.state == "filling"):
                    continue
                if self.dice.random() < chance:
                    self._take_from_some_peer(own, group)

    def _take_from_some_peer(self, own: Segment, group: GroupId) -> None:
        peers = [member.node for member in own.members.members if member.node != own.node]
        other = self.reach(self.dice.choice(peers), group)
        if other is None or other.state == "removed":
            return
        if other.members.epoch > own.members.epoch:
            own.members = other.members
            if own.state == "removed":
                return
        if other.timeline > own.timeline:
            self._adopt(own, group, other.timeline)
        if other.timeline == own.timeline:
            own.scl = max(own.scl, other.scl)

    def _adopt(self, segment: Segment, group: GroupId, timeline: int) -> None:
        segment.scl = self.logs[group].counted(segment.scl, segment.timeline, timeline)
        segment.timeline = timeline
        segment.promised = max(segment.promised, timeline)

    # Writers

    async def open(self, group: GroupId) -> None:
        opening = await self.begin_opening(group)
        if opening is not None:
            self.go_on_opening(opening)

    async def begin_opening(self, group: GroupId) -> Opening | None:
        """An epoch, promises, and where the log ends (db_instance/volume_driver/opening.py)."""
        log = self.logs[group]
        log.granted += 1
        opening = Opening(group, log.granted, self.members_of((await self.groups())[group]))
        tails: dict[int, Segment] = {}
        for segment in self._asked(opening):
            segment.promised = opening.epoch
            opening.promised.append(segment)
            if segment.state != "filling":
                tails[segment.slot] = segment
        if not self._is_current(opening) or len(tails) < READ_QUORUM:
            return None
        if opening.members.count({segment.node for segment in opening.promised}) < READ_QUORUM:
            return None
        parent = max(segment.timeline for segment in tails.values())
        opening.vdl = max(log.counted(tail.scl, tail.timeline, parent) for tail in tails.values())
        assert opening.vdl >= log.acknowledged, (
            f"pg{group}: epoch {opening.epoch} finds {opening.vdl}, {log.acknowledged} was acknowledged"
        )
        log.cut(opening.epoch, parent, opening.vdl)
        return opening

    def go_on_opening(self, opening: Opening) -> None:
        """The timeline at four, and the log complete there. Broken off, it leaves what it has installed."""
        log, group = self.logs[opening.group], opening.group
        installed = {}
        for segment in self._asked(opening):
            if segment in opening.promised:
                self._adopt(segment, group, opening.epoch)
                installed[segment.node] = segment
        if not self._is_current(opening) or opening.members.count(set(installed)) < WRITE_QUORUM:
            return
        if any(segment.scl >= opening.vdl for segment in installed.values()):
            for segment in installed.values():
                segment.scl = opening.vdl
        scl = {node: Lsn(segment.scl) for node, segment in installed.items()}
        if opening.members.complete_lsn(scl) < opening.vdl:
            return
        assert opening.epoch > log.opened
        assert opening.vdl >= log.acknowledged, (
            f"pg{group}: something was acknowledged after three had promised epoch {opening.epoch}"
        )
        log.opened, log.acknowledged = opening.epoch, opening.vdl
        writer = Writer(group, opening.epoch, opening.members, opening.vdl)
        for node, lsn in scl.items():
            writer.frontier.on_acknowledged(group, node, lsn)
        log.writers.append(writer)

    def reach_from(self, epoch: int, node: str, group: GroupId) -> Segment | None:
        """What a writer reaches."""
        return None if node in self.hidden_from.get(epoch, ()) else self.reach(node, group)

    def _asked(self, opening: Opening) -> Iterator[Segment]:
        """Those that the opening gets through to; none refuses it."""
        for member in opening.members.members:
            segment = self.reach_from(opening.epoch, member.node, opening.group)
            if segment is None or segment.state == "removed" or self._loses():
                continue
            if segment.members.epoch <= opening.members.epoch and segment.promised <= opening.epoch:
                yield segment

    def _is_current(self, opening: Opening) -> bool:
        """Nobody whom it asked knows newer members, or a newer writer: it would have been told."""
        for member in opening.members.members:
            segment = self.reach_from(opening.epoch, member.node, opening.group)
            if segment is not None and (
                segment.members.epoch > opening.members.epoch or segment.promised > opening.epoch
            ):
                return False
        return True

    def write(self, writer: Writer) -> None:
        """One more record, and what is not acknowledged of those before."""
        if writer.fenced:
            return
        log = self.logs[writer.group]
        writer.last += 1
        end = Lsn(writer.last)
        writer.frontier.on_sealed(Round(end, end, ((writer.group, end),), 1))
        retained_from = writer.frontier.pgcl(writer.group)
        for member in writer.members.members:
            self._send(writer, member.node, retained_from)
        if writer.epoch == log.opened:
            log.acknowledged = max(log.acknowledged, writer.frontier.vdl)

    def _send(self, writer: Writer, node: str, retained_from: Lsn) -> None:
        segment = self.reach_from(writer.epoch, node, writer.group)
        if segment is None or self._loses():
            return
        if segment.members.epoch > writer.members.epoch:
            if not self._loses():
                writer.learn(segment.members)
            return
        if segment.state == "removed":
            return
        if segment.promised > writer.epoch:
            writer.fenced = True
            return
        segment.promised = writer.epoch
        if segment.timeline < writer.epoch:
            self._adopt(segment, writer.group, writer.epoch)
        if segment.scl >= retained_from:
            segment.scl = writer.last  # it is sent all that no quorum had
        if not self._loses():
            writer.frontier.on_acknowledged(writer.group, node, Lsn(segment.scl))

    # What always holds

    async def check(self) -> None:
        for group in await self.groups():
            log = self.logs[group.id]
            members = self.members_of(group)
            assert quorum_set.problem_with(members.members) == ""
            voters = [s for m in members.voters if (s := self.segment(m.node, group.id)) is not None]
            short = [s.node for s in voters if log.counted(s.scl, s.timeline, log.opened) < log.acknowledged]
            assert len(short) < READ_QUORUM, f"pg{group.id}: three lack what was acknowledged: {short}"
            open_to_older = [s.node for s in voters if s.promised < log.opened]
            assert len(open_to_older) < READ_QUORUM, f"pg{group.id}: {open_to_older} know no newer writer"
            for writer in log.writers:
                newer = [log.cut_at[other.epoch] for other in log.writers if other.epoch > writer.epoch]
                assert writer.frontier.vdl <= min(newer, default=writer.last), (
                    f"pg{group.id}: the writer of epoch {writer.epoch} went on after a newer one"
                )

    async def is_well(self) -> bool:
        """Six of each group vote, know it, and have everything; each in the timeline of the newest writer."""
        for group in await self.groups():
            log = self.logs[group.id]
            if group.replacements or len(group.voters) < 6:
                return False
            for voter in group.voters:
                segment = self.reach(voter.node, group.id)
                if segment is None or segment.state != "ok" or segment.scl < log.acknowledged:
                    return False
                if segment.members.epoch != group.membership_epoch:
                    return False
        return True

    async def until_well(self, rounds: int = 200) -> None:
        """Everything works from now on."""
        self.unreliable = self.skipped = 0.0
        self.hidden_from, self.hidden_from_control = {}, set()
        for _ in range(rounds):
            await self.round()
            for group, log in self.logs.items():
                if not log.writers or log.writers[-1].fenced or log.writers[-1].epoch < log.granted:
                    await self.open(group)
                if log.writers:
                    self.write(log.writers[-1])
            self.gossip()
            await self.check()
            if await self.is_well() and not await self._is_crowded():
                return
        last = [type(step).__name__ for step in self.steps[-3:]]
        raise AssertionError(f"not well after {rounds} rounds: {await self.describe()}, {last}")

    async def _is_crowded(self) -> bool:
        """Are more than two of a group in a zone, though another zone has room?"""
        return any(count > 2 for zones in await self.zones() for count in zones.values())

    async def zones(self) -> list[dict[str, int]]:
        """By group: how many vote in each zone."""
        found = []
        for group in await self.groups():
            azs = [self.machines[voter.node].node.az for voter in group.voters]
            found.append({az: azs.count(az) for az in sorted(set(azs))})
        return found

    async def describe(self) -> list[str]:
        """As in tests/unit/volume/quorum_model.py."""
        found = []
        for group in await self.groups():
            slots = []
            for slot in range(6):
                vote, fills = group.voter_of(slot), [m.node for m in group.replacements if m.slot == slot]
                slots.append("+".join([vote.node if vote else "", *fills]))
            found.append(" ".join(slots))
        return found
