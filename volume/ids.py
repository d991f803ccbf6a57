"""The nouns every service shares: where a byte of the volume lives, and when it was written.

A volume is cut into protection groups; a protection group is six segments, two in each of three
zones. Positions in the redo log are LSNs. These are plain integers at run time and distinct types
to the checker, so that an LSN can never be passed where a page number belongs.
"""

from dataclasses import dataclass
from typing import Final, NewType

Lsn = NewType("Lsn", int)
"""A position in the volume's one redo log. Grows by one for each record, never reused."""

PageNumber = NewType("PageNumber", int)
"""A SQLite page number: the first page is 1, as in the database file."""

VolumeId = NewType("VolumeId", int)
GroupId = NewType("GroupId", int)
"""A protection group: a fixed slice of the page space, numbered from 0."""

Epoch = NewType("Epoch", int)
"""Raised each time a writer opens the volume; storage refuses requests of an older one."""

LSN_ZERO: Final = Lsn(0)
"""Before the first record. No record carries it; an empty segment reports it."""


@dataclass(frozen=True, slots=True, order=True)
class SegmentId:
    """One of the six copies of a protection group."""

    group: GroupId
    slot: int

    def __str__(self) -> str:
        return f"pg{self.group}/{'abcdef'[self.slot]}"
