"""Segments tell each other how far they are, and give what the other lacks.

Every second, and four times as often while something is gained by it, a node asks one random peer about the
segments they share: its SCL against theirs. The answer brings log above it, a newer timeline, a newer
membership, a higher VDL; no log while a writer's stream brings that anyway. While it gains it asks again at once. Where the peer's log begins above our SCL its
layers are copied whole first (copying.py). So they are for a replacement, and in place of layers of ours that
turned out to be damaged; that goes on beside the gossip, from several peers at a time.
"""

import asyncio
import random
from typing import TYPE_CHECKING, Final

from google.protobuf.message import DecodeError

from proto import storage_pb2
from runtime.events import get_logger
from runtime.transport import Transport
from storage_node.copying import Copier, some_source
from storage_node.membership_messages import membership_message, membership_of
from storage_node.segment_store import SegmentStore
from volume.errors import VolumeError
from volume.ids import GroupId, Lsn, VolumeId
from volume.limits import CALL_TIMEOUT_S, GOSSIP_REPLY_BYTES_MAX
from volume.log_batch import split_frames
from volume.quorum_set import Member
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
_COPIES_MAX: Final = 2
"""Segments of a node that are filled at the same time."""

_COPY_EVERY_S: Final = 0.2


class Gossip:
    def __init__(self, node: "StorageNode", transport: Transport, dice: random.Random) -> None:
        self._node = node
        self._transport = transport
        self._dice = dice
        self._wake = asyncio.Event()
        self._gained = True
        self._copying: dict[SegmentStore, asyncio.Task[None]] = {}
        self._filled: set[SegmentStore] = set()
        """Replacements that have a peer's layers: gossip brings the rest."""
        self.copier = Copier(transport, lambda: node.batches + node.pages_read, lambda: node.spare_bytes)

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
            peers = sorted({peer for s in self._node.segments.values() for peer in _nodes_of(s)})
            if peers:
                await self._with(*self._dice.choice(peers))

    def _is_worth_it(self) -> bool:
        """Something was gained the last time, or is known to be missing."""
        return self._gained or any(s.chain.has_gap or s.mendable for s in self._node.segments.values())

    async def run_copies(self) -> None:
        """Fill replacements and mend damaged segments, a few at a time, each from a peer of its own."""
        try:
            while True:
                await asyncio.sleep(_COPY_EVERY_S * self._dice.uniform(0.5, 1.5))
                for segment, task in list(self._copying.items()):
                    if task.done():
                        del self._copying[segment]
                for segment in self._node.segments.values():
                    if len(self._copying) < _COPIES_MAX and segment not in self._copying:
                        self._begin_copy(segment)
        finally:
            for task in self._copying.values():
                task.cancel()
            await asyncio.gather(*self._copying.values(), return_exceptions=True)

    def _begin_copy(self, segment: SegmentStore) -> None:
        fills = segment.filling and segment.failed is None and segment not in self._filled
        source = some_source(segment, self._dice) if fills or segment.mendable else None
        if source is not None:
            self._copying[segment] = asyncio.create_task(self._copy(source, segment))

    async def _copy(self, source: Member, segment: SegmentStore) -> None:
        try:
            if segment.mendable:
                taken = await self.copier.mend(source, segment)
            else:
                taken = await self.copier.copy(source, segment)
                self._filled.add(segment)  # if the peer has no layers that we lack, its log is all we need
            if taken:
                await self._node.settle([segment])
                self._node.tell_watchers(segment)
        except (VolumeError, DecodeError) as error:
            events.info("segment.copy_failed", segment=str(segment.id), source=source.node, reason=str(error))
        except OSError as error:
            events.error("gossip.disk_failed", source=source.node, reason=str(error))

    async def forget(self, segment: SegmentStore) -> None:
        """It is given up: nothing is copied for it any more. Another one may soon be in its folder."""
        self._filled.discard(segment)
        copying = self._copying.pop(segment, None)
        if copying is not None:
            copying.cancel()
            await asyncio.gather(copying, return_exceptions=True)

    def _waits_for_layers(self, segment: SegmentStore) -> bool:
        """Its log would come in vain: layers are on their way, or must be looked for first."""
        return segment in self._copying or (segment.filling and segment not in self._filled)

    async def _with(self, node: str, address: str) -> None:
        self._gained = False
        for _ in range(_ROUNDS_MAX):
            shared = [s for s in self._node.segments.values() if (node, address) in _nodes_of(s)]
            self._dice.shuffle(shared)
            try:
                if not await self._ask(address, shared[:_ASKS_MAX]):
                    return
                self._gained = True
            except (VolumeError, DecodeError):
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
                membership_epoch=segment.membership.epoch,
                no_frames=self._node.comes_by_stream(segment),
            )
            for segment in segments
            if segment.failed is None and not segment.removed and not self._waits_for_layers(segment)
        ]
        if not asks:
            return False
        request = storage_pb2.GossipRequest(ask=asks).SerializeToString()
        data = await self._transport.call(address, _SERVICE + "Gossip", request, timeout_s=CALL_TIMEOUT_S)
        wanted = {(ask.volume, ask.group) for ask in asks if not ask.no_frames}
        gained = lacks = False
        for answer in storage_pb2.GossipReply.FromString(data).answer:
            segment = self._node.segment(VolumeId(answer.volume), GroupId(answer.group))
            gained |= await self._take(address, segment, answer)
            lacks |= answer.scl > segment.chain.scl and segment.key in wanted
        return gained and lacks

    async def _take(self, address: str, segment: SegmentStore, answer: storage_pb2.GossipAnswer) -> bool:
        """True if it brought the segment further."""
        before = segment.chain.scl
        if answer.membership.epoch > segment.membership.epoch:
            told = answer.membership
            newer = membership_of(told.epoch, told.member, f"gossip of {segment.id}")
            await self._node.join(segment, newer, segment.chain.promised)
            if segment.removed:
                return False
        if answer.timeline:
            await segment.install(Timeline.decode(answer.timeline), Lsn(answer.known_vdl))
        segment.chain.known_vdl = max(segment.chain.known_vdl, Lsn(answer.known_vdl))
        if answer.log_start > segment.chain.scl:
            await self._copy_layers(address, segment)
        elif answer.frames:
            await self._node.take_from_peer(segment, split_frames(answer.frames))
        return bool(answer.frames or answer.log_start) and segment.chain.scl > before

    def answer(self, asks: "list[storage_pb2.GossipAsk]") -> storage_pb2.GossipReply:
        """What a peer that asks should know. Log for the first of its segments, as much as fits: of the others only
        that there is some."""
        reply = storage_pb2.GossipReply()
        room = GOSSIP_REPLY_BYTES_MAX
        for ask in asks:
            segment = self._node.segments.get((VolumeId(ask.volume), GroupId(ask.group)))
            if segment is None or segment.failed is not None or segment.removed:
                continue
            chain = segment.chain
            answer = reply.answer.add(
                volume=ask.volume, group=ask.group, scl=chain.durable_scl, known_vdl=chain.known_vdl
            )
            if segment.membership.epoch > ask.membership_epoch:
                answer.membership.CopyFrom(
                    membership_message(segment.volume, segment.id.group, segment.membership)
                )
            if chain.timeline.epoch > ask.timeline_epoch:
                answer.timeline = chain.timeline.encode()
            if ask.timeline_epoch <= chain.timeline.epoch:
                chain.known_vdl = max(chain.known_vdl, Lsn(ask.known_vdl))
            if room > 0 and not ask.no_frames and (chain.scl > ask.scl or chain.has_gap):
                answer.frames, answer.log_start = segment.frames_after(Lsn(ask.scl), room)
                room -= len(answer.frames)
        return reply

    async def _copy_layers(self, address: str, segment: SegmentStore) -> None:
        """The peer's log does not reach back to our SCL."""
        source = next((peer for peer in segment.peers if peer.address == address), None)
        if source is None or segment in self._copying:
            return
        self._copying[segment] = task = asyncio.create_task(self._copy(source, segment))
        await asyncio.wait([task])  # it may be given up, but gossip goes on
        if not task.cancelled():
            task.result()


def _nodes_of(segment: SegmentStore) -> list[tuple[str, str]]:
    return [(peer.node, peer.address) for peer in segment.peers] if not segment.removed else []
