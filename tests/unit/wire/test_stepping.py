import asyncio
from collections.abc import Awaitable, Callable

import pytest

from db_instance.wire.postgres.stepping import Stepper, need_bytes

Log = list[object]


class Harness:
    """A coroutine that runs one awaitable for each resume, and logs what comes of it."""

    def __init__(self, *steps: Callable[[], Awaitable[object]]) -> None:
        self.log: Log = []
        self.waits = 0
        self.end: list[BaseException | None] = []
        self.stepper = Stepper(self._run(steps), self._on_wait, self.end.append)

    async def _run(self, steps: tuple[Callable[[], Awaitable[object]], ...]) -> None:
        for step in steps:
            await need_bytes()
            self.log.append(await step())

    def _on_wait(self) -> None:
        self.waits += 1

    def resume_from_callback(self, error: BaseException | None = None) -> asyncio.Future[None]:
        """As the socket's callback does, outside of any task."""
        loop = asyncio.get_running_loop()
        done = loop.create_future()

        def call() -> None:
            self.stepper.resume(error)
            done.set_result(None)

        loop.call_soon(call)
        return done


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0)


async def at_once() -> str:
    return "at once"


async def test_what_need_not_wait_is_done_within_the_callback() -> None:
    harness = Harness(at_once, at_once)
    await harness.resume_from_callback()
    await harness.resume_from_callback()
    assert harness.log == ["at once"]
    await harness.resume_from_callback()
    assert harness.log == ["at once", "at once"]
    assert harness.end == [None]
    assert harness.waits == 0


async def test_what_waits_goes_on_in_the_task() -> None:
    gate: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def wait() -> str:
        await asyncio.sleep(0)
        return await gate

    harness = Harness(wait, at_once)
    await harness.resume_from_callback()
    await harness.resume_from_callback()
    assert not harness.stepper.idle
    gate.set_result("later")
    await until(lambda: harness.stepper.idle)
    assert harness.log == ["later"]
    await harness.resume_from_callback()
    assert harness.log == ["later", "at once"]


async def test_timeouts_work_in_either_place() -> None:
    async def limited() -> str:
        try:
            async with asyncio.timeout(0.001):
                await asyncio.get_running_loop().create_future()
        except TimeoutError:
            return "timed out"
        return "never"

    harness = Harness(limited, limited)
    for expected in (1, 2):
        await harness.resume_from_callback()
        if expected == 1:
            await harness.resume_from_callback()
        await until(lambda expected=expected: len(harness.log) == expected)
    assert harness.log == ["timed out", "timed out"]


async def test_the_task_can_be_cancelled_where_it_waits() -> None:
    tasks: list[asyncio.Task[object] | None] = []

    async def wait() -> str:
        tasks.append(asyncio.current_task())
        try:
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            task = asyncio.current_task()
            assert task is tasks[0]
            task.uncancel()
            return "cancelled"
        return "never"

    harness = Harness(wait, at_once)
    await harness.resume_from_callback()
    await harness.resume_from_callback()
    assert tasks[0] is not None
    tasks[0].cancel()
    await until(lambda: harness.stepper.idle)
    await harness.resume_from_callback()
    assert harness.log == ["cancelled", "at once"]


async def test_bytes_that_come_right_after_a_cancel_do_not_escape_it() -> None:
    async def wait() -> str:
        try:
            await need_bytes()
        except asyncio.CancelledError:
            harness.stepper._task.uncancel()
            return "cancelled"
        return "bytes"

    harness = Harness(wait, at_once)
    for _ in range(2):
        await harness.resume_from_callback()
    asyncio.get_running_loop().call_soon(harness.stepper._task.cancel)
    await harness.resume_from_callback()
    await until(lambda: harness.stepper.idle)
    assert harness.log == ["cancelled"]
    await harness.resume_from_callback()
    assert harness.log == ["cancelled", "at once"]


async def test_an_error_is_raised_where_the_coroutine_waits_for_bytes() -> None:
    harness = Harness(at_once)
    await harness.resume_from_callback()
    await harness.resume_from_callback(ValueError("gone"))
    assert harness.stepper.ended
    assert isinstance(harness.end[0], ValueError)


async def test_resume_from_within_a_task() -> None:
    harness = Harness(at_once)
    harness.stepper.resume()
    await until(lambda: harness.stepper.idle)
    harness.stepper.resume()
    await until(lambda: harness.stepper.ended)
    assert harness.log == ["at once"]


@pytest.mark.parametrize("when", ["before it began", "while it waits for bytes"])
async def test_cancelled_while_idle(when: str) -> None:
    harness = Harness(at_once)
    if when != "before it began":
        await harness.resume_from_callback()
    await asyncio.sleep(0)
    harness.stepper._task.cancel()
    await until(lambda: harness.stepper.ended)
    assert isinstance(harness.end[0], asyncio.CancelledError)
