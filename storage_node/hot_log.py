"""The node's one hot log: frames of all its segments, appended as they come, synced together.

Files hot/<n>.log of about 16 MiB:

    offset  size  field     meaning
    ------  ----  --------  ------------------------------------------
         0     8  magic     "SXHOTLOG"
         8     2  format    HOT_LOG_FORMAT
        10     2  zero
        12     4  crc       crc32c of the node's id
        16     n  frames    volume/log_batch.py, one after the other

On opening every frame is read back and checked. A file whose head is gone was never synced, or is damaged:
its frames stand for themselves. Behind a damaged place the next frame is searched for:
if there is none, it was the torn tail of a crash and is cut; if there is, the damage is told and what it
held comes back from the peers. A file goes once all its frames are in layers.
"""

import asyncio
import errno
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from runtime.disk import NO_FILE_LEFT, Disk, File, FromTheMedium, Readable
from runtime.events import get_logger
from volume.errors import CorruptRecord, UnknownFormat, VolumeError
from volume.ids import GroupId, Lsn, VolumeId
from volume.limits import MIB
from volume.log_batch import HEADER_SIZE, MAGIC_BYTES, FrameHeader, check_against, check_frame, read_header
from volume.page import checksum

events = get_logger("storage_node.hot_log")

HOT_LOG_FORMAT: Final = 1
_MAGIC: Final = b"SXHOTLOG"
_HEAD: Final = struct.Struct("<8sHHI")
_FILE_BYTES: Final = 16 * MIB
_SMOOTHING: Final = 0.1
_RECENT_S: Final = 10.0

SegmentKey = tuple[VolumeId, GroupId]


@dataclass(slots=True)
class _LogFile:
    name: str
    file: File
    last_lsn: dict[SegmentKey, Lsn] = field(default_factory=dict)
    """Of each segment, the highest LSN in this file: it goes when all of them are in layers."""
    released: bool = False


class HotLog:
    def __init__(self, disk: Disk, node: str) -> None:
        self._disk = disk
        self._node_crc = checksum(node.encode())
        self._head = _HEAD.pack(_MAGIC, HOT_LOG_FORMAT, 0, self._node_crc)
        self._files: list[_LogFile] = []
        self._writing: _LogFile | None = None
        self._new_names = False
        self._next_number = 1
        self._dirty: list[File] = []
        self._in_sync: list[File] = []
        """Those that a sync is under way for."""
        self._syncing: asyncio.Task[None] | None = None
        self._waiting: list[asyncio.Future[None]] = []
        self.failed: OSError | None = None
        self.syncs = 0
        self.sync_s = 0.0
        """How long a sync takes, as a running mean."""
        self._synced_at = 0.0
        self.bytes_appended = 0

    # Opening

    def replay(self) -> Iterator[tuple[FrameHeader, bytes]]:
        """Every frame that is there, oldest file first."""
        names = [name for name in self._disk.list("hot") if name.endswith(".log")]
        for name in names:
            yield from self._replay_file(name, is_last=name == names[-1])
        if names:
            self._next_number = int(names[-1].removesuffix(".log")) + 1

    def _replay_file(self, name: str, *, is_last: bool) -> Iterator[tuple[FrameHeader, bytes]]:
        log = _LogFile(name, self._disk.open(f"hot/{name}"))
        # From the medium: what a sync could not write the system takes for written from then on, and shows it.
        data = FromTheMedium(log.file).read(0, log.file.size)
        if len(data) < _HEAD.size:
            log.file.close()
            self._disk.remove(f"hot/{name}")  # a crash right after its creation
            return
        if not self._has_head(name, data):
            events.error("hot_log.damaged", file=name, offset=0, until=_HEAD.size, reason="no head")
        self._files.append(log)
        self._dirty.append(log.file)
        self._new_names = True
        offset = _HEAD.size
        while offset < len(data):
            try:
                header = read_header(data, offset)
                frame = data[offset : offset + header.size]
                check_against(header, frame)
            except (CorruptRecord, UnknownFormat) as error:
                offset = self._after_damage(log, data, offset, error, is_last=is_last)
                continue
            offset += header.size
            _note(log, header)
            yield header, frame

    def _has_head(self, name: str, data: bytes) -> bool:
        """False if the head is gone. Raises UnknownFormat; CorruptRecord for another node's file."""
        magic, version, _, crc = _HEAD.unpack_from(data)
        if magic != _MAGIC or self._has_one_bit_flipped(data):
            return False
        if version != HOT_LOG_FORMAT:
            raise UnknownFormat(f"open hot/{name}: format {version}, this release knows {HOT_LOG_FORMAT}")
        if crc != self._node_crc:
            raise CorruptRecord(f"open hot/{name}: it belongs to another node")
        return True

    def _has_one_bit_flipped(self, data: bytes) -> bool:
        """Is the head ours but for one bit, and what follows as this release writes it? It is damaged then, and
        neither of another format nor another node's."""
        head = int.from_bytes(self._head), int.from_bytes(data[: _HEAD.size])
        if (head[0] ^ head[1]).bit_count() != 1:
            return False
        if len(data) == _HEAD.size:
            return True
        try:
            header = read_header(data, _HEAD.size)
            check_against(header, data[_HEAD.size : _HEAD.size + header.size])
        except (CorruptRecord, UnknownFormat):
            return False
        return True

    def _after_damage(
        self, log: _LogFile, data: bytes, offset: int, why: VolumeError, *, is_last: bool
    ) -> int:
        """Where the next sound frame begins, or the end of the file, which is cut if it is the last."""
        at = _next_frame(data, offset)
        if at == len(data) and is_last:
            events.info("hot_log.torn_tail_cut", file=log.name, offset=offset, bytes=len(data) - offset)
            log.file.truncate(offset)
        else:
            events.error("hot_log.damaged", file=log.name, offset=offset, until=at, reason=str(why))
        return at

    # Appending

    def append(self, header: FrameHeader, frame: bytes) -> None:
        """Write a frame; durable once `synced` returns. Raises OSError, and from then on always."""
        if self.failed is not None:
            raise self.failed
        try:
            log = self._current()
            log.file.append(frame)
        except OSError as error:
            self.failed = error
            raise
        _note(log, header)
        self.bytes_appended += len(frame)
        if not self._dirty or self._dirty[-1] is not log.file:
            self._dirty.append(log.file)

    def _current(self) -> _LogFile:
        if self._writing is None or self._writing.file.size >= _FILE_BYTES:
            name = f"{self._next_number:08d}.log"
            try:
                file = self._disk.open(f"hot/{name}", create=True)
            except OSError as error:
                if self._writing is None or error.errno not in NO_FILE_LEFT:
                    raise
                return self._writing  # it grows, until this process may open files again
            self._next_number += 1
            log = _LogFile(name, file)
            log.file.append(self._head)
            self._files.append(log)
            self._writing = log
            self._new_names = True
        return self._writing

    def sync_at_once(self) -> bool:
        """Sync what was appended so far here and now, on a disk where that is quick. Raises OSError."""
        if self.failed is not None:
            raise self.failed
        if self._syncing is not None or self._new_names or len(self._dirty) > 1:
            return False
        if not self._dirty:
            return True
        began = asyncio.get_running_loop().time()
        try:
            if not self._dirty[0].sync_at_once():
                return False
        except OSError as error:
            self.failed = error
            raise
        self._dirty.clear()
        self._note_sync(began)
        return True

    def _note_sync(self, began: float) -> None:
        self.syncs += 1
        self._synced_at = asyncio.get_running_loop().time()
        self.sync_s += _SMOOTHING * (self._synced_at - began - self.sync_s)

    @property
    def recent_sync_s(self) -> float:
        """The same, and 0 when nothing was synced lately: what the disk did long ago tells nothing of it now."""
        return self.sync_s if asyncio.get_running_loop().time() - self._synced_at < _RECENT_S else 0.0

    async def synced(self) -> None:
        """Return once all that was appended so far is on disk. Many callers share one sync. Raises OSError."""
        if self.failed is not None:
            raise self.failed
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(done)
        if self._syncing is None:
            self._syncing = asyncio.create_task(self._sync_all())
        await done

    async def _sync_all(self) -> None:
        try:
            while self._waiting:
                waiting, self._waiting = self._waiting, []
                error = await self._sync_once()
                for done in waiting:
                    if done.done():
                        continue
                    if error is None:
                        done.set_result(None)
                    else:
                        done.set_exception(error)
        finally:
            self._syncing = None

    async def _sync_once(self) -> OSError | None:
        began = asyncio.get_running_loop().time()
        self._in_sync, self._dirty = self._dirty, []
        new_names, self._new_names = self._new_names, False
        try:
            for file in self._in_sync:
                await file.sync()
            if new_names:
                await self._disk.sync_folder("hot")
        except OSError as error:
            # What a failed fsync wrote is unknown and a second one may lie: the log is done for.
            self.failed = error
            return error
        except BaseException as error:
            self.failed = OSError(errno.EIO, f"not synced: {type(error).__name__}: {error}")
            if not isinstance(error, Exception):
                raise
            return self.failed
        finally:
            self._in_sync = []
        self._note_sync(began)
        return self.failed

    # Reading back

    def files(self) -> dict[str, int]:
        """The files' names, oldest first, and how many bytes each has."""
        return {log.name: log.file.size for log in self._files}

    def holds(self, name: str) -> Mapping[SegmentKey, Lsn]:
        """The highest LSN of each segment in this file; none of a file that is gone."""
        return next((log.last_lsn for log in self._files if log.name == name), {})

    def verify(self, name: str) -> Iterator[tuple[int, str]]:
        """A step for each frame of the file, as it is now, on the medium: so many bytes are sound, or what is
        wrong with them. Ends early when the file goes. Raises OSError."""
        log = next((log for log in self._files if log.name == name), None)
        if log is None or self.failed is not None:
            return
        file, end = FromTheMedium(log.file), log.file.size
        if file.read(0, _HEAD.size) != self._head:
            yield _HEAD.size, "byte 0: no head"
        offset = _HEAD.size
        while offset < end and not log.released:
            try:
                size, problem = _frame_at(file, offset, end), ""
            except (CorruptRecord, UnknownFormat) as error:
                data = file.read(offset, end - offset)
                size = _next_frame(data, 0)
                problem = f"byte {offset} to {offset + size}: {str(error).rpartition(': ')[2]}"
            yield size, problem
            offset += size

    # Letting go

    def begin_file(self) -> None:
        """What comes from now on goes to a file of its own, so that those there are can go."""
        self._writing = None

    def release(self, flushed: Callable[[SegmentKey], Lsn]) -> None:
        """Remove the files all of whose frames are in layers: `flushed` tells how far, by segment."""
        kept = []
        for log in self._files:
            in_use = log is self._writing or log.file in self._dirty or log.file in self._in_sync
            if not in_use and all(lsn <= flushed(key) for key, lsn in log.last_lsn.items()):
                log.file.close()
                log.released = True
                self._disk.remove(f"hot/{log.name}")
            else:
                kept.append(log)
        self._files = kept

    @property
    def size_bytes(self) -> int:
        return sum(log.file.size for log in self._files)

    def close(self) -> None:
        for log in self._files:
            log.file.close()


def _frame_at(file: Readable, offset: int, end: int) -> int:
    """The size of the sound frame that begins there. Raises CorruptRecord, UnknownFormat."""
    header = read_header(file.read(offset, min(HEADER_SIZE, end - offset)))
    check_against(header, file.read(offset, min(header.size, end - offset)))
    return header.size


def _next_frame(data: bytes, offset: int) -> int:
    """Where the next sound frame after the damage at `offset` begins; the end of the data if there is none."""
    at = data.find(MAGIC_BYTES, offset + 1)
    while at >= 0:
        try:
            check_frame(data[at : at + read_header(data, at).size])
            return at
        except (CorruptRecord, UnknownFormat):
            at = data.find(MAGIC_BYTES, at + 1)
    return len(data)


def _note(log: _LogFile, header: FrameHeader) -> None:
    key = (header.volume, header.group)
    log.last_lsn[key] = max(log.last_lsn.get(key, Lsn(0)), header.last_lsn)
