"""A storage node: its segments, its hot log, and what it does in the background.

Foreground: take frames, append, one sync for all that came meanwhile, acknowledge. Background, giving way
to the foreground: flush memory to layers, compact them, gossip with the peers.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Collection, Iterable
from typing import Final

from runtime.clock import Clock
from runtime.disk import Disk
from runtime.events import get_logger
from runtime.transport import Transport
from runtime.uninterrupted import uninterrupted
from storage_node.gossip import Gossip
from storage_node.hot_log import HotLog
from storage_node.layers.compaction import DELTAS_MAX, ImageWriting, Plan
from storage_node.manifest import MANIFEST
from storage_node.scrub import Scrub
from storage_node.segment_store import SegmentStore, clear_folder, is_out_of_room
from volume.errors import (
    CorruptPage,
    CorruptRecord,
    InvalidRequest,
    SegmentFailed,
    StaleMembership,
    UnknownSegment,
    VolumeBusy,
    VolumeError,
)
from volume.ids import Epoch, GroupId, Lsn, SegmentId, VolumeId
from volume.limits import HOT_BYTES_MAX, LEASE_S, MIB
from volume.log_batch import FrameHeader
from volume.quorum_set import QuorumSet

events = get_logger("storage_node.node")

SegmentKey = tuple[VolumeId, GroupId]

_SEGMENT_FLUSH_BYTES: Final = 16 * MIB
_SEGMENT_FLUSH_RECORDS: Final = 32_768
"""All of them may be of one page, which somebody wants to read: that takes a tenth of a second."""

_FLUSH_SHARE_MIN: Final = 0.5
"""Each node flushes at its own share of these limits: six copies of a segment hear the same log, and if all of them
made layers of it in the same second, nobody would be left to answer commits."""

_NODE_FLUSH_BYTES: Final = HOT_BYTES_MAX // 2
_HOT_LOG_FLUSH_BYTES: Final = 2 * HOT_BYTES_MAX
_TICK_S: Final = 0.1
_STREAM_FRESH_S: Final = 1.0
"""For so long after a writer's last frame the next one is expected: a peer's would only come twice."""

_ROOM_S: Final = 5.0
_SLICE_STEPS: Final = 6
"""Steps of compaction, a millisecond or so, before the foreground has its turn."""

_PAUSE_BUSY_S: Final = 0.01
"""How long compaction pauses after each slice while there is foreground work: a tenth of its speed."""

_REST_FACTOR: Final = 9
"""Without foreground work here it takes a tenth of a core: neighbours on the machine may be busy."""

_BACKLOG_LAYERS: Final = 4 * DELTAS_MAX
_STILL_COMING_S: Final = 5.0
"""With more deltas than that waiting to become images, and another one in the last seconds, compaction must not
fall further behind: it rests no more. What a load that is over has left can wait."""

_ROOM_BYTES: Final = 2 * HOT_BYTES_MAX
"""A disk that was full has room again: for all that memory holds, twice."""

_SYNC_BYTES: Final = 8 * MIB
"""A large layer goes to disk in portions: one sync of all of it would hold up the hot log's."""


class StorageNode:
    def __init__(
        self, id: str, az: str, disk: Disk, transport: Transport, clock: Clock, dice: random.Random
    ) -> None:
        self.id = id
        self.az = az
        self.segments: dict[SegmentKey, SegmentStore] = {}
        self.log = HotLog(disk, id)
        self.acks_sent = 0
        self.batches = 0
        self.pages_read = 0
        self._foreground_seen = 0
        self._slice_began = 0.0
        self._disk = disk
        self._clock = clock
        self.gossip = Gossip(self, transport, dice)
        self.scrub = Scrub(self, disk, clock, dice)
        self._room = asyncio.Event()
        self.must_restart = asyncio.Event()
        """This process has done what it can: another one in its place can do more."""
        self.restarts_because = ""
        self._changing = asyncio.Lock()
        self._leases: dict[VolumeId, tuple[Epoch, float]] = {}
        self._opened_s = clock.monotonic()
        self._flush_share = dice.uniform(_FLUSH_SHARE_MIN, 1.0)
        self._watchers: set[Callable[[SegmentStore], None]] = set()
        self._tasks: list[asyncio.Task[None]] = []

    async def open(self) -> None:
        """Read everything back. Raises CorruptRecord when the directory is not this node's."""
        await self._claim()
        for name in self._disk.list("segments"):
            folder = f"segments/{name}"
            if not self._disk.exists(f"{folder}/{MANIFEST}"):
                # A crash during its creation, and whoever asked for it asks again; or while it was dropped.
                await clear_folder(self._disk, folder)
                continue
            try:
                segment = await SegmentStore.load(self._disk, self.id, folder)
            except CorruptRecord as error:
                # The node lives on without it; the control plane sees that it is missing, and replaces it.
                events.error("segment.lost", node=self.id, folder=name, reason=str(error))
                continue
            self.segments[segment.key] = segment
        frames = 0
        for header, frame in self.log.replay():
            frames += 1
            segment_of = self.segments.get((header.volume, header.group))
            if segment_of is not None and header.epoch <= segment_of.chain.timeline.epoch:
                segment_of.offer(header, frame)  # a newer one was taken by a segment that was here before
        # What a killed process wrote can be read back and need not be on disk yet.
        await self._sync(list(self.segments.values()))
        events.info("node.opened", node=self.id, segments=len(self.segments), frames_replayed=frames)

    @property
    def name_file(self) -> tuple[str, bytes]:
        """The file by which the directory is known to be ours, and what it says."""
        return "node", f"sixfold storage node {self.id}\n".encode()

    async def _claim(self) -> None:
        path, name = self.name_file
        if self._disk.exists(path):
            found = self._disk.read_all(path)
            if found != name:
                raise CorruptRecord(
                    f"open node {self.id}: the directory belongs to {found.decode(errors='replace').strip()!r}"
                )
        else:
            await self._disk.replace(path, name)

    def start(self) -> None:
        work = [self._housekeeping(), self._compacting(), self.gossip.run(), self.gossip.run_copies()]
        for each in [*work, self.scrub.run()]:
            task = asyncio.ensure_future(each)
            task.add_done_callback(self._on_ended)
            self._tasks.append(task)

    def _on_ended(self, task: asyncio.Task[None]) -> None:
        """Half a node is worse than none: it would answer, and stand still."""
        if not task.cancelled() and (error := task.exception()) is not None:
            events.error("node.bug", exc_info=error)
            self._restart(f"it went wrong ({type(error).__name__}: {error})")

    def _restart(self, why: str) -> None:
        self.restarts_because = why
        self.must_restart.set()

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for segment in self.segments.values():
            segment.close()
        self.log.close()

    # Segments

    def segment(self, volume: VolumeId, group: GroupId) -> SegmentStore:
        found = self.segments.get((volume, group))
        if found is None:
            raise UnknownSegment(f"use pg{group} of volume {volume}: {self.id} does not host it")
        return found

    async def create_segment(self, volume: VolumeId, id: SegmentId, membership: QuorumSet) -> None:
        """Safe to repeat: one that is there learns the membership, if it is newer."""
        await uninterrupted(self._create_segment(volume, id, membership))

    async def _create_segment(self, volume: VolumeId, id: SegmentId, membership: QuorumSet) -> None:
        async with self._changing:
            known = self.segments.get((volume, id.group))
            if known is not None and (known.id != id or (known.failed is not None and not known.mendable)):
                # What it was it can never be again: the control plane has given it up.
                if membership.epoch < known.membership.epoch + (not known.removed):
                    raise StaleMembership(f"create {id} in membership epoch {membership.epoch}")
                await self._forget(known)
                known = None
            if known is not None:
                if membership.epoch > known.membership.epoch:
                    await known.join(membership, known.chain.promised)
                return
            segment = SegmentStore(self._disk, self.id, volume, id, membership)
            try:
                await segment.layers.open([])  # removes what a segment that was here before left behind
            except OSError as error:
                raise SegmentFailed(f"create {id}: {error}") from None
            await segment.save()
            self.segments[segment.key] = segment
            events.info("segment.created", node=self.id, volume=volume, segment=str(id))

    async def drop_segment(self, volume: VolumeId, group: GroupId, membership_epoch: int) -> None:
        """It is no member in this epoch: forget it. Safe to repeat."""
        await uninterrupted(self._drop_segment(volume, group, membership_epoch))

    async def _drop_segment(self, volume: VolumeId, group: GroupId, membership_epoch: int) -> None:
        async with self._changing:
            segment = self.segments.get((volume, group))
            if segment is None:
                await self._clear(volume, group)
                return
            if membership_epoch < segment.membership.epoch:
                raise StaleMembership(
                    f"drop {segment.id} in membership epoch {membership_epoch}: it is {segment.membership.epoch}"
                )
            if membership_epoch == segment.membership.epoch and not segment.removed:
                raise InvalidRequest(f"drop {segment.id}: it is a member in epoch {membership_epoch}")
            await self._forget(segment)
            events.info("segment.dropped", node=self.id, volume=volume, segment=str(segment.id))

    async def _clear(self, volume: VolumeId, group: GroupId) -> None:
        """One whose manifest could not be read, or whose dropping came to no end, may have left something."""
        try:
            await clear_folder(self._disk, f"segments/{volume}-{group}")
        except OSError as error:
            raise SegmentFailed(f"drop pg{group} of volume {volume}: {error}") from None

    async def _forget(self, segment: SegmentStore) -> None:
        segment.fail("given up")
        del self.segments[segment.key]
        await self.gossip.forget(segment)
        async with segment.lock:
            try:
                await segment.erase()
            except OSError as error:
                raise SegmentFailed(f"forget {segment.id}: {error}") from None

    async def join(self, segment: SegmentStore, membership: QuorumSet, promised: Epoch) -> None:
        """The segment's group has new members. Connected writers hear of it."""
        if await segment.join(membership, promised):
            self.tell_watchers(segment)

    # Leases: for so long after its last beat may the writer of an epoch answer reads

    def grant_lease(self, volume: VolumeId, epoch: Epoch) -> None:
        """Confirm that no newer epoch is promised here. Raises StaleEpoch."""
        for segment in self.segments.values():
            if segment.volume == volume and segment.failed is None:
                segment.chain.check_promised(epoch, "beat")
        self._leases[volume] = (epoch, self._clock.monotonic() + LEASE_S)

    def lease_left_s(self, volume: VolumeId, epoch: Epoch) -> float:
        """How long a writer older than `epoch` may still answer reads. After a start: nobody remembers."""
        holder, until = self._leases.get(volume, (Epoch(0), self._opened_s + LEASE_S))
        return max(0.0, until - self._clock.monotonic()) if holder < epoch else 0.0

    # Log

    async def append(
        self,
        volume: VolumeId,
        epoch: Epoch,
        frames: list[tuple[FrameHeader, bytes]],
        vdl: Lsn,
        read_floor: Lsn,
    ) -> list[SegmentStore]:
        """Take a writer's frames. The segments they touched, which are to be settled now."""
        await self._wait_for_room()
        touched: dict[SegmentKey, SegmentStore] = {}
        for header, frame in frames:
            segment = self.segments.get((volume, header.group))
            if header.volume != volume:
                raise CorruptRecord(f"append to volume {volume}: a frame of volume {header.volume}")
            if segment is None:
                continue  # not here, or not any more: it is not acknowledged
            if segment.failed is None and not segment.removed:
                segment.chain.check_writer(epoch)
                self._append(segment, header, frame)
            touched[segment.key] = segment
            segment.streamed_at = self._clock.monotonic()
        for segment in self.segments.values():
            if segment.volume == volume and segment.chain.timeline.epoch == epoch:
                segment.chain.known_vdl = max(segment.chain.known_vdl, vdl)
                segment.read_floor = max(segment.read_floor, read_floor)
        self.batches += bool(touched)
        return list(touched.values())

    def _append(self, segment: SegmentStore, header: FrameHeader, frame: bytes) -> None:
        to_log = segment.offer(header, frame)
        if not to_log:
            return
        try:
            self.log.append(header, to_log)
        except OSError as error:
            self._fail_all(error)

    async def settle(self, segments: Collection[SegmentStore]) -> None:
        """Make durable what these segments have taken, and note how far that reaches.

        Shielded: who asked may go away meanwhile, and no one else would note it.
        """
        if not self.settle_at_once(segments):
            await asyncio.shield(asyncio.ensure_future(self._sync(list(segments))))

    def settle_at_once(self, segments: Iterable[SegmentStore]) -> bool:
        """The same here and now, on a disk where that is quick; False if it is not."""
        try:
            if not self.log.sync_at_once():
                return False
        except OSError as error:
            self._fail_all(error)
            return True
        for segment in segments:
            segment.chain.on_synced(segment.chain.scl)
        return True

    async def _sync(self, segments: list[SegmentStore]) -> None:
        reached = [(segment, segment.chain.scl) for segment in segments]
        try:
            await self.log.synced()
        except OSError as error:
            self._fail_all(error)
            return
        for segment, scl in reached:
            segment.chain.on_synced(scl)

    def _fail_all(self, error: OSError) -> None:
        for segment in self.segments.values():
            segment.fail(f"hot log: {error}", out_of_room=is_out_of_room(error))

    async def take_from_peer(self, segment: SegmentStore, frames: list[tuple[FrameHeader, bytes]]) -> None:
        """Frames that gossip brought; writers that are connected hear how far the segment is now."""
        before = segment.chain.durable_scl
        for header, frame in frames:
            self._append(segment, header, frame)
        await self.settle([segment])
        if segment.chain.durable_scl > before:
            self.tell_watchers(segment)

    def tell_watchers(self, segment: SegmentStore) -> None:
        for watcher in list(self._watchers):
            watcher(segment)

    def watch(self, watcher: Callable[[SegmentStore], None]) -> Callable[[], None]:
        """Be told of SCLs that move without the writer's doing. Call the answer to end it."""
        self._watchers.add(watcher)
        return lambda: self._watchers.discard(watcher)

    async def synced(self) -> None:
        """Everything taken so far is on disk. Raises SegmentFailed."""
        try:
            await self.log.synced()
        except OSError as error:
            self._fail_all(error)
            raise SegmentFailed(f"sync the hot log of {self.id}: {error}") from None

    def comes_by_stream(self, segment: SegmentStore) -> bool:
        """A writer is sending the segment its log, in order: what peers have more is on its way."""
        since_s = self._clock.monotonic() - segment.streamed_at
        return since_s < _STREAM_FRESH_S and not segment.chain.has_gap

    def gossip_now(self) -> None:
        self.gossip.now()

    async def _wait_for_room(self) -> None:
        if self.hot_bytes <= HOT_BYTES_MAX:
            return
        try:
            async with asyncio.timeout(_ROOM_S):
                while self.hot_bytes > HOT_BYTES_MAX:
                    self._room.clear()
                    await self._room.wait()
        except TimeoutError:
            raise VolumeBusy(f"append to {self.id}: {self.hot_bytes} bytes wait to become layers") from None

    @property
    def hot_bytes(self) -> int:
        """Of failed segments nothing is counted: it can never become layers, and nobody should wait for it."""
        return sum(segment.hot_bytes for segment in self.segments.values() if segment.failed is None)

    # Background

    async def _housekeeping(self) -> None:
        """Flush what has grown large, and let go of hot log that is in layers."""
        while True:
            await asyncio.sleep(_TICK_S)
            if self._has_room_again():
                self._restart("the disk was full, and has room again")
            await self._settle_what_was_left()
            for segment in self.segments.values():
                segment.peer_log.tidy()
            due = self._due_for_flush()
            for segment in due:
                await self.flush(segment)
            if due:
                self.release_log()

    def _has_room_again(self) -> bool:
        """What a full disk has failed stays failed: only a new start knows what is on the disk. Worth one now?"""
        was_full = self.log.failed is not None and is_out_of_room(self.log.failed)
        was_full |= any(segment.out_of_room for segment in self.segments.values())
        return was_full and self._disk.free_bytes() >= _ROOM_BYTES

    async def flush(self, segment: SegmentStore) -> None:
        """What the segment holds in memory becomes a layer."""
        await self._guard(segment, segment.flush())
        segment.flushed_at = self._clock.monotonic()
        self._room.set()

    def release_log(self) -> None:
        """Files of the hot log go whose frames are all in layers."""
        try:
            self.log.release(self._flushed)
        except OSError as error:
            self._fail_all(error)

    async def _settle_what_was_left(self) -> None:
        """Frames whose stream broke off before anyone waited for their sync: nobody will send them again."""
        left = [s for s in self.segments.values() if s.failed is None and s.chain.durable_scl < s.chain.scl]
        if left:
            await self.settle(left)
            for segment in left:
                self.tell_watchers(segment)

    def _due_for_flush(self) -> list[SegmentStore]:
        live = [segment for segment in self.segments.values() if segment.failed is None and segment.can_flush]
        if self.log.size_bytes > _HOT_LOG_FLUSH_BYTES:
            return live
        due = [
            segment
            for segment in live
            if segment.memory.size_bytes >= self._flush_share * _SEGMENT_FLUSH_BYTES
            or segment.memory.record_count >= self._flush_share * _SEGMENT_FLUSH_RECORDS
        ]
        if not due and live and self.hot_bytes > _NODE_FLUSH_BYTES:
            due = [max(live, key=lambda segment: segment.memory.size_bytes)]
        return due

    def _flushed(self, key: SegmentKey) -> Lsn:
        segment = self.segments.get(key)
        return segment.released_lsn if segment is not None else Lsn(2**63)

    async def _compacting(self) -> None:
        while True:
            await asyncio.sleep(_TICK_S)
            for segment in list(self.segments.values()):
                if segment.failed is not None:
                    continue
                await self._guard(segment, self._compact(segment))

    async def _compact(self, segment: SegmentStore) -> None:
        wanted = segment.worth_doing()
        if wanted is None:
            return
        if wanted.kind == "drop":
            await segment.finish(wanted, None)
            return
        if self.spare_bytes < sum(info.size_bytes for info in wanted.inputs):
            return  # what is left is for the log
        timeline = segment.chain.timeline
        folder = f"segments/{segment.volume}-{segment.id.group}"
        writing = ImageWriting(self._disk, folder, segment.layers, wanted, timeline)
        with segment.layers.in_the_making(writing.name, writing.file):
            if await self._written(segment, wanted, writing) and segment.chain.timeline is timeline:
                await segment.finish(wanted, writing)

    async def _written(self, segment: SegmentStore, wanted: Plan, writing: ImageWriting) -> bool:
        """False if a peer's layers have taken the place of those it is made of."""
        synced = 0
        known = segment.layers.layers
        for count, _ in enumerate(writing.steps()):
            if count % _SLICE_STEPS == 0:
                await self._give_way(segment)
            if writing.file.size - synced >= _SYNC_BYTES:
                synced = writing.file.size
                await writing.file.sync()
            if segment.layers.layers is not known:
                known = segment.layers.layers
                if not segment.layers.holds(wanted.inputs):
                    return False
        return True

    async def _give_way(self, segment: SegmentStore) -> None:
        """Compaction rests after each slice, longest while the foreground has something to do."""
        now = self._clock.monotonic()
        done = self.batches + self.pages_read
        busy, self._foreground_seen = done != self._foreground_seen, done
        if segment.delta_layers > _BACKLOG_LAYERS and now - segment.flushed_at < _STILL_COMING_S:
            rest_s = 0.0
        elif busy:
            rest_s = _PAUSE_BUSY_S
        else:
            rest_s = min(_PAUSE_BUSY_S, _REST_FACTOR * (now - self._slice_began))
        await asyncio.sleep(rest_s)
        self._slice_began = self._clock.monotonic()

    async def _guard(self, segment: SegmentStore, work: Awaitable[None]) -> None:
        """Background work that fails marks its segment; the others go on."""
        try:
            await work
        except SegmentFailed:
            self._room.set()  # it has said why itself
        except (VolumeError, OSError) as error:
            segment.fail(
                f"{type(error).__name__}: {error}",
                mendable=isinstance(error, CorruptPage),
                out_of_room=is_out_of_room(error),
            )
            self._room.set()

    @property
    def spare_bytes(self) -> int:
        """What layers may take of the disk: the rest is for the log."""
        return self._disk.free_bytes() - _ROOM_BYTES

    @property
    def free_bytes(self) -> int:
        return self._disk.free_bytes()
