"""A node whose process, and not its disk, is short of something: what it cannot do it does not claim to have done."""

import asyncio
import errno
import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

import pytest

from runtime.clock import RealClock
from runtime.disk import RealDisk, RealFile
from storage_node import hot_log
from storage_node.hot_log import HotLog
from storage_node.node import StorageNode
from storage_node.segment_store import SegmentStore
from tests.unit.storage_node.log_model import GROUP, VOLUME, GroupLog, framed
from tests.unit.volume.quorum_model import quorum_set
from volume.errors import SegmentFailed
from volume.ids import LSN_ZERO, Epoch, Lsn, SegmentId
from volume.log_batch import read_header

_ONE = Epoch(1)


class _Babbler:
    """Peers whose answers nobody understands."""

    async def call(self, *_: object, **__: object) -> bytes:
        return b"\xff\xff"


def _node(folder: Path) -> tuple[RealDisk, StorageNode]:
    disk = RealDisk(folder)
    return disk, StorageNode("n", "az1", disk, cast(Any, _Babbler()), RealClock(), random.Random(1))


class _World:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.disk, self.node = _node(folder)
        self.log = GroupLog()
        self.segment: SegmentStore

    async def begin(self) -> None:
        await self.node.open()
        await self.node.create_segment(VOLUME, SegmentId(GROUP, 0), quorum_set("n b c d e f"))
        self.segment = self.node.segment(VOLUME, GROUP)
        await self.segment.promise(_ONE)
        await self.segment.install(self.log.timeline, LSN_ZERO)

    async def append(self) -> None:
        frames = [framed([self.log.write(1)], _ONE)]
        await self.node.settle(await self.node.append(VOLUME, _ONE, frames, Lsn(0), Lsn(0)))

    async def anew(self) -> SegmentStore:
        """As the next process finds it."""
        await self.node.stop()
        _, self.node = _node(self.folder)
        await self.node.open()
        return self.node.segment(VOLUME, GROUP)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[_World]:
    world = _World(tmp_path / "n")
    await world.begin()
    yield world
    await world.node.stop()


def _no_thread(*_: object) -> None:
    raise RuntimeError("can't start new thread")


async def test_a_sync_that_could_not_be_begun_acknowledges_nothing(
    world: _World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.append()
    before = world.segment.chain.durable_scl
    world.node.start()
    with monkeypatch.context() as patched:
        patched.setattr(world.disk._executor, "submit", _no_thread)
        patched.setattr(RealFile, "sync_at_once", lambda self: False)
        await world.append()
    assert world.segment.failed is not None
    told: list[Lsn] = []
    world.node.watch(lambda segment: told.append(segment.chain.durable_scl))
    await world.append()
    assert world.segment.chain.durable_scl == before
    assert told == []


async def test_a_promise_that_could_not_be_saved_is_never_given(
    world: _World, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(world.disk._executor, "submit", _no_thread)
        with pytest.raises(SegmentFailed):
            await world.segment.promise(Epoch(5))
    with pytest.raises(SegmentFailed):
        await world.segment.promise(Epoch(5))
    assert (await world.anew()).chain.promised == _ONE


async def test_without_a_file_to_begin_the_log_goes_on_in_the_last_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hot_log, "_FILE_BYTES", 64)
    disk = RealDisk(tmp_path)
    log, written = HotLog(disk, "n"), GroupLog()

    async def append() -> None:
        frame = framed([written.write(1)])[1]
        log.append(read_header(frame), frame)
        await log.synced()

    def no_file(path: str, *, create: bool = False) -> RealFile:
        raise OSError(errno.EMFILE, "Too many open files", path)

    await append()
    with monkeypatch.context() as patched:
        patched.setattr(disk, "open", no_file)
        for _ in range(3):
            await append()
    assert len(log.files()) == 1
    await append()
    assert len(log.files()) == 2
    assert [header.last_lsn for header, _ in HotLog(RealDisk(tmp_path), "n").replay()] == [1, 2, 3, 4, 5]
    log.close()


async def test_layers_that_cannot_be_opened_for_want_of_files_are_not_taken_for_damaged(
    world: _World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.append()
    await world.node.flush(world.segment)
    real = RealDisk.open

    def no_layer(self: RealDisk, path: str, *, create: bool = False) -> RealFile:
        if path.endswith(".layer"):
            raise OSError(errno.EMFILE, "Too many open files", path)
        return real(self, path, create=create)

    await world.node.stop()
    with monkeypatch.context() as patched:
        patched.setattr(RealDisk, "open", no_layer)
        _, another = _node(world.folder)
        with pytest.raises(OSError, match="Too many open files"):
            await another.open()
    assert (await world.anew()).state == "ok"


async def test_the_log_is_read_back_from_the_medium(world: _World, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the kernel could not write it shows all the same, until it is told to forget it."""
    await world.append()
    forgotten: set[int] = set()
    forget = RealFile.forget

    def noted(self: RealFile, offset: int, size: int) -> None:
        forgotten.update(range(offset, min(offset + size, self.size)))
        forget(self, offset, size)

    monkeypatch.setattr(RealFile, "forget", noted)
    (size,) = world.node.log.files().values()
    await world.anew()
    assert forgotten >= set(range(size))


async def test_a_node_part_of_which_has_died_starts_anew(
    world: _World, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken() -> None:
        raise ZeroDivisionError("a fault of ours")

    monkeypatch.setattr(world.node.gossip, "run", broken)
    world.node.start()
    async with asyncio.timeout(10):
        await world.node.must_restart.wait()
    assert "ZeroDivisionError: a fault of ours" in world.node.restarts_because


async def test_a_peer_that_is_not_understood_is_one_that_is_away(world: _World) -> None:
    await world.node.gossip._with("b", "nowhere:1")
    assert await world.node.gossip.copier.well_elsewhere(world.segment) == 0
