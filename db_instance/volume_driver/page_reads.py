"""Reads pages from whichever segment has them: the quickest first, another one when it takes long (read_plan.py)."""

import asyncio
import random
from collections.abc import Mapping
from typing import Final, Protocol

from db_instance.volume_driver.durable_frontier import DurableFrontier
from db_instance.volume_driver.read_plan import Candidate, Latencies, read_order
from db_instance.volume_driver.segment_calls import SegmentCalls
from runtime.clock import Clock
from runtime.metrics import Durations
from volume.errors import LsnCollected, PeerUnavailable, QuorumLost, StaleEpoch, VolumeError
from volume.ids import GroupId, Lsn, PageNumber
from volume.quorum_set import QuorumSet

_RECENT_S: Final = 10.0
_RETRY_S: Final = (0.02, 0.5)


class Peer(Protocol):
    """A storage node, as far as reads care."""

    address: str
    connected: bool


class Settings(Protocol):
    @property
    def az(self) -> str: ...
    @property
    def read_timeout_s(self) -> float: ...


class PageReads:
    def __init__(
        self,
        calls: SegmentCalls,
        clock: Clock,
        dice: random.Random,
        frontier: DurableFrontier,
        nodes: Mapping[str, Peer],
        settings: Settings,
        writable: bool,
    ) -> None:
        self.latencies = Latencies()
        self.times = Durations()
        self.pages_read = 0
        self._calls = calls
        self._clock = clock
        self._dice = dice
        self._frontier = frontier
        self._nodes = nodes
        self._settings = settings
        self._writable = writable
        """Who only reads is connected to nobody, and asks anyway."""
        self._candidates: dict[GroupId, tuple[Candidate, ...]] = {}
        self._read_at_s: dict[str, float] = {}
        """When each node answered a read last, or did not."""

    def set_members(self, group: GroupId, members: QuorumSet) -> None:
        self._candidates[group] = tuple(
            Candidate(each.slot, each.node, each.az, connected=True) for each in members.voters
        )

    def recent_us(self, node: str) -> int:
        """How long the node takes to answer; 0 if it was not asked lately. Who was slow once is asked last from
        then on: an old figure tells nothing of how it is now."""
        if self._read_at_s.get(node, 0.0) <= self._clock.monotonic() - _RECENT_S:
            return 0
        return round(1e6 * self.latencies.of(node))

    async def read(self, group: GroupId, pages: list[PageNumber], read_lsn: Lsn) -> list[tuple[Lsn, bytes]]:
        """Retries and asks other segments until the read timeout; raises what the last one answered."""
        deadline = self._clock.monotonic() + self._settings.read_timeout_s
        delay = _RETRY_S[0]
        while True:
            try:
                found = await self._read_hedged(group, pages, read_lsn)
            except (LsnCollected, StaleEpoch):
                raise
            except VolumeError:
                if self._clock.monotonic() + delay > deadline:
                    raise
                await asyncio.sleep(delay * self._dice.uniform(0.5, 1.0))
                delay = min(2 * delay, _RETRY_S[1])
            else:
                self.pages_read += len(found)
                return found

    async def _read_hedged(
        self, group: GroupId, pages: list[PageNumber], read_lsn: Lsn
    ) -> list[tuple[Lsn, bytes]]:
        required = self._frontier.durable_end(group)
        candidates = [
            candidate._replace(connected=self._is_connected(candidate.node) or not self._writable)
            for candidate in self._candidates[group]
        ]
        order = read_order(candidates, self._frontier.scl(group), required, self._settings.az, self.latencies)
        asked: set[asyncio.Task[list[tuple[Lsn, bytes]] | VolumeError]] = set()
        reason: VolumeError = QuorumLost(f"read page {pages[0]}: pg{group} has no segments")
        try:
            for candidate in order:
                hedge_after = self.latencies.hedge_after(candidate.node, len(asked))
                asked.add(asyncio.create_task(self._read_from(candidate, group, pages, read_lsn, required)))
                done, asked = await asyncio.wait(
                    asked, timeout=hedge_after, return_when=asyncio.FIRST_COMPLETED
                )
                for task in done:
                    answer = task.result()
                    if not isinstance(answer, VolumeError):
                        return answer
                    reason = answer
            while asked:
                done, asked = await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    answer = task.result()
                    if not isinstance(answer, VolumeError):
                        return answer
                    reason = answer
        finally:
            for task in asked:
                task.cancel()
        raise reason

    def _is_connected(self, node: str) -> bool:
        client = self._nodes.get(node)
        return client is not None and client.connected

    async def _read_from(
        self, candidate: Candidate, group: GroupId, pages: list[PageNumber], read_lsn: Lsn, required: Lsn
    ) -> list[tuple[Lsn, bytes]] | VolumeError:
        started = self._clock.monotonic()
        client = self._nodes.get(candidate.node)
        if client is None:
            return PeerUnavailable(f"read from {candidate.node}: it is no member any more")
        try:
            return await self._calls.read_pages(client.address, group, read_lsn, required, pages)
        except VolumeError as error:
            return error
        finally:
            took_s = self._clock.monotonic() - started
            self.latencies.observe(candidate.node, took_s)
            self._read_at_s[candidate.node] = started + took_s
            self.times.observe(took_s)
