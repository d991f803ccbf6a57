"""One redo record and its bytes: one page's change, the unit of the log.

    offset  size  field           meaning
    ------  ----  --------------  ---------------------------------------------------------
         0     8  lsn             position in the volume's log
         8     8  group_prev_lsn  the record before this one in the same protection group
        16     8  page_prev_lsn   the record before this one of the same page
        24     4  page_number     the page this record changes
        28     4  page_crc        crc32c of the page after the change
        32     1  flags           bit 0: consistency point (CPL); bit 1: payload is a whole page
        33     3  reserved        zero
        36     4  payload_size
        40     n  payload         lz4 block of (old page XOR new page), or of the new page

A consistency point's payload begins with 12 bytes: commit time (microseconds since 1970, 8 bytes)
and the volume's size in pages after the commit (4 bytes). All integers are little-endian. Any change
to this table raises FRAME_FORMAT in log_batch.py; the frame around the records carries the checksum.
"""

import struct
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

import lz4.block

from volume.errors import CorruptPage, CorruptRecord
from volume.ids import LSN_ZERO, Lsn, PageNumber
from volume.limits import PAGE_SIZE_BYTES
from volume.page import checksum

HEADER: Final = struct.Struct("<QQQIIB3xI")
assert HEADER.size == 40
_FLAGS_AT: Final = 32
COMMIT_STAMP: Final = struct.Struct("<QI")
assert COMMIT_STAMP.size == 12

FLAG_CPL: Final = 1
FLAG_WHOLE_PAGE: Final = 2
_FLAGS_KNOWN: Final = FLAG_CPL | FLAG_WHOLE_PAGE
PAYLOAD_BYTES_MAX: Final = COMMIT_STAMP.size + PAGE_SIZE_BYTES + 64
"""lz4 expands what it cannot compress by less than half a percent."""


class RedoRecord(NamedTuple):
    lsn: Lsn
    group_prev_lsn: Lsn
    page_prev_lsn: Lsn
    page_number: PageNumber
    page_crc: int
    flags: int
    payload: bytes

    @property
    def is_cpl(self) -> bool:
        return bool(self.flags & FLAG_CPL)

    @property
    def commit_stamp(self) -> tuple[int, int]:
        """Commit time in microseconds since 1970 and the volume's size in pages; of a CPL only."""
        assert self.is_cpl
        micros, pages = COMMIT_STAMP.unpack_from(self.payload)
        return micros, pages


class RecordKey(NamedTuple):
    """What recovery needs to know of a record."""

    lsn: Lsn
    group_prev_lsn: Lsn
    is_cpl: bool


def key_of(record: RedoRecord) -> RecordKey:
    return RecordKey(record.lsn, record.group_prev_lsn, record.is_cpl)


def encode_record(record: RedoRecord) -> bytes:
    """The record's bytes as in the table."""
    payload = record.payload
    assert LSN_ZERO <= record.group_prev_lsn < record.lsn
    assert LSN_ZERO <= record.page_prev_lsn < record.lsn
    return HEADER.pack(*record[:6], len(payload)) + payload


def iter_records(body: bytes) -> Iterator[RedoRecord]:
    """The records in a frame's body. Raises CorruptRecord where the bytes make no sense."""
    offset, end = 0, len(body)
    unpack = HEADER.unpack_from
    while offset < end:
        if offset + 40 > end:
            raise CorruptRecord(f"read record at byte {offset}: header is cut off at {end}")
        lsn, group_prev, page_prev, page, crc, flags, size = unpack(body, offset)
        offset += 40
        if not 0 < size <= PAYLOAD_BYTES_MAX or offset + size > end:
            raise CorruptRecord(f"read record {lsn}: payload of {size} bytes does not fit")
        if flags & FLAG_CPL and size <= COMMIT_STAMP.size:
            raise CorruptRecord(f"read record {lsn}: {size} bytes of a consistency point without its change")
        if flags & ~_FLAGS_KNOWN or group_prev >= lsn or page_prev >= lsn or page == 0:
            raise CorruptRecord(
                f"read record {lsn}: flags {flags}, chain {group_prev}/{page_prev}, page {page}"
            )
        yield RedoRecord(lsn, group_prev, page_prev, page, crc, flags, body[offset : offset + size])
        offset += size


def split_records(frame: bytes, offset: int = 0) -> Iterator[tuple[PageNumber, Lsn, bytes]]:
    """Page, LSN and bytes of each record from the offset on, in what was checked: to store them elsewhere as

    they are.
    """
    body, end = frame, len(frame)
    unpack = HEADER.unpack_from
    while offset < end:
        lsn, _, _, page, _, _, size = unpack(body, offset)
        after = offset + HEADER.size + size
        yield page, lsn, body[offset:after]
        offset = after


def is_whole(encoded: bytes) -> bool:
    """Does this record, as `encode_record` made it, say what the page is after it?"""
    return bool(encoded[_FLAGS_AT] & FLAG_WHOLE_PAGE)


def needs_nothing_before(record: RedoRecord) -> bool:
    """Does it say by itself what the page is after it? A page's first change is one of zeros."""
    return bool(record.flags & FLAG_WHOLE_PAGE) or record.page_prev_lsn == LSN_ZERO


def packed_whole(record: RedoRecord) -> bytes | None:
    """The page after this record as an lz4 block, if the record has it so."""
    if not needs_nothing_before(record):
        return None
    return record.payload[COMMIT_STAMP.size :] if record.flags & FLAG_CPL else record.payload


def from_last_whole(records: Sequence[RedoRecord]) -> Sequence[RedoRecord]:
    """Those of a page's records, ascending, that make it what it is after them: from the last whole page on."""
    for index in range(len(records) - 1, 0, -1):
        if records[index].flags & FLAG_WHOLE_PAGE:
            return records[index:]
    return records


def apply_records(page: bytes, records: Sequence[RedoRecord]) -> bytes:
    """The page after all of these, its records in ascending order.

    Only what comes out at the end is compared with what the writer had, since a difference on the way does not go
    away: each change is added to the sum of those before. Raises CorruptPage.
    """
    if not records:
        return page
    if len(records) == 1 and needs_nothing_before(records[0]):
        after = _change(records[0])
    else:
        content = int.from_bytes(page, "little")
        for record in records:
            change = int.from_bytes(_change(record), "little")
            content = change if record.flags & FLAG_WHOLE_PAGE else content ^ change
        after = content.to_bytes(PAGE_SIZE_BYTES, "little")
    if checksum(after) != records[-1].page_crc:
        raise CorruptPage(
            f"apply records to page {records[-1].page_number} up to {records[-1].lsn}: checksum differs"
        )
    return after


def _change(record: RedoRecord) -> bytes:
    """What the record says, a page long: the change, or the whole page. Raises CorruptPage."""
    payload = record.payload[COMMIT_STAMP.size :] if record.flags & FLAG_CPL else record.payload
    try:
        change = lz4.block.decompress(payload, uncompressed_size=PAGE_SIZE_BYTES)
    except lz4.block.LZ4BlockError as error:
        raise CorruptPage(f"apply record {record.lsn} to page {record.page_number}: {error}") from None
    if len(change) != PAGE_SIZE_BYTES:
        raise CorruptPage(f"apply record {record.lsn} to page {record.page_number}: {len(change)} bytes")
    return bytes(change)


def whole_page_record(record: RedoRecord, after: bytes) -> RedoRecord:
    """The same record, saying what the page is after it instead of what it changes."""
    stamp = record.payload[: COMMIT_STAMP.size] if record.flags & FLAG_CPL else b""
    payload = stamp + lz4.block.compress(after, store_size=False)
    return record._replace(flags=record.flags | FLAG_WHOLE_PAGE, payload=payload)
