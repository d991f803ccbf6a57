"""The single requests an instance makes of a storage node: translate, call, translate."""

from typing import Final

import lz4.block

from db_instance.volume_driver.page_reader import PageReader
from proto import storage_pb2
from runtime.transport import Transport
from volume.errors import CorruptPage, InvalidRequest
from volume.ids import Epoch, GroupId, Lsn, PageNumber, VolumeId
from volume.limits import CALL_TIMEOUT_S, PAGE_SIZE_BYTES
from volume.page import checksum
from volume.recovery import SegmentTail
from volume.timeline import Timeline

_SERVICE: Final = "/sixfold.storage.Storage/"


class SegmentCalls:
    """One volume's requests in one epoch, to any node by its address."""

    def __init__(self, transport: Transport, volume: VolumeId, epoch: Epoch) -> None:
        self._transport = transport
        self._volume = volume
        self._epoch = epoch
        self._readers: dict[str, PageReader] = {}

    async def promise(self, address: str, group: GroupId, slot: int) -> SegmentTail:
        """Shut out older epochs at this segment, and learn what it holds. Raises StaleEpoch."""
        request = storage_pb2.PromiseRequest(volume=self._volume, group=group, epoch=self._epoch)
        data = await self._call(address, "Promise", request.SerializeToString())
        reply = storage_pb2.PromiseReply.FromString(data)
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

    async def install_timeline(self, address: str, group: GroupId, timeline: Timeline, vdl: Lsn) -> Lsn:
        """Make the timeline durable at this segment. Returns its SCL, which gossip may raise later."""
        request = storage_pb2.InstallTimelineRequest(
            volume=self._volume, group=group, epoch=self._epoch, timeline=timeline.encode(), vdl=vdl
        )
        data = await self._call(address, "InstallTimeline", request.SerializeToString())
        return Lsn(storage_pb2.InstallTimelineReply.FromString(data).scl)

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
