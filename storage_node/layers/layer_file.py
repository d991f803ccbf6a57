"""One layer file: blobs by page number, with an index on disk that is never loaded whole.

    header   32 bytes   magic "SXLAYER1", u16 format, u16 kind (1 delta, 2 image), u32 zero, u64 lsn_from, u64 lsn_to
    blobs               one a page, pages ascending
    index    4096 each  up to 127 entries of 32 bytes, then u32 count and u32 crc of all before it
    sparse              u32 first page of each index block
    footer   48 bytes   u64 index offset, u32 blocks, u32 pages, u32 first page, u32 last page,
                        u32 crc of sparse, u32 crc of the header, u64 file size, u32 crc of the footer before it,
                        u32 magic

    entry: u32 page, u32 crc of the blob, u64 offset, u64 lsn (the page's last), u32 size, u32 zero

A reader keeps only the sparse array, four bytes for each 127 pages, and the last block of the index: scans ask for
neighbours. Every blob and every index block is checked whenever it is read.
"""

import struct
from array import array
from bisect import bisect_right
from collections.abc import Iterator
from typing import Final, NamedTuple

from runtime.disk import File, Readable
from volume.errors import CorruptPage, UnknownFormat
from volume.ids import Lsn, PageNumber
from volume.page import checksum, more_checksum

LAYER_FORMAT: Final = 2
KIND_DELTA: Final = 1
KIND_IMAGE: Final = 2
_HEADER_MAGIC: Final = b"SXLAYER1"
_FOOTER_MAGIC: Final = int.from_bytes(b"SXLE", "little")
_HEADER: Final = struct.Struct("<8sHHIQQ")
_ENTRY: Final = struct.Struct("<IIQQII")
_BLOCK_END: Final = struct.Struct("<II")
_COUNT: Final = struct.Struct("<I")
_FOOTER: Final = struct.Struct("<QIIIIIIQII")
_BLOCK_BYTES: Final = 4096
_ENTRIES_MAX: Final = (_BLOCK_BYTES - _BLOCK_END.size) // _ENTRY.size
_WRITE_BYTES: Final = 1 << 20
assert _HEADER.size == 32
assert _ENTRY.size == 32
assert _FOOTER.size == 48


class Entry(NamedTuple):
    page: PageNumber
    crc: int
    offset: int
    lsn: Lsn
    size: int


class LayerWriter:
    """Writes a layer front to back; pages must come in ascending order."""

    def __init__(self, file: File, kind: int, lsn_from: Lsn, lsn_to: Lsn) -> None:
        self._file = file
        header = _HEADER.pack(_HEADER_MAGIC, LAYER_FORMAT, kind, 0, lsn_from, lsn_to)
        self._header_crc = checksum(header)
        self._buffer = bytearray(header)
        self._written = 0
        self._entries = bytearray()
        self._blocks = bytearray()
        self._sparse = array("I")
        self._last_page = 0
        self.pages = 0
        self.crc = 0
        """Of all that was written so far; once it is finished, of the file."""

    def add(self, page: PageNumber, lsn: Lsn, blob: bytes) -> None:
        assert page > self._last_page
        self._last_page = page
        if not self._entries:
            self._sparse.append(page)
        offset = self._written + len(self._buffer)
        self._entries += _ENTRY.pack(page, checksum(blob), offset, lsn, len(blob), 0)
        if len(self._entries) == _ENTRIES_MAX * _ENTRY.size:
            self._close_block()
        self._buffer += blob
        self.pages += 1
        if len(self._buffer) >= _WRITE_BYTES:
            self._flush()

    def _close_block(self) -> None:
        count = len(self._entries) // _ENTRY.size
        block = bytes(self._entries.ljust(_BLOCK_BYTES - _BLOCK_END.size, b"\0")) + _COUNT.pack(count)
        self._blocks += block + _COUNT.pack(checksum(block))
        self._entries = bytearray()

    def _flush(self) -> None:
        data = bytes(self._buffer)
        self._file.append(data)
        self.crc = more_checksum(self.crc, data)
        self._written += len(self._buffer)
        self._buffer = bytearray()

    def finish(self) -> None:
        """Write index and footer. The caller syncs the file."""
        assert self.pages
        if self._entries:
            self._close_block()
        index_offset = self._written + len(self._buffer)
        sparse = self._sparse.tobytes()
        self._buffer += self._blocks + sparse
        size = self._written + len(self._buffer) + _FOOTER.size
        blocks = len(self._blocks) // _BLOCK_BYTES
        first = self._sparse[0]
        crcs = checksum(sparse), self._header_crc
        fields = (index_offset, blocks, self.pages, first, self._last_page, *crcs, size)
        head = _FOOTER.pack(*fields, 0, 0)[:-8]
        self._buffer += head + _BLOCK_END.pack(checksum(head), _FOOTER_MAGIC)
        self._flush()


class LayerReader:
    """Looks pages up. Raises CorruptPage for whatever does not match its checksum."""

    def __init__(self, file: Readable, name: str) -> None:
        self._file = file
        self.name = name
        if file.size < _HEADER.size + _FOOTER.size:
            raise CorruptPage(f"open layer {name}: {file.size} bytes are no layer")
        header = self._read(0, _HEADER.size)
        magic, version, self.kind, _, self.lsn_from, self.lsn_to = _HEADER.unpack(header)
        if magic != _HEADER_MAGIC:
            raise CorruptPage(f"open layer {name}: not a layer")
        if version != LAYER_FORMAT:
            raise UnknownFormat(f"open layer {name}: format {version}, this release knows {LAYER_FORMAT}")
        footer = self._read(file.size - _FOOTER.size, _FOOTER.size)
        fields = _FOOTER.unpack(footer)
        if fields[9] != _FOOTER_MAGIC or checksum(footer[:-8]) != fields[8] or fields[7] != file.size:
            raise CorruptPage(f"open layer {name}: its footer does not match")
        if checksum(header) != fields[6]:
            raise CorruptPage(f"open layer {name}: its header does not match")
        self._index_offset, self._blocks, self.page_count, self.first_page, self.last_page = fields[:5]
        sparse = self._read(self._index_offset + self._blocks * _BLOCK_BYTES, self._blocks * 4)
        if checksum(sparse) != fields[5]:
            raise CorruptPage(f"open layer {name}: its sparse index does not match")
        self._sparse = array("I", sparse)
        self._last_block = -1, b""

    @property
    def size_bytes(self) -> int:
        return self._file.size

    def find(self, page: PageNumber) -> Entry | None:
        if not self.first_page <= page <= self.last_page:
            return None
        block = self._block(bisect_right(self._sparse, page) - 1)
        low, high = 0, len(block) // _ENTRY.size
        while low < high:
            middle = (low + high) // 2
            found = int.from_bytes(block[middle * 32 : middle * 32 + 4], "little")
            if found < page:
                low = middle + 1
            elif found > page:
                high = middle
            else:
                return Entry(*_ENTRY.unpack_from(block, middle * 32)[:5])
        return None

    def blob(self, entry: Entry) -> bytes:
        data = self._read(entry.offset, entry.size)
        if checksum(data) != entry.crc:
            raise CorruptPage(f"read page {entry.page} from layer {self.name}: checksum differs")
        return data

    def entries(self) -> Iterator[Entry]:
        """All entries, pages ascending; a block of the index in memory at a time."""
        for number in range(self._blocks):
            for fields in _ENTRY.iter_unpack(self._block(number)):
                yield Entry(*fields[:5])

    def verify(self) -> Iterator[int]:
        """Check every block and blob; a step for each blob, of so many bytes. Raises CorruptPage."""
        for entry in self.entries():
            self.blob(entry)
            yield entry.size

    def _block(self, number: int) -> bytes:
        if self._last_block[0] == number:
            return self._last_block[1]
        block = self._read(self._index_offset + number * _BLOCK_BYTES, _BLOCK_BYTES)
        count, crc = _BLOCK_END.unpack_from(block, _BLOCK_BYTES - _BLOCK_END.size)
        if checksum(block[: -_COUNT.size]) != crc or count > _ENTRIES_MAX:
            raise CorruptPage(f"read index block {number} of layer {self.name}: checksum differs")
        self._last_block = number, block[: count * _ENTRY.size]
        return self._last_block[1]

    def _read(self, offset: int, size: int) -> bytes:
        try:
            data = self._file.read(offset, size)
        except OSError as error:  # what the medium does not give back is damaged as what it gives back wrong
            raise CorruptPage(f"read layer {self.name} at byte {offset}: {error}") from None
        if len(data) != size:
            raise CorruptPage(f"read layer {self.name} at byte {offset}: {len(data)} of {size} bytes")
        return data

    def close(self) -> None:
        self._file.close()
