"""Keeps the event loop awake for a moment after an answer, since the next request is likely to follow at once.

Being woken from sleep by a client on another core costs more than the request itself, on a virtual machine above
all; and while a session holds the write lock over its client's round trips, everybody in line pays for each of
them. So the loop looks a few more times before it sleeps.
"""

import asyncio
import os
from typing import Final

AWAKE_S: Final = 0.0002


class Vigil:
    def __init__(self, loop: asyncio.AbstractEventLoop, awake_s: float = AWAKE_S) -> None:
        """`awake_s`: how long after an answer; with one core there is nobody to wait for meanwhile."""
        self._loop = loop
        self._awake_s = awake_s if len(os.sched_getaffinity(0)) > 1 else 0.0
        self._until = 0.0
        self._awake = False

    def prolong(self) -> None:
        """An answer was sent."""
        if not self._awake_s:
            return
        self._until = self._loop.time() + self._awake_s
        if not self._awake:
            self._awake = True
            self._loop.call_soon(self._look)

    def _look(self) -> None:
        if self._loop.time() < self._until:
            self._loop.call_soon(self._look)
        else:
            self._awake = False
