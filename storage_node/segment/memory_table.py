"""A segment's chained frames that are not in layers yet, and their records by page. Pure.

Frames are decoded only when someone reads a page of the segment, or at the flush.
"""

from bisect import bisect_right

from volume.ids import LSN_ZERO, Lsn, PageNumber
from volume.log_batch import clip_frame, frame_records, read_header
from volume.redo_record import RedoRecord
from volume.timeline import Timeline


class MemoryTable:
    def __init__(self) -> None:
        self.frames: list[bytes] = []
        self.size_bytes = 0
        self.record_count = 0
        self.last_lsn = LSN_ZERO
        self._ends: list[Lsn] = []
        """Each frame's last LSN, ascending as the chain is."""
        self._decoded = 0
        self._by_page: dict[PageNumber, list[RedoRecord]] = {}

    def add(self, frame: bytes) -> None:
        """The next frame of the chain."""
        self.frames.append(frame)
        self.size_bytes += len(frame)
        header = read_header(frame)
        self.record_count += header.record_count
        self.last_lsn = header.last_lsn
        self._ends.append(self.last_lsn)

    def records(self, page: PageNumber) -> list[RedoRecord]:
        """The page's records, ascending."""
        self._decode()
        return self._by_page.get(page, [])

    def _decode(self) -> None:
        by_page = self._by_page
        for frame in self.frames[self._decoded :]:
            for record in frame_records(frame):
                by_page.setdefault(record.page_number, []).append(record)
        self._decoded = len(self.frames)

    def frames_after(self, lsn: Lsn) -> list[bytes]:
        return self.frames[bisect_right(self._ends, lsn) :]

    def clipped(self, timeline: Timeline) -> "MemoryTable":
        """The same without what the timeline annuls."""
        kept = MemoryTable()
        for frame in self.frames:
            header = read_header(frame)
            whole = timeline.counts_all(header.first_lsn, header.last_lsn)
            clipped = frame if whole else clip_frame(frame, timeline.counts)
            if clipped is not None:
                kept.add(clipped)
        return kept
