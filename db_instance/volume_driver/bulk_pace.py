"""Bulk work goes no faster than the slowest node, if that one is slow for a moment only.

A node whose queue overflows is left behind: it gets from its peers what it missed, which costs them more than it.
So bulk work waits for slow nodes between its portions, but however slow they are it goes on at 20 MiB/s in the
mean. What was not waited is saved up: a node that writes a layer takes nothing for a while, and then all at once.
"""

import asyncio
from collections.abc import Mapping
from typing import Final, Protocol

from runtime.clock import Clock
from volume.limits import MIB

_SLOW_QUEUE_BYTES: Final = 6 * MIB
_WAIT_S: Final = 0.05
"""In the mean, for a portion of a megabyte."""

_SAVED_S_MAX: Final = 1.0
_LOOK_S: Final = 0.005


class Peer(Protocol):
    """A storage node, as far as bulk work cares."""

    connected: bool

    @property
    def queued_bytes(self) -> int: ...


class BulkPace:
    def __init__(self, nodes: Mapping[str, Peer], clock: Clock) -> None:
        self._nodes = nodes
        self._clock = clock
        self._saved_s = _SAVED_S_MAX

    async def give_way(self) -> None:
        """Between portions of bulk work: what was appended goes on its way, and others have their turn; then let
        connected nodes keep up, while the time that is saved up lasts."""
        await asyncio.sleep(0)
        began = self._clock.monotonic()
        self._saved_s = min(self._saved_s + _WAIT_S, _SAVED_S_MAX)
        while self._somebody_is_slow() and self._clock.monotonic() < began + self._saved_s:
            await asyncio.sleep(_LOOK_S)
        self._saved_s = max(0.0, self._saved_s - (self._clock.monotonic() - began))

    def _somebody_is_slow(self) -> bool:
        return any(node.connected and node.queued_bytes > _SLOW_QUEUE_BYTES for node in self._nodes.values())
