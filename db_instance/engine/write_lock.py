"""The instance's one write lock: first come, first served, with a time limit."""

import asyncio
from collections import deque


class LockTimeout(Exception):
    """The write lock was not free within lock_timeout."""


class WriteLock:
    def __init__(self) -> None:
        self._held = False
        self._waiting: deque[asyncio.Future[None]] = deque()

    @property
    def held(self) -> bool:
        return self._held

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    async def acquire(self, timeout_s: float | None) -> None:
        """Wait for one's turn. Raises LockTimeout."""
        if not self._held and not self._waiting:
            self._held = True
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            async with asyncio.timeout(timeout_s or None):
                await turn
        except BaseException as error:
            if turn.done() and not turn.cancelled():
                self.release()  # our turn came as we gave up: the next one takes it
            if isinstance(error, TimeoutError):
                raise LockTimeout(f"wait for the write lock: not free within {timeout_s} s") from None
            raise

    def release(self) -> None:
        """Hand the lock to whoever has waited longest."""
        assert self._held
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self._held = False
