"""The single requests an instance makes of a storage node: translate, call, translate."""

from collections.abc import Mapping
from typing import Final, NamedTuple

import lz4.block

from db_instance.volume_driver.page_reader import PageReader
from proto import storage_pb2
from runtime.transport import Transport
from volume.errors import CorruptPage, InvalidRequest
from volume.ids import Epoch, GroupId, Lsn, PageNumber, VolumeId
from volume.limits import CALL_TIMEOUT_S, PAGE_SIZE_BYTES
from volume.page import checksum
from volume.quorum_set import Member
from volume.recovery import SegmentTail
from volume.timeline import Timeline

_SERVICE: Final = "/sixfold.storage.Storage/"


class Installed(NamedTuple):
    scl: Lsn
    """How far the segment is; gossip may raise it later."""
    lease_left_s: float
    """For so long the writer of an older epoch may still answer reads."""


class SegmentCalls:
    """One volume's requests in one epoch, to any node by its address."""

    def __init__(self, transport: Transport, volume: VolumeId, epoch: Epoch) -> None:
        self._transport = transport
        self._volume = volume
        self._epoch = epoch
        self.timeline_epochs: Mapping[GroupId, Epoch] = {}
        """By group: segments whose timeline is older than this must not answer reads. Ours, if nothing is said."""
        self._readers: dict[str, PageReader] = {}

    async def promise(self, member: Member, group: GroupId, membership: int) -> SegmentTail | None:
        """Shut out older epochs at this segment, and learn what it holds; None from one that is being filled.

        Raises StaleEpoch, StaleMembership.
        """
        slot = member.slot
        request = storage_pb2.PromiseRequest(
            volume=self._volume,
            group=group,
            epoch=self._epoch,
            membership_epoch=membership,
            place=slot + 1,
            filling=member.filling,
        )
        data = await self._call(member.address, "Promise", request.SerializeToString())
        reply = storage_pb2.PromiseReply.FromString(data)
        if reply.filling:
            return None
        if len(reply.run_first) != len(reply.run_last):
            raise InvalidRequest(f"read promise of pg{group}/{slot}: runs do not pair up")
        return SegmentTail(
            group,
            slot,
            Lsn(reply.scl),
            Lsn(reply.known_vdl),
            Timeline.decode(reply.timeline),
            tuple(
                (Lsn(first), Lsn(last)) for first, last in zip(reply.run_first, reply.run_last, strict=True)
            ),
            tuple(Lsn(cpl) for cpl in reply.cpl),
            Lsn(reply.chain_base),
        )

    async def install_timeline(
        self, member: Member, group: GroupId, membership: int, timeline: Timeline, vdl: Lsn
    ) -> Installed:
        """Make the timeline durable at this segment. Raises StaleEpoch, StaleMembership."""
        request = storage_pb2.InstallTimelineRequest(
            volume=self._volume,
            group=group,
            epoch=self._epoch,
            timeline=timeline.encode(),
            vdl=vdl,
            membership_epoch=membership,
            place=member.slot + 1,
            filling=member.filling,
        )
        data = await self._call(member.address, "InstallTimeline", request.SerializeToString())
        reply = storage_pb2.InstallTimelineReply.FromString(data)
        return Installed(Lsn(reply.scl), reply.lease_left_ms / 1000)

    async def read_pages(
        self, address: str, group: GroupId, read_lsn: Lsn, required_scl: Lsn, pages: list[PageNumber]
    ) -> list[tuple[Lsn, bytes]]:
        """Each page's LSN and bytes as of `read_lsn`, checksums compared."""
        request = storage_pb2.ReadPagesRequest(
            volume=self._volume,
            epoch=self._epoch,
            group=group,
            read_lsn=read_lsn,
            required_scl=required_scl,
            page=pages,
            timeline_epoch=self.timeline_epochs.get(group, self._epoch),
        )
        reader = self._readers.get(address)
        if reader is None:
            reader = self._readers[address] = PageReader(self._transport, address)
        return _unpack_pages(await reader.read(request), pages)

    async def close(self) -> None:
        for reader in self._readers.values():
            await reader.close()

    async def _call(self, address: str, method: str, request: bytes) -> bytes:
        return await self._transport.call(address, _SERVICE + method, request, timeout_s=CALL_TIMEOUT_S)


def _unpack_pages(reply: storage_pb2.ReadPagesReply, pages: list[PageNumber]) -> list[tuple[Lsn, bytes]]:
    size = len(pages) * PAGE_SIZE_BYTES
    try:
        data = lz4.block.decompress(reply.pages, uncompressed_size=size)
    except lz4.block.LZ4BlockError as error:
        raise CorruptPage(f"read {len(pages)} pages from {pages[0]}: {error}") from None
    if len(data) != size or not len(reply.page_lsn) == len(reply.page_crc) == len(pages):
        raise InvalidRequest(f"read {len(pages)} pages from {pages[0]}: {len(data)} bytes came")
    found = []
    for index, (lsn, crc) in enumerate(zip(reply.page_lsn, reply.page_crc, strict=True)):
        page = data[index * PAGE_SIZE_BYTES : (index + 1) * PAGE_SIZE_BYTES]
        if checksum(page) != crc:
            raise CorruptPage(f"read page {pages[index]}: checksum differs on arrival")
        found.append((Lsn(lsn), page))
    return found
