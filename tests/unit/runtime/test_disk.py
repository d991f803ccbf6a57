"""One contract for both disks: the real one and the simulated one that services are tested on."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runtime.disk import Disk, RealDisk
from tests.simulation import virtual_loop
from tests.simulation.sim_disk import SimDisk

OnDisk = Callable[[Callable[[Disk], Awaitable[None]]], None]


@pytest.fixture(params=["real", "simulated"])
def on_disk(request: pytest.FixtureRequest, tmp_path: Path) -> OnDisk:
    """Runs something on a disk, each time on an empty one."""
    count = 0

    def run(work: Callable[[Disk], Awaitable[None]]) -> None:
        nonlocal count
        count += 1

        async def main() -> None:
            await work(
                RealDisk(tmp_path / str(count)) if request.param == "real" else SimDisk(random.Random(count))
            )

        (asyncio.run if request.param == "real" else virtual_loop.run)(main())

    return run


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.one_of(st.binary(max_size=30), st.integers(0, 60)), max_size=10))
def test_a_file_is_the_bytes_appended_to_it(on_disk: OnDisk, steps: list[bytes | int]) -> None:
    async def work(disk: Disk) -> None:
        file = disk.open("a/b/c", create=True)
        naive = b""
        for step in steps:
            if isinstance(step, bytes):
                assert file.append(step) == len(naive)
                naive += step
            elif step <= len(naive):
                file.truncate(step)
                naive = naive[:step]
            assert file.size == len(naive)
        await file.sync()
        for offset in range(0, len(naive) + 3, 3):
            assert file.read(offset, 5) == naive[offset : offset + 5]
        file.close()
        assert disk.read_all("a/b/c") == naive
        assert disk.open("a/b/c").size == len(naive), "opened again it goes on where it ended"

    on_disk(work)


def test_names(on_disk: OnDisk) -> None:
    async def work(disk: Disk) -> None:
        for path in ("b/2", "b/1", "b/c/3", "d"):
            disk.open(path, create=True).close()
        assert disk.list("b") == ["1", "2", "c"]
        assert disk.list("nowhere") == []
        assert [disk.exists(path) for path in ("b", "b/1", "b/9", "d")] == [True, True, False, True]
        disk.remove("b/1")
        disk.remove("b/1")
        await disk.sync_folder("b")
        assert disk.list("b") == ["2", "c"]

    on_disk(work)


@pytest.mark.parametrize("read", [lambda disk: disk.open("no/thing"), lambda disk: disk.read_all("thing")])
def test_what_is_not_there_is_not_found(on_disk: OnDisk, read: Callable[[Disk], object]) -> None:
    async def work(disk: Disk) -> None:
        with pytest.raises(FileNotFoundError):
            read(disk)

    on_disk(work)


def test_replacing_makes_folders_and_leaves_one_file_of_the_new_content(on_disk: OnDisk) -> None:
    async def work(disk: Disk) -> None:
        await disk.replace("x/manifest", b"old and longer")
        await disk.replace("x/manifest", b"new")
        assert disk.read_all("x/manifest") == b"new"
        assert disk.list("x") == ["manifest"]

    on_disk(work)


def test_a_file_that_is_open_outlives_its_name(on_disk: OnDisk) -> None:
    async def work(disk: Disk) -> None:
        file = disk.open("log", create=True)
        file.append(b"one")
        disk.remove("log")
        assert file.read(0, 3) == b"one"
        assert not disk.exists("log")
        file.close()
        file.close()

    on_disk(work)


def test_there_is_room(on_disk: OnDisk) -> None:
    async def work(disk: Disk) -> None:
        assert disk.free_bytes() > 0

    on_disk(work)
