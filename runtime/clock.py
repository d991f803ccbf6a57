"""The door to time. Waiting with a deadline uses asyncio, whose loop the simulator replaces."""

import asyncio
import time
from typing import Protocol


class Clock(Protocol):
    def now(self) -> float:
        """Seconds since 1970, as the wall clock has it: it may jump."""
        ...

    def monotonic(self) -> float:
        """Seconds from some start: it never goes back."""
        ...

    async def sleep(self, seconds: float) -> None: ...


class RealClock:
    def now(self) -> float:
        return time.time()

    def monotonic(self) -> float:
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
