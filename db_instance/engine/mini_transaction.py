"""A commit's dirty pages become redo: one change a page, page 1 last, its record the CPL. Pure."""

import lz4.block

from db_instance.engine.page_cache import Version
from db_instance.volume_driver.batcher import Change
from volume.ids import LSN_ZERO, Lsn, PageNumber
from volume.limits import PAGE_SIZE_BYTES
from volume.page import checksum
from volume.redo_record import COMMIT_STAMP, FLAG_CPL, FLAG_WHOLE_PAGE

HEADER_PAGE = PageNumber(1)
_PAGE_COUNT_AT = slice(28, 32)
"""Where SQLite's header holds the size of the database in pages, big-endian."""

_QUARTER = PAGE_SIZE_BYTES // 4
_PIECE = _QUARTER // 4
_QUARTERS = range(0, PAGE_SIZE_BYTES, _QUARTER)
_ZEROS = bytes(_QUARTER)


def page_count(header_page: bytes) -> int:
    return int.from_bytes(header_page[_PAGE_COUNT_AT], "big")


def change_of(
    page: PageNumber,
    before: Version,
    after: bytes,
    stamp: bytes = b"",
    flags: int = 0,
    *,
    whole: bool = False,
) -> Change | None:
    """The redo for one page; None if nothing changed and no stamp is to be carried.

    `whole`: it says what the page is after the change, and not what has changed.
    """
    old = before.data
    if old == after and not stamp:
        return None
    if whole or before.lsn == LSN_ZERO:
        content, flags = after, flags | FLAG_WHOLE_PAGE
    else:
        content = _difference(old, after)
    packed = lz4.block.compress(content, store_size=False)
    return Change(page, before.lsn, checksum(after), flags, stamp + packed)


def _difference(old: bytes, after: bytes) -> bytes:
    """`old` XOR `after`, byte by byte. Most changes are in a few places, so what is equal is passed over in large

    pieces first: comparing costs a tenth of making integers of bytes.
    """
    quarters = [at for at in _QUARTERS if old[at : at + _QUARTER] != after[at : at + _QUARTER]]
    if len(quarters) > 2:
        return _xor(old, after)
    parts = []
    for at in _QUARTERS:
        if at not in quarters:
            parts.append(_ZEROS)
            continue
        for start in range(at, at + _QUARTER, _PIECE):
            before, now = old[start : start + _PIECE], after[start : start + _PIECE]
            parts.append(_ZEROS[:_PIECE] if before == now else _xor(before, now))
    return b"".join(parts)


def _xor(one: bytes, other: bytes) -> bytes:
    return (int.from_bytes(one, "little") ^ int.from_bytes(other, "little")).to_bytes(len(one), "little")


def header_change(before: Version, after: bytes, commit_time_us: int, *, whole: bool = False) -> Change:
    """Page 1's change: the last of its mini-transaction, with the commit's time and the volume's size."""
    stamp = COMMIT_STAMP.pack(commit_time_us, page_count(after))
    change = change_of(HEADER_PAGE, before, after, stamp, FLAG_CPL, whole=whole)
    assert change is not None
    return change


def before_creation() -> Version:
    """What a page holds before its first record."""
    return Version(Lsn(0), bytes(PAGE_SIZE_BYTES))
