"""What a write transaction has written and not yet committed: in memory, then in a local temporary file.

SQLite spills a large transaction's pages as it goes. Nothing leaves the instance before the commit, so
they wait here; beyond `memory_max` bytes they go to an unlinked temporary file, one slot a page.
"""

import errno
import os
import tempfile
from collections.abc import Iterator
from typing import IO

from volume.ids import PageNumber
from volume.limits import PAGE_SIZE_BYTES


class StagedPages:
    def __init__(self, memory_max: int, folder: str | None = None) -> None:
        self._memory_max = memory_max
        self._folder = folder
        self._in_memory: dict[PageNumber, bytes] = {}
        self._slots: dict[PageNumber, int] = {}
        self._file: IO[bytes] | None = None
        self._slots_used = 0
        self.page_max = 0

    def __len__(self) -> int:
        return len(self._in_memory) + len(self._slots)

    @property
    def spilled(self) -> bool:
        return bool(self._slots)

    def get(self, page: PageNumber) -> bytes | None:
        found = self._in_memory.get(page)
        if found is None and self._slots and (slot := self._slots.get(page)) is not None:
            assert self._file is not None
            found = os.pread(self._file.fileno(), PAGE_SIZE_BYTES, slot * PAGE_SIZE_BYTES)
            if len(found) != PAGE_SIZE_BYTES:
                raise OSError(errno.EIO, f"{len(found)} bytes of page {page} could be read")
        return found

    def put(self, page: PageNumber, data: bytes) -> None:
        """Stage a page. Raises OSError when the local disk is full; the transaction then fails."""
        self.page_max = max(self.page_max, page)
        if (
            page not in self._slots and len(self._in_memory) * PAGE_SIZE_BYTES < self._memory_max
        ) or page in self._in_memory:
            self._in_memory[page] = data
        else:
            self._spill(page, data)

    def _spill(self, page: PageNumber, data: bytes) -> None:
        if self._file is None:
            self._file = tempfile.TemporaryFile(  # noqa: SIM115  it lives as long as the transaction
                buffering=0, prefix="sixfold-staged-", dir=self._folder
            )
        slot = self._slots.get(page, self._slots_used)
        if os.pwrite(self._file.fileno(), data, slot * PAGE_SIZE_BYTES) != len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if slot == self._slots_used:
            self._slots[page] = slot
            self._slots_used += 1

    def truncate(self, page_count: int) -> None:
        """Forget the pages above `page_count`: a rollback shrinks what a transaction had grown."""
        self._in_memory = {page: data for page, data in self._in_memory.items() if page <= page_count}
        # Slots of forgotten pages stay unused in the file; it goes with the transaction.
        for page in [page for page in self._slots if page > page_count]:
            del self._slots[page]
        self.page_max = min(self.page_max, page_count)

    def in_order(self) -> Iterator[PageNumber]:
        """The page numbers, ascending."""
        return iter(sorted([*self._in_memory, *self._slots]))

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
