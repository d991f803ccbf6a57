"""Segments tell each other how far they are, and give what the other lacks.

Every second, and four times as often while something is gained by it, a node asks one random peer about the
segments they share: its SCL against theirs. The answer brings log above it, a newer timeline, a higher VDL. While it gains it asks again at
once. Where the peer's log begins above our SCL its layers are copied whole first. So they are in place of layers
of ours that turned out to be damaged.
"""

import asyncio
import random
from typing import TYPE_CHECKING, Final

from proto import storage_pb2
from runtime.events import get_logger
from runtime.transport import Transport
from storage_node.layers.layer_file import LayerReader
from storage_node.segment_store import SegmentStore
from volume.errors import CorruptPage, VolumeError
from volume.ids import LSN_ZERO, GroupId, Lsn, VolumeId
from volume.limits import CALL_TIMEOUT_S, LAYER_CHUNK_BYTES
from volume.log_batch import split_frames
from volume.page import checksum
from volume.timeline import Timeline

if TYPE_CHECKING:
    from storage_node.node import StorageNode

events = get_logger("storage_node.gossip")

_SERVICE: Final = "/sixfold.storage.Storage/"
_EVERY_S: Final = 0.25
_QUIET_EVERY_S: Final = 1.0
"""While nobody gains anything by it."""

_ASKS_MAX: Final = 64
_ROUNDS_MAX: Final = 1000
_LIST_S: Final = 20.0
"""The peer may have to write a layer first."""

_BLOBS_A_STEP: Final = 64
"""Blobs of a copied layer that are checked before others have their turn."""


class Gossip:
    def __init__(self, node: "StorageNode", transport: Transport, dice: random.Random) -> None:
        self._node = node
        self._transport = transport
        self._dice = dice
        self._wake = asyncio.Event()
        self._gained = True

    def now(self) -> None:
        """Do not wait for the next turn: someone waits for us to be complete."""
        self._wake.set()

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            every_s = _EVERY_S if self._is_worth_it() else _QUIET_EVERY_S
            handle = loop.call_later(every_s * self._dice.uniform(0.5, 1.5), self._wake.set)
            await self._wake.wait()
            handle.cancel()
            self._wake.clear()
            peers = sorted(
                {
                    peer.address
                    for s in self._node.segments.values()
                    for peer in s.peers
                    if peer.node != self._node.id
                }
            )
            if peers:
                await self._with(self._dice.choice(peers))

    def _is_worth_it(self) -> bool:
        """Something was gained the last time, or is known to be missing."""
        return self._gained or any(s.chain.has_gap or s.mendable for s in self._node.segments.values())

    async def _with(self, address: str) -> None:
        self._gained = False
        for _ in range(_ROUNDS_MAX):
            shared = [s for s in self._node.segments.values() if any(p.address == address for p in s.peers)]
            self._dice.shuffle(shared)
            try:
                for segment in shared:
                    if segment.mendable:
                        await self._mend(address, segment)
                if not await self._ask(address, shared[:_ASKS_MAX]):
                    return
                self._gained = True
            except VolumeError:
                return  # a peer that is away: the next turn asks another
            except OSError as error:
                events.error("gossip.disk_failed", source=address, reason=str(error))
                return

    async def _ask(self, address: str, segments: list[SegmentStore]) -> bool:
        """One question and what it brought. True if there is more to be had."""
        asks = [
            storage_pb2.GossipAsk(
                volume=segment.volume,
                group=segment.id.group,
                scl=segment.chain.scl,
                timeline_epoch=segment.chain.timeline.epoch,
                known_vdl=segment.chain.known_vdl,
            )
            for segment in segments
            if segment.failed is None
        ]
        if not asks:
            return False
        request = storage_pb2.GossipRequest(ask=asks).SerializeToString()
        data = await self._transport.call(address, _SERVICE + "Gossip", request, timeout_s=CALL_TIMEOUT_S)
        gained = False
        for answer in storage_pb2.GossipReply.FromString(data).answer:
            segment = self._node.segment(VolumeId(answer.volume), GroupId(answer.group))
            gained |= await self._take(address, segment, answer)
        return gained

    async def _take(self, address: str, segment: SegmentStore, answer: storage_pb2.GossipAnswer) -> bool:
        before = segment.chain.scl
        if answer.timeline:
            await segment.install(Timeline.decode(answer.timeline), Lsn(answer.known_vdl))
        segment.chain.known_vdl = max(segment.chain.known_vdl, Lsn(answer.known_vdl))
        if answer.log_start > segment.chain.scl:
            await self._copy_layers(address, segment)
        elif answer.frames:
            await self._node.take_from_peer(segment, split_frames(answer.frames))
        return segment.chain.scl > before and answer.scl > segment.chain.scl

    def answer(self, asks: "list[storage_pb2.GossipAsk]") -> storage_pb2.GossipReply:
        """What a peer that asks should know."""
        reply = storage_pb2.GossipReply()
        for ask in asks:
            segment = self._node.segments.get((VolumeId(ask.volume), GroupId(ask.group)))
            if segment is None or segment.failed is not None:
                continue
            chain = segment.chain
            answer = reply.answer.add(
                volume=ask.volume, group=ask.group, scl=chain.durable_scl, known_vdl=chain.known_vdl
            )
            if chain.timeline.epoch > ask.timeline_epoch:
                answer.timeline = chain.timeline.encode()
            if ask.timeline_epoch <= chain.timeline.epoch:
                chain.known_vdl = max(chain.known_vdl, Lsn(ask.known_vdl))
            if chain.scl > ask.scl or chain.has_gap:
                answer.frames, answer.log_start = segment.frames_after(Lsn(ask.scl))
        return reply

    async def _copy_layers(self, address: str, segment: SegmentStore) -> None:
        """Take the peer's layers in place of ours: its log does not reach back to our SCL."""
        listed = await self._list_layers(address, segment, LSN_ZERO)
        timeline = Timeline.decode(listed.timeline)
        if timeline.epoch != segment.chain.timeline.epoch or listed.complete_lsn <= segment.chain.scl:
            return
        names = await self._copy_all(address, segment, listed)
        if not await segment.adopt(names, Lsn(listed.complete_lsn), timeline):
            return
        await self._node.settle([segment])
        self._node.tell_watchers(segment)
        events.info("segment.layers_copied", segment=str(segment.id), source=address, layers=len(names))

    async def _mend(self, address: str, segment: SegmentStore) -> None:
        """Layers of ours are damaged: take the peer's, which reach as far as ours did."""
        listed = await self._list_layers(address, segment, segment.flushed_lsn)
        timeline = Timeline.decode(listed.timeline)
        if listed.complete_lsn < segment.reach_of_ours(timeline):
            return  # another peer may be further, or this one later
        names = await self._copy_all(address, segment, listed)
        if await segment.mend(names, Lsn(listed.complete_lsn), timeline):
            await self._node.settle([segment])
            self._node.tell_watchers(segment)
            events.info("segment.mended", segment=str(segment.id), source=address, layers=len(names))

    async def _list_layers(
        self, address: str, segment: SegmentStore, up_to: Lsn
    ) -> storage_pb2.ListLayersReply:
        request = storage_pb2.ListLayersRequest(volume=segment.volume, group=segment.id.group, up_to=up_to)
        data = await self._transport.call(
            address, _SERVICE + "ListLayers", request.SerializeToString(), timeout_s=_LIST_S
        )
        return storage_pb2.ListLayersReply.FromString(data)

    async def _copy_all(
        self, address: str, segment: SegmentStore, listed: storage_pb2.ListLayersReply
    ) -> list[str]:
        """Copy the listed layers, each under a name of our own. What was copied goes if one cannot be had."""
        names: list[str] = []
        try:
            for layer in listed.layer:
                names.append(segment.layers.new_name("copied", Lsn(0), Lsn(0)))
                await self._copy_layer(address, segment, layer, names[-1])
        except (VolumeError, OSError):
            segment.layers.retire(names)
            raise
        return names

    async def _copy_layer(
        self, address: str, segment: SegmentStore, layer: storage_pb2.Layer, name: str
    ) -> None:
        """Raises CorruptPage when the peer's layer is damaged: damage must not spread."""
        file = segment.layers.create(name)
        try:
            while file.size < layer.size:
                request = storage_pb2.FetchLayerRequest(
                    volume=segment.volume,
                    group=segment.id.group,
                    name=layer.name,
                    offset=file.size,
                    size=min(LAYER_CHUNK_BYTES, layer.size - file.size),
                )
                data = await self._transport.call(
                    address, _SERVICE + "FetchLayer", request.SerializeToString(), timeout_s=CALL_TIMEOUT_S
                )
                chunk = storage_pb2.FetchLayerReply.FromString(data)
                if not chunk.data or checksum(chunk.data) != chunk.crc:
                    raise CorruptPage(
                        f"copy layer {layer.name} from {address} at byte {file.size}: checksum differs"
                    )
                file.append(chunk.data)
            await file.sync()
            for count, _ in enumerate(LayerReader(file, name).verify()):
                if count % _BLOBS_A_STEP == 0:
                    await asyncio.sleep(0)
        finally:
            file.close()
