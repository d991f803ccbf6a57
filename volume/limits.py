"""Every limit that services share, with the reason for its size. Nothing in the code is unbounded."""

from typing import Final

KIB: Final = 1024
MIB: Final = 1024 * KIB
GIB: Final = 1024 * MIB

PAGE_SIZE_BYTES: Final = 4 * KIB
"""SQLite's default page size: one page write is one page of the volume."""

LOCK_PAGE_OFFSET: Final = 1 * GIB
"""SQLite never uses the page at this byte of the file; it is never read or shipped."""

SEGMENT_SIZE_BYTES: Final = 10 * GIB
"""A lost segment crosses a 10 Gbit/s link in about ten seconds, so repair windows are short."""

LSN_ALLOCATION_LIMIT: Final = 10_000_000
"""LAL: no LSN is allocated further than this above the VDL, so a truncation range has a known end."""

FRAME_BYTES_MAX: Final = 256 * KIB
"""A frame is sealed once it is this long: small enough to check, fetch and re-send cheaply."""

MESSAGE_BYTES_MAX: Final = 16 * MIB
"""One message between services. A larger one is refused before it is read into memory."""

APPEND_MESSAGE_BYTES_MAX: Final = 1 * MIB
"""Frames a writer puts in one message: a few, so that one fdatasync covers them all."""

GOSSIP_REPLY_BYTES_MAX: Final = 1 * MIB
"""Log that one gossip reply carries, of all segments together; whoever is further behind asks again at once."""

LAYER_CHUNK_BYTES: Final = 1 * MIB
"""How much of a layer one FetchLayer answers."""

HOT_BYTES_MAX: Final = 64 * MIB
"""Log a storage node keeps in memory and in its hot log before it must be in layers."""

WAITING_BYTES_MAX: Final = 8 * MIB
"""Frames a segment holds for a gap to close; what is dropped beyond comes back by gossip."""

READ_PAGES_MAX: Final = 256
"""Pages one ReadPages may ask for: 1 MiB."""

LEASE_S: Final = 1.0
"""For so long after storage last confirmed its epoch a writer answers reads; a newer writer lets as much pass."""

BEAT_S: Final = 0.25
"""How often a writer asks for that confirmation."""

CONNECT_TIMEOUT_S: Final = 2.0
CALL_TIMEOUT_S: Final = 5.0
"""Deadline of a small request between services: far above a healthy answer, far below a human's patience."""

assert 2 * BEAT_S < LEASE_S
assert SEGMENT_SIZE_BYTES % PAGE_SIZE_BYTES == 0
assert LOCK_PAGE_OFFSET % PAGE_SIZE_BYTES == 0
assert PAGE_SIZE_BYTES < FRAME_BYTES_MAX < APPEND_MESSAGE_BYTES_MAX < MESSAGE_BYTES_MAX
assert GOSSIP_REPLY_BYTES_MAX + FRAME_BYTES_MAX < MESSAGE_BYTES_MAX
assert WAITING_BYTES_MAX < HOT_BYTES_MAX
assert READ_PAGES_MAX * PAGE_SIZE_BYTES < MESSAGE_BYTES_MAX
