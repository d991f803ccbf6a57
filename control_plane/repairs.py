"""Carries out membership changes: looks, asks the plan (cluster/membership.py), does its steps.

Only the fences and how long something has been bad are remembered here, and both are found out again after
a restart; what has been decided is in the metadata before anybody is told.
"""

import asyncio
import math
from collections.abc import Callable, Collection, Coroutine, Sequence
from typing import Any, Final

from control_plane.agents import Agents
from control_plane.cluster.health import SUSPECT_AFTER_S, answers
from control_plane.cluster.membership import (
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
from control_plane.cluster.model import Group, Member, Node, NodeId, SegmentReport, Volume
from control_plane.metadata.interface import Metadata
from control_plane.observer import Observer
from runtime.clock import Clock
from runtime.events import get_logger
from volume.errors import VolumeError
from volume.ids import Epoch, GroupId, Lsn, VolumeId

events = get_logger("control.repairs")

_STEPS_AT_ONCE: Final = 64

_ASLEEP_S: Final = 20.0
"""A control plane that has gone no round for so long, longer than all its timeouts in a row, was paused itself and heard
nobody for that reason."""


class Repairs:
    def __init__(
        self,
        metadata: Metadata,
        agents: Agents,
        observer: Observer,
        clock: Clock,
        patience: Patience,
        is_asking: Callable[[VolumeId, GroupId, NodeId], bool],
    ) -> None:
        """`is_asking`: is the node being asked to make a segment of that group?"""
        self._metadata = metadata
        self._agents = agents
        self._observer = observer
        self._clock = clock
        self._patience = patience
        self._is_asking = is_asking
        self._watching_since_s = self._acted_s = clock.monotonic()
        self._bad_since_s: dict[Key, float] = {}
        self._fences: dict[tuple[VolumeId, GroupId], Fence] = {}

    async def act(self) -> None:
        """One round. What cannot be done now is found again by the next one."""
        volumes, nodes = await self._metadata.volumes(), await self._metadata.nodes()
        facts = self._facts(volumes, nodes)
        if await self._note_created(volumes, facts):
            volumes = await self._metadata.volumes()
        steps = plan_membership(volumes, facts, self._patience)
        by_id = {node.id: node for node in nodes}
        await asyncio.gather(*(self._try(self._do(step, by_id), step) for step in steps[:_STEPS_AT_ONCE]))

    def _facts(self, volumes: Sequence[Volume], nodes: Sequence[Node]) -> Facts:
        now = self._clock.monotonic()
        if now - self._acted_s > _ASLEEP_S:
            self._watching_since_s = now
        self._acted_s = now
        seen = self._observer.node_reports()
        silent_s = {
            node.id: self._silent_s(seen[node.id].ago_s if node.id in seen else None, now) for node in nodes
        }
        reports: dict[Key, SegmentReport] = {
            (report.volume, report.id.group, node): report
            for node, one in seen.items()
            for report in one.report.segments
        }
        self._note_bad(volumes, reports, now)
        unfit = [node.id for node in nodes if node.id not in seen or seen[node.id].report.failed]
        refusing = self._observer.refusing()
        return Facts(now, nodes, silent_s, reports, self._bad_since_s, self._fences, unfit, refusing)

    def _silent_s(self, ago_s: float | None, now: float) -> float:
        """A silence counts while we listened; but who has not answered lately does not answer."""
        listened_s = now - self._watching_since_s
        if ago_s is None or answers(ago_s):
            return listened_s if ago_s is None else ago_s
        return min(ago_s, max(listened_s, math.nextafter(SUSPECT_AFTER_S, math.inf)))

    def _note_bad(self, volumes: Sequence[Volume], reports: dict[Key, SegmentReport], now: float) -> None:
        """Since when a node that answers has not had a segment that it should have."""
        seen = self._observer.node_reports()
        bad: dict[Key, float] = {}
        for volume in volumes:
            for group in volume.groups:
                for member in group.members:
                    key = (volume.id, group.id, member.node)
                    report = reports.get(key)
                    bad_now = (
                        report.state.startswith("failed")
                        if report is not None
                        else not self._may_come(group, member, key)
                    )
                    answered = member.node in seen and answers(seen[member.node].ago_s)
                    if bad_now and answered:
                        bad[key] = self._bad_since_s.get(key, now - seen[member.node].ago_s)
        self._bad_since_s = bad

    def _may_come(self, group: Group, member: Member, key: Key) -> bool:
        """Will a segment that is missing be there as soon as its node has been asked for it?"""
        if self._is_asking(*key):
            return True
        return group.may_be_made(member) and (member.filling or member.node not in self._observer.refusing())

    async def _note_created(self, volumes: Sequence[Volume], facts: Facts) -> bool:
        """A segment with a vote whose making nobody heard of is there, says its node. Was there any?"""
        found = [
            (volume, group, voter)
            for volume in volumes
            for group in volume.groups
            for voter in group.voters
            if not voter.created
            and (report := facts.reports.get((volume.id, group.id, voter.node))) is not None
            and report.id.slot == voter.slot
        ]
        for volume, group, voter in found:
            await self._metadata.mark_created(volume.name, group.id, voter.slot, voter.node)
        return bool(found)

    async def _try(self, work: Coroutine[Any, Any, None], step: Step) -> None:
        try:
            await work
        except VolumeError as error:
            events.info(
                "membership.step_failed",
                step=type(step).__name__,
                group=step.group.id,
                reason=f"{type(error).__name__}: {error}",
            )

    async def _do(self, step: Step, nodes: dict[NodeId, Node]) -> None:
        match step:
            case Begin():
                await self._begin(step)
            case Tell():
                await self._tell(step.volume, step.group, nodes, step.awaited)
            case Finish():
                await self._finish(step, nodes)
            case Revert():
                await self._revert(step)
            case Drop():
                await self._agents.drop_segment(step.volume.id, step.group, nodes[step.node].address)
            case EndLoss():
                await self._metadata.end_loss(step.volume.name, step.group.id)
                events.info("group.read_quorum_again", volume=step.volume.name, group=step.group.id)

    async def _begin(self, step: Begin) -> None:
        volume, group = step.volume, step.group
        await self._metadata.begin_change(
            volume.name, group.id, group.membership_epoch, step.slot, step.target, step.reason
        )
        self._bad_since_s.pop((volume.id, group.id, step.target), None)
        events.info(
            f"{step.reason}.begun",
            volume=volume.name,
            group=group.id,
            slot=step.slot,
            target=step.target,
            membership=group.membership_epoch + 1,
            why=step.why,
        )

    async def _tell(
        self, volume: Volume, group: Group, nodes: dict[NodeId, Node], awaited: Collection[NodeId]
    ) -> None:
        """All members that answer learn the epoch; what they have then is the mark of the replacements."""
        told: dict[NodeId, tuple[Lsn, Epoch, Epoch]] = {}

        async def tell(member: Member) -> None:
            try:
                joined = await self._agents.set_membership(volume, group, member, nodes, Epoch(0))
            except VolumeError:
                return  # away, or without the segment: the others may be enough
            told[member.node] = (joined.scl, joined.timeline_epoch, joined.promised)

        answering = self._observer.answering()
        await asyncio.gather(*(tell(member) for member in group.members if member.node in answering))
        key = (volume.id, group.id)
        self._fences[key] = fence_of(group, told, self._fences.get(key), self._clock.monotonic(), awaited)

    async def _finish(self, step: Finish, nodes: dict[NodeId, Node]) -> None:
        volume, group, new = step.volume, step.group, step.replacement
        # It keeps the promises that the group has given, before it has a vote.
        await self._agents.set_membership(volume, group, new, nodes, step.promised)
        after = await self._metadata.end_change(
            volume.name, group.id, group.membership_epoch, new.slot, keep_new=True
        )
        events.info(f"{new.reason}.done", volume=volume.name, group=group.id, slot=new.slot, node=new.node)
        await self._tell(after, after.groups[group.id], nodes, step.awaited)

    async def _revert(self, step: Revert) -> None:
        volume, group, new = step.volume, step.group, step.replacement
        await self._metadata.end_change(
            volume.name, group.id, group.membership_epoch, new.slot, keep_new=False
        )
        events.info(
            f"{new.reason}.cancelled", volume=volume.name, group=group.id, slot=new.slot, why=step.why
        )
