"""Made-up time: it jumps, it is the same each time, and standing still is noticed."""

import asyncio

import pytest

from tests.simulation.process import Process, current_process
from tests.simulation.virtual_loop import Deadlock, Livelock, run


def test_a_day_takes_no_time() -> None:
    async def main() -> float:
        await asyncio.sleep(86_400)
        return asyncio.get_running_loop().time()

    assert run(main(), limit_s=100_000) == 86_400


def test_timers_fire_in_their_order() -> None:
    async def main() -> list[float]:
        seen: list[float] = []

        async def at(when: float) -> None:
            await asyncio.sleep(when)
            assert asyncio.get_running_loop().time() == when
            seen.append(when)

        await asyncio.gather(*(at(when) for when in (3.0, 0.25, 1e-6, 2.0)))
        return seen

    assert run(main()) == [1e-6, 0.25, 2.0, 3.0]


def test_waiting_for_nobody_is_a_deadlock() -> None:
    async def main() -> None:
        await asyncio.get_running_loop().create_future()

    with pytest.raises(Deadlock):
        run(main(), limit_s=None)


def test_turning_without_end_is_noticed() -> None:
    async def main() -> None:
        while True:
            await asyncio.sleep(0)

    with pytest.raises(Livelock):
        run(main())


def test_what_nobody_handles_fails_the_run() -> None:
    async def main() -> None:
        asyncio.get_running_loop().call_soon(lambda: 1 / 0)
        await asyncio.sleep(1)

    with pytest.raises(AssertionError, match="ZeroDivisionError"):
        run(main())


def test_a_set_of_tasks_has_an_order() -> None:
    async def main() -> list[str]:
        done, _ = await asyncio.wait({asyncio.create_task(asyncio.sleep(0), name=f"t{n}") for n in range(50)})
        return [task.get_name() for task in done]

    assert run(main()) == run(main())


def test_a_killed_process_takes_all_its_tasks_along() -> None:
    seen: list[str] = []

    async def tick(name: str) -> None:
        while True:
            await asyncio.sleep(1)
            seen.append(name)

    async def service() -> None:
        assert current_process.get() is not None
        child = asyncio.create_task(tick("child"))
        await tick("parent")
        await child

    async def main() -> None:
        process = Process("s1")
        process.spawn(service)
        await asyncio.sleep(2.5)
        await process.kill()
        await asyncio.sleep(10)

    run(main())
    assert sorted(seen) == ["child", "child", "parent", "parent"]
