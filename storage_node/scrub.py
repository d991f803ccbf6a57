"""Reads everything on the node back and compares checksums: what nobody reads rots unnoticed.

What is damaged is mended from what there is besides:

    layer      the segment is given up until a peer's layers have taken the place of its own (copying.py)
    hot log    all that it holds and layers do not is in memory as well: it becomes layers, and the file goes
    manifest   memory says what it must; so it does of the file that names the node

A scrub that somebody asked for rests while clients are served. One a day begins by itself, and rests always.
"""

import asyncio
import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from runtime.clock import Clock
from runtime.disk import Disk
from runtime.events import get_logger
from storage_node.layers.layer_map import LayerInfo
from storage_node.segment_store import SegmentStore
from volume.errors import SegmentFailed, VolumeError
from volume.limits import KIB
from volume.quorum import WRITE_QUORUM

if TYPE_CHECKING:
    from storage_node.node import StorageNode

events = get_logger("storage_node.scrub")

EVERY_S: Final = 86_400.0
"""A copy is safe while the others are: damage should be found before it meets another one, which takes months."""

_REST_FACTOR: Final = 3
"""While clients are served: three times as long at rest as at work."""

_SLOW_REST_FACTOR: Final = 19
"""Nobody waits for the daily one: a twentieth of a core, and half of a day for what takes half an hour at once."""

_SLICE_BYTES: Final = 256 * KIB
_SLICE_STEPS: Final = 64
"""Whichever comes first; a millisecond or so. Then others have their turn."""

_LOOK_EVERY_S: Final = 0.1
_NO_PROGRESS_S: Final = 60.0
_MENDING_S_MAX: Final = 1800.0
"""How long a scrub waits for a segment: for a peer's layers as long as more of them come, and not for ever."""

_LINES_MAX: Final = 1_000
"""Of a disk that is damaged all over the first thousand places are enough, and fit an answer."""


@dataclass(slots=True)
class Report:
    """How far the last scrub is, and what it found."""

    number: int = 0
    running: bool = False
    bytes_done: int = 0
    bytes_total: int = 0
    layers: int = 0
    frames: int = 0
    found: list[str] = field(default_factory=list)
    mended: list[str] = field(default_factory=list)


class Scrub:
    def __init__(self, node: "StorageNode", disk: Disk, clock: Clock, dice: random.Random) -> None:
        self.report = Report()
        self.bytes_read = 0
        self.damage = 0
        self._node = node
        self._disk = disk
        self._clock = clock
        self._dice = dice
        self._asked = asyncio.Event()
        self._slow = False
        self._served_before = 0
        self._slice_bytes = self._slice_steps = 0
        self._slice_began = 0.0

    def start(self) -> None:
        """Begin one. If one is running, it makes haste from now on."""
        self._slow = False
        if not self.report.running:
            self._begin()
            self._asked.set()

    async def run(self) -> None:
        """Until cancelled. The nodes of a cluster started together: their days begin at different times."""
        wait_s = self._dice.uniform(0.0, EVERY_S)
        while True:
            try:
                async with asyncio.timeout(wait_s):
                    await self._asked.wait()
            except TimeoutError:
                self._slow = True
                self._begin()
            self._asked.clear()
            try:
                await self._scrub()
            finally:
                self.report.running = False
            wait_s = EVERY_S

    def _begin(self) -> None:
        self.report = Report(self.report.number + 1, running=True)

    async def _scrub(self) -> None:
        """What is there now; what is written meanwhile is left to the next one."""
        files = self._node.log.files()
        segments = {segment: segment.layers.layers for segment in self._node.segments.values()}
        layer_bytes = sum(info.size_bytes for infos in segments.values() for info in infos)
        report = self.report
        report.bytes_total = sum(files.values()) + layer_bytes
        began = self._slice_began = self._clock.monotonic()
        await self._check_name()
        for name, size in files.items():
            done_after = report.bytes_done + size
            await self._check_log(name)
            report.bytes_done = done_after
        for segment, infos in segments.items():
            done_after = report.bytes_done + sum(info.size_bytes for info in infos)
            if self._is_here(segment):
                await self._check_manifest(segment)
                await self._check_layers(segment, infos)
            report.bytes_done = done_after
        events.info(
            "scrub.done",
            number=report.number,
            layers=report.layers,
            frames=report.frames,
            bytes=report.bytes_total,
            damaged=len(report.found),
            mended=len(report.mended),
            seconds=round(self._clock.monotonic() - began, 3),
        )

    def _is_here(self, segment: SegmentStore) -> bool:
        return self._node.segments.get(segment.key) is segment and not segment.removed

    # The name of the node

    async def _check_name(self) -> None:
        name, content = self._node.name_file
        try:
            problem = "" if self._disk.read_all(name) == content else "it does not name this node any more"
        except OSError as error:
            problem = str(error)
        if not problem:
            return
        line = self._found(f"{self._node.id}: file {name}: {problem}")
        try:
            await self._disk.replace(name, content)
        except OSError as error:
            self._left(line, str(error))
        else:
            self._mended(line, "written anew")

    # The hot log

    async def _check_log(self, name: str) -> None:
        lines = []
        try:
            for size, problem in self._node.log.verify(name):
                if problem:
                    lines.append(self._found(f"{self._node.id}: hot log {name}, {problem}"))
                else:
                    self.report.frames += 1
                await self._step(size)
        except OSError as error:
            lines.append(self._found(f"{self._node.id}: hot log {name}: {error}"))
        if not lines:
            return
        gone = await self._let_go(name)
        for line in lines:
            if gone:
                self._mended(line, "all of it is in layers now, and the file is gone")
            else:
                self._left(line, "segments still need the file")

    async def _let_go(self, name: str) -> bool:
        """Make layers of all that the file holds. A segment with a gap below must close it first."""
        log, deadline = self._node.log, self._clock.monotonic() + _NO_PROGRESS_S
        log.begin_file()
        while name in log.files():
            for key, lsn in log.holds(name).items():
                segment = self._node.segments.get(key)
                if segment is not None and segment.failed is None and segment.flushed_lsn < lsn:
                    await self._node.flush(segment)
            self._node.release_log()
            if name in log.files():
                if self._clock.monotonic() > deadline:
                    return False
                await self._clock.sleep(_LOOK_EVERY_S)
        return True

    # Segments

    async def _check_manifest(self, segment: SegmentStore) -> None:
        async with segment.lock:
            problem = segment.manifest_problem()
            if not problem:
                return
            line = self._found(f"{_name(segment)}: {problem}")
            try:
                await segment.save()
            except SegmentFailed as error:
                self._left(line, str(error))
            else:
                self._mended(line, "written anew from memory")

    async def _check_layers(self, segment: SegmentStore, infos: tuple[LayerInfo, ...]) -> None:
        """Up to the first damage: a peer's layers take the place of all."""
        for info in infos:
            problem = segment.failed or await self._problem_with(segment, info)
            if problem:
                break
        else:
            problem = segment.failed or ""
        if not problem or not self._is_here(segment):
            return
        line = self._found(f"{_name(segment)}: {problem}")
        why_not = await self._mend(segment, problem)
        if why_not:
            self._left(line, why_not)
        elif self._is_here(segment):
            self._mended(line, "a peer's layers have taken the place of its own")
        else:
            self._mended(line, "another node holds the segment now")

    async def _problem_with(self, segment: SegmentStore, info: LayerInfo) -> str:
        try:
            reader = segment.layers.open_again(info.name)
            try:
                for size in reader.verify():
                    await self._step(size)
            finally:
                reader.close()
        except (VolumeError, OSError) as error:
            # Compaction may have replaced it meanwhile: then nobody needs it.
            return str(error) if info in segment.layers.layers else ""
        self.report.layers += 1
        return ""

    async def _mend(self, segment: SegmentStore, problem: str) -> str:
        """Why it could not be mended; empty if it was."""
        if segment.failed is None:
            others = await self._others(segment)
            if others < WRITE_QUORUM:
                return f"it serves on, since only {others} other copies of the group do"
            segment.fail(problem, mendable=True)
        now = self._clock.monotonic()
        give_up, deadline, copied = now + _MENDING_S_MAX, now + _NO_PROGRESS_S, 0
        while self._is_here(segment) and segment.failed is not None:
            if not segment.mendable:
                return segment.failed
            now, fill = self._clock.monotonic(), segment.fill
            if fill is not None and fill.bytes_done != copied:
                copied, deadline = fill.bytes_done, now + _NO_PROGRESS_S
            if now > min(deadline, give_up):
                return "no peer's layers have come in time"
            await self._clock.sleep(_LOOK_EVERY_S)
        return ""

    async def _others(self, segment: SegmentStore) -> int:
        """How many other copies serve. A scrub runs on many nodes: it must not take a quorum away by its zeal."""
        deadline = self._clock.monotonic() + _NO_PROGRESS_S
        while True:
            await self._clock.sleep(self._dice.uniform(0.0, 1.0))
            others = await self._node.gossip.copier.well_elsewhere(segment)
            if others >= WRITE_QUORUM or segment.failed is not None or self._clock.monotonic() > deadline:
                return others

    # The rest

    def _found(self, line: str) -> str:
        self.damage += 1
        events.error("scrub.damage", node=self._node.id, what=line)
        if len(self.report.found) < _LINES_MAX:
            self.report.found.append(line)
        return line

    def _mended(self, line: str, how: str) -> None:
        events.info("scrub.mended", node=self._node.id, what=line, how=how)
        if line in self.report.found:
            self.report.mended.append(f"{line}; {how}")

    def _left(self, line: str, why: str) -> None:
        events.error("scrub.not_mended", node=self._node.id, what=line, reason=why)
        if line in self.report.found:
            self.report.found[self.report.found.index(line)] = f"{line}; not mended: {why}"

    async def _step(self, size: int) -> None:
        """So much was read. After a slice of work others have their turn, longer while clients are served."""
        self.report.bytes_done += size
        self.bytes_read += size
        self._slice_bytes += size
        self._slice_steps += 1
        if self._slice_bytes < _SLICE_BYTES and self._slice_steps < _SLICE_STEPS:
            return
        served = self._node.batches + self._node.pages_read
        busy, self._served_before = served != self._served_before, served
        factor = _SLOW_REST_FACTOR if self._slow else _REST_FACTOR if busy else 0
        await self._clock.sleep(factor * (self._clock.monotonic() - self._slice_began))
        self._slice_began = self._clock.monotonic()
        self._slice_bytes = self._slice_steps = 0


def _name(segment: SegmentStore) -> str:
    return f"{segment.id} of volume {segment.volume}"
