"""The write lock in made-up time: one holder, first come first served, nobody waits past his limit."""

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from db_instance.engine.write_lock import LockTimeout, WriteLock
from tests.simulation.virtual_loop import run

clients = st.lists(
    st.tuples(
        st.integers(0, 20),
        st.integers(1, 10),
        st.one_of(st.none(), st.integers(1, 30)),
        st.one_of(st.none(), st.integers(1, 30)),
    ),
    min_size=1,
    max_size=10,
)
"""When one comes, how long it holds the lock, its lock_timeout, and when it gives up by itself."""


@settings(max_examples=150, deadline=None)
@given(clients)
def test_first_come_first_served_and_none_is_forgotten(
    clients: list[tuple[int, int, int | None, int | None]],
) -> None:
    async def main() -> None:
        lock, loop = WriteLock(), asyncio.get_running_loop()
        holders: list[int] = []
        came: list[int] = []
        got: list[int] = []
        ended = dict[int, str]()

        async def client(index: int, hold: int, limit: int | None) -> None:
            came.append(index)
            began = loop.time()
            try:
                await lock.acquire(limit)
            except LockTimeout:
                assert limit is not None
                assert loop.time() - began == pytest.approx(limit, abs=0.01)
                ended[index] = "timeout"
                return
            holders.append(index)
            got.append(index)
            assert len(holders) == 1, "one at a time"
            try:
                # Of no common divisor with the limits, so that no two things happen at one time.
                await asyncio.sleep(hold + 0.013 * (index + 1))
            finally:
                holders.remove(index)
                lock.release()
                ended[index] = "done"

        async def arriving(index: int, at: int, hold: int, limit: int | None, gives_up: int | None) -> None:
            await asyncio.sleep(at + 0.001 * index)
            task = asyncio.create_task(client(index, hold, limit))
            await asyncio.wait([task], timeout=gives_up)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            ended.setdefault(index, "gave up")

        await asyncio.gather(*(arriving(index, *each) for index, each in enumerate(clients)))
        assert got == [index for index in came if index in got], "in the order they came"
        assert len(ended) == len(clients)
        assert lock.waiting == 0
        await lock.acquire(0.01)  # free in the end, whoever gave up

    run(main())


def test_a_turn_that_comes_as_its_waiter_is_cancelled_goes_to_the_next() -> None:
    async def main() -> None:
        lock = WriteLock()
        await lock.acquire(None)
        gone, stays = asyncio.create_task(lock.acquire(None)), asyncio.create_task(lock.acquire(None))
        await asyncio.sleep(0)
        lock.release()
        gone.cancel()
        await stays
        assert gone.cancelled() and lock.waiting == 0

    run(main())


def test_a_lock_that_nobody_holds_is_not_released() -> None:
    with pytest.raises(AssertionError):
        WriteLock().release()
