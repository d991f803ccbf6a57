"""The volume driver: takes a commit's changes, gives pages back, and knows what is durable.

It owns the loop around the pure parts: batcher (LSNs, frames), durable_frontier (VDL) and read_plan.
A round of frames is sealed at once when none is in flight; while one is, commits gather for the next
(group commit), so a lone client waits for nothing and a busy instance sends large frames.
"""

import asyncio
import heapq
import random
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, NamedTuple

from db_instance.volume_driver.batcher import Batcher, Change, Frame
from db_instance.volume_driver.bulk_pace import BulkPace
from db_instance.volume_driver.control_client import ControlClient, VolumeLayout
from db_instance.volume_driver.durable_frontier import DurableFrontier, Round
from db_instance.volume_driver.lease_keeper import LeaseKeeper
from db_instance.volume_driver.node_client import NodeClient, parcels_of
from db_instance.volume_driver.opening import Opened
from db_instance.volume_driver.page_reads import PageReads
from db_instance.volume_driver.segment_calls import SegmentCalls
from runtime.clock import Clock
from runtime.events import get_logger
from runtime.metrics import Durations
from runtime.transport import Transport
from volume.errors import (
    OutcomeUnknown,
    StaleEpoch,
    StaleMembership,
    TransactionTooLarge,
    VolumeBusy,
)
from volume.ids import GroupId, Lsn, PageNumber
from volume.limits import KIB, MIB
from volume.quorum_set import Member, QuorumSet

events = get_logger("volume_driver.driver")

_PIPELINE_BYTES: Final = 512 * KIB
"""Gathered records that are sealed even though a round is in flight: a bulk load keeps the nodes busy."""

_GATHER_S: Final = 0.01
"""How long a round waits at most for the commits that are known to come: those of sessions that hold the
write lock, or wait for it. It waits until as many have gathered as are still to come: while sessions stand
in line for the lock, nothing is gained by answering one of them sooner. A lone client's commit waits for
nothing."""

_ROUNDS_IN_FLIGHT_MAX: Final = 64
_WATCH_S: Final = 0.1


class NodeSeen(NamedTuple):
    node: str
    connected: bool
    read_us: int
    """0: not asked lately."""
    behind: int
    """LSNs that its furthest-back segment lacks of what a write quorum has."""
    lost_log: bool
    """It came back without log that it had acknowledged: its disk does not keep what it has synced."""


@dataclass(frozen=True, slots=True)
class DriverSettings:
    az: str
    commit_timeout_s: float = 30.0
    """How long a commit waits for four of six before its client hears that the outcome is unknown."""
    read_timeout_s: float = 30.0
    unacknowledged_bytes_max: int = 32 * MIB
    """Back-pressure: log that is not yet at the VCL. Commits wait beyond it."""


class VolumeDriver:
    def __init__(
        self,
        opened: Opened,
        control: ControlClient,
        transport: Transport,
        clock: Clock,
        dice: random.Random,
        settings: DriverSettings,
    ) -> None:
        layout, recovered = opened.layout, opened.recovered
        self.volume = layout.volume
        self.epoch = layout.epoch
        self.timeline = recovered.timeline
        self.writable = opened.writable
        self.fenced: asyncio.Future[StaleEpoch] = asyncio.get_running_loop().create_future()
        self.on_vdl: Callable[[Lsn], None] = lambda _vdl: None
        self.lowest_read_point: Callable[[], Lsn] = lambda: self.vdl
        self.more_to_come: Callable[[], int] = lambda: 0
        """How many commits are about to be made? A round may wait for them, for a moment."""
        self.commit_times = Durations()
        self.nodes: dict[str, NodeClient] = {}
        self.bulk_pace = BulkPace(self.nodes, clock)
        self._control = control
        self._transport = transport
        self._clock = clock
        self._dice = dice
        self._settings = settings
        self._calls = SegmentCalls(transport, layout.volume, layout.epoch)
        self._calls.timeline_epochs = opened.timeline_epochs
        self.lease = LeaseKeeper(self, control, clock, settings.read_timeout_s)
        self.membership_version = 0
        self._frontier = DurableFrontier(recovered.vdl)
        self._batcher = Batcher(
            layout.volume, layout.epoch, layout.geometry, recovered.next_lsn, recovered.vdl
        )
        self._geometry = layout.geometry
        self.reads = PageReads(
            self._calls, clock, dice, self._frontier, self.nodes, settings, opened.writable
        )
        self._waiting: list[tuple[Lsn, int, asyncio.Future[None], float]] = []
        self._waiting_count = 0
        self._progress = asyncio.Event()
        self._last_progress = clock.monotonic()
        self._seal_scheduled = False
        self._gathering: asyncio.TimerHandle | None = None
        self._gathered = False
        """The next round has waited for its commits, and waits no more."""
        self._commits_gathered = 0
        self._growing: asyncio.Future[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._started = False
        for group in layout.groups:
            self._add_group(layout, group, recovered.group_ends[group])
            for node, scl in opened.scl.get(group, {}).items():
                self._frontier.on_acknowledged(group, node, scl)

    # What the rest of the instance asks

    @property
    def vdl(self) -> Lsn:
        return self._frontier.vdl

    @property
    def vcl(self) -> Lsn:
        return self._frontier.vcl

    @property
    def last_lsn(self) -> Lsn:
        return self._batcher.last_lsn

    @property
    def read_floor(self) -> Lsn:
        """PGMRPL as far as this instance knows: storage keeps what a read at or above it needs."""
        return min(self.lowest_read_point(), self.vdl)

    @property
    def unacknowledged_bytes(self) -> int:
        return self._batcher.pending_bytes + self._batcher.retained_bytes

    @property
    def stalled_s(self) -> float:
        """How long something has waited for its quorum without any progress; zero when nothing waits."""
        if self._frontier.vcl >= self._batcher.last_lsn:
            return 0.0
        return self._clock.monotonic() - self._last_progress

    def group_scl(self) -> dict[GroupId, dict[str, Lsn]]:
        return {group: self._frontier.scl(group) for group in self._frontier.groups}

    def nodes_seen(self) -> list[NodeSeen]:
        """Each storage node as we see it."""
        behind = dict.fromkeys(self.nodes, 0)
        for group in self._frontier.groups:
            for node, scl in self._frontier.scl(group).items():
                behind[node] = max(behind.get(node, 0), self._frontier.pgcl(group) - scl)
        return [
            NodeSeen(node, client.connected, self.reads.recent_us(node), behind[node], client.lost_log)
            for node, client in self.nodes.items()
        ]

    def members(self, group: GroupId) -> QuorumSet:
        return self._frontier.members(group)

    def start(self) -> None:
        """Connect to every node and watch over the waits."""
        self._started = True
        if self.writable:
            for client in self.nodes.values():
                client.task = self.spawn(client.run())
        self.spawn(self._watch())
        self.spawn(self.lease.watch())

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._calls.close()
        for _, _, future, _ in self._waiting:
            if not future.done():
                future.set_exception(OutcomeUnknown("the instance stops before the commit is acknowledged"))
                future.exception()
        self._waiting = []

    def spawn(self, work: Awaitable[None]) -> asyncio.Task[None]:
        task = asyncio.ensure_future(work)
        assert isinstance(task, asyncio.Task)
        self._tasks.add(task)
        task.add_done_callback(self._on_ended)
        return task

    def _on_ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            events.error("driver.bug", exc_info=error)
            if not self.fenced.done():
                # Half a driver is worse than none: the instance ends, and starts anew.
                self.fenced.set_exception(error)

    # The lease

    def now_us(self) -> int:
        return int(1e6 * self._clock.monotonic())

    def on_confirmed(self, node: str, sent_us: int) -> None:
        self.lease.on_confirmed(node, sent_us, self._frontier.members(GroupId(0)))

    def on_stale_members(self) -> None:
        self.lease.ask_control()

    def on_granted(self, layout: VolumeLayout) -> None:
        """The control plane tells who the members are, too."""
        for group, members in layout.groups.items():
            self.on_members(group, members)

    def ask_nodes(self) -> None:
        for client in self.nodes.values():
            client.wake(beat=True)

    # The write path

    def check_room(self, records: int) -> None:
        """May so many be appended one after the other, whatever becomes durable meanwhile? Raises TransactionTooLarge."""
        left = self._batcher.room(self._frontier.vdl)
        if records > left:
            raise TransactionTooLarge(f"allocate {records} LSNs: {left} are left above VDL {self.vdl}")

    def append(self, changes: list[Change]) -> Lsn:
        """Number the changes and let them gather; they are on their way when this returns."""
        if self._frontier.vcl >= self._batcher.last_lsn:
            self._last_progress = self._clock.monotonic()  # nothing has waited until now
        self._commits_gathered += 1
        lsn = self._batcher.add(changes, self._frontier.vdl)
        if not self._seal_scheduled:
            self._seal_scheduled = True
            asyncio.get_running_loop().call_soon(self._seal_soon)
        return lsn

    def _seal_soon(self) -> None:
        self._seal_scheduled = False
        self._seal_if_due()

    def _seal_if_due(self) -> None:
        in_flight = self._frontier.in_flight
        much = self._batcher.pending_bytes >= _PIPELINE_BYTES
        if in_flight and (not much or in_flight >= _ROUNDS_IN_FLIGHT_MAX):
            return
        if not much and self._batcher.pending_bytes and self._gathers():
            return
        self._gathered = False
        self._commits_gathered = 0
        sealed = self._batcher.seal(self._frontier.vdl)
        if sealed is None:
            return
        round_, frames = sealed
        self._frontier.on_sealed(round_)
        for parcel in parcels_of(frames):
            for client in self.nodes.values():
                client.offer(parcel)

    def _gathers(self) -> bool:
        """Should the round wait a moment longer? If so, it is looked at again when that is over."""
        if self._gathered or self.more_to_come() <= self._commits_gathered:
            return False
        if self._gathering is None:
            self._gathering = asyncio.get_running_loop().call_later(_GATHER_S, self._on_gathered)
        return True

    def _on_gathered(self) -> None:
        self._gathering = None
        self._gathered = True
        self._seal_if_due()

    @property
    def has_round(self) -> bool:
        """Is one on its way, or about to be?"""
        return self._frontier.in_flight > 0 or self._batcher.pending_bytes > 0

    async def until_round_is_over(self) -> None:
        """Return when the round that is on its way has come to its end; soon, if that does not."""
        if self._frontier.in_flight:
            self._progress.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(_GATHER_S):
                    await self._progress.wait()

    async def wait_for_room(self) -> None:
        """Back-pressure, before anything is written. Raises VolumeBusy when storage lacks a quorum for long."""
        limit = self._settings.unacknowledged_bytes_max
        deadline = self._clock.monotonic() + self._settings.commit_timeout_s
        while self.unacknowledged_bytes > limit or self.stalled_s > self._settings.commit_timeout_s:
            left = deadline - self._clock.monotonic()
            if left <= 0:
                raise VolumeBusy(
                    f"write: storage has not acknowledged for {self.stalled_s:.0f} s: {self._shortage()}"
                )
            self._progress.clear()
            try:
                async with asyncio.timeout(min(left, 1.0)):
                    await self._progress.wait()
            except TimeoutError:
                continue

    def _shortage(self) -> str:
        behind = []
        for group in self._frontier.groups:
            voters = self._frontier.members(group).voters
            reachable = sum(self.nodes[voter.node].connected for voter in voters)
            behind.append(f"{reachable} of {len(voters)} segments of pg{group} answer")
        return ", ".join(behind) + "; 4 are needed"

    async def wait_durable(self, lsn: Lsn) -> None:
        """Return once the VDL covers the LSN. Raises OutcomeUnknown after the commit timeout."""
        if lsn <= self._frontier.vdl:
            return
        future = asyncio.get_running_loop().create_future()
        self._waiting_count += 1
        started = self._clock.monotonic()
        deadline = started + self._settings.commit_timeout_s
        heapq.heappush(self._waiting, (lsn, self._waiting_count, future, deadline))
        await future
        self.commit_times.observe(self._clock.monotonic() - started)

    def on_joined(self, group: GroupId, node: str, scl: Lsn) -> None:
        """A segment begins to take our log."""
        acknowledged = self._frontier.scl(group).get(node, scl)
        if scl < acknowledged:
            self.nodes[node].lost_log = True
            events.error("node.lost_log", node=node, group=group, scl=scl, acknowledged=acknowledged)
        self._on_completed(group, self._frontier.on_joined(group, node, scl))

    def on_acknowledged(self, group: GroupId, node: str, scl: Lsn) -> None:
        self._on_completed(group, self._frontier.on_acknowledged(group, node, scl))

    def _on_completed(self, group: GroupId, completed: list[Round]) -> None:
        self._batcher.release(group, self._frontier.pgcl(group))
        if not completed:
            return
        self._last_progress = self._clock.monotonic()
        self._progress.set()
        vdl = self._frontier.vdl
        waiting = self._waiting
        self.on_vdl(vdl)
        while waiting and waiting[0][0] <= vdl:
            future = heapq.heappop(waiting)[2]
            if not future.done():
                future.set_result(None)
        self._seal_if_due()

    def on_fenced(self, reason: StaleEpoch) -> None:
        if not self.fenced.done():
            events.warning("writer.fenced", our_epoch=self.epoch, reason=str(reason))
            self.fenced.set_result(reason)

    def retained(self, group: GroupId) -> list[Frame]:
        return self._batcher.retained(group)

    def pgcl(self, group: GroupId) -> Lsn:
        return self._frontier.pgcl(group)

    async def _watch(self) -> None:
        """End the waits of commits whose time is up."""
        while True:
            await asyncio.sleep(_WATCH_S)
            self.reads.latencies.relax()
            now = self._clock.monotonic()
            for lsn, _, future, deadline in self._waiting:
                if now >= deadline and not future.done():
                    future.set_exception(
                        OutcomeUnknown(f"commit at lsn {lsn}: not acknowledged in time, {self._shortage()}")
                    )
            if self._waiting and self._waiting[0][2].done():
                self._waiting = [entry for entry in self._waiting if not entry[2].done()]
                heapq.heapify(self._waiting)

    # Growth

    def _add_group(self, layout: VolumeLayout, group: GroupId, end: Lsn) -> None:
        members = layout.groups[group]
        self._frontier.add_group(group, members, end)
        self._batcher.add_group(group, end)
        self.reads.set_members(group, members)
        for member in members.members:
            self._client(member).add_group(group, member.slot)

    def _client(self, member: Member) -> NodeClient:
        client = self.nodes.get(member.node)
        if client is None:
            client = NodeClient(member.node, member.address, self._transport, self._calls, self, self._dice)
            self.nodes[member.node] = client
            if self._started and self.writable:
                client.task = self.spawn(client.run())
        return client

    # Membership

    def on_members(self, group: GroupId, members: QuorumSet) -> None:
        """A group has other members. What is in flight must now be written to those, old and new."""
        if group not in self._frontier.groups:
            return  # one that the control plane has made, and nobody writes to yet
        before = self._frontier.members(group)
        if members.epoch <= before.epoch:
            return
        events.info("group.members", group=group, membership=members.epoch, changes=members.changes)
        completed = self._frontier.change_members(group, members)
        self.reads.set_members(group, members)
        self.membership_version += 1
        for member in members.members:
            known = before.of(member.node)
            begins = known is None or (member.filling and not known.filling)
            client = self._client(member)
            moved, client.address = client.address != member.address, member.address
            # Of changes that we have not heard of a node may have another segment than before.
            if begins or moved or members.epoch > before.epoch + 1:
                client.add_group(group, member.slot)
        for member in before.members:
            if members.of(member.node) is None:
                self._leave(self.nodes[member.node], group)
        for client in self.nodes.values():
            client.wake()
        if group == 0:
            self.lease.on_members(members)
        self._on_completed(group, completed)

    def _leave(self, client: NodeClient, group: GroupId) -> None:
        client.remove_group(group)
        if not client.groups:
            del self.nodes[client.node]
            if client.task is not None:
                client.task.cancel()

    @property
    def pages_per_group(self) -> int:
        return self._geometry.pages_per_group

    def needs_groups(self, page_count: int) -> bool:
        return self._geometry.groups_for(page_count) > len(self._frontier.groups)

    async def ensure_groups(self, page_count: int) -> None:
        """Grow the volume by whole groups until `page_count` pages fit."""
        while self.needs_groups(page_count):
            if self._growing is None or self._growing.done():
                self._growing = asyncio.ensure_future(self._grow())
            await asyncio.shield(self._growing)

    async def _grow(self) -> None:
        group = GroupId(len(self._frontier.groups))
        layout = await self._control.add_group(group, self.epoch, Lsn(0))
        self._add_group(layout, group, Lsn(0))
        events.info("volume.grown", group=group)

    async def reachable_segments(self) -> int:
        """Of the group that answers worst: how many segments promise our epoch now."""
        counts = []
        for group in self._frontier.groups:
            quorum = self._frontier.members(group)
            answers = await asyncio.gather(
                *(self._calls.promise(member, group, quorum.epoch) for member in quorum.members),
                return_exceptions=True,
            )
            promised = {
                member.node
                for member, answer in zip(quorum.members, answers, strict=True)
                if not isinstance(answer, BaseException)
            }
            if any(isinstance(answer, StaleMembership) for answer in answers):
                self.lease.ask_control()
            counts.append(quorum.count(promised))
        return min(counts)

    # Reads

    async def read_pages(self, pages: list[PageNumber], read_lsn: Lsn) -> list[tuple[Lsn, bytes]]:
        """Pages of one group as of `read_lsn`, which is at most the VDL, each with its LSN.

        Retries and asks other segments until the read timeout; raises what the last one answered.
        """
        assert read_lsn <= self.vdl
        group = self._geometry.group_of(pages[0])
        assert group == self._geometry.group_of(pages[-1])
        try:
            return await self.reads.read(group, pages, read_lsn)
        except StaleEpoch as error:
            self.on_fenced(error)
            raise
