"""A clock of the simulated cluster: the loop's made-up time, from a date that never changes.

Each machine has its own. Its wall clock may be set, its monotonic one never is.
"""

import asyncio
from typing import Final

_START: Final = 1_750_000_000.0


class SimClock:
    def __init__(self) -> None:
        self._set_by = 0.0

    def jump(self, seconds: float) -> None:
        """Somebody sets the wall clock, forwards or back."""
        self._set_by += seconds

    def now(self) -> float:
        return _START + self._set_by + asyncio.get_running_loop().time()

    def monotonic(self) -> float:
        return asyncio.get_running_loop().time()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
