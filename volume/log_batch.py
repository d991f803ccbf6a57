"""The frame: a run of one protection group's records, in chain order, that a storage node checks and
appends without decoding it. Immutable once sealed; the same bytes cross the network and lie on disk.

    offset  size  field         meaning
    ------  ----  ------------  -----------------------------------------------------------
         0     4  magic         "SXFR"
         4     2  format        FRAME_FORMAT
         6     2  reserved      zero
         8     8  volume
        16     4  group         protection group
        20     4  record_count
        24     8  epoch         volume epoch in which the records were written
        32     8  prev_lsn      the group's record before the first one here
        40     8  first_lsn
        48     8  last_lsn
        56     8  vdl           volume durable LSN known to the writer when it sealed the frame
        64     4  body_size
        68     4  crc           crc32c of everything else in the frame
        72     n  body          records (redo_record.py)

All integers are little-endian.
"""

import struct
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from volume.errors import CorruptRecord, UnknownFormat
from volume.ids import Epoch, GroupId, Lsn, VolumeId
from volume.limits import FRAME_BYTES_MAX, PAGE_SIZE_BYTES
from volume.page import checksum, more_checksum
from volume.redo_record import RedoRecord, encode_record, iter_records

FRAME_FORMAT: Final = 1
MAGIC: Final = int.from_bytes(b"SXFR", "little")
MAGIC_BYTES: Final = b"SXFR"
_HEADER: Final = struct.Struct("<IHHQIIQQQQQII")
_CRC: Final = struct.Struct("<I")
HEADER_SIZE: Final = _HEADER.size
assert HEADER_SIZE == 72
BODY_BYTES_MAX: Final = FRAME_BYTES_MAX + 2 * PAGE_SIZE_BYTES


class FrameHeader(NamedTuple):
    volume: VolumeId
    group: GroupId
    record_count: int
    epoch: Epoch
    prev_lsn: Lsn
    first_lsn: Lsn
    last_lsn: Lsn
    vdl: Lsn
    body_size: int
    crc: int

    @property
    def size(self) -> int:
        """Bytes of the whole frame."""
        return HEADER_SIZE + self.body_size


def seal_frame(
    volume: VolumeId,
    group: GroupId,
    epoch: Epoch,
    prev_lsn: Lsn,
    records: Sequence[bytes],
    first_lsn: Lsn,
    last_lsn: Lsn,
    vdl: Lsn,
) -> bytes:
    """Make a frame of encoded records, which follow each other from `prev_lsn` to `last_lsn`."""
    assert records
    assert prev_lsn < first_lsn <= last_lsn
    body = b"".join(records)
    head = _HEADER.pack(
        MAGIC,
        FRAME_FORMAT,
        0,
        volume,
        group,
        len(records),
        epoch,
        prev_lsn,
        first_lsn,
        last_lsn,
        vdl,
        len(body),
        0,
    )[:-4]
    return b"".join((head, _CRC.pack(more_checksum(checksum(head), body)), body))


def seal_records(
    volume: VolumeId, group: GroupId, epoch: Epoch, records: Sequence[RedoRecord], vdl: Lsn
) -> list[bytes]:
    """Frames of records that follow each other, as many as it takes."""
    frames = []
    run: list[bytes] = []
    size, first = 0, records[0]
    for index, record in enumerate(records):
        if not run:
            first = record
        run.append(encode_record(record))
        size += len(run[-1])
        if size >= FRAME_BYTES_MAX or index == len(records) - 1:
            frames.append(
                seal_frame(volume, group, epoch, first.group_prev_lsn, run, first.lsn, record.lsn, vdl)
            )
            run, size = [], 0
    return frames


def read_header(buffer: bytes | memoryview, offset: int = 0) -> FrameHeader:
    """The header at `offset`. Raises CorruptRecord or UnknownFormat; the checksum is not looked at."""
    if len(buffer) - offset < HEADER_SIZE:
        raise CorruptRecord(f"read frame at byte {offset}: {len(buffer) - offset} bytes are no header")
    magic, version, _, *fields = _HEADER.unpack_from(buffer, offset)
    if magic != MAGIC:
        raise CorruptRecord(f"read frame at byte {offset}: no frame begins here")
    if version != FRAME_FORMAT:
        raise UnknownFormat(
            f"read frame at byte {offset}: format {version}, this release knows {FRAME_FORMAT}"
        )
    header = FrameHeader(*fields)
    if not header.prev_lsn < header.first_lsn <= header.last_lsn:
        raise CorruptRecord(f"read frame at byte {offset}: lsn {header.first_lsn}..{header.last_lsn}")
    if not 0 < header.body_size <= BODY_BYTES_MAX:
        raise CorruptRecord(f"read frame at byte {offset}: body of {header.body_size} bytes")
    return header


def check_frame(frame: bytes) -> FrameHeader:
    """Believe the frame: its header, if length and checksum agree. Raises CorruptRecord otherwise."""
    header = read_header(frame)
    check_against(header, frame)
    return header


def check_against(header: FrameHeader, frame: bytes) -> None:
    """The same of a frame whose header was read. Raises CorruptRecord."""
    if len(frame) != header.size:
        raise CorruptRecord(f"check frame {header.first_lsn}..: {len(frame)} bytes instead of {header.size}")
    if more_checksum(checksum(frame[: HEADER_SIZE - _CRC.size]), frame[HEADER_SIZE:]) != header.crc:
        raise CorruptRecord(f"check frame {header.first_lsn}..{header.last_lsn}: checksum differs")


def split_frames(blob: bytes) -> list[tuple[FrameHeader, bytes]]:
    """The frames that lie one after the other in `blob`, each checked."""
    found = []
    offset = 0
    while offset < len(blob):
        header = read_header(blob, offset)
        end = offset + header.size
        frame = blob[offset:end]
        check_against(header, frame)
        found.append((header, frame))
        offset = end
    return found


def frame_records(frame: bytes) -> list[RedoRecord]:
    """Decode a frame that was checked."""
    return list(iter_records(frame[HEADER_SIZE:]))


def reseal(header: FrameHeader, records: Sequence[RedoRecord]) -> bytes:
    """A frame like `header`'s that holds these records instead."""
    return seal_frame(
        header.volume,
        header.group,
        header.epoch,
        records[0].group_prev_lsn,
        [encode_record(record) for record in records],
        records[0].lsn,
        records[-1].lsn,
        header.vdl,
    )


def clip_frame(frame: bytes, keep: Callable[[Lsn], bool]) -> bytes | None:
    """The same frame with only the records to keep; None if there are none."""
    header = read_header(frame)
    records = frame_records(frame)
    kept = [record for record in records if keep(record.lsn)]
    if len(kept) == len(records):
        return frame
    return reseal(header, kept) if kept else None
