"""The door to the disk. RealDisk is one implementation, the simulator's disk another.

Paths are relative to the service's own directory, with "/" between their parts. Errors are OSErrors:
FileNotFoundError, no space left, input/output error.
"""

import asyncio
import errno
import fcntl
import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, Protocol

UNFINISHED: Final = ".new"
"""At the end of the name that a file has until `replace` has written all of it. A crash may leave it there."""


NO_FILE_LEFT: Final = frozenset((errno.EMFILE, errno.ENFILE))
"""Errors of a process that has as many files open as it may: they tell nothing of the file."""


class Readable(Protocol):
    size: int

    def read(self, offset: int, size: int) -> bytes:
        """What lies there; shorter at the end of the file."""
        ...

    def close(self) -> None: ...


class File(Readable, Protocol):
    """A file that is only appended to."""

    def append(self, data: bytes) -> int:
        """Write at the end; the offset it went to. Not durable before `sync`."""
        ...

    async def sync(self) -> None:
        """Return once all that was appended before this call is durable."""
        ...

    def sync_at_once(self) -> bool:
        """The same here and now, if that takes no longer than a change of threads; False: it was not done."""
        ...

    def truncate(self, size: int) -> None: ...


class Disk(Protocol):
    def open(self, path: str, *, create: bool = False) -> File:
        """Open for appending and reading. `create` makes it, and its folders, if they are not there."""
        ...

    def list(self, folder: str) -> list[str]:
        """Sorted names; none if there is no such folder."""
        ...

    def exists(self, path: str) -> bool: ...

    async def replace(self, path: str, content: bytes) -> None:
        """Make this the file's content, durably and at once: a crash leaves the old or the new."""
        ...

    def read_all(self, path: str) -> bytes: ...

    async def sync_folder(self, folder: str) -> None:
        """Make what was created and removed in the folder durable."""
        ...

    def remove(self, path: str) -> None:
        """No error if it is not there."""
        ...

    def free_bytes(self) -> int: ...


_QUICK_SYNC_S: Final = 0.003
"""A disk whose syncs take less than this on average is waited for on the event loop's own thread: handing a
sync to another one costs a third of a millisecond of both cores."""

_QUICK_SYNC_BYTES: Final = 256 * 1024
_SMOOTHING: Final = 0.2


class _Pace:
    """How long this disk's syncs take, as a running mean."""

    def __init__(self) -> None:
        self._mean_s = _QUICK_SYNC_S  # not quick before that is known

    @property
    def is_quick(self) -> bool:
        return self._mean_s < _QUICK_SYNC_S

    def sync(self, fd: int) -> None:
        started = time.perf_counter()
        os.fdatasync(fd)
        self._mean_s += _SMOOTHING * (time.perf_counter() - started - self._mean_s)


class RealFile:
    def __init__(self, path: Path, executor: ThreadPoolExecutor, pace: _Pace, *, create: bool) -> None:
        flags = os.O_RDWR | os.O_APPEND | os.O_CLOEXEC | (os.O_CREAT if create else 0)
        self._fd = os.open(path, flags, 0o644)
        self._executor = executor
        self._pace = pace
        self._unsynced = 0
        self.size = os.fstat(self._fd).st_size

    def append(self, data: bytes) -> int:
        offset = self.size
        view = memoryview(data)
        while view:
            written = os.write(self._fd, view)
            self.size += written
            self._unsynced += written
            view = view[written:]
        return offset

    def read(self, offset: int, size: int) -> bytes:
        return os.pread(self._fd, size, offset)

    async def sync(self) -> None:
        # Only syncs of the size in question tell how quick the disk is.
        sync = self._pace.sync if self._unsynced <= _QUICK_SYNC_BYTES else os.fdatasync
        self._unsynced = 0
        await asyncio.get_running_loop().run_in_executor(self._executor, sync, self._fd)

    def sync_at_once(self) -> bool:
        if not self._pace.is_quick or self._unsynced > _QUICK_SYNC_BYTES:
            return False
        self._unsynced = 0
        self._pace.sync(self._fd)
        return True

    def truncate(self, size: int) -> None:
        os.ftruncate(self._fd, size)
        self.size = size

    def forget(self, offset: int, size: int) -> None:
        """What is on the medium and was not changed since leaves the system's memory."""
        os.posix_fadvise(self._fd, offset, size, os.POSIX_FADV_DONTNEED)

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


_WINDOW_BYTES: Final = 1024 * 1024


class FromTheMedium:
    """Reads a file as the disk has it: what the system remembers of it says nothing about the disk.

    A window of it at a time, so that nobody else's reads find much of it forgotten.
    """

    def __init__(self, file: Readable) -> None:
        self.size = file.size
        self._file = file
        self._read_anew: set[int] = set()

    def read(self, offset: int, size: int) -> bytes:
        if isinstance(self._file, RealFile):  # others remember nothing
            for window in range(offset // _WINDOW_BYTES, (offset + size - 1) // _WINDOW_BYTES + 1):
                if window not in self._read_anew:
                    self._read_anew.add(window)
                    self._file.forget(window * _WINDOW_BYTES, _WINDOW_BYTES)
        return self._file.read(offset, size)

    def close(self) -> None:
        self._file.close()


def _started(threads: int) -> ThreadPoolExecutor:
    """Threads that are there: one that cannot be had is not to be missed in the middle of a sync."""
    executor = ThreadPoolExecutor(max_workers=threads, thread_name_prefix="disk")
    all_there = threading.Barrier(threads)
    try:
        for each in [executor.submit(all_there.wait) for _ in range(threads)]:
            each.result()
    except BaseException:
        all_there.abort()  # or the one that is there would wait for ever, and the process with it
        raise
    return executor


class RealDisk:
    def __init__(self, root: Path) -> None:
        self._root = root
        _make_folder(root)
        self._executor = _started(2)
        self._pace = _Pace()

    def open(self, path: str, *, create: bool = False) -> RealFile:
        full = self._root / path
        if create:
            _make_folder(full.parent)
        return RealFile(full, self._executor, self._pace, create=create)

    def list(self, folder: str) -> list[str]:
        try:
            return sorted(os.listdir(self._root / folder))
        except (FileNotFoundError, NotADirectoryError):
            return []

    def exists(self, path: str) -> bool:
        return (self._root / path).exists()

    async def replace(self, path: str, content: bytes) -> None:
        await self._in_thread(self._replace, self._root / path, content)

    @staticmethod
    def _replace(path: Path, content: bytes) -> None:
        _make_folder(path.parent)
        temporary = path.with_name(path.name + UNFINISHED)
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _sync_folder(path.parent)

    def read_all(self, path: str) -> bytes:
        return (self._root / path).read_bytes()

    async def sync_folder(self, folder: str) -> None:
        await self._in_thread(_sync_folder, self._root / folder)

    def remove(self, path: str) -> None:
        (self._root / path).unlink(missing_ok=True)

    def free_bytes(self) -> int:
        found = os.statvfs(self._root)
        return found.f_bavail * found.f_frsize

    async def _in_thread(self, function, *args) -> None:  # type: ignore[no-untyped-def]
        await asyncio.get_running_loop().run_in_executor(self._executor, function, *args)


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Nobody else may hold the folder meanwhile; it is free again when the process ends, however it does.

    Raises BlockingIOError if another process holds it.
    """
    _make_folder(folder)
    _sync_folder(folder)
    for above in folder.absolute().parents:
        with suppress(OSError):  # others made them, perhaps just now, and they may not be ours to read
            _sync_folder(above)
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BlockingIOError(f"open {folder}: another process is using it") from None
        yield
    finally:
        os.close(fd)


def _make_folder(folder: Path) -> None:
    """Make it, and those above it, durably: a file is of no use in a folder that a power cut takes away."""
    if folder.exists():
        return
    _make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    _sync_folder(folder.parent)


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
