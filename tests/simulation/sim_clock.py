"""The clock of the simulated cluster: the loop's made-up time, from a date that never changes."""

import asyncio
from typing import Final

_START: Final = 1_750_000_000.0


class SimClock:
    def now(self) -> float:
        return _START + asyncio.get_running_loop().time()

    def monotonic(self) -> float:
        return asyncio.get_running_loop().time()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
