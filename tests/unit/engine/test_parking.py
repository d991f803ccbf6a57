"""Plain calls that wait: values come back, errors and cancellation unwind the call like any exception."""

import asyncio
from typing import Any, cast

import pytest

from db_instance.engine.parking import park, run
from tests.simulation import virtual_loop


async def _later(value: int, seconds: float = 1.0) -> int:
    await asyncio.sleep(seconds)
    return value


async def _fails() -> int:
    await asyncio.sleep(1)
    raise KeyError("from the awaitable")


def test_the_awaited_value_comes_back_where_it_was_asked_for() -> None:
    def add(first: int, *, second: int) -> int:
        return park(_later(first)) + park(_later(second))

    assert virtual_loop.run(run(add, 20, second=22)) == 42


def test_a_call_that_never_parks_costs_no_turn_of_the_loop() -> None:
    async def main() -> tuple[str, ...]:
        seen: list[str] = []
        asyncio.get_running_loop().call_soon(seen.append, "another")
        seen.append(await run(lambda: "mine"))
        return tuple(seen)

    assert virtual_loop.run(main()) == ("mine",)


def test_others_run_while_one_is_parked() -> None:
    order: list[int] = []

    def call(seconds: int) -> None:
        park(_later(0, seconds))
        order.append(seconds)

    async def main() -> None:
        await asyncio.gather(run(call, 3), run(call, 1), run(call, 2))

    virtual_loop.run(main())
    assert order == [1, 2, 3]


def test_an_error_of_the_awaitable_is_raised_inside_the_call() -> None:
    def call() -> str:
        try:
            park(_fails())
        except KeyError as error:
            return f"caught {error}"
        return "nothing"

    assert virtual_loop.run(run(call)) == "caught 'from the awaitable'"


def test_an_error_of_the_call_reaches_whoever_ran_it() -> None:
    def call() -> None:
        park(_later(1))
        raise ValueError("of the call")

    with pytest.raises(ValueError, match="of the call"):
        virtual_loop.run(run(call))


def test_cancelling_unwinds_the_call_and_what_it_cleans_up_may_wait() -> None:
    seen: list[str] = []

    def call() -> None:
        try:
            park(_later(1, 100))
        finally:
            seen.append("unwinding")
            park(_later(1))
            seen.append("unwound")

    async def main() -> None:
        task = asyncio.create_task(run(call))
        await asyncio.sleep(1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert seen == ["unwinding", "unwound"]

    virtual_loop.run(main())


def test_parking_outside_of_run_is_a_bug_of_ours() -> None:
    with pytest.raises(AssertionError, match=r"inside parking\.run"):
        park(cast(Any, None))
