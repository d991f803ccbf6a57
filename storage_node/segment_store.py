"""One segment on this node: its chain, what it holds in memory, its layers, and the manifest that says so.

What the manifest must say before anyone is told: promises, timelines, the layers that count. It is
changed under one lock, so that its versions on disk follow each other.
"""

import asyncio
import errno
import json
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import astuple, dataclass
from itertools import chain
from math import inf
from operator import attrgetter
from typing import Any, Final

from runtime.disk import UNFINISHED, Disk
from runtime.events import get_logger
from runtime.uninterrupted import uninterrupted
from storage_node.layers.compaction import ImageWriting, Plan, plan
from storage_node.layers.layer_map import LayerInfo, LayerMap, Opened, Rest, rest_of_the_loop
from storage_node.manifest import MANIFEST, MANIFEST_FORMAT, read_manifest, write_manifest
from storage_node.peer_log import PeerLog
from storage_node.segment.chain import Chain, Report, key_runs, keys_in, report
from storage_node.segment.memory_table import MemoryTable
from volume.errors import (
    CorruptPage,
    LsnCollected,
    NotYetComplete,
    SegmentFailed,
    StaleMembership,
    StaleTimeline,
    UnknownSegment,
    VolumeError,
)
from volume.ids import LSN_ZERO, Epoch, GroupId, Lsn, PageNumber, SegmentId, VolumeId
from volume.limits import GOSSIP_REPLY_BYTES_MAX
from volume.log_batch import HEADER_SIZE, FrameHeader, clip_frame, read_header
from volume.quorum_set import Member, QuorumSet
from volume.redo_record import RedoRecord, apply_records
from volume.timeline import Timeline

events = get_logger("storage_node.segment")

_LONG_CHAIN: Final = 32
_RECENT_MAX: Final = 64


@dataclass(slots=True)
class Fill:
    """Layers that are being copied from a peer."""

    source: str
    bytes_total: int
    started_s: float
    bytes_done: int = 0
    seconds: float = 0.0

    @property
    def bytes_per_s(self) -> int:
        return round(self.bytes_done / self.seconds) if self.seconds > 0 else 0


FILLING_WITHOUT_ROOM: Final = "filling: the disk has no room"
"""The state of a replacement that waits for room on its disk. The control plane knows it by this."""


class SegmentStore:
    def __init__(self, disk: Disk, node: str, volume: VolumeId, id: SegmentId, membership: QuorumSet) -> None:
        self.volume = volume
        self.id = id
        self.node = node
        self.membership = membership
        self.fill: Fill | None = None
        self.chain = Chain()
        self.read_floor = LSN_ZERO
        self.flushed_lsn = LSN_ZERO
        self.released_lsn = LSN_ZERO
        """The same as the manifest on the disk has it: log up to here may go from the hot log."""
        self._saved_timeline = self.chain.timeline.epoch
        """The epoch of the timeline in the manifest on the disk."""
        self.failed: str | None = None
        self.streamed_at = -inf
        """When a writer last sent it log in this timeline, by the node's clock."""
        self.flushed_at = 0.0
        """When the last layer was written here, by the node's clock."""
        self.mendable = False
        """Failed because of damaged layers only: a peer's layers can take their place (gossip.py)."""
        self.memory = MemoryTable()
        self._flushing = MemoryTable()
        self.out_of_room = False
        """Failed because the disk was full: once there is room a new start makes it whole again."""
        self.lacks_room = False
        """The disk has no room for the layers that were to be copied last."""
        self._disk = disk
        self._folder = f"segments/{volume}-{id.group}"
        self.layers = LayerMap(disk, self._folder)
        self.peer_log = PeerLog(self.layers, volume, id.group)
        self._missing: tuple[LayerInfo, ...] = ()
        """Layers that could not be opened. The manifest goes on naming them until others have taken their place:
        without them it would describe a segment that is whole, and is not."""
        self.lock = asyncio.Lock()
        self._erased = False
        """Given up: another segment of the group may be in the folder by now."""
        self._recent: dict[PageNumber, tuple[Lsn, bytes]] = {}

    @property
    def key(self) -> tuple[VolumeId, GroupId]:
        return (self.volume, self.id.group)

    @property
    def hot_bytes(self) -> int:
        return self.memory.size_bytes + self._flushing.size_bytes

    @property
    def delta_layers(self) -> int:
        return sum(info.kind == "delta" for info in self.layers.layers)

    @property
    def peers(self) -> tuple[Member, ...]:
        return tuple(member for member in self.membership.members if member.node != self.node)

    @property
    def filling(self) -> bool:
        """A replacement that does not have everything yet, and so has no vote."""
        own = self.membership.of(self.node)
        return own is not None and own.slot == self.id.slot and own.filling

    @property
    def removed(self) -> bool:
        """No member any more: another node has taken its place, or this one has another slot now."""
        own = self.membership.of(self.node)
        return own is None or own.slot != self.id.slot

    @property
    def state(self) -> str:
        if self.failed is not None:
            return f"failed: {self.failed}"
        if self.removed:
            return "removed"
        if self.filling:
            return FILLING_WITHOUT_ROOM if self.lacks_room else "filling"
        return "behind" if self.chain.has_gap else "ok"

    def check(self) -> None:
        if self.failed is not None:
            raise SegmentFailed(f"use {self.id}: {self.failed}")
        if self.removed:
            raise UnknownSegment(f"use {self.id}: {self.node} is no member in epoch {self.membership.epoch}")

    def check_membership(self, epoch: int) -> None:
        """Does whoever asks know who the members are? Raises StaleMembership."""
        if epoch < self.membership.epoch:
            raise StaleMembership(
                f"use {self.id} in membership epoch {epoch}: it is {self.membership.epoch} now"
            )

    def check_place(self, slot: int, epoch: int, *, filling: bool) -> None:
        """Are we the segment that is meant? Of a replacement that was given up and begun again, the node may still
        have the earlier segment: what that one has acknowledged is gone with it. Raises UnknownSegment."""
        if slot != self.id.slot:
            raise UnknownSegment(f"use {SegmentId(self.id.group, slot)}: {self.node} has {self.id}")
        if filling and self.membership.epoch < epoch:
            raise UnknownSegment(
                f"use {self.id} in membership epoch {epoch}: {self.node} knows {self.membership.epoch} yet"
            )

    # The manifest

    async def save(self) -> None:
        """Make what the manifest says durable. A disk that cannot is the end of this segment."""
        self._check_not_erased()
        flushed, timeline = self.flushed_lsn, self.chain.timeline.epoch
        try:
            await write_manifest(self._disk, self._folder, self._manifest())
        except Exception as error:  # whatever it is, memory holds what the disk does not
            self.fail(f"write manifest: {error}", out_of_room=is_out_of_room(error))
            raise SegmentFailed(f"use {self.id}: {self.failed}") from None
        self.released_lsn = flushed
        self._saved_timeline = timeline

    def _manifest(self) -> dict[str, Any]:
        return {
            "volume": self.volume,
            "group": self.id.group,
            "slot": self.id.slot,
            "membership_epoch": self.membership.epoch,
            "peers": [astuple(member) for member in self.membership.members],
            "promised": self.chain.promised,
            "timeline": self.chain.timeline.encode().hex(),
            "known_vdl": self.chain.known_vdl,
            "flushed_lsn": self.flushed_lsn,
            "retained_from": self.layers.retained_from,
            "layers": [info.to_json() for info in (*self.layers.layers, *self._missing)],
        }

    def manifest_problem(self) -> str:
        """What is wrong with the manifest on the disk, empty if it says what it must. Hold the lock."""
        try:
            found = read_manifest(self._disk, self._folder)
        except (VolumeError, OSError) as error:
            return str(error)
        if found["format"] != MANIFEST_FORMAT:
            return ""  # an older release wrote it, and said it in other words
        # Nobody waits for a known VDL to be durable: it may be older there.
        ours = json.loads(json.dumps(self._manifest())) | {"known_vdl": found["known_vdl"]}
        wrong = [name for name in ours if ours[name] != found.get(name)]
        return f"open {self._folder}/manifest: {', '.join(wrong)} as it was before" if wrong else ""

    def fail(self, why: str, *, mendable: bool = False, out_of_room: bool = False) -> None:
        """The segment refuses everything from now on: reads, log, promises. What a peer's layers cannot mend
        outweighs what they can."""
        if self.failed is None or (self.mendable and not mendable):
            self.failed = why
            self.out_of_room = out_of_room
            self.mendable = mendable
            events.error("segment.failed", segment=str(self.id), volume=self.volume, reason=why)

    @contextmanager
    def noticing_damage(self) -> Iterator[None]:
        """Whoever comes upon damaged layers sees to it that a peer's take their place. Raises CorruptPage on."""
        try:
            yield
        except (CorruptPage, OSError) as error:
            self.fail(f"{type(error).__name__}: {error}", mendable=True)
            raise CorruptPage(f"use {self.id}: {error}") from error

    @staticmethod
    async def load(disk: Disk, node: str, folder: str) -> "SegmentStore":
        """Read a segment back. Raises CorruptRecord, UnknownFormat."""
        fields = read_manifest(disk, folder)
        # A process killed while it replaced the manifest may not have made the new name durable.
        await disk.sync_folder(folder)
        members = tuple(Member(*each) for each in fields["peers"])
        id = SegmentId(GroupId(fields["group"]), fields["slot"])
        membership = QuorumSet(fields["membership_epoch"], members)
        store = SegmentStore(disk, node, VolumeId(fields["volume"]), id, membership)
        store.flushed_lsn = store.released_lsn = Lsn(fields["flushed_lsn"])
        timeline = Timeline.decode(bytes.fromhex(fields["timeline"]))
        infos = [LayerInfo.from_json(each) for each in fields["layers"]]
        bad = await store.layers.open(infos, Lsn(fields["retained_from"]))
        if bad:
            store._missing = tuple(info for info in infos if info.name in bad)
            store.fail(f"layers missing or damaged: {', '.join(bad)}", mendable=True)
        known_vdl = Lsn(fields["known_vdl"])
        scl = LSN_ZERO
        with suppress(CorruptPage), store.noticing_damage():
            scl = store._counted(store.flushed_lsn, timeline)
        store.chain = Chain(scl, Epoch(fields["promised"]), timeline, known_vdl)
        store._saved_timeline = timeline.epoch
        return store

    # Log coming in

    def offer(self, header: FrameHeader, frame: bytes) -> bytes:
        """Take a frame into the chain; the bytes to append to the hot log, none if it adds nothing.

        Raises StaleTimeline while the manifest does not have the frame's timeline: a node that starts again
        finds no use for the frame then.
        """
        if header.epoch > self._saved_timeline:
            raise StaleTimeline(f"take frame of epoch {header.epoch}: its timeline is not durable here")
        taken = self.chain.offer(header, frame)
        for each in taken.chained:
            self.memory.add(each)
        return taken.frame

    async def promise(self, epoch: Epoch) -> None:
        """Shut out older epochs, durably. Raises StaleEpoch."""
        await uninterrupted(self._promise(epoch))

    async def _promise(self, epoch: Epoch) -> None:
        async with self.lock:
            self.check()
            if self.chain.promise(epoch):
                await self.save()

    async def join(self, membership: QuorumSet, promised: Epoch) -> bool:
        """Adopt a newer membership, and a promise that the group has given, durably. False if both are known.

        Raises StaleMembership when ours is newer.
        """
        return await uninterrupted(self._join(membership, promised))

    async def _join(self, membership: QuorumSet, promised: Epoch) -> bool:
        async with self.lock:
            self.check_membership(membership.epoch)
            newer = membership.epoch > self.membership.epoch
            if not newer and promised <= self.chain.promised:
                return False
            if newer:
                was_filling, self.membership = self.filling, membership
                if was_filling and not self.filling and not self.removed:
                    events.info("segment.filled", segment=str(self.id), scl=self.chain.durable_scl)
            if promised > self.chain.promised:
                self.chain.promise(promised)
            await self.save()
            return newer

    async def prepare_report(self) -> None:
        """Have at hand what a report needs of the layers."""
        with self.noticing_damage():
            await self.layers.read_runs(self.chain.known_vdl)
        self.check()  # dropped meanwhile, it has no layers any more, and its tail would look empty

    def report(self) -> Report:
        """The tail above the known VDL. Everything in memory is taken to be synced."""
        vdl = self.chain.known_vdl
        tables = [*self._flushing.frames_after(vdl), *self.memory.frames_after(vdl)]
        frames = [*tables, *self.chain.held_frames]
        with self.noticing_damage():
            return report(chain(self.layers.runs_after(vdl), key_runs(keys_in(frames))), self.chain.scl, vdl)

    async def install(self, timeline: Timeline, vdl: Lsn) -> None:
        """Adopt a newer timeline, durably. One that is not newer changes nothing of the log."""
        await uninterrupted(self._install(timeline, vdl))

    async def _install(self, timeline: Timeline, vdl: Lsn) -> None:
        async with self.lock:
            self.check()
            self.streamed_at = -inf  # a stream that begins anew may leave out what a quorum has
            if timeline.epoch > self.chain.timeline.epoch:
                with self.noticing_damage():
                    counted = self._counted(self.chain.scl, timeline)
                self.chain.install(timeline, counted)
                self.memory = self.memory.clipped(timeline)
                if not timeline.counts(self.flushed_lsn):
                    self.flushed_lsn = self.chain.scl
                self._recent.clear()
                self.chain.known_vdl = max(self.chain.known_vdl, vdl)
                await self.save()
            self.chain.known_vdl = max(self.chain.known_vdl, vdl)

    def _counted(self, scl: Lsn, timeline: Timeline) -> Lsn:
        """The last LSN of our chain, at or below `scl`, that counts."""
        if timeline.counts(scl):
            return scl
        limit = next(after for after, up_to in timeline.annulled if after < scl <= up_to)
        for frame in reversed([*self._flushing.frames, *self.memory.frames]):
            if read_header(frame).first_lsn > limit:
                continue
            # Below the limit there may be older ranges that do not count either.
            counted = [lsn for lsn, _, _ in keys_in([frame]) if lsn <= limit and timeline.counts(lsn)]
            if counted:
                return counted[-1]
        return self.layers.last_counted(limit, timeline)

    # Reading

    def check_timeline(self, epoch: Epoch) -> None:
        """Is our timeline as new as the reader's? An older one counts log that is annulled. Raises StaleTimeline."""
        if self.chain.timeline.epoch < epoch:
            raise StaleTimeline(
                f"read in the timeline of epoch {epoch}: {self.id} has that of {self.chain.timeline.epoch}"
            )

    def read(self, page: PageNumber, read_lsn: Lsn, required_scl: Lsn) -> tuple[Lsn, bytes]:
        """Raises NotYetComplete, LsnCollected, CorruptPage."""
        if self.chain.durable_scl < required_scl:
            scl = self.chain.durable_scl
            raise NotYetComplete(
                f"read page {page} at lsn {read_lsn}: {self.id} is complete to {scl} of {required_scl}"
            )
        if read_lsn < self.layers.retained_from:
            raise LsnCollected(
                f"read page {page} at lsn {read_lsn}: kept from {self.layers.retained_from} on"
            )
        newer = self._flushing.records(page) + self.memory.records(page)
        recent = self._recent.get(page)
        if recent is not None and recent[0] <= read_lsn and newer and newer[0].lsn <= recent[0]:
            return self._from_recent(page, recent, newer, read_lsn)
        found = self.layers.read_page(page, read_lsn, self.chain.timeline, newer)
        if len(newer) > _LONG_CHAIN:
            self._remember(page, found)
        return found

    def _from_recent(
        self, page: PageNumber, recent: tuple[Lsn, bytes], newer: list[RedoRecord], read_lsn: Lsn
    ) -> tuple[Lsn, bytes]:
        """A page that changes all the time: go on from where the last read had come."""
        lsn, content = recent
        counts = self.chain.timeline.counts
        since = newer[bisect_right(newer, lsn, key=attrgetter("lsn")) :]
        records = [record for record in since if record.lsn <= read_lsn and counts(record.lsn)]
        found = (records[-1].lsn if records else lsn), apply_records(content, records)
        self._remember(page, found)
        return found

    def _remember(self, page: PageNumber, found: tuple[Lsn, bytes]) -> None:
        self._recent.pop(page, None)
        self._recent[page] = found
        if len(self._recent) > _RECENT_MAX:
            del self._recent[next(iter(self._recent))]

    # Log going out

    def frames_after(self, lsn: Lsn, room: int = GOSSIP_REPLY_BYTES_MAX) -> tuple[bytes, Lsn]:
        """Log above `lsn` for a peer, until it takes up the room, and where our log begins."""
        log_start = self.layers.log_start
        if lsn < log_start:
            return b"", log_start
        found: list[bytes] = []
        if lsn < self.flushed_lsn:
            with self.noticing_damage():
                found = self.peer_log.frames_after(lsn, self.chain)
        if not found:
            tables = [*self._flushing.frames_after(lsn), *self.memory.frames_after(lsn)]
            found = [*tables, *self.chain.held_frames]
        return _up_to(found, room), log_start

    # Layers

    @property
    def can_flush(self) -> bool:
        """False if memory holds nothing, or not all yet of a tail that counts again: such a layer would lie below one
        that begins before it."""
        return bool(self.memory.frames) and self.memory.last_lsn >= self.layers.complete_lsn

    async def flush(self, rest: Rest = rest_of_the_loop) -> None:
        """Write what is in memory as a delta layer. What does not become one stays in memory. Raises OSError."""
        async with self.lock:
            self.check()
            if not self.can_flush:
                return
            table, self.memory = self.memory, MemoryTable()
            self._flushing = table
            try:
                await self._write_delta(table, rest)
                self.flushed_lsn = table.last_lsn
                await self.save()
            except OSError as error:
                self.fail(f"write layer: {error}", out_of_room=is_out_of_room(error))
                raise
            finally:
                self._flushing = MemoryTable()
                self._recent.clear()

    async def _write_delta(self, table: MemoryTable, rest: Rest) -> None:
        try:
            await self.layers.write_delta(
                table.frames, HEADER_SIZE, self.flushed_lsn, table.last_lsn, self.chain.timeline, rest
            )
        except BaseException:
            self._remember_frames([*table.frames, *self.memory.frames])
            raise

    def worth_doing(self) -> Plan | None:
        """What compaction should do next."""
        layers, timeline = self.layers, self.chain.timeline
        return plan(
            layers.layers,
            lambda info: layers.counted_end(info, timeline),
            self.chain.known_vdl,
            self.read_floor,
        )

    async def finish(self, done: Plan, writing: ImageWriting | None) -> bool:
        """A plan is carried out: its layer counts, what it replaces goes. False if its layers are gone already."""
        async with self.lock:
            self._check_not_erased()
            if not self.layers.holds(done.inputs):
                return False
            gone = [info.name for info in done.inputs] if done.kind != "images" else []
            if writing is not None:
                await writing.file.sync()
                await self._disk.sync_folder(self._folder)
                writing.file.close()
                self.layers.add(writing.name, writing.crc)
            if done.kind in ("drop", "merge"):
                self.layers.retained_from = max(self.layers.retained_from, done.lsn_to)
            self.layers.drop(gone)
            await self.save()
            self.layers.retire(gone)
            return True

    async def adopt(self, copied: Mapping[str, int], complete: Lsn, timeline: Timeline) -> bool:
        """Layers copied from a peer (their names and checksums), whole and checked, take the place of ours.

        False: they are of no use any more, since we have come as far meanwhile, or another timeline counts,
        and are removed. The chain goes on from them only once the manifest names them: nobody may be told of
        what a crash would take back.
        """
        return await uninterrupted(self._adopt(copied, complete, timeline))

    async def _adopt(self, copied: Mapping[str, int], complete: Lsn, timeline: Timeline) -> bool:
        async with self.lock:
            try:
                self.check()
            except VolumeError:
                self.layers.discard(copied)
                raise
            if complete <= self.chain.scl or timeline.epoch != self.chain.timeline.epoch:
                self.layers.retire(copied)
                return False
            opened = await self._open_copied(copied)
            gone = await self._replace_layers(opened, complete)
            if complete > self.chain.scl:
                self._remember_frames(self.chain.jump(complete))
            self.layers.retire(gone)
            return True

    def _remember_frames(self, frames: Iterable[bytes]) -> None:
        """These follow the layers, and are all that memory holds."""
        self.memory = MemoryTable()
        for frame in frames:
            self.memory.add(frame)

    async def _open_copied(self, copied: Mapping[str, int]) -> Opened:
        """All of them, and their names are durable. If one cannot be had, they are removed and nothing has changed."""
        try:
            await self._disk.sync_folder(self._folder)
            return self.layers.open_complete(copied)
        except BaseException:
            self.layers.discard(copied)
            raise

    async def _replace_layers(self, opened: Opened, complete: Lsn) -> list[str]:
        """These layers, which end at `complete`, take the place of all that there are; durable when it returns the
        names of those. If that cannot be, the segment has failed."""
        gone = [*self.layers.replace(opened), *(info.name for info in self._missing)]
        self._missing = ()
        self.flushed_lsn = complete
        newest_image = max((i.lsn_to for i in self.layers.layers if i.kind == "image"), default=LSN_ZERO)
        self.layers.retained_from = max(self.layers.retained_from, newest_image)
        self._recent.clear()
        await self.save()
        return gone

    async def mend(
        self, copied: Mapping[str, int], complete: Lsn, timeline: Timeline, known_vdl: Lsn = LSN_ZERO
    ) -> bool:
        """As `adopt`, when some of our layers are damaged. The log that came after them is kept, so that the
        SCL does not fall below what we have acknowledged and counts: whoever relies on this copy may go on.
        False: these layers end before ours did, or belong to an older timeline."""
        return await uninterrupted(self._mend(copied, complete, timeline, known_vdl))

    async def _mend(
        self, copied: Mapping[str, int], complete: Lsn, timeline: Timeline, known_vdl: Lsn
    ) -> bool:
        async with self.lock:
            chain = self.chain
            if (
                not self.mendable
                or timeline.epoch < chain.timeline.epoch
                or complete < self.reach_of_ours(timeline)
            ):
                self.layers.retire(copied)
                return False
            opened = await self._open_copied(copied)
            clipped = (
                clip_frame(frame, lambda lsn: lsn > complete and timeline.counts(lsn))
                for frame in self.memory.frames
            )
            memory = [frame for frame in clipped if frame is not None]
            if timeline.epoch > chain.timeline.epoch:
                chain.install(timeline, read_header(memory[-1]).last_lsn if memory else complete)
                chain.on_synced(complete)
            elif complete > chain.scl:
                memory = chain.jump(complete)
            # Up to there the peer's layers need not have the log any more: we could not report it.
            chain.known_vdl = max(chain.known_vdl, known_vdl)
            self._remember_frames(memory)
            gone = await self._replace_layers(opened, complete)
            if self.mendable:  # and nothing worse has come meanwhile
                self.failed, self.mendable = None, False
            self.layers.retire(gone)
            return self.failed is None

    def reach_of_ours(self, timeline: Timeline) -> Lsn:
        """How far layers must reach that take the place of ours. What of ours counts in a newer timeline only
        they could tell: then they must go on beyond what was annulled, and so hold all that came before."""
        if timeline.counts(self.flushed_lsn):
            return self.flushed_lsn
        return Lsn(timeline.skip(self.flushed_lsn) + 1)

    async def erase(self) -> None:
        """Nothing of it is left in its folder."""
        self._erased = True
        self.layers.forget()
        await clear_folder(self._disk, self._folder)

    def _check_not_erased(self) -> None:
        if self._erased:
            raise SegmentFailed(f"use {self.id}: {self.failed}")

    def close(self) -> None:
        self.layers.close()


async def clear_folder(disk: Disk, folder: str) -> None:
    """Remove what a segment has left. The manifest goes first: without it the rest is nothing."""
    if disk.exists(f"{folder}/{MANIFEST}"):
        disk.remove(f"{folder}/{MANIFEST}")
        await disk.sync_folder(folder)
    for name in disk.list(folder):
        if name.endswith(".layer") or name == MANIFEST + UNFINISHED:
            disk.remove(f"{folder}/{name}")


def is_out_of_room(error: BaseException) -> bool:
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


def _up_to(frames: list[bytes], size_max: int) -> bytes:
    taken = []
    size = 0
    for frame in frames:
        taken.append(frame)
        size += len(frame)
        if size >= size_max:
            break
    return b"".join(taken)
