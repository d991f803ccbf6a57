"""The simulated disk keeps what it promised, and takes what it may."""

import asyncio
import errno
import random
from collections.abc import Awaitable, Callable

import pytest

from tests.simulation.sim_disk import SimDisk
from tests.simulation.virtual_loop import run


def _on_disk(work: Callable[[SimDisk], Awaitable[None]], seed: int = 1) -> SimDisk:
    disk = SimDisk(random.Random(seed))

    async def main() -> None:
        await work(disk)

    run(main())
    return disk


async def _synced_then_not(disk: SimDisk) -> None:
    file = disk.open("log/1", create=True)
    assert file.append(b"kept" * 500) == 0
    await file.sync()
    await disk.sync_folder("log")
    assert file.append(b"lost" * 500) == 2000


def test_what_a_sync_covered_survives_and_the_rest_may() -> None:
    outcomes = set()
    for seed in range(100):
        survivor = _on_disk(_synced_then_not, seed).crash()
        content = survivor.read_all("log/1")
        assert content.startswith(b"kept" * 500)
        outcomes.add(content)
    assert {b"kept" * 500, b"kept" * 500 + b"lost" * 500} < outcomes
    assert any(bytes(512) in content for content in outcomes), "no sector was ever lost"


def test_the_meanest_disk_has_just_the_promise() -> None:
    copy = _on_disk(_synced_then_not).durable_copy()
    assert copy.read_all("log/1") == b"kept" * 500


def test_a_killed_process_leaves_what_it_wrote_and_promises_no_more() -> None:
    successor = _on_disk(_synced_then_not).kill()
    assert successor.read_all("log/1") == b"kept" * 500 + b"lost" * 500
    assert successor.durable_copy().read_all("log/1") == b"kept" * 500


def test_bytes_appended_while_a_sync_runs_are_not_covered() -> None:
    async def work(disk: SimDisk) -> None:
        file = disk.open("log", create=True)
        file.append(b"one")
        await disk.sync_folder("")
        sync = asyncio.create_task(file.sync())
        await asyncio.sleep(0.0001)
        file.append(b"two")
        await sync

    assert _on_disk(work).durable_copy().read_all("log") == b"one"


def test_a_file_that_was_never_synced_may_vanish_or_not() -> None:
    async def work(disk: SimDisk) -> None:
        disk.open("a/b", create=True).append(b"x")

    assert {_on_disk(work, seed).crash().exists("a/b") for seed in range(30)} == {True, False}
    assert not _on_disk(work).durable_copy().exists("a/b")


def test_a_removal_may_come_undone_until_the_folder_is_synced() -> None:
    async def create(disk: SimDisk) -> None:
        disk.open("a/b", create=True).append(b"x")
        await disk.open("a/b").sync()
        await disk.sync_folder("a")
        disk.remove("a/b")
        assert disk.list("a") == []

    async def remove(disk: SimDisk) -> None:
        await create(disk)
        await disk.sync_folder("a")

    assert {_on_disk(create, seed).crash().exists("a/b") for seed in range(30)} == {True, False}
    assert {_on_disk(remove, seed).crash().exists("a/b") for seed in range(30)} == {False}


def test_a_replacement_is_old_or_new_and_new_at_the_end() -> None:
    async def half(disk: SimDisk) -> None:
        await disk.replace("manifest", b"old")
        replacing = asyncio.create_task(disk.replace("manifest", b"new"))
        await asyncio.sleep(0.002)
        replacing.cancel()

    async def whole(disk: SimDisk) -> None:
        await disk.replace("manifest", b"old")
        await disk.replace("manifest", b"new")

    assert {_on_disk(half, seed).crash().read_all("manifest") for seed in range(60)} == {b"old", b"new"}
    assert {_on_disk(whole, seed).crash().read_all("manifest") for seed in range(60)} == {b"new"}


def test_an_unsynced_truncation_leaves_either_side() -> None:
    async def work(disk: SimDisk) -> None:
        file = disk.open("log", create=True)
        file.append(b"0123456789")
        await file.sync()
        await disk.sync_folder("")
        file.truncate(4)

    async def synced(disk: SimDisk) -> None:
        await work(disk)
        await disk.open("log").sync()

    contents = {_on_disk(work, seed).crash().read_all("log") for seed in range(30)}
    assert contents == {b"0123456789", b"0123"}
    assert {_on_disk(synced, seed).crash().read_all("log") for seed in range(30)} == {b"0123"}


def test_a_full_disk_takes_a_part_and_says_so() -> None:
    async def work(disk: SimDisk) -> None:
        file = disk.open("log", create=True)
        disk.faults.full = True
        with pytest.raises(OSError, match="no space") as raised:
            file.append(b"x" * 100)
        assert raised.value.errno == errno.ENOSPC
        disk.faults.full = False
        assert file.append(b"y") == 0

    _on_disk(work)


def test_a_broken_disk_and_a_dead_one_refuse() -> None:
    async def work(disk: SimDisk) -> None:
        file = disk.open("log", create=True)
        disk.faults.broken = True
        with pytest.raises(OSError, match="I/O error"):
            await file.sync()
        disk.faults.broken = False
        disk.crash()
        with pytest.raises(OSError, match="dead"):
            file.append(b"x")
        with pytest.raises(OSError, match="dead"):
            disk.open("log")

    _on_disk(work)


def test_what_cannot_be_read_can_be_written() -> None:
    async def work(disk: SimDisk) -> None:
        layer, log = disk.open("a.layer", create=True), disk.open("a.log", create=True)
        disk.faults.unreadable = ".layer"
        layer.append(b"x")
        await layer.sync()
        log.append(b"y")
        assert log.read(0, 1) == b"y"
        with pytest.raises(OSError, match="bad sectors"):
            layer.read(0, 1)
        disk.faults.unreadable = ""
        assert layer.read(0, 1) == b"x"

    _on_disk(work)


def test_listing_names_folders_and_files_once() -> None:
    async def work(disk: SimDisk) -> None:
        for path in ("a/1", "a/2", "a/b/3", "c"):
            disk.open(path, create=True)
        assert disk.list("a") == ["1", "2", "b"]
        assert disk.list("") == disk.list(".") == ["a", "c"]
        assert disk.list("nowhere") == []
        assert [disk.exists(path) for path in ("a", "a/b/3", "a/b/4")] == [True, True, False]
        with pytest.raises(FileNotFoundError):
            disk.open("a/9")
        disk.remove("nowhere")

    _on_disk(work)


def test_a_bit_flips() -> None:
    disk = _on_disk(_synced_then_not)
    before = disk.read_all("log/1")
    disk.flip_bit("log/1")
    differing = int.from_bytes(before, "big") ^ int.from_bytes(disk.read_all("log/1"), "big")
    assert differing.bit_count() == 1
