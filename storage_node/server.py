"""The gRPC edge of a storage node: decode, call, encode. Each method is one of proto/storage.proto."""

import asyncio
from typing import Final

import lz4.block

from proto import storage_pb2
from runtime.transport import Handlers, Stream
from storage_node.node import StorageNode
from storage_node.segment_store import Peer, SegmentStore
from volume.errors import CorruptPage, InvalidRequest, StaleEpoch, VolumeError
from volume.ids import Epoch, GroupId, Lsn, PageNumber, SegmentId, VolumeId
from volume.limits import LAYER_CHUNK_BYTES, READ_PAGES_MAX
from volume.log_batch import split_frames
from volume.page import checksum
from volume.quorum import COPIES
from volume.timeline import Timeline

_SERVICE: Final = "/sixfold.storage.Storage/"


class StorageService:
    def __init__(self, node: StorageNode) -> None:
        self._node = node

    def handlers(self) -> Handlers:
        unary = {
            "Promise": self.promise,
            "InstallTimeline": self.install_timeline,
            "CreateSegment": self.create_segment,
            "Gossip": self.gossip,
            "ListLayers": self.list_layers,
            "FetchLayer": self.fetch_layer,
            "NodeStatus": self.node_status,
        }
        return Handlers(
            {_SERVICE + name: method for name, method in unary.items()},
            {_SERVICE + "AppendLog": self.append_log, _SERVICE + "ReadPages": self.read_pages},
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
                if isinstance(error, CorruptPage):
                    self._segment(request.volume, request.group).fail(str(error), mendable=True)
                reply = storage_pb2.ReadPagesReply(id=request.id, error=f"{type(error).__name__}: {error}")
            await stream.send(reply.SerializeToString())

    def _read(self, request: storage_pb2.ReadPagesRequest) -> storage_pb2.ReadPagesReply:
        if not 0 < len(request.page) <= READ_PAGES_MAX or min(request.page) == 0:
            raise InvalidRequest(f"read {len(request.page)} pages: 1 to {READ_PAGES_MAX}, numbered from 1")
        segment = self._segment(request.volume, request.group)
        if request.epoch < segment.chain.promised:
            raise StaleEpoch(f"read in epoch {request.epoch}: epoch {segment.chain.promised} is promised")
        lsn, required = Lsn(request.read_lsn), Lsn(request.required_scl)
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
        segment = self._segment(request.volume, request.group)
        await segment.promise(Epoch(request.epoch))
        scl, known_vdl, timeline = segment.chain.scl, segment.chain.known_vdl, segment.chain.timeline
        tail = segment.report()
        # In this order: gossip goes on meanwhile, and only what is on disk may be told.
        await self._node.synced()
        if request.epoch < segment.chain.promised:
            raise StaleEpoch(f"promise epoch {request.epoch}: epoch {segment.chain.promised} is promised")
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
        segment = self._segment(request.volume, request.group)
        if request.epoch < segment.chain.promised:
            raise StaleEpoch(f"install epoch {request.epoch}: epoch {segment.chain.promised} is promised")
        timeline = Timeline.decode(request.timeline)
        if timeline.epoch > request.epoch:
            raise InvalidRequest(f"install timeline of epoch {timeline.epoch} in epoch {request.epoch}")
        await segment.install(timeline, Lsn(request.vdl))
        self._node.gossip_now()
        return storage_pb2.InstallTimelineReply(scl=segment.chain.durable_scl).SerializeToString()

    async def create_segment(self, data: bytes) -> bytes:
        request = storage_pb2.CreateSegmentRequest.FromString(data)
        if len(request.member) != COPIES or not 0 <= request.slot < COPIES or not request.volume:
            raise InvalidRequest(f"create pg{request.group}/{request.slot}: {len(request.member)} members")
        peers = tuple(Peer(each.slot, each.node, each.address, each.az) for each in request.member)
        id = SegmentId(GroupId(request.group), request.slot)
        await self._node.create_segment(VolumeId(request.volume), id, peers, request.membership_epoch)
        return storage_pb2.CreateSegmentReply().SerializeToString()

    async def gossip(self, data: bytes) -> bytes:
        request = storage_pb2.GossipRequest.FromString(data)
        return self._node.gossip.answer(list(request.ask)).SerializeToString()

    async def list_layers(self, data: bytes) -> bytes:
        request = storage_pb2.ListLayersRequest.FromString(data)
        segment = self._segment(request.volume, request.group)
        if segment.flushed_lsn < request.up_to:
            await self._node.flush(segment)
            segment.check()
        return storage_pb2.ListLayersReply(
            layer=[storage_pb2.Layer(name=info.name, size=info.size_bytes) for info in segment.layers.layers],
            complete_lsn=segment.flushed_lsn,
            timeline=segment.chain.timeline.encode(),
            known_vdl=segment.chain.known_vdl,
        ).SerializeToString()

    async def fetch_layer(self, data: bytes) -> bytes:
        request = storage_pb2.FetchLayerRequest.FromString(data)
        segment = self._segment(request.volume, request.group)
        if request.name not in {info.name for info in segment.layers.layers}:
            raise InvalidRequest(f"fetch layer {request.name!r}: {segment.id} does not have it")
        chunk = segment.layers.chunk(request.name, request.offset, min(request.size, LAYER_CHUNK_BYTES))
        return storage_pb2.FetchLayerReply(data=chunk, crc=checksum(chunk)).SerializeToString()

    async def node_status(self, data: bytes) -> bytes:
        storage_pb2.NodeStatusRequest.FromString(data)
        node = self._node
        reply = storage_pb2.NodeStatusReply(node=node.id, az=node.az, free_bytes=node.free_bytes)
        for segment in node.segments.values():
            kinds = [info.kind for info in segment.layers.layers]
            reply.segment.add(
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
            )
        return reply.SerializeToString()

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
        self._outbox: dict[GroupId, SegmentStore] = {}
        self._wake = asyncio.Event()

    async def run(self) -> None:
        unwatch = self._node.watch(self._on_moved)
        reader = asyncio.create_task(self._read())
        writer = asyncio.create_task(self._write())
        try:
            await asyncio.wait((reader, writer), return_when=asyncio.FIRST_COMPLETED)
        finally:
            unwatch()
            for task in (reader, writer):
                task.cancel()
            await asyncio.gather(reader, writer, return_exceptions=True)
        for task in (reader, writer):
            if not task.cancelled() and (error := task.exception()) is not None:
                raise error

    async def _read(self) -> None:
        while (data := await self._stream.receive()) is not None:
            request = storage_pb2.AppendRequest.FromString(data)
            self._volume, self._epoch = VolumeId(request.volume), Epoch(request.epoch)
            frames = split_frames(request.frames)
            vdl, read_floor = Lsn(request.vdl), Lsn(request.read_floor)
            for segment in await self._node.append(self._volume, self._epoch, frames, vdl, read_floor):
                self._outbox[segment.id.group] = segment
            await self._acknowledge()

    def _on_moved(self, segment: SegmentStore) -> None:
        if segment.volume == self._volume:
            self._outbox[segment.id.group] = segment
            self._wake.set()

    async def _write(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            await self._acknowledge()

    async def _acknowledge(self) -> None:
        outbox, self._outbox = self._outbox, {}
        if not outbox:
            return
        reply = storage_pb2.AppendReply()
        for group, segment in outbox.items():
            if segment.failed is not None:
                reply.failed_group.append(group)
                continue
            segment.chain.check_writer(self._epoch)
            reply.group.append(group)
            reply.scl.append(segment.chain.durable_scl)
        await self._stream.send(reply.SerializeToString())
        self._node.acks_sent += 1
