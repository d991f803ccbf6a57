"""The database file as SQLite sees it: pages come from the volume, writes become redo.

SQLite calls these methods from inside a statement, which runs in a greenlet. Each one is a few lines:
decide, hand over, return. What SQLite expects of each is at https://sqlite.org/c3ref/io_methods.html;
the comments say only what we do differently, and why.
"""

import os
import tempfile
from typing import Final

import apsw

from db_instance.engine.page_cache import NEWEST
from db_instance.engine.pages import Pages
from db_instance.engine.read_ahead import ReadAhead, is_interior
from db_instance.engine.staged_pages import StagedPages
from volume.ids import Lsn, PageNumber
from volume.limits import MIB, PAGE_SIZE_BYTES

_STAGED_MEMORY_MAX: Final = 32 * MIB

_CHARACTERISTICS: Final = (
    apsw.SQLITE_IOCAP_SAFE_APPEND
    | apsw.SQLITE_IOCAP_POWERSAFE_OVERWRITE
    | apsw.SQLITE_IOCAP_UNDELETABLE_WHEN_OPEN
)
"""The last one keeps the journal open from one transaction to the next."""

_TEMPORARY: Final = (
    apsw.SQLITE_OPEN_TEMP_JOURNAL
    | apsw.SQLITE_OPEN_READWRITE
    | apsw.SQLITE_OPEN_CREATE
    | apsw.SQLITE_OPEN_EXCLUSIVE
    | apsw.SQLITE_OPEN_DELETEONCLOSE
)


class VolumeFile(apsw.VFSFile):
    """One connection's view of the volume: its read point, and what it has written."""

    def __init__(self, pages: Pages, spill_folder: str | None) -> None:
        # No super().__init__(): there is no file below us to inherit from.
        self.write_mode = False
        """Set by the engine for the holder of the write lock: it alone may write, on the newest pages."""
        self.commit_lsn: Lsn | None = None
        self.read_point: Lsn | None = None
        self.committing = False
        """SQLite has begun to commit: until the connection is given back nothing is to be cancelled."""
        self._pages = pages
        self._spill_folder = spill_folder
        self._staged: StagedPages | None = None
        self._abandoned = False
        self._read_ahead = ReadAhead()

    def xRead(self, amount: int, offset: int) -> bytes:
        page = PageNumber(offset // PAGE_SIZE_BYTES + 1)
        content = None
        if self._staged is not None:
            content = self._staged.get(page)
        if content is None:
            content = self._committed(page)
        if amount == PAGE_SIZE_BYTES:
            if is_interior(content):
                self._read_ahead.saw_interior(content)
            return content
        # SQLite also reads 16 bytes at offset 24 to see whether another commit was here.
        start = offset % PAGE_SIZE_BYTES
        return content[start : start + amount]

    def _committed(self, page: PageNumber) -> bytes:
        read_point = self.read_point
        if read_point is None:
            # Before its first lock a connection reads the header, to learn the page size.
            read_point = self._pages.driver.vdl
        if min(read_point, self._pages.newest) == 0:
            return b""
        version = self._pages.cache.get(page, read_point)
        if version is not None:
            if page == self._read_ahead.mark:
                self._pages.begin_to_fetch(self._read_ahead.on_mark())
            return version.data
        return self._pages.read(page, read_point, self._read_ahead.on_miss(page))

    def xWrite(self, data: bytes, offset: int) -> None:
        page, start = divmod(offset, PAGE_SIZE_BYTES)
        assert start == 0 and len(data) == PAGE_SIZE_BYTES, (
            "SQLite writes whole pages to the main database file"
        )
        if self._staged is None:
            self._staged = StagedPages(_STAGED_MEMORY_MAX, self._spill_folder)
        self._staged.put(PageNumber(page + 1), bytes(data))

    def xSync(self, flags: int) -> None:
        # The end of a transaction, not its durability: the session answers the client later, once the
        # VDL has passed this commit's last record. SQLite also syncs after it played a rollback back.
        if self._staged is None:
            return
        if self.committing:
            lsn = self._pages.commit(self._staged)
            if lsn is not None:
                self.commit_lsn = lsn
        self.discard()

    def begin_commit(self) -> bool:
        """SQLite's commit hook: what is staged now belongs to a transaction that is to stay. True would undo it."""
        self.committing = True
        return False

    def discard(self) -> None:
        """Forget what was written and not committed."""
        self.committing = False
        if self._staged is not None:
            self._staged.close()
            self._staged = None

    def xLock(self, level: int) -> None:
        if level >= apsw.SQLITE_LOCK_RESERVED:
            if not self.write_mode or self.read_point != NEWEST:
                raise apsw.BusyError("only the holder of the write lock may write, on the newest pages")
            return
        if self.read_point is None:
            self.read_point = self._newest() if self.write_mode else self._pages.pin()

    def _newest(self) -> Lsn:
        self._pages.confirm()
        return NEWEST

    def confirm(self) -> None:
        """Before each statement of the holder of the write lock: what it is told must still be the newest.

        Parks while nobody confirms that. Raises LeaseExpired.
        """
        if self.read_point is not None:
            self._pages.confirm()

    def xUnlock(self, level: int) -> None:
        if level == apsw.SQLITE_LOCK_NONE and self.read_point is not None:
            if self.read_point != NEWEST:
                self._pages.unpin(self.read_point)
            self.read_point = None

    def become_writer(self) -> None:
        """Turn a snapshot that is still the newest one into the write transaction's view."""
        assert self.read_point is not None
        if self.read_point != NEWEST:
            self._pages.unpin(self.read_point)
            self.read_point = NEWEST
        self.write_mode = True

    def xCheckReservedLock(self) -> bool:
        return False

    def abandon(self) -> None:
        """The connection is about to be closed in whatever state it is: nothing of it is wanted any more."""
        self.discard()
        self._abandoned = True

    def xFileSize(self) -> int:
        if self._abandoned:
            return 0  # SQLite undoes on closing what it has spilled; that must not wait for a page
        read_point = self.read_point if self.read_point is not None else self._pages.driver.vdl
        staged = self._staged.page_max if self._staged is not None else 0
        return max(self._pages.page_count(read_point), staged) * PAGE_SIZE_BYTES

    def xTruncate(self, newsize: int) -> None:
        # The volume itself never shrinks; what a rollback takes back was never sent.
        if self._staged is not None:
            self._staged.truncate(newsize // PAGE_SIZE_BYTES)

    def xFileControl(self, op: int, ptr: int) -> bool:
        return False

    def xSectorSize(self) -> int:
        return PAGE_SIZE_BYTES

    def xDeviceCharacteristics(self) -> int:
        return _CHARACTERISTICS

    def xClose(self) -> None:
        self.xUnlock(apsw.SQLITE_LOCK_NONE)
        self.discard()


class JournalFile(apsw.VFSFile):
    """What a rollback plays back: a nameless temporary file, so that a transaction may change any number of
    pages. It is of no use after a crash, since nothing uncommitted ever left the instance."""

    def xSync(self, flags: int) -> None:
        return


class VolumeVfs(apsw.VFS):
    """Opens the volume for SQLite; its temporary files (large sorts) go to the operating system's own."""

    def __init__(self, name: str, pages: Pages, spill_folder: str | None) -> None:
        super().__init__(name, "")
        self._name = name
        self._journals = 0
        self._pages = pages
        self._spill_folder = spill_folder
        self._opened: dict[str, VolumeFile] = {}

    def xOpen(self, name: str | apsw.URIFilename | None, flags: list[int]) -> apsw.VFSFile:
        if flags[0] & apsw.SQLITE_OPEN_MAIN_JOURNAL:
            return self._open_journal()
        if not flags[0] & apsw.SQLITE_OPEN_MAIN_DB:
            return super().xOpen(name, flags)
        file = VolumeFile(self._pages, self._spill_folder)
        self._opened[_plain(name)] = file
        return file

    def _open_journal(self) -> apsw.VFSFile:
        self._journals += 1
        folder = self._spill_folder or tempfile.gettempdir()
        name = f"{folder}/sixfold-journal.{os.getpid()}.{self._name}.{self._journals}"
        return JournalFile("", name, [_TEMPORARY, 0])

    def take_opened(self, name: str) -> VolumeFile:
        """The file behind a connection that was opened under this name, asked for once."""
        return self._opened.pop(name)

    def xAccess(self, pathname: str, flags: int) -> bool:
        return False

    def xFullPathname(self, name: str) -> str:
        return name

    def xDelete(self, filename: str, syncdir: bool) -> None:
        # Journals and temporary files delete themselves.
        return


def _plain(name: str | apsw.URIFilename | None) -> str:
    assert name is not None
    return name.filename() if isinstance(name, apsw.URIFilename) else name
