"""A commit's dirty pages become redo: one change a page, page 1 last, its record the CPL. Pure."""

import lz4.block

from db_instance.engine.page_cache import Version
from db_instance.volume_driver.batcher import Change
from volume.ids import Lsn, PageNumber
from volume.limits import PAGE_SIZE_BYTES
from volume.page import checksum
from volume.redo_record import COMMIT_STAMP, FLAG_CPL

HEADER_PAGE = PageNumber(1)
_PAGE_COUNT_AT = slice(28, 32)
"""Where SQLite's header holds the size of the database in pages, big-endian."""


def page_count(header_page: bytes) -> int:
    return int.from_bytes(header_page[_PAGE_COUNT_AT], "big")


def change_of(
    page: PageNumber, before: Version, after: bytes, stamp: bytes = b"", flags: int = 0
) -> Change | None:
    """The redo for one page; None if nothing changed and no stamp is to be carried."""
    old = before.data
    if old == after and not stamp:
        return None
    difference = int.from_bytes(old, "little") ^ int.from_bytes(after, "little")
    packed = lz4.block.compress(difference.to_bytes(PAGE_SIZE_BYTES, "little"), store_size=False)
    return Change(page, before.lsn, checksum(after), flags, stamp + packed)


def header_change(before: Version, after: bytes, commit_time_us: int) -> Change:
    """Page 1's change: the last of its mini-transaction, with the commit's time and the volume's size."""
    stamp = COMMIT_STAMP.pack(commit_time_us, page_count(after))
    change = change_of(HEADER_PAGE, before, after, stamp, FLAG_CPL)
    assert change is not None
    return change


def before_creation() -> Version:
    """What a page holds before its first record."""
    return Version(Lsn(0), bytes(PAGE_SIZE_BYTES))
