"""The volume driver: takes a commit's changes, gives pages back, and knows what is durable.

It owns the loop around the pure parts: batcher (LSNs, frames), durable_frontier (VDL) and read_plan.
A round of frames is sealed at once when none is in flight; while one is, commits gather for the next
(group commit), so a lone client waits for nothing and a busy instance sends large frames.
"""

import asyncio
import heapq
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from db_instance.volume_driver.batcher import Batcher, Change, Frame
from db_instance.volume_driver.control_client import ControlClient, VolumeLayout
from db_instance.volume_driver.durable_frontier import DurableFrontier
from db_instance.volume_driver.node_client import NodeClient, parcels_of
from db_instance.volume_driver.opening import Opened
from db_instance.volume_driver.read_plan import Candidate, Latencies, read_order
from db_instance.volume_driver.segment_calls import SegmentCalls
from runtime.clock import Clock
from runtime.events import get_logger
from runtime.metrics import Durations
from runtime.transport import Transport
from volume.errors import (
    LsnCollected,
    OutcomeUnknown,
    QuorumLost,
    StaleEpoch,
    VolumeBusy,
    VolumeError,
)
from volume.ids import GroupId, Lsn, PageNumber
from volume.limits import KIB, MIB

events = get_logger("volume_driver.driver")

_PIPELINE_BYTES: Final = 512 * KIB
"""Gathered records that are sealed even though a round is in flight: a bulk load keeps the nodes busy."""

_GATHER_S: Final = 0.003
"""How long a round waits for the commits that are known to come: those of sessions that hold the write
lock, or wait for it. A lone client's commit waits for nothing."""

_ROUNDS_IN_FLIGHT_MAX: Final = 64
_WATCH_S: Final = 0.1
_READ_RETRY_S: Final = (0.02, 0.5)


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
        self.more_to_come: Callable[[], bool] = lambda: False
        """Is another commit about to be made? Then a round may wait for it, for a moment."""
        self.latencies = Latencies()
        self.commit_times = Durations()
        self.read_times = Durations()
        self.nodes: dict[str, NodeClient] = {}
        self.pages_read = 0
        self._control = control
        self._transport = transport
        self._clock = clock
        self._dice = dice
        self._settings = settings
        self._calls = SegmentCalls(transport, layout.volume, layout.epoch)
        self._frontier = DurableFrontier(recovered.vdl)
        self._batcher = Batcher(
            layout.volume, layout.epoch, layout.geometry, recovered.next_lsn, recovered.vdl
        )
        self._geometry = layout.geometry
        self._candidates: dict[GroupId, tuple[Candidate, ...]] = {}
        self._waiting: list[tuple[Lsn, int, asyncio.Future[None], float]] = []
        self._waiting_count = 0
        self._progress = asyncio.Event()
        self._last_progress = clock.monotonic()
        self._seal_scheduled = False
        self._gather_until: float | None = None
        self._growing: asyncio.Future[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        for group in layout.groups:
            self._add_group(layout, group, recovered.group_ends[group])
            for slot, scl in opened.scl.get(group, {}).items():
                self._frontier.on_acknowledged(group, slot, scl)

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

    def group_scl(self) -> dict[GroupId, list[Lsn]]:
        return {group: self._frontier.scl(group) for group in self._candidates}

    def start(self) -> None:
        """Connect to every node and watch over the waits."""
        if self.writable:
            for client in self.nodes.values():
                self._spawn(client.run())
        self._spawn(self._watch())

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

    def _spawn(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        assert isinstance(task, asyncio.Task)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # The write path

    def append(self, changes: list[Change]) -> Lsn:
        """Number the changes and let them gather; they are on their way when this returns."""
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
        self._gather_until = None
        sealed = self._batcher.seal(self._frontier.vdl)
        if sealed is None:
            return
        if not in_flight:
            self._last_progress = self._clock.monotonic()
        round_, frames = sealed
        self._frontier.on_sealed(round_)
        for parcel in parcels_of(frames):
            for client in self.nodes.values():
                client.offer(parcel)

    def _gathers(self) -> bool:
        """Should the round wait a moment longer? If so, it is looked at again when that is over."""
        if not self.more_to_come():
            return False
        loop = asyncio.get_running_loop()
        if self._gather_until is None:
            self._gather_until = loop.time() + _GATHER_S
            loop.call_at(self._gather_until, self._seal_if_due)
        return loop.time() < self._gather_until

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
        for group, candidates in self._candidates.items():
            reachable = sum(self.nodes[candidate.node].connected for candidate in candidates)
            behind.append(f"{reachable} of {len(candidates)} segments of pg{group} answer")
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

    def on_acknowledged(self, group: GroupId, slot: int, scl: Lsn) -> None:
        completed = self._frontier.on_acknowledged(group, slot, scl)
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
        self._frontier.add_group(group, end)
        self._batcher.add_group(group, end)
        self._candidates[group] = tuple(
            Candidate(member.slot, member.node, member.az, connected=True) for member in members
        )
        for member in members:
            client = self.nodes.get(member.node)
            if client is None:
                client = NodeClient(
                    member.node, member.address, self._transport, self._calls, self, self._dice
                )
                self.nodes[member.node] = client
                if self._tasks and self.writable:
                    self._spawn(client.run())
            client.add_group(group, member.slot)

    @property
    def pages_per_group(self) -> int:
        return self._geometry.pages_per_group

    def needs_groups(self, page_count: int) -> bool:
        return self._geometry.groups_for(page_count) > len(self._candidates)

    async def ensure_groups(self, page_count: int) -> None:
        """Grow the volume by whole groups until `page_count` pages fit."""
        while self.needs_groups(page_count):
            if self._growing is None:
                self._growing = asyncio.ensure_future(self._grow())
            try:
                await asyncio.shield(self._growing)
            finally:
                if self._growing is not None and self._growing.done():
                    self._growing = None

    async def _grow(self) -> None:
        group = GroupId(len(self._candidates))
        layout = await self._control.add_group(group, self.epoch, Lsn(0))
        self._add_group(layout, group, Lsn(0))
        events.info("volume.grown", group=group)

    async def reachable_segments(self) -> int:
        """Of the group that answers worst: how many segments promise our epoch now."""
        counts = []
        for group, candidates in self._candidates.items():
            answers = await asyncio.gather(
                *(self._calls.promise(self.nodes[c.node].address, group, c.slot) for c in candidates),
                return_exceptions=True,
            )
            counts.append(sum(not isinstance(answer, BaseException) for answer in answers))
        return min(counts)

    # Reads

    async def read_pages(self, pages: list[PageNumber], read_lsn: Lsn) -> list[tuple[Lsn, bytes]]:
        """Pages of one group as of `read_lsn`, which is at most the VDL, each with its LSN.

        Retries and asks other segments until the read timeout; raises what the last one answered.
        """
        assert read_lsn <= self.vdl
        group = self._geometry.group_of(pages[0])
        assert group == self._geometry.group_of(pages[-1])
        deadline = self._clock.monotonic() + self._settings.read_timeout_s
        delay = _READ_RETRY_S[0]
        while True:
            try:
                found = await self._read_hedged(group, pages, read_lsn)
            except StaleEpoch as error:
                self.on_fenced(error)
                raise
            except LsnCollected:
                raise
            except VolumeError:
                if self._clock.monotonic() + delay > deadline:
                    raise
                await asyncio.sleep(delay * self._dice.uniform(0.5, 1.0))
                delay = min(2 * delay, _READ_RETRY_S[1])
            else:
                self.pages_read += len(found)
                return found

    async def _read_hedged(
        self, group: GroupId, pages: list[PageNumber], read_lsn: Lsn
    ) -> list[tuple[Lsn, bytes]]:
        required = self._frontier.durable_end(group)
        candidates = [
            candidate._replace(connected=self.nodes[candidate.node].connected or not self.writable)
            for candidate in self._candidates[group]
        ]
        order = read_order(candidates, self._frontier.scl(group), required, self._settings.az, self.latencies)
        asked: set[asyncio.Task[list[tuple[Lsn, bytes]] | VolumeError]] = set()
        reason: VolumeError = QuorumLost(f"read page {pages[0]}: pg{group} has no segments")
        try:
            for candidate in order:
                asked.add(asyncio.create_task(self._read_from(candidate, group, pages, read_lsn, required)))
                hedge_after = self.latencies.hedge_after(candidate.node)
                done, asked = await asyncio.wait(
                    asked, timeout=hedge_after, return_when=asyncio.FIRST_COMPLETED
                )
                for task in done:
                    answer = task.result()
                    if not isinstance(answer, VolumeError):
                        return answer
                    reason = answer
            while asked:
                done, asked = await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    answer = task.result()
                    if not isinstance(answer, VolumeError):
                        return answer
                    reason = answer
        finally:
            for task in asked:
                task.cancel()
        raise reason

    async def _read_from(
        self, candidate: Candidate, group: GroupId, pages: list[PageNumber], read_lsn: Lsn, required: Lsn
    ) -> list[tuple[Lsn, bytes]] | VolumeError:
        started = self._clock.monotonic()
        address = self.nodes[candidate.node].address
        try:
            return await self._calls.read_pages(address, group, read_lsn, required, pages)
        except VolumeError as error:
            return error
        finally:
            took_s = self._clock.monotonic() - started
            self.latencies.observe(candidate.node, took_s)
            self.read_times.observe(took_s)
