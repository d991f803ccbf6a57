"""One group's log as writers make it, epoch after epoch, and what every page held at every LSN.

Too simple to be wrong: each record's page content is kept in a dictionary as it is written, and the page
at an LSN is the newest of them at or below it that counts.
"""

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Final

import lz4.block

from volume.ids import LSN_ZERO, Epoch, GroupId, Lsn, PageNumber, VolumeId
from volume.log_batch import FrameHeader, read_header, seal_frame
from volume.page import ZERO_PAGE, checksum, xor_pages
from volume.redo_record import COMMIT_STAMP, FLAG_CPL, RedoRecord, encode_record
from volume.timeline import Timeline

VOLUME: Final = VolumeId(7)
GROUP: Final = GroupId(0)


class GroupLog:
    def __init__(self) -> None:
        self.timeline = Timeline(Epoch(1))
        self.records: list[RedoRecord] = []
        """Every record ever written, annulled ones too."""
        self.epoch_of: dict[Lsn, Epoch] = {}
        self.lsn = LSN_ZERO
        """The last LSN given out, to this group or another."""
        self._content: dict[Lsn, bytes] = {}

    def write(self, page: int, gap: int = 1, *, cpl: bool = False) -> RedoRecord:
        """Change a few bytes of the page; `gap` LSNs further on, those between belong to other groups."""
        self.lsn = Lsn(self.lsn + gap)
        prev, before = self.page_at(page, self.lsn)
        changed = bytearray(before)
        at = (self.lsn * 37) % (len(changed) - 8)
        changed[at : at + 8] = self.lsn.to_bytes(8, "little")
        after = bytes(changed)
        payload = lz4.block.compress(xor_pages(before, after), store_size=False)
        if cpl:
            payload = COMMIT_STAMP.pack(self.lsn, 9) + payload
        record = RedoRecord(
            self.lsn, self.end, prev, PageNumber(page), checksum(after), FLAG_CPL if cpl else 0, payload
        )
        self.records.append(record)
        self.epoch_of[self.lsn] = self.timeline.epoch
        self._content[self.lsn] = after
        return record

    def truncate(self, after: int) -> None:
        """Another writer opens the volume: nothing above `after` counts, and it goes on far above."""
        up_to = Lsn(self.lsn + 5)
        self.timeline = self.timeline.annul(Epoch(self.timeline.epoch + 1), Lsn(after), up_to)
        self.lsn = up_to

    @property
    def chain(self) -> list[RedoRecord]:
        return [record for record in self.records if self.timeline.counts(record.lsn)]

    @property
    def end(self) -> Lsn:
        return max((record.lsn for record in self.chain), default=LSN_ZERO)

    def page_at(self, page: int, lsn: int) -> tuple[Lsn, bytes]:
        own = [each.lsn for each in self.chain if each.page_number == page and each.lsn <= lsn]
        return (max(own), self._content[max(own)]) if own else (LSN_ZERO, ZERO_PAGE)


def frame_of(records: Sequence[RedoRecord], epoch: int = 1, vdl: int = 0) -> bytes:
    return seal_frame(
        VOLUME,
        GROUP,
        Epoch(epoch),
        records[0].group_prev_lsn,
        [encode_record(record) for record in records],
        records[0].lsn,
        records[-1].lsn,
        Lsn(vdl),
    )


def framed(records: Sequence[RedoRecord], epoch: int = 1, vdl: int = 0) -> tuple[FrameHeader, bytes]:
    frame = frame_of(records, epoch, vdl)
    return read_header(frame), frame


def cut(records: Sequence[RedoRecord], places: Iterable[int]) -> list[Sequence[RedoRecord]]:
    """The records in runs that end at these places."""
    ends = sorted({place % len(records) for place in places} | {0, len(records)}) if records else []
    return [records[start:end] for start, end in pairwise(ends) if start < end]
