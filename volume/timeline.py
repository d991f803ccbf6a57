"""Which LSN ranges count. Crash truncation annuls a range; it never erases bytes.

    bytes: u16 format, u16 zero, u32 count, u64 epoch, then count x (u64 after, u64 up_to), crc32c

A range (after, up_to] holds the LSNs above `after`, up to and including `up_to`. A timeline of a higher
epoch replaces one of a lower as a whole.
"""

import struct
from bisect import bisect_left
from dataclasses import dataclass
from typing import Final

from volume.errors import CorruptRecord, UnknownFormat
from volume.ids import Epoch, Lsn
from volume.page import checksum

TIMELINE_FORMAT: Final = 1
_HEAD: Final = struct.Struct("<HHIQ")
_RANGE: Final = struct.Struct("<QQ")
_CRC: Final = struct.Struct("<I")


@dataclass(frozen=True, slots=True)
class Timeline:
    epoch: Epoch
    annulled: tuple[tuple[Lsn, Lsn], ...] = ()
    """Ascending and disjoint."""

    def __post_init__(self) -> None:
        ends = [lsn for pair in self.annulled for lsn in pair]
        assert all(after < up_to for after, up_to in self.annulled)
        assert ends == sorted(ends)

    def counts(self, lsn: Lsn) -> bool:
        """False if the LSN lies in an annulled range."""
        annulled = self.annulled
        if not annulled or lsn > annulled[-1][1]:
            return True
        at = bisect_left(annulled, lsn, key=lambda pair: pair[1])
        return lsn <= annulled[at][0]

    def counts_all(self, first: Lsn, last: Lsn) -> bool:
        """True if no LSN from first to last is annulled."""
        return all(last <= after or first > up_to for after, up_to in reversed(self.annulled))

    def kept(self, first: Lsn, last: Lsn) -> list[tuple[Lsn, Lsn]]:
        """The parts of first..last (both included) that count."""
        parts = []
        for after, up_to in self.annulled:
            if up_to < first:
                continue
            if after >= last:
                break
            if first <= after:
                parts.append((first, after))
            first = Lsn(up_to + 1)
        if first <= last:
            parts.append((first, last))
        return parts

    def skip(self, lsn: Lsn) -> Lsn:
        """The LSN itself, or the end of the annulled range that begins right after it (or holds it)."""
        for after, up_to in self.annulled:
            if after <= lsn < up_to:
                lsn = up_to
        return lsn

    def annul(self, epoch: Epoch, after: Lsn, up_to: Lsn) -> "Timeline":
        """The timeline of `epoch`, in which also (after, up_to] does not count."""
        assert epoch > self.epoch
        ranges: list[tuple[Lsn, Lsn]] = []
        for low, high in sorted([*self.annulled, (after, up_to)]):
            if ranges and low <= ranges[-1][1]:
                ranges[-1] = (ranges[-1][0], max(high, ranges[-1][1]))
            else:
                ranges.append((low, high))
        return Timeline(epoch, tuple(ranges))

    def encode(self) -> bytes:
        body = _HEAD.pack(TIMELINE_FORMAT, 0, len(self.annulled), self.epoch)
        body += b"".join(_RANGE.pack(*pair) for pair in self.annulled)
        return body + _CRC.pack(checksum(body))

    @staticmethod
    def decode(data: bytes) -> "Timeline":
        if (
            len(data) < _HEAD.size + _CRC.size
            or checksum(data[:-4]) != _CRC.unpack_from(data, len(data) - 4)[0]
        ):
            raise CorruptRecord(f"read timeline of {len(data)} bytes: checksum differs")
        version, _, count, epoch = _HEAD.unpack_from(data)
        if version != TIMELINE_FORMAT:
            raise UnknownFormat(f"read timeline: format {version}, this release knows {TIMELINE_FORMAT}")
        if len(data) != _HEAD.size + count * _RANGE.size + _CRC.size:
            raise CorruptRecord(f"read timeline of {count} ranges: {len(data)} bytes")
        ranges = tuple(_RANGE.iter_unpack(data[_HEAD.size : -4]))
        ends = [lsn for pair in ranges for lsn in pair]
        if ends != sorted(ends) or any(after == up_to for after, up_to in ranges):
            raise CorruptRecord(f"read timeline of {count} ranges: they are not ascending")
        return Timeline(Epoch(epoch), ranges)


EMPTY_TIMELINE: Final = Timeline(Epoch(0))
