"""Volumes and their groups: who may write, and where the segments are.

What is promised is in the metadata before it is answered. Everything here may be repeated, and may
be cut off between any two lines: the supervisor finishes what was begun.
"""

import asyncio
from typing import Final

from control_plane.agents import Agents
from control_plane.cluster.model import MAIN_VOLUME, Member, Node, NodeId, Volume
from control_plane.cluster.placement import place
from control_plane.cluster.reconcile import CreateSegment, plan_segments
from control_plane.metadata.interface import Metadata
from control_plane.observer import Observer
from runtime.clock import Clock
from runtime.events import get_logger
from volume.errors import InvalidRequest, QuorumLost, SegmentFailed, StaleEpoch, VolumeError
from volume.ids import LSN_ZERO, Epoch, GroupId, Lsn, VolumeId
from volume.limits import LEASE_S
from volume.quorum import COPIES, WRITE_QUORUM

events = get_logger("control.volumes")

SLOW_NODE_S: Final = 0.2
"""How much longer than its write quorum a new group waits for the rest of its nodes to answer."""

FIRST_NODES_S: Final = 10.0
"""How long after its start the control plane waits for six nodes to answer before it makes the first group: with
fewer it begins with copies missing, which are filled later as lost ones are."""

CREATE_AT_ONCE_MAX: Final = 64
"""Segments that the supervisor asks for in one round; a node that was away long may lack hundreds."""


class Volumes:
    def __init__(self, metadata: Metadata, agents: Agents, observer: Observer, clock: Clock) -> None:
        self._metadata = metadata
        self._agents = agents
        self._observer = observer
        self._clock = clock
        self._leases: dict[VolumeId, float] = {}
        self._started_s = clock.monotonic()
        self._creating: dict[tuple[VolumeId, GroupId, Member], asyncio.Task[bool]] = {}

    async def open(self, name: str, instance: str, expected: Epoch) -> Volume:
        """Grant a new epoch. Nothing is granted while a group has too few segments to be written."""
        if not instance:
            raise InvalidRequest(f"open volume {name}: the request names no instance")
        volume = await self._metadata.volume(name)
        if not volume.groups:
            raise QuorumLost(f"open volume {name}: its first group has not been placed yet")
        for group in volume.groups:
            await self._ensure_created(name, group.id)
        granted = await self._metadata.grant_epoch(name, expected, instance)
        events.info("epoch.granted", volume=name, epoch=granted.epoch, writer=instance)
        return granted

    async def confirm(self, name: str, epoch: Epoch) -> Volume:
        """The volume, if no newer epoch than the asking writer's is granted: it may read on for a lease."""
        volume = await self._metadata.volume(name)
        if epoch and epoch < volume.epoch:
            raise StaleEpoch(f"confirm epoch {epoch} of {name}: {volume.epoch} is granted to {volume.writer}")
        if epoch:
            self._leases[volume.id] = self._clock.monotonic() + LEASE_S
        return volume

    def lease_left_s(self, volume: VolumeId) -> float:
        """For how long a writer may still rely on what it was confirmed. After a start: nobody remembers."""
        until_s = self._leases.get(volume, self._started_s + LEASE_S)
        return max(0.0, until_s - self._clock.monotonic())

    async def add_group(self, name: str, group: GroupId, epoch: Epoch, born_lsn: Lsn) -> Volume:
        """The volume with that group in it, made if need be, at a write quorum of its nodes."""
        volume = await self._metadata.volume(name)
        if epoch < volume.epoch:
            raise StaleEpoch(f"add group {group} to {name} in epoch {epoch}: now in {volume.epoch}")
        if epoch > volume.epoch:
            raise InvalidRequest(f"add group {group} to {name} in epoch {epoch}: only {volume.epoch} granted")
        if group >= len(volume.groups):
            await self._place(volume, group, born_lsn)
        return await self._ensure_created(name, group)

    async def create_main(self, segment_size: int) -> None:
        """The volume a cluster begins with, once there are nodes enough for its first group."""
        if any(volume.name == MAIN_VOLUME and volume.groups for volume in await self._metadata.volumes()):
            return
        volume = await self._metadata.create_volume(MAIN_VOLUME, segment_size)
        soon = self._clock.monotonic() - self._started_s < FIRST_NODES_S
        if soon and len(self._observer.answering()) < COPIES:
            return
        if not volume.groups:
            await self._place(volume, GroupId(0), LSN_ZERO)
            await self.create_missing()

    async def create_missing(self) -> None:
        """Ask again for every segment that nobody has confirmed, where the node answers."""
        plan = plan_segments(await self._metadata.volumes(), self._observer.answering())
        await self._create(plan[:CREATE_AT_ONCE_MAX], enough=0)

    def is_asking(self, volume: VolumeId, group: GroupId, node: NodeId) -> bool:
        """Is the node being asked for a segment of this group? Then it may have it at any moment."""
        return any((volume, group, node) == (v, g, member.node) for v, g, member in self._creating)

    async def _place(self, volume: Volume, group: GroupId, born_lsn: Lsn) -> None:
        load: dict[NodeId, int] = {}
        for other in await self._metadata.volumes():
            for member in (member for each in other.groups for member in each.members):
                load[member.node] = load.get(member.node, 0) + 1
        members = place(await self._metadata.nodes(), load, self._observer.fit() - self._observer.refusing())
        await self._metadata.add_group(volume.name, group, born_lsn, members)
        events.info(
            "group.placed", volume=volume.name, group=group, nodes=" ".join(member.node for member in members)
        )

    async def _ensure_created(self, name: str, group: GroupId) -> Volume:
        """Create what is missing of a group below its write quorum; raises QuorumLost if that is not enough."""
        volume = await self._metadata.volume(name)
        found = volume.groups[group]
        if found.created_count < WRITE_QUORUM:
            missing = [
                CreateSegment(volume, found, member) for member in found.voters if found.may_be_made(member)
            ]
            await self._create(missing, enough=WRITE_QUORUM - found.created_count)
            volume = await self._metadata.volume(name)
        count = volume.groups[group].created_count
        if count < WRITE_QUORUM:
            raise QuorumLost(
                f"create group {group} of {name}: {count} of {COPIES} segments made, {WRITE_QUORUM} needed"
            )
        return volume

    async def _create(self, plan: list[CreateSegment], enough: int) -> None:
        """Ask for all of them; returns soon after `enough` were made, while slow nodes are still waited for."""
        if not plan:
            return
        nodes = {node.id: node for node in await self._metadata.nodes()}
        waiting = {self._begin(wanted, nodes) for wanted in plan}
        made = 0
        while waiting:
            patience_s = SLOW_NODE_S if made >= enough else None  # each of them has its own deadline
            done, waiting = await asyncio.wait(
                waiting, timeout=patience_s, return_when=asyncio.FIRST_COMPLETED
            )
            made += sum(task.result() for task in done)
            if not done:
                return

    def _begin(self, wanted: CreateSegment, nodes: dict[NodeId, Node]) -> asyncio.Task[bool]:
        """Ask a node, unless it is being asked for the same already."""
        key = wanted.volume.id, wanted.group.id, wanted.member
        if key not in self._creating:
            task = self._creating[key] = asyncio.create_task(self._create_one(wanted, nodes))
            task.add_done_callback(lambda _: self._creating.pop(key))
        return self._creating[key]

    async def close(self) -> None:
        tasks = list(self._creating.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _create_one(self, wanted: CreateSegment, nodes: dict[NodeId, Node]) -> bool:
        """Whether the node has confirmed it."""
        volume, group, member = wanted.volume, wanted.group, wanted.member
        try:
            await self._agents.create_segment(volume, group, member, nodes)
            await self._metadata.mark_created(volume.name, group.id, member.slot, member.node)
        except VolumeError as error:
            if isinstance(error, SegmentFailed):
                self._observer.note_refusal(member.node)
            events.warning(
                "segment.not_created",
                node=member.node,
                group=group.id,
                slot=member.slot,
                reason=f"{type(error).__name__}: {error}",
            )
            return False
        self._observer.forget_refusal(member.node)
        events.info("segment.created", node=member.node, group=group.id, slot=member.slot)
        return True
