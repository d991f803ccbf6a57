"""Opens the volume: recovery, failover and every plain start are this one procedure.

    1  the control plane grants an epoch
    2  in each group at least three of six segments promise it, durably, and then tell their tails
    3  the end of the volume is computed from the tails (volume/recovery.py)
    4  the timeline without the range above it is durable at four of six segments of each group
    5  four of six hold their group's log up to that end; those behind fetch it from their peers

Three promises leave an older writer at most three acknowledgements, so nothing becomes durable behind
our back after step 2; what it announced before is on four segments, so one of any three tells of it.

No segment is told the new VDL before step 5 is done: until then the end of the log may be on one
segment only, and if we die here the next opening must be free to find less.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final, TypeVar

from db_instance.volume_driver.control_client import ControlClient, Member, VolumeLayout
from db_instance.volume_driver.segment_calls import SegmentCalls
from runtime.clock import Clock
from runtime.events import get_logger
from runtime.transport import Transport
from volume.errors import QuorumLost, StaleEpoch, VolumeError
from volume.ids import GroupId, Lsn
from volume.quorum import COPIES, READ_QUORUM, WRITE_QUORUM
from volume.recovery import Recovered, SegmentTail, recover

T = TypeVar("T")
events = get_logger("volume_driver.opening")

_LATECOMERS_S: Final = 0.3
"""How long the others are waited for once a quorum has answered: more copies from the start."""

_PHASE_S: Final = 6.0
_COMPLETION_S: Final = 20.0
_COMPLETION_POLL_S: Final = 0.02


@dataclass(slots=True)
class Opened:
    layout: VolumeLayout
    recovered: Recovered
    scl: dict[GroupId, dict[int, Lsn]]
    """SCL by slot of the segments that have the timeline."""
    writable: bool


async def open_volume(control: ControlClient, transport: Transport, clock: Clock) -> Opened:
    """Raises QuorumLost (fewer than three of a group answer), StaleEpoch (another writer opens it too).

    With three of six segments of some group it is opened read-only: `writable` is false.
    """
    layout = await control.open_volume()
    calls = SegmentCalls(transport, layout.volume, layout.epoch)
    started = clock.monotonic()
    tails = [tail for found in await _in_all(layout, _promise(calls), READ_QUORUM) for tail in found]
    recovered = recover(tails, list(layout.groups), layout.epoch)
    answered = {(tail.group, tail.slot) for tail in tails}
    counts = [sum((group, slot) in answered for slot in range(COPIES)) for group in layout.groups]
    if min(counts) < WRITE_QUORUM:
        return Opened(layout, recovered, _scl_of(tails), writable=False)
    scl = await _install(layout, calls, recovered)
    await _complete(layout, calls, recovered, scl)
    took_ms = round(1000 * (clock.monotonic() - started), 1)
    events.info("volume.opened", epoch=layout.epoch, vdl=recovered.vdl, vcl=recovered.vcl, took_ms=took_ms)
    return Opened(layout, recovered, scl, writable=True)


def _promise(calls: SegmentCalls) -> "Callable[[GroupId, Member], Awaitable[SegmentTail]]":
    return lambda group, member: calls.promise(member.address, group, member.slot)


def _scl_of(tails: list[SegmentTail]) -> dict[GroupId, dict[int, Lsn]]:
    found: dict[GroupId, dict[int, Lsn]] = {}
    for tail in tails:
        found.setdefault(tail.group, {})[tail.slot] = tail.scl
    return found


async def _install(
    layout: VolumeLayout, calls: SegmentCalls, recovered: Recovered
) -> dict[GroupId, dict[int, Lsn]]:
    async def install(group: GroupId, member: Member) -> tuple[int, Lsn]:
        scl = await calls.install_timeline(member.address, group, recovered.timeline, recovered.known_vdl)
        return member.slot, scl

    answers = await _in_all(layout, install, WRITE_QUORUM)
    return {group: dict(found) for group, found in zip(layout.groups, answers, strict=True)}


async def _complete(
    layout: VolumeLayout, calls: SegmentCalls, recovered: Recovered, scl: dict[GroupId, dict[int, Lsn]]
) -> None:
    """Wait until four segments of each group hold its log up to its end. Asking makes them fetch it."""
    async with asyncio.timeout(_COMPLETION_S):
        for group, members in layout.groups.items():
            end = recovered.group_ends[group]
            while sum(lsn >= end for lsn in scl[group].values()) < WRITE_QUORUM:
                await asyncio.sleep(_COMPLETION_POLL_S)
                for member in members:
                    if scl[group].get(member.slot, end) < end:
                        scl[group][member.slot] = await calls.install_timeline(
                            member.address, group, recovered.timeline, recovered.known_vdl
                        )


async def _in_all(
    layout: VolumeLayout, ask: Callable[[GroupId, Member], Awaitable[T]], needed: int
) -> list[list[T]]:
    return await asyncio.gather(
        *(_in_group(group, members, ask, needed) for group, members in layout.groups.items())
    )


async def _in_group(
    group: GroupId, members: tuple[Member, ...], ask: Callable[[GroupId, Member], Awaitable[T]], needed: int
) -> list[T]:
    """Ask all six at once; the answers that came until a quorum did, and a moment longer."""
    asked = [asyncio.ensure_future(ask(group, member)) for member in members]
    found: list[T] = []
    waiting = set(asked)
    loop = asyncio.get_running_loop()
    deadline = loop.time() + _PHASE_S
    try:
        while waiting and (left := deadline - loop.time()) > 0:
            done, waiting = await asyncio.wait(waiting, timeout=left, return_when=asyncio.FIRST_COMPLETED)
            for task in asked:
                if task in done:
                    _take(task, found)
            if len(found) >= needed:
                deadline = min(deadline, loop.time() + _LATECOMERS_S)
    finally:
        for task in waiting:
            task.cancel()
    if len(found) < needed:
        raise QuorumLost(
            f"open volume: {len(found)} of {len(members)} segments of pg{group} answered, {needed} are needed"
        )
    return found


def _take(task: asyncio.Future[T], found: list[T]) -> None:
    error = task.exception()
    if isinstance(error, StaleEpoch):
        raise error
    if error is not None and not isinstance(error, VolumeError):
        raise error
    if error is None:
        found.append(task.result())
