"""The gRPC edge of a storage node: decode, call, encode. Each method is one of proto/storage.proto."""

import asyncio
import math
from collections.abc import Iterable
from dataclasses import asdict
from typing import Final

import lz4.block

from proto import storage_pb2
from runtime.transport import Handlers, Stream
from runtime.uninterrupted import uninterrupted
from storage_node.membership_messages import membership_message, membership_of
from storage_node.node import StorageNode
from storage_node.segment_store import SegmentStore
from volume.errors import InvalidRequest, SegmentFailed, VolumeError
from volume.ids import Epoch, GroupId, Lsn, PageNumber, SegmentId, VolumeId
from volume.limits import LAYER_CHUNK_BYTES, READ_PAGES_MAX
from volume.log_batch import split_frames
from volume.page import checksum
from volume.timeline import Timeline

_SERVICE: Final = "/sixfold.storage.Storage/"
_PIN_S: Final = 300.0
"""For so long layers that a peer has asked for stay on disk, even when others take their place."""

_FIRST_MEMBERSHIP: Final = 1
"""What a sender knows that tells nothing: releases before memberships could change."""


class StorageService:
    def __init__(self, node: StorageNode) -> None:
        self._node = node

    def handlers(self) -> Handlers:
        unary = {
            "Promise": self.promise,
            "InstallTimeline": self.install_timeline,
            "CreateSegment": self.create_segment,
            "SetMembership": self.set_membership,
            "DropSegment": self.drop_segment,
            "Scrub": self.scrub,
            "Gossip": self.gossip,
            "ListLayers": self.list_layers,
            "NodeStatus": self.node_status,
        }
        return Handlers(
            {_SERVICE + name: method for name, method in unary.items()},
            {
                _SERVICE + "AppendLog": self.append_log,
                _SERVICE + "ReadPages": self.read_pages,
                _SERVICE + "CopyLayers": self.copy_layers,
            },
        )

    async def append_log(self, stream: Stream) -> None:
        await AppendStream(self._node, stream).run()

    async def read_pages(self, stream: Stream) -> None:
        """One reader's stream: each request is answered in its turn."""
        while (data := await stream.receive()) is not None:
            request = storage_pb2.ReadPagesRequest.FromString(data)
            try:
                reply = self._read(request)
            except VolumeError as error:
                reply = storage_pb2.ReadPagesReply(id=request.id, error=f"{type(error).__name__}: {error}")
            await stream.send(reply.SerializeToString())

    def _read(self, request: storage_pb2.ReadPagesRequest) -> storage_pb2.ReadPagesReply:
        if not 0 < len(request.page) <= READ_PAGES_MAX or min(request.page) == 0:
            raise InvalidRequest(f"read {len(request.page)} pages: 1 to {READ_PAGES_MAX}, numbered from 1")
        segment = self._segment(request.volume, request.group)
        segment.chain.check_promised(Epoch(request.epoch), "read")
        segment.check_timeline(Epoch(request.timeline_epoch))
        lsn, required = Lsn(request.read_lsn), Lsn(request.required_scl)
        with segment.noticing_damage():
            found = [segment.read(PageNumber(page), lsn, required) for page in request.page]
        self._node.pages_read += len(found)
        return storage_pb2.ReadPagesReply(
            id=request.id,
            page_lsn=[lsn for lsn, _ in found],
            page_crc=[checksum(content) for _, content in found],
            pages=lz4.block.compress(b"".join(content for _, content in found), store_size=False),
        )

    async def promise(self, data: bytes) -> bytes:
        request = storage_pb2.PromiseRequest.FromString(data)
        segment = self._member_segment(request)
        await segment.promise(Epoch(request.epoch))
        if segment.filling:
            return storage_pb2.PromiseReply(filling=True).SerializeToString()
        await segment.prepare_report()
        scl, known_vdl, timeline = segment.chain.scl, segment.chain.known_vdl, segment.chain.timeline
        tail = segment.report()
        # In this order: gossip goes on meanwhile, and only what is on disk may be told.
        await self._node.synced()
        segment.chain.check_promised(Epoch(request.epoch), "promise")
        segment.check_membership(request.membership_epoch or _FIRST_MEMBERSHIP)
        return storage_pb2.PromiseReply(
            scl=scl,
            known_vdl=known_vdl,
            timeline=timeline.encode(),
            run_first=[first for first, _ in tail.runs],
            run_last=[last for _, last in tail.runs],
            cpl=tail.cpls,
            chain_base=tail.chain_base,
        ).SerializeToString()

    async def install_timeline(self, data: bytes) -> bytes:
        request = storage_pb2.InstallTimelineRequest.FromString(data)
        segment, epoch = self._member_segment(request), Epoch(request.epoch)
        segment.chain.check_promised(epoch, "install")
        timeline = Timeline.decode(request.timeline)
        if timeline.epoch > request.epoch:
            raise InvalidRequest(f"install timeline of epoch {timeline.epoch} in epoch {request.epoch}")
        await segment.install(timeline, Lsn(request.vdl))
        # A newer opening that was promised something meanwhile has not seen it.
        segment.chain.check_promised(epoch, "install")
        segment.check_membership(request.membership_epoch or _FIRST_MEMBERSHIP)
        self._node.gossip_now()
        left_s = self._node.lease_left_s(segment.volume, epoch)
        return storage_pb2.InstallTimelineReply(
            scl=segment.chain.durable_scl, lease_left_ms=math.ceil(1000 * left_s)
        ).SerializeToString()

    async def create_segment(self, data: bytes) -> bytes:
        request = storage_pb2.CreateSegmentRequest.FromString(data)
        membership = membership_of(request.membership_epoch, request.member, f"create pg{request.group}")
        own = membership.of(self._node.id)
        if own is None or own.slot != request.slot or not request.volume:
            raise InvalidRequest(
                f"create pg{request.group}/{request.slot}: {self._node.id} is no such member"
            )
        id = SegmentId(GroupId(request.group), request.slot)
        await self._node.create_segment(VolumeId(request.volume), id, membership)
        return storage_pb2.CreateSegmentReply().SerializeToString()

    async def set_membership(self, data: bytes) -> bytes:
        request = storage_pb2.SetMembershipRequest.FromString(data)
        told = request.membership
        membership = membership_of(told.epoch, told.member, f"set membership of pg{told.group}")
        segment = self._node.segment(VolumeId(told.volume), GroupId(told.group))
        if segment.failed is not None:
            segment.check()
        await self._node.join(segment, membership, Epoch(request.promised))
        chain = segment.chain
        return storage_pb2.SetMembershipReply(
            scl=chain.durable_scl,
            timeline_epoch=chain.timeline.epoch,
            promised=chain.promised,
            membership_epoch=segment.membership.epoch,
        ).SerializeToString()

    async def drop_segment(self, data: bytes) -> bytes:
        request = storage_pb2.DropSegmentRequest.FromString(data)
        await self._node.drop_segment(
            VolumeId(request.volume), GroupId(request.group), request.membership_epoch
        )
        return storage_pb2.DropSegmentReply().SerializeToString()

    async def scrub(self, data: bytes) -> bytes:
        request = storage_pb2.ScrubRequest.FromString(data)
        if request.start:
            self._node.scrub.start()
        return storage_pb2.ScrubReply(**asdict(self._node.scrub.report)).SerializeToString()

    async def gossip(self, data: bytes) -> bytes:
        request = storage_pb2.GossipRequest.FromString(data)
        return self._node.gossip.answer(list(request.ask)).SerializeToString()

    async def list_layers(self, data: bytes) -> bytes:
        request = storage_pb2.ListLayersRequest.FromString(data)
        segment = self._segment(request.volume, request.group)
        if segment.flushed_lsn < request.up_to:
            await uninterrupted(self._node.flush(segment))
            segment.check()
        unpin = segment.layers.pin([info.name for info in segment.layers.layers])
        asyncio.get_running_loop().call_later(_PIN_S, unpin)
        return storage_pb2.ListLayersReply(
            layer=[
                storage_pb2.Layer(name=info.name, size=info.size_bytes, crc=info.crc)
                for info in segment.layers.layers
            ],
            complete_lsn=segment.flushed_lsn,
            timeline=segment.chain.timeline.encode(),
            known_vdl=segment.chain.known_vdl,
        ).SerializeToString()

    async def copy_layers(self, stream: Stream) -> None:
        """A peer copies layers, one after the other."""
        while (data := await stream.receive()) is not None:
            request = storage_pb2.CopyLayerRequest.FromString(data)
            segment = self._segment(request.volume, request.group)
            if not segment.layers.has(request.name):
                raise InvalidRequest(f"copy layer {request.name!r}: {segment.id} does not have it")
            file = segment.layers.open_file(request.name)
            try:
                for offset in range(0, file.size, LAYER_CHUNK_BYTES):
                    await stream.send(file.read(offset, LAYER_CHUNK_BYTES))
            except OSError as error:
                raise SegmentFailed(f"copy layer {request.name}: {error}") from None
            finally:
                file.close()

    async def node_status(self, data: bytes) -> bytes:
        storage_pb2.NodeStatusRequest.FromString(data)
        node = self._node
        reply = storage_pb2.NodeStatusReply(
            node=node.id, az=node.az, free_bytes=node.free_bytes, sync_us=round(1e6 * node.log.recent_sync_s)
        )
        if node.log.failed is not None:
            reply.failed = f"hot log: {node.log.failed}"
        for segment in node.segments.values():
            kinds = [info.kind for info in segment.layers.layers]
            status = reply.segment.add(
                volume=segment.volume,
                group=segment.id.group,
                slot=segment.id.slot,
                scl=segment.chain.durable_scl,
                known_vdl=segment.chain.known_vdl,
                promised_epoch=segment.chain.promised,
                timeline_epoch=segment.chain.timeline.epoch,
                state=segment.state,
                hot_bytes=segment.hot_bytes,
                delta_layers=kinds.count("delta"),
                image_layers=kinds.count("image"),
                layer_bytes=sum(info.size_bytes for info in segment.layers.layers),
                membership_epoch=segment.membership.epoch,
            )
            if (fill := segment.fill) is not None:
                status.fill.source = fill.source
                status.fill.bytes_done, status.fill.bytes_total = fill.bytes_done, fill.bytes_total
                status.fill.bytes_per_s = fill.bytes_per_s
        return reply.SerializeToString()

    def _member_segment(
        self, request: storage_pb2.PromiseRequest | storage_pb2.InstallTimelineRequest
    ) -> SegmentStore:
        segment = self._segment(request.volume, request.group)
        segment.check_membership(request.membership_epoch or _FIRST_MEMBERSHIP)
        if request.place:
            segment.check_place(request.place - 1, request.membership_epoch, filling=request.filling)
        return segment

    def _segment(self, volume: int, group: int) -> SegmentStore:
        segment = self._node.segment(VolumeId(volume), GroupId(group))
        segment.check()
        return segment


class AppendStream:
    """One writer's stream: frames in, cumulative acknowledgements out, also those no frame asked for."""

    def __init__(self, node: StorageNode, stream: Stream) -> None:
        self._node = node
        self._stream = stream
        self._volume = VolumeId(0)
        self._epoch = Epoch(0)
        self._membership: dict[int, int] = {}
        """By group: the membership epoch that the writer knows."""
        self._outbox: dict[GroupId, SegmentStore] = {}
        self._wake = asyncio.Event()
        self._unsettled: dict[GroupId, SegmentStore] = {}
        self._settling = asyncio.Event()

    async def run(self) -> None:
        unwatch = self._node.watch(self._on_moved)
        tasks = [asyncio.create_task(each) for each in (self._read(), self._settle(), self._write())]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            unwatch()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        for task in tasks:
            if not task.cancelled() and (error := task.exception()) is not None:
                raise error

    async def _read(self) -> None:
        while (data := await self._stream.receive()) is not None:
            request = storage_pb2.AppendRequest.FromString(data)
            self._volume, self._epoch = VolumeId(request.volume), Epoch(request.epoch)
            if request.membership:
                self._learn(request.membership)
            if request.beat and not self._confirms():
                request.beat = 0
            frames = split_frames(request.frames)
            vdl, read_floor = Lsn(request.vdl), Lsn(request.read_floor)
            touched = await self._node.append(self._volume, self._epoch, frames, vdl, read_floor)
            by_group = {segment.id.group: segment for segment in touched}
            if touched and not self._unsettled and self._node.settle_at_once(touched):
                self._outbox |= by_group
            elif touched:
                self._unsettled |= by_group
                self._settling.set()
            await self._acknowledge(request.beat, {header.group for header, _ in frames} - by_group.keys())

    async def _settle(self) -> None:
        """What could not be made durable at once; while a sync is under way more may come for the next one."""
        while True:
            await self._settling.wait()
            self._settling.clear()
            segments = self._unsettled
            self._unsettled = {}
            await self._node.settle(segments.values())
            self._outbox |= segments
            await self._acknowledge()

    def _confirms(self) -> bool:
        """Answer a beat: no newer epoch is promised here, and the writer knows the members of group 0, on
        whose slots its lease depends."""
        self._node.grant_lease(self._volume, self._epoch)
        segment = self._node.segments.get((self._volume, GroupId(0)))
        if segment is None or segment.failed is not None:
            return False
        if segment.membership.epoch > self._membership.get(0, _FIRST_MEMBERSHIP):
            self._outbox[segment.id.group] = segment
            return False
        return True

    def _learn(self, told: Iterable[storage_pb2.GroupEpoch]) -> None:
        """What was not acknowledged to a writer that did not know the members may be now."""
        for each in told:
            self._membership[each.group] = each.epoch
            segment = self._node.segments.get((self._volume, GroupId(each.group)))
            if segment is not None:
                self._outbox[segment.id.group] = segment

    def _on_moved(self, segment: SegmentStore) -> None:
        if segment.volume == self._volume:
            self._outbox[segment.id.group] = segment
            self._wake.set()

    async def _write(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            await self._acknowledge()

    async def _acknowledge(self, beat: int = 0, missing: Iterable[GroupId] = ()) -> None:
        outbox, self._outbox = self._outbox, {}
        if not outbox and not beat and not missing:
            return
        reply = storage_pb2.AppendReply(beat=beat, failed_group=missing)
        for group, segment in outbox.items():
            if segment.membership.epoch > self._membership.get(group, _FIRST_MEMBERSHIP):
                reply.newer.append(membership_message(segment.volume, group, segment.membership))
                continue
            if segment.failed is not None or segment.removed:
                reply.failed_group.append(group)
                continue
            segment.chain.check_writer(self._epoch)
            reply.group.append(group)
            reply.scl.append(segment.chain.durable_scl)
        await self._stream.send(reply.SerializeToString())
        self._node.acks_sent += 1
