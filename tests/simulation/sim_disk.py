"""A disk that keeps only what it has promised, and of the rest what the dice leave.

Promised is what a sync that returned has covered: bytes appended before the sync began, and names whose
folder was synced (POSIX promises no more of a file's sync). `crash` gives the disk as the next process finds it after a power cut: of each
unsynced append all, nothing, or some of its sectors; of an unsynced creation, removal or truncation
either side. `durable_copy` is the meanest of these disks: nothing but what was promised. After `kill`,
which ends only the process, the next one finds everything, and still nothing more is promised.
"""

import asyncio
import errno
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from runtime.disk import File

SECTOR_BYTES: Final = 512


@dataclass(slots=True)
class DiskFaults:
    """What is wrong with the disk right now."""

    sync_s: tuple[float, float] = (0.0002, 0.002)
    slow_factor: float = 1.0
    full: bool = False
    broken: bool = False
    """Every write and sync meets EIO."""
    unreadable: str = ""
    """What is read of files whose names end so meets EIO."""


@dataclass(slots=True, eq=False)
class _Inode:
    data: bytearray = field(default_factory=bytearray)
    synced: int = 0
    """This much of `data` was promised."""
    before_cut: bytes | None = None
    """What was promised before a truncation that no sync has covered yet."""
    cuts: int = 0
    syncing: list[list[int]] = field(default_factory=list)

    def truncate(self, size: int) -> None:
        if size < self.synced:
            if self.before_cut is None:
                self.before_cut = bytes(self.data[: self.synced])
            self.synced = size
        self.cuts += 1
        for covered in self.syncing:
            covered[0] = min(covered[0], size)
        del self.data[size:]


class SimFile:
    def __init__(self, disk: "SimDisk", path: str, inode: _Inode) -> None:
        self._disk = disk
        self._path = path
        self._inode = inode

        self.size = len(inode.data)

    def append(self, data: bytes) -> int:
        offset = len(self._inode.data)
        self._inode.data += self._disk.admit(data, self._path)
        self.size = len(self._inode.data)
        if len(self._inode.data) - offset < len(data):
            raise OSError(errno.ENOSPC, "no space left on the simulated disk", self._path)
        return offset

    def read(self, offset: int, size: int) -> bytes:
        self._disk.check(self._path, reads=True)
        return bytes(self._inode.data[offset : offset + size])

    async def sync(self) -> None:
        await self._disk.sync_inode(self._path, self._inode)

    def sync_at_once(self) -> bool:
        return False

    def truncate(self, size: int) -> None:
        self._disk.check(self._path, writes=True)
        assert size <= self.size, "the services only ever cut"
        self._inode.truncate(size)
        self.size = size

    def close(self) -> None:
        pass


class SimDisk:
    def __init__(self, dice: random.Random, capacity_bytes: int = 1 << 30) -> None:
        self.faults = DiskFaults()
        self.on_durable: Callable[[str, bytes], None] = lambda _path, _data: None
        """Told of bytes that a sync has just made durable."""
        self.syncs = 0
        self.bytes_written = 0
        self._dice = dice
        self._capacity = capacity_bytes
        self._names: dict[str, _Inode] = {}
        self._durable_names: dict[str, _Inode] = {}
        self._gone = False

    # runtime.disk.Disk

    def open(self, path: str, *, create: bool = False) -> File:
        self.check(path)
        inode = self._names.get(path)
        if inode is None:
            if not create:
                raise FileNotFoundError(errno.ENOENT, "no such simulated file", path)
            self.check(path, writes=True)
            inode = self._names[path] = _Inode()
        return SimFile(self, path, inode)

    def list(self, folder: str) -> list[str]:
        self.check(folder)
        prefix = folder.rstrip("/") + "/" if folder not in ("", ".") else ""
        inside = (path[len(prefix) :] for path in self._names if path.startswith(prefix))
        return sorted({name.split("/", 1)[0] for name in inside})

    def exists(self, path: str) -> bool:
        self.check(path)
        return path in self._names or any(name.startswith(path.rstrip("/") + "/") for name in self._names)

    async def replace(self, path: str, content: bytes) -> None:
        inode = _Inode(bytearray(self.admit(content, path)))
        if len(inode.data) < len(content):
            raise OSError(errno.ENOSPC, "no space left on the simulated disk", path)
        await self._wait_for_sync(path)
        inode.synced = len(inode.data)
        self._names[path] = inode
        await self._wait_for_sync(path)
        if self._names.get(path) is inode:
            self._durable_names[path] = inode

    def read_all(self, path: str) -> bytes:
        return self.open(path).read(0, 1 << 62)

    async def sync_folder(self, folder: str) -> None:
        names = {path: inode for path, inode in self._names.items() if _parent(path) == folder.rstrip("/")}
        await self._wait_for_sync(folder)
        for path in [path for path in self._durable_names if _parent(path) == folder.rstrip("/")]:
            if path not in names:
                del self._durable_names[path]
        self._durable_names.update(names)

    def remove(self, path: str) -> None:
        self.check(path, writes=True)
        self._names.pop(path, None)

    def free_bytes(self) -> int:
        if self.faults.full:
            return 0
        return max(0, self._capacity - sum(len(inode.data) for inode in self._names.values()))

    # What files ask of their disk

    def check(self, path: str, *, reads: bool = False, writes: bool = False) -> None:
        if self._gone:
            raise OSError(errno.EIO, "the process that had this disk is dead", path)
        if reads and self.faults.unreadable and path.endswith(self.faults.unreadable):
            raise OSError(errno.EIO, "simulated bad sectors", path)
        if writes and self.faults.broken:
            raise OSError(errno.EIO, "simulated I/O error", path)

    def admit(self, data: bytes, path: str) -> bytes:
        """The part of an append that still fits."""
        self.check(path, writes=True)
        room = self.free_bytes()
        if len(data) > room:
            return data[: self._dice.randint(0, min(room, len(data)))]
        self.bytes_written += len(data)
        return data

    async def sync_inode(self, path: str, inode: _Inode) -> None:
        covered, cuts = [len(inode.data)], inode.cuts
        inode.syncing.append(covered)
        try:
            await self._wait_for_sync(path)
        finally:
            inode.syncing = [other for other in inode.syncing if other is not covered]
        before, inode.synced = inode.synced, max(inode.synced, covered[0])
        if inode.cuts == cuts:
            inode.before_cut = None
        if inode.synced > before:
            self.on_durable(path, bytes(inode.data[before : inode.synced]))

    async def _wait_for_sync(self, path: str) -> None:
        self.check(path, writes=True)
        await asyncio.sleep(self._dice.uniform(*self.faults.sync_s) * self.faults.slow_factor)
        self.check(path, writes=True)
        self.syncs += 1

    # Faults

    def kill(self) -> "SimDisk":
        """The disk after the process, and only the process, has died."""
        self._gone = True
        successor = SimDisk(self._dice, self._capacity)
        successor.faults = self.faults
        successor._names, successor._durable_names = self._names, self._durable_names
        return successor

    def crash(self) -> "SimDisk":
        """The disk after a power cut. This one is dead: whoever still holds it meets EIO."""
        self._gone = True
        survivor = SimDisk(self._dice, self._capacity)
        for path in sorted({*self._names, *self._durable_names}):
            now, promised = self._names.get(path), self._durable_names.get(path)
            if now is not promised:
                now = self._dice.choice([now, promised])
            if now is not None:
                content = self._leftover(now)
                inode = _Inode(bytearray(content), synced=len(content))
                survivor._names[path] = survivor._durable_names[path] = inode
        return survivor

    def durable_copy(self) -> "SimDisk":
        """A disk of its own that holds just what this one has promised."""
        copy = SimDisk(self._dice, self._capacity)
        for path, inode in self._durable_names.items():
            twin = _Inode(bytearray(inode.data[: inode.synced]), synced=inode.synced)
            copy._names[path] = copy._durable_names[path] = twin
        return copy

    def synced(self, folder: str) -> dict[str, int]:
        """How much of each file in the folder was promised."""
        return {path: inode.synced for path, inode in self._names.items() if _parent(path) == folder}

    def unsync(self, folder: str, since: dict[str, int]) -> None:
        """The syncs of these files since then were lies: a power cut finds out."""
        for path in self.synced(folder):
            inode = self._names[path]
            if inode.before_cut is None:
                inode.synced = min(inode.synced, since.get(path, 0))

    def flip_bit(self, path: str) -> None:
        """One bit of the file rots."""
        data = self._names[path].data
        if data:
            data[self._dice.randrange(len(data))] ^= 1 << self._dice.randrange(8)

    def paths(self) -> tuple[str, ...]:
        return tuple(sorted(self._names))

    def _leftover(self, inode: _Inode) -> bytes:
        if inode.before_cut is not None and self._dice.random() < 0.5:
            return inode.before_cut
        promised, unsynced = bytes(inode.data[: inode.synced]), bytes(inode.data[inode.synced :])
        fate = self._dice.random()
        if not unsynced or fate < 0.4:
            return promised
        if fate < 0.6:
            return promised + unsynced
        unsynced = unsynced[: self._dice.randint(0, len(unsynced))]
        return promised + (unsynced if fate < 0.8 else self._some_sectors(unsynced))

    def _some_sectors(self, data: bytes) -> bytes:
        sectors = [data[at : at + SECTOR_BYTES] for at in range(0, len(data), SECTOR_BYTES)]
        return b"".join(bytes(len(one)) if self._dice.random() < 0.3 else one for one in sectors)


def _parent(path: str) -> str:
    return path.rpartition("/")[0]
