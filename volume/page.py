"""A page's bytes: its checksum, and the difference of two versions."""

from typing import Final

import google_crc32c

from volume.limits import PAGE_SIZE_BYTES

ZERO_PAGE: Final = bytes(PAGE_SIZE_BYTES)
"""What a page holds before its first record."""


def checksum(data: bytes) -> int:
    """crc32c, as records, frames and layers carry it."""
    return int(google_crc32c.value(data))


def more_checksum(before: int, data: bytes) -> int:
    """crc32c of what `before` is the checksum of, followed by `data`."""
    return int(google_crc32c.extend(before, data))


def xor_pages(one: bytes, other: bytes) -> bytes:
    """The difference of two versions of a page: applying it to either gives the other."""
    assert len(one) == len(other) == PAGE_SIZE_BYTES
    difference = int.from_bytes(one, "little") ^ int.from_bytes(other, "little")
    return difference.to_bytes(PAGE_SIZE_BYTES, "little")
