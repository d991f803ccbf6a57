"""Runs a connection's coroutine on the loop's own callbacks, and in a task only where it has to wait.

A session is one coroutine that reads messages and answers them. Most statements never wait, and waking
a task for each would cost more than they do. So the bytes' callback resumes the coroutine itself:

    it asks for bytes again      done; nothing was scheduled
    it waits for a future        its task goes on with it from there, until it asks for bytes

The task exists from the start and is the current one in both cases, so timeouts and cancelling work.
"""

import asyncio
import types
from collections.abc import Callable, Coroutine, Generator
from typing import Any, Final

_NEED_BYTES: Final = object()
"""What the coroutine yields when it wants more bytes of its client, and waits for nothing else."""


@types.coroutine
def need_bytes() -> Generator[object, None, None]:
    """Wait until `Stepper.resume` is called."""
    yield _NEED_BYTES


class Stepper:
    def __init__(
        self,
        coroutine: Coroutine[Any, Any, None],
        on_wait: Callable[[], None],
        on_end: Callable[[BaseException | None], None],
    ) -> None:
        """`on_wait` is called before each wait for something else than bytes, `on_end` at the end."""
        self.idle = True
        """The coroutine waits for bytes, or has not begun."""
        self.ended = False
        self._loop = asyncio.get_running_loop()
        self._coroutine = coroutine
        self._on_wait = on_wait
        self._on_end = on_end
        self._waiting: Any = None
        self._error: BaseException | None = None
        self._handed = self._loop.create_future()
        self._task = self._loop.create_task(self._run())

    def resume(self, error: BaseException | None = None) -> None:
        """Bytes have come; or the error is raised in the coroutine where it waits for them."""
        assert self.idle
        assert not self.ended
        self.idle = False
        # A task that was cancelled and has not woken yet cancels this wait, and not what would come after it.
        if asyncio.current_task() is not None or self._handed.done():
            self._hand_over(None, error)
            return
        asyncio._enter_task(self._loop, self._task)
        try:
            waiting = self._step(error)
        finally:
            asyncio._leave_task(self._loop, self._task)
        if self.ended or waiting is _NEED_BYTES:
            self.idle = True
            return
        self._hand_over(waiting, None)

    def _step(self, error: BaseException | None) -> Any:
        """Let the coroutine go on to its next wait, and tell what it waits for."""
        try:
            waiting = self._coroutine.throw(error) if error is not None else self._coroutine.send(None)
        except StopIteration:
            self._end(None)
            return None
        except BaseException as raised:
            self._end(raised)
            return None
        if waiting is not _NEED_BYTES:
            self._on_wait()
        return waiting

    def _end(self, error: BaseException | None) -> None:
        self.ended = True
        if not self._handed.done():
            self._handed.set_result(None)
        self._on_end(error)

    def _hand_over(self, waiting: Any, error: BaseException | None) -> None:
        self._waiting = waiting
        self._error = error
        if not self._handed.done():
            self._handed.set_result(None)

    async def _run(self) -> None:
        while not self.ended:
            try:
                await self._handed
            except asyncio.CancelledError as cancelled:
                if not self.ended:
                    self._error = cancelled
            if self.ended:
                return
            self._handed = self._loop.create_future()
            self.idle = False
            await self._finish_step()
            self.idle = True

    @types.coroutine
    def _finish_step(self) -> Generator[Any, None, None]:
        """Go on with the coroutine wherever it stands, until it asks for bytes or ends."""
        waiting, error = self._waiting, self._error
        self._waiting = self._error = None
        if waiting is not None and error is not None:
            waiting.cancel()  # as a task does that is cancelled: nobody is to give it what nobody takes
        if waiting is None:
            waiting = self._step(error)
            error = None
        while not self.ended and waiting is not _NEED_BYTES:
            if error is None:
                try:
                    yield waiting
                except BaseException as raised:
                    error = raised
            waiting = self._step(error)
            error = None
