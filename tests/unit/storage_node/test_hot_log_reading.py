"""The hot log read back while it is written, and what it says of its syncs."""

import asyncio
import random
from collections.abc import Awaitable, Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage_node import hot_log
from storage_node.hot_log import HotLog
from tests.simulation.sim_disk import SimDisk
from tests.simulation.virtual_loop import run
from tests.unit.storage_node.log_model import GROUP, VOLUME, GroupLog, framed
from volume.ids import Lsn
from volume.log_batch import read_header

_HEAD_BYTES = 16


def _frames(count: int) -> list[bytes]:
    log = GroupLog()
    return [framed([log.write(page)])[1] for page in range(1, count + 1)]


def _append(log: HotLog, frames: list[bytes]) -> None:
    for frame in frames:
        log.append(read_header(frame), frame)


def _with_log(work: Callable[[SimDisk, HotLog], Awaitable[None]], file_bytes: int = 1 << 20) -> None:
    async def main() -> None:
        disk = SimDisk(random.Random(1))
        await work(disk, HotLog(disk, "node"))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hot_log, "_FILE_BYTES", file_bytes)
        run(main())


def test_each_sound_frame_is_a_step() -> None:
    frames = _frames(9)

    async def work(disk: SimDisk, log: HotLog) -> None:
        _append(log, frames)
        steps = [step for name in log.files() for step in log.verify(name)]
        assert steps == [(len(frame), "") for frame in frames]
        assert len(log.files()) == 3
        assert sum(log.files().values()) == log.size_bytes
        assert list(log.verify("00000099.log")) == []

    _with_log(work, file_bytes=400)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.integers(0, 7))
def test_a_flipped_bit_is_told_and_the_frames_around_it_are_sound(at: int, bit: int) -> None:
    frames = _frames(4)

    async def work(disk: SimDisk, log: HotLog) -> None:
        _append(log, frames)
        (name,) = log.files()
        data = disk._names[f"hot/{name}"].data
        place = at % len(data)
        data[place] ^= 1 << bit
        steps = list(log.verify(name))
        problems = [problem for _, problem in steps if problem]
        assert len(problems) == 1
        if place < _HEAD_BYTES:
            assert problems == ["byte 0: no head"]
            assert len(steps) == 1 + len(frames)
            return
        first, last = (int(word) for word in problems[0].split(":")[0].split()[1::2])
        assert first <= place < last
        assert len(steps) == len(frames), "one of them is damaged, and it is the one that was hit"

    _with_log(work)


def test_what_is_appended_meanwhile_is_left_to_the_next_time() -> None:
    frames = _frames(6)

    async def work(disk: SimDisk, log: HotLog) -> None:
        _append(log, frames[:3])
        (name,) = log.files()
        reading = log.verify(name)
        steps = [next(reading)]
        _append(log, frames[3:])
        assert len(steps) + len(list(reading)) == 3

    _with_log(work)


def test_reading_ends_when_the_file_goes() -> None:
    frames = _frames(6)

    async def work(disk: SimDisk, log: HotLog) -> None:
        _append(log, frames)
        await log.synced()
        (name,) = log.files()
        assert log.holds(name) == {(VOLUME, GROUP): Lsn(6)}
        reading = log.verify(name)
        next(reading)
        log.begin_file()
        log.release(lambda key: Lsn(6))
        assert list(reading) == []
        assert (log.files(), log.holds(name), disk.list("hot")) == ({}, {}, [])
        _append(log, frames[:1])
        assert len(log.files()) == 1

    _with_log(work)


def test_a_file_stays_while_a_sync_of_it_is_under_way() -> None:
    frames = _frames(2)

    async def work(disk: SimDisk, log: HotLog) -> None:
        disk.faults.sync_s = (1.0, 1.0)
        _append(log, frames)
        log.begin_file()
        log.release(lambda key: Lsn(2))
        assert len(log.files()) == 1, "nobody has synced it yet"
        syncing = asyncio.create_task(log.synced())
        await asyncio.sleep(0.5)
        log.release(lambda key: Lsn(2))
        assert len(log.files()) == 1
        await syncing
        log.release(lambda key: Lsn(2))
        assert log.files() == {}

    _with_log(work)


def test_how_long_syncs_take_is_told_only_while_there_are_some() -> None:
    async def work(disk: SimDisk, log: HotLog) -> None:
        disk.faults.sync_s = (0.1, 0.1)
        assert log.recent_sync_s == 0
        _append(log, _frames(1))
        await log.synced()
        assert log.recent_sync_s == log.sync_s > 0
        await asyncio.sleep(60)
        assert (log.recent_sync_s, log.sync_s > 0) == (0, True)

    _with_log(work)
