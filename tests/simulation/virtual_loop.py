"""An event loop in made-up time: it never waits, it jumps to the next timer. One thread, no sockets.

    run(main(), dice)      # like asyncio.run, and a day takes a second

When nothing is ready and no timer is set, nothing can ever happen again: that raises Deadlock instead
of hanging. Tasks and futures are hashed by their number, so that a set of them has the same order in
each replay. A task belongs to the process (process.py) in whose context it was made.
"""

import asyncio
from collections.abc import Coroutine
from contextvars import Context
from typing import Any, Final, TypeVar

from tests.simulation.process import current_process

T = TypeVar("T")
_TURNS_WITHOUT_TIME_MAX: Final = 200_000


class Deadlock(AssertionError):
    """Everybody waits for somebody."""


class Livelock(AssertionError):
    """Everybody is busy and time stands still."""


class _Numbered:
    """Hashed by the order of creation instead of by address."""

    _number: int

    def __hash__(self) -> int:
        return self._number


class _Task(_Numbered, asyncio.Task[Any]):
    pass


class _Future(_Numbered, asyncio.Future[Any]):
    pass


class _JumpingSelector:
    """Stands where the selector would wait for sockets or the next timer."""

    def __init__(self, loop: "VirtualLoop") -> None:
        self._loop = loop
        self._turns = 0

    def select(self, timeout: float | None) -> list[Any]:
        self._turns += 1
        if timeout is None:
            raise Deadlock(f"t={self._loop.now:.6f}: nothing is ready and no timer is set")
        if timeout > 0:
            self._turns = 0
            self._loop.jump()
        if self._turns > _TURNS_WITHOUT_TIME_MAX:
            raise Livelock(f"t={self._loop.now:.6f}: {self._turns} turns of the loop and no time has passed")
        return []

    def close(self) -> None:
        pass


class VirtualLoop(asyncio.BaseEventLoop):
    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.created = 0
        self.paused = 0
        """Processes that are stopped in their tracks."""
        self.failures: list[str] = []
        """What nobody handled: exceptions of callbacks and of tasks that were not awaited."""
        self._selector = _JumpingSelector(self)
        self.set_exception_handler(self._on_failure)
        self.set_task_factory(_make_task)  # type: ignore[arg-type]

    def time(self) -> float:
        return self.now

    def allow_turns(self) -> None:
        """After a Livelock: what is left may still end."""
        self._selector._turns = 0

    def jump(self) -> None:
        self.now = max(self.now, self._scheduled[0]._when)  # type: ignore[attr-defined]

    def call_at(self, when: float, callback, *args, context: Context | None = None):  # type: ignore[no-untyped-def, override]
        """The timer of a process that is paused when it is due waits for the process."""
        process = context.get(current_process) if context is not None else current_process.get()
        if process is None:
            return super().call_at(when, callback, *args, context=context)

        def fire() -> None:
            if process.paused:
                process.deferred.append(lambda: None if handle.cancelled() else callback(*args))
            elif process.alive:
                callback(*args)

        handle = super().call_at(when, fire, context=context)
        return handle

    def _run_once(self) -> None:
        if not self.paused:
            super()._run_once()  # type: ignore[misc]
            return
        ready = self._ready  # type: ignore[attr-defined]
        for _ in range(len(ready)):
            handle = ready.popleft()
            process = handle._context.get(current_process)
            if process is not None and process.paused:
                process.deferred.append(lambda handle=handle: self._ready.append(handle))  # type: ignore[attr-defined]
            else:
                ready.append(handle)
        super()._run_once()  # type: ignore[misc]

    def create_future(self) -> asyncio.Future[Any]:
        future = _Future.__new__(_Future)
        future._number = self.next_number()
        future.__init__(loop=self)  # type: ignore[misc]
        return future

    def next_number(self) -> int:
        self.created += 1
        return self.created

    def run_in_executor(self, *_: Any) -> Any:  # type: ignore[override]
        raise AssertionError("a thread is no part of a replay")

    def _process_events(self, event_list: list[Any]) -> None:
        pass

    def _write_to_self(self) -> None:
        pass

    def _on_failure(self, _loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        self.failures.append(f"t={self.now:.6f}: {context['message']}: {error!r}")


def _make_task(
    loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, T], context: Context | None = None
) -> asyncio.Task[T]:
    assert isinstance(loop, VirtualLoop)
    task = _Task.__new__(_Task)
    task._number = loop.next_number()
    task.__init__(work, loop=loop, context=context)  # type: ignore[misc]
    process = context.get(current_process) if context is not None else current_process.get()
    if process is not None:
        process.adopt(task)
    return task


def run(main: Coroutine[Any, Any, T], limit_s: float | None = 3600.0) -> T:
    """Run to the end, in made-up time; also what nobody handled is a failure."""
    loop = VirtualLoop()
    asyncio.set_event_loop(loop)
    try:
        result = loop.run_until_complete(_limited(main, limit_s))
        _cancel_all(loop)
        if loop.failures:
            raise AssertionError("; ".join(loop.failures[:3]))
        return result
    finally:
        _cancel_all(loop)
        asyncio.set_event_loop(None)
        loop.close()


async def _limited(main: Coroutine[Any, Any, T], limit_s: float | None) -> T:
    async with asyncio.timeout(limit_s):
        return await main


def _cancel_all(loop: VirtualLoop) -> None:
    """Until none is left: a cancelled statement may wait once more while SQLite plays its transaction back."""
    loop.allow_turns()
    while tasks := sorted(asyncio.all_tasks(loop), key=hash):
        for task in tasks:
            task.cancel()
        loop.run_until_complete(asyncio.wait(tasks, timeout=1.0))
