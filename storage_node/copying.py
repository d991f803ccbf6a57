"""Copies a peer's layers, whole and checked, in place of a segment's own.

So a replacement is filled, so a segment comes back whose peers no longer have the log it lacks, and so
damaged layers are mended. While clients are served, copying rests for most of the time.
"""

import asyncio
import random
from collections.abc import Callable
from typing import Final

from google.protobuf.message import DecodeError

from proto import storage_pb2
from runtime.disk import File
from runtime.events import get_logger
from runtime.transport import Stream, Transport
from storage_node.layers.layer_file import LayerReader
from storage_node.segment_store import Fill, SegmentStore
from volume.errors import CorruptPage, DeadlineExceeded, PeerUnavailable, VolumeBusy, VolumeError
from volume.ids import LSN_ZERO, Lsn
from volume.limits import CALL_TIMEOUT_S, MIB
from volume.page import more_checksum
from volume.quorum_set import Member
from volume.timeline import Timeline

events = get_logger("storage_node.copying")

_SERVICE: Final = "/sixfold.storage.Storage/"
_LIST_S: Final = 20.0
"""The peer may have to write a layer first."""

_BLOBS_A_STEP: Final = 64
"""Blobs of a copied layer that are checked before others have their turn."""

_REST_FACTOR: Final = 7
"""While clients are served: seven times as long at rest as at work."""

_SYNC_BYTES: Final = 2 * MIB
"""While clients are served a layer goes to disk in portions: one sync of all of it would hold up the hot logs'."""

_SYNC_AHEAD_BYTES: Final = 32 * MIB
"""While nobody is, the disk writes what has come while more comes."""


class Copier:
    """One node's copying. `served` counts what it did for clients: if it moves, they are served. `spare`: how many
    bytes of the disk the log can do without."""

    def __init__(self, transport: Transport, served: Callable[[], int], spare: Callable[[], int]) -> None:
        self._transport = transport
        self._served = served
        self._spare = spare
        self._served_before = 0
        self._busy = False
        self._fills: dict[SegmentStore, Fill] = {}
        """Those under way: what one of them is still to take no other may."""

    async def copy(self, source: Member, segment: SegmentStore) -> bool:
        """Take the peer's layers in place of ours, if they reach further. Whether they were taken."""
        listed = await self._list(source, segment, LSN_ZERO)
        timeline = Timeline.decode(listed.timeline)
        await segment.install(timeline, Lsn(listed.known_vdl))
        if timeline.epoch != segment.chain.timeline.epoch or listed.complete_lsn <= segment.chain.scl:
            segment.lacks_room = False
            return False
        copied = await self._copy_all(source, segment, listed)
        return await segment.adopt(copied, Lsn(listed.complete_lsn), timeline)

    async def mend(self, source: Member, segment: SegmentStore) -> bool:
        """Layers of ours are damaged: take the peer's, which must reach as far as ours did."""
        listed = await self._list(source, segment, segment.flushed_lsn)
        timeline = Timeline.decode(listed.timeline)
        if listed.complete_lsn < segment.reach_of_ours(timeline):
            return False  # another peer may be further, or this one later
        copied = await self._copy_all(source, segment, listed)
        known_vdl = Lsn(listed.known_vdl)
        if not await segment.mend(copied, Lsn(listed.complete_lsn), timeline, known_vdl):
            return False
        events.info("segment.mended", segment=str(segment.id), source=source.node, layers=len(copied))
        return True

    async def well_elsewhere(self, segment: SegmentStore) -> int:
        """How many other slots of its group have a member with a vote that serves."""

        async def serves(peer: Member) -> bool:
            request = storage_pb2.NodeStatusRequest().SerializeToString()
            try:
                data = await self._transport.call(
                    peer.address, _SERVICE + "NodeStatus", request, timeout_s=CALL_TIMEOUT_S
                )
                status = storage_pb2.NodeStatusReply.FromString(data)
            except (VolumeError, DecodeError):
                return False
            return any(
                (each.volume, each.group, each.slot) == (segment.volume, segment.id.group, peer.slot)
                and each.state in ("ok", "behind")
                for each in status.segment
            )

        return sum(
            await asyncio.gather(
                *(serves(peer) for peer in segment.peers if not peer.filling and peer.slot != segment.id.slot)
            )
        )

    async def _list(self, source: Member, segment: SegmentStore, up_to: Lsn) -> storage_pb2.ListLayersReply:
        request = storage_pb2.ListLayersRequest(volume=segment.volume, group=segment.id.group, up_to=up_to)
        data = await self._transport.call(
            source.address, _SERVICE + "ListLayers", request.SerializeToString(), timeout_s=_LIST_S
        )
        return storage_pb2.ListLayersReply.FromString(data)

    async def _copy_all(
        self, source: Member, segment: SegmentStore, listed: storage_pb2.ListLayersReply
    ) -> dict[str, int]:
        """Copy the listed layers, each under a name of our own; names and checksums. What was copied goes if one
        cannot be had."""
        now = asyncio.get_running_loop().time()
        fill = segment.fill = Fill(source.node, sum(layer.size for layer in listed.layer), now)
        stream = self._transport.open_stream(source.address, _SERVICE + "CopyLayers")
        self._fills[segment] = fill
        copied: dict[str, int] = {}
        syncing: asyncio.Task[None] | None = None
        try:
            for layer in listed.layer:
                wanted = sum(each.bytes_total - each.bytes_done for each in self._fills.values())
                segment.lacks_room = wanted > self._spare()
                if segment.lacks_room:
                    raise VolumeBusy(
                        f"copy {fill.bytes_total} bytes of {segment.id}: the disk has no room for them"
                    )
                name = segment.layers.new_name("copied", Lsn(0), Lsn(0))
                copied[name] = layer.crc
                file = segment.layers.create(name)
                try:
                    await self._copy_layer(stream, segment, layer, file, fill)
                    # The disk syncs one layer while the next one comes.
                    if syncing is not None:
                        await syncing
                except BaseException:
                    file.close()
                    raise
                syncing = asyncio.create_task(self._sync(file, layer, name))
            if syncing is not None:
                await syncing
        except (VolumeError, OSError, asyncio.CancelledError):
            if syncing is not None:
                await asyncio.gather(syncing, return_exceptions=True)
            segment.layers.retire(copied)
            raise
        finally:
            stream.cancel()
            segment.fill = None
            del self._fills[segment]
        events.info(
            "segment.layers_copied",
            segment=str(segment.id),
            source=source.node,
            layers=len(copied),
            bytes=fill.bytes_done,
            seconds=round(asyncio.get_running_loop().time() - now, 3),
        )
        return copied

    async def _copy_layer(
        self, stream: Stream, segment: SegmentStore, layer: storage_pb2.Layer, file: File, fill: Fill
    ) -> None:
        """Raises CorruptPage when the peer's layer is damaged: damage must not spread."""
        request = storage_pb2.CopyLayerRequest(volume=segment.volume, group=segment.id.group, name=layer.name)
        loop = asyncio.get_running_loop()
        crc = 0
        portions = _Portions(file)
        try:
            await stream.send(request.SerializeToString())
            while file.size < layer.size:
                began = loop.time()
                async with asyncio.timeout(CALL_TIMEOUT_S):
                    chunk = await stream.receive()
                if not chunk:
                    raise PeerUnavailable(f"copy layer {layer.name}: it ends at byte {file.size}")
                file.append(chunk)
                crc = more_checksum(crc, chunk)
                fill.bytes_done += len(chunk)
                await portions.sync_if_due(served=self._busy)
                fill.seconds = loop.time() - fill.started_s
                await self._give_way(loop.time() - began)
        except TimeoutError:
            raise DeadlineExceeded(
                f"copy layer {layer.name}: nothing came for {CALL_TIMEOUT_S:.0f} s"
            ) from None
        finally:
            await portions.settle()
        if layer.crc and (crc != layer.crc or file.size != layer.size):
            raise CorruptPage(f"copy layer {layer.name} of {segment.id}: checksum differs")

    async def _sync(self, file: File, layer: storage_pb2.Layer, name: str) -> None:
        try:
            await file.sync()
            if not layer.crc:
                await self._verify(file, name)
        finally:
            file.close()

    async def _verify(self, file: File, name: str) -> None:
        """One that an older release wrote: each blob has its checksum."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        for count, _ in enumerate(LayerReader(file, name).verify()):
            if count % _BLOBS_A_STEP == 0:
                await self._give_way(loop.time() - began)
                began = loop.time()

    async def _give_way(self, worked_s: float) -> None:
        """Clients that are served come first: their node, and the peer's, share a machine with us perhaps."""
        served = self._served()
        self._busy, self._served_before = served != self._served_before, served
        await asyncio.sleep(_REST_FACTOR * worked_s if self._busy else 0)


class _Portions:
    """A file that grows goes to disk in portions: while the next one comes, or, if clients are served, before it."""

    def __init__(self, file: File) -> None:
        self._file = file
        self._synced = 0
        self._syncing: asyncio.Future[None] | None = None

    async def sync_if_due(self, *, served: bool) -> None:
        """Raises OSError, also of the portion before."""
        if self._file.size - self._synced < (_SYNC_BYTES if served else _SYNC_AHEAD_BYTES):
            return
        await self.settle()
        self._synced = self._file.size
        self._syncing = asyncio.ensure_future(self._file.sync())
        if served:
            await self.settle()

    async def settle(self) -> None:
        """Wait for what is under way, even when cancelled: the file must not be closed meanwhile. Raises OSError."""
        if self._syncing is not None:
            await asyncio.wait([self._syncing])
            syncing, self._syncing = self._syncing, None
            syncing.result()


def some_source(segment: SegmentStore, dice: random.Random) -> Member | None:
    """A peer that has a vote; one of the same zone twice as likely as another."""
    own = segment.membership.of(segment.node)
    voters = [member for member in segment.peers if not member.filling]
    if not voters:
        return None
    weights = [2 if own is not None and member.az == own.az else 1 for member in voters]
    return dice.choices(voters, weights)[0]
