"""The door to time. Waiting with a deadline uses asyncio, whose loop the simulator replaces."""

import asyncio
import time
from typing import Final, Protocol

_CLOCK: Final = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
"""Linux's monotonic clock stands still while the machine sleeps, and a lease would last as long."""


class Clock(Protocol):
    def now(self) -> float:
        """Seconds since 1970, as the wall clock has it: it may jump."""
        ...

    def monotonic(self) -> float:
        """Seconds from some start: it never goes back, and goes on while the machine sleeps."""
        ...

    async def sleep(self, seconds: float) -> None: ...


class RealClock:
    def now(self) -> float:
        return time.time()

    def monotonic(self) -> float:
        return time.clock_gettime(_CLOCK)

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
