"""A process of the simulated cluster: the tasks that die with it.

Whatever is started inside `start` belongs to the process, and so does all that this starts in turn: the
loop's tasks inherit their creator's context. `kill` is a kill -9: nothing of it runs on, and what its
`finally` blocks try goes to a disk and a network that are already gone.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextvars import ContextVar, copy_context
from typing import Any, TypeVar

T = TypeVar("T")

current_process: ContextVar["Process | None"] = ContextVar("current_process", default=None)


class Process:
    def __init__(self, name: str) -> None:
        self.name = name
        self.alive = True
        self.paused = False
        """Stopped in its tracks, as by SIGSTOP: nothing of it runs until `resume`."""
        self.deferred: list[Callable[[], None]] = []
        self._tasks: dict[asyncio.Task[Any], None] = {}

    def adopt(self, task: asyncio.Task[Any]) -> None:
        self._tasks[task] = None
        task.add_done_callback(lambda done: self._tasks.pop(done, None))

    def spawn(self, work: Callable[[], Awaitable[T]]) -> asyncio.Task[T]:
        """Run in the name of this process, whoever asks."""

        async def body() -> T:
            return await work()

        context = copy_context()
        context.run(current_process.set, self)
        return asyncio.get_running_loop().create_task(body(), context=context)

    def pause(self) -> None:
        assert not self.paused
        self.paused = True
        asyncio.get_running_loop().paused += 1  # type: ignore[attr-defined]

    def resume(self) -> None:
        """Go on with all that was due meanwhile."""
        if not self.paused:
            return
        self.paused = False
        asyncio.get_running_loop().paused -= 1  # type: ignore[attr-defined]
        deferred, self.deferred = self.deferred, []
        for run in deferred:
            run()

    async def kill(self) -> None:
        """End every task; returns when none is left."""
        self.alive = False
        self.resume()
        for _ in range(100):
            tasks = [task for task in self._tasks if not task.done()]
            if not tasks:
                return
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks, timeout=1.0)
        raise AssertionError(f"{self.name} refuses to die: {list(self._tasks)}")
