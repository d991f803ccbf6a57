"""The hot log on a disk that keeps only what it promised."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.disk import RealDisk
from storage_node import hot_log
from storage_node.hot_log import HotLog
from tests.simulation.sim_disk import SimDisk
from tests.simulation.virtual_loop import run
from tests.unit.storage_node.log_model import GROUP, VOLUME, GroupLog, framed
from volume.errors import CorruptRecord, UnknownFormat
from volume.ids import Lsn

_HEAD_BYTES = 16


def _frames(count: int) -> list[bytes]:
    log = GroupLog()
    return [framed([log.write(page)])[1] for page in range(1, count + 1)]


def _append(log: HotLog, frames: list[bytes]) -> None:
    for frame in frames:
        log.append(hot_log.read_header(frame), frame)


def _replayed(disk: SimDisk, node: str = "node") -> list[bytes]:
    return [frame for _, frame in HotLog(disk, node).replay()]


def _on_disk(
    work: Callable[[SimDisk, HotLog], Awaitable[None]], seed: int = 1, file_bytes: int = 1 << 20
) -> SimDisk:
    disk = SimDisk(random.Random(seed))

    async def main() -> None:
        await work(disk, HotLog(disk, "node"))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hot_log, "_FILE_BYTES", file_bytes)
        run(main())
    return disk


def _written(frames: list[bytes], file_bytes: int = 1 << 20) -> SimDisk:
    async def work(disk: SimDisk, log: HotLog) -> None:
        _append(log, frames)
        await log.synced()

    return _on_disk(work, file_bytes=file_bytes)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 4), min_size=1, max_size=6), st.integers(0, 4), st.integers(0, 999))
def test_what_synced_promised_survives_a_power_cut(batches: list[int], unsynced: int, seed: int) -> None:
    frames = _frames(sum(batches) + unsynced)
    promised = sum(batches)

    async def work(disk: SimDisk, log: HotLog) -> None:
        done = 0
        for batch in batches:
            _append(log, frames[done : done + batch])
            done += batch
            await log.synced()
        _append(log, frames[promised:])

    disk = _on_disk(work, seed, file_bytes=700)
    assert _replayed(disk.durable_copy()) == frames[:promised]
    survivor = disk.crash()
    found = _replayed(survivor)
    assert found[:promised] == frames[:promised], "promised, in order"
    assert set(found) <= set(frames), "and nothing made up"
    assert _replayed(survivor) == found, "cutting the torn tail loses nothing more"


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 5), st.integers(1, 5), st.integers(0, 999))
def test_a_log_opened_after_a_power_cut_goes_on(before: int, after: int, seed: int) -> None:
    frames = _frames(before + 3 + after)

    async def first(disk: SimDisk, log: HotLog) -> None:
        _append(log, frames[:before])
        await log.synced()
        _append(log, frames[before : before + 3])

    survivor = _on_disk(first, seed, file_bytes=400).crash()

    async def second() -> list[bytes]:
        log = HotLog(survivor, "node")
        kept = [frame for _, frame in log.replay()]
        _append(log, frames[before + 3 :])
        await log.synced()
        return kept

    kept = run(second())
    assert _replayed(survivor.durable_copy()) == kept + frames[before + 3 :]


def test_a_power_cut_may_take_the_head_of_a_file_that_was_never_synced() -> None:
    disk = SimDisk(random.Random(1))
    disk.open("hot/00000001.log", create=True).append(bytes(512))
    assert _replayed(disk) == []


def test_what_a_killed_process_wrote_is_promised_once_its_successor_has_synced() -> None:
    frames = _frames(3)

    async def first(disk: SimDisk, log: HotLog) -> None:
        _append(log, frames)

    successor = _on_disk(first).kill()

    async def second() -> None:
        log = HotLog(successor, "node")
        assert [frame for _, frame in log.replay()] == frames
        assert _replayed(successor.durable_copy()) == []
        await log.synced()

    run(second())
    assert _replayed(successor.durable_copy()) == frames


def _damaged(frames: list[bytes], change: Callable[[bytearray], object], at_file: int = 0) -> SimDisk:
    """A log of which one file was changed by hand."""
    written = _written(frames, file_bytes=400)
    names = written.list("hot")
    disk = SimDisk(random.Random(1))
    for index, name in enumerate(names):
        content = bytearray(written.read_all(f"hot/{name}"))
        if index == at_file % len(names):
            change(content)
        disk.open(f"hot/{name}", create=True).append(bytes(content))
    return disk


@settings(max_examples=80, deadline=None)
@given(st.integers(1, 6), st.integers(0, 10_000), st.integers(0, 7), st.integers(0, 3))
def test_a_flipped_bit_costs_the_frame_it_is_in_and_no_other(
    count: int, at: int, bit: int, at_file: int
) -> None:
    frames = _frames(count)
    hit = []

    def flip(content: bytearray) -> None:
        place = _HEAD_BYTES + at % (len(content) - _HEAD_BYTES)
        hit.extend(
            frame
            for frame in frames
            if (start := content.find(frame)) >= 0 and start <= place < start + len(frame)
        )
        content[place] ^= 1 << bit

    disk = _damaged(frames, flip, at_file)
    assert len(hit) == 1
    assert _replayed(disk) == [frame for frame in frames if frame != hit[0]]


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 4), st.data())
def test_a_torn_tail_is_cut(count: int, data: st.DataObject) -> None:
    frames = _frames(count)
    whole = sum(map(len, frames))
    keep = data.draw(st.integers(0, whole))
    disk = SimDisk(random.Random(1))
    head = _written(frames).read_all("hot/00000001.log")[:_HEAD_BYTES]
    file = disk.open("hot/00000001.log", create=True)
    file.append(head + b"".join(frames)[:keep])
    sound = [frame for index, frame in enumerate(frames) if sum(map(len, frames[: index + 1])) <= keep]
    assert _replayed(disk) == sound
    assert disk.read_all("hot/00000001.log") == head + b"".join(sound)


@pytest.mark.parametrize("size", [0, 1, 15])
def test_a_file_that_a_crash_left_without_its_head_is_no_log(size: int) -> None:
    disk = SimDisk(random.Random(1))
    disk.open("hot/00000007.log", create=True).append(b"SXHOTLOG\1\0\0\0\0\0\0"[:size])
    assert _replayed(disk) == []
    assert not disk.exists("hot/00000007.log")


@pytest.mark.parametrize(
    ("why", "at", "value", "refused"),
    [
        ("another node's", 12, 0xFF, CorruptRecord),
        ("of an unknown format", 8, 99, UnknownFormat),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_log_is_refused_that_is(why: str, at: int, value: int, refused: type[Exception]) -> None:
    def change(content: bytearray) -> None:
        content[at] ^= value or 0xFF

    with pytest.raises(refused, match=r"open hot/00000001\.log"):
        _replayed(_damaged(_frames(1), change))


def test_a_damaged_head_costs_no_frame() -> None:
    def change(content: bytearray) -> None:
        content[0] ^= 0xFF

    frames = _frames(3)
    assert _replayed(_damaged(frames, change)) == frames


@pytest.mark.parametrize("at", range(_HEAD_BYTES))
def test_a_bit_flipped_anywhere_in_the_head_costs_no_frame(at: int) -> None:
    frames = _frames(2)
    for bit in range(8):

        def flip(content: bytearray, bit: int = bit) -> None:
            content[at] ^= 1 << bit

        assert _replayed(_damaged(frames, flip)) == frames


def test_files_go_once_all_their_frames_are_in_layers() -> None:
    frames = _frames(9)

    async def work(disk: SimDisk, log: HotLog) -> None:
        _append(log, frames)
        await log.synced()
        names = disk.list("hot")
        assert len(names) > 3
        for flushed in range(10):
            log.release(lambda key, flushed=flushed: {(VOLUME, GROUP): Lsn(flushed)}[key])  # type: ignore[misc]
            left = _replayed(disk)
            assert set(frames[flushed:]) <= set(left), "nothing leaves before it is in layers"
            assert log.size_bytes == sum(len(disk.read_all(f"hot/{name}")) for name in disk.list("hot"))
        assert disk.list("hot") == names[-1:], "and everything but the file being written leaves then"

    _on_disk(work, file_bytes=300)


def test_many_callers_share_one_sync_and_each_waits_for_its_own() -> None:
    frames = _frames(20)

    async def work(disk: SimDisk, log: HotLog) -> None:
        async def one(frame: bytes) -> None:
            _append(log, [frame])
            await log.synced()
            assert frame in _replayed(disk.durable_copy())

        first = asyncio.create_task(one(frames[0]))
        await asyncio.sleep(0.0001)
        await asyncio.gather(first, *map(one, frames[1:]))
        assert log.syncs <= 3

    _on_disk(work)


def test_a_caller_that_gives_up_leaves_the_others_their_sync() -> None:
    frames = _frames(2)

    async def work(disk: SimDisk, log: HotLog) -> None:
        _append(log, frames)
        gone, stays = asyncio.create_task(log.synced()), asyncio.create_task(log.synced())
        await asyncio.sleep(0.0001)
        gone.cancel()
        await stays
        assert _replayed(disk.durable_copy()) == frames

    _on_disk(work)


@pytest.mark.parametrize(("why", "fault"), [("full", "full"), ("broken", "broken")])
def test_a_log_whose_disk_failed_never_promises_again(why: str, fault: str) -> None:
    frames = _frames(3)

    async def work(disk: SimDisk, log: HotLog) -> None:
        _append(log, frames[:1])
        await log.synced()
        setattr(disk.faults, fault, True)
        with pytest.raises(OSError, match=r"simulated"):
            _append(log, frames[1:2])
            await log.synced()
        setattr(disk.faults, fault, False)
        with pytest.raises(OSError, match=r"simulated"):
            _append(log, frames[2:])
        with pytest.raises(OSError, match=r"simulated"):
            await log.synced()
        assert log.failed is not None

    disk = _on_disk(work)
    assert _replayed(disk.durable_copy())[:1] == frames[:1]


def test_everyone_who_waits_hears_of_a_sync_that_failed() -> None:
    async def work(disk: SimDisk, log: HotLog) -> None:
        _append(log, _frames(1))
        waiting = [asyncio.create_task(log.synced()) for _ in range(3)]
        await asyncio.sleep(0)
        disk.faults.broken = True
        results = await asyncio.gather(*waiting, return_exceptions=True)
        assert [type(result) for result in results] == [OSError] * 3

    _on_disk(work)


def test_a_quick_disk_is_synced_on_the_spot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runtime.disk._QUICK_SYNC_S", 60.0)  # any disk is quick
    frames = _frames(4)

    async def main() -> None:
        log = HotLog(RealDisk(tmp_path), "node")
        _append(log, frames[:1])
        assert not log.sync_at_once(), "the file's name has to be made durable first"
        await log.synced()
        _append(log, frames[1:])
        assert log.sync_at_once()
        assert log.sync_at_once(), "nothing is left to sync"
        assert log.syncs == 2
        log.close()

    asyncio.run(main())
    assert [frame for _, frame in HotLog(RealDisk(tmp_path), "node").replay()] == frames
