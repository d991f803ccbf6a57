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

from db_instance.volume_driver.control_client import ControlClient, VolumeLayout
from db_instance.volume_driver.segment_calls import Installed, SegmentCalls
from runtime.clock import Clock
from runtime.events import get_logger
from runtime.transport import Transport
from volume.errors import QuorumLost, StaleEpoch, StaleMembership, VolumeError
from volume.ids import Epoch, GroupId, Lsn
from volume.limits import LEASE_S
from volume.quorum import COPIES, READ_QUORUM, WRITE_QUORUM
from volume.quorum_set import Member, QuorumSet
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
    scl: dict[GroupId, dict[str, Lsn]]
    """SCL by node of the segments that have the timeline."""
    writable: bool
    timeline_epochs: dict[GroupId, Epoch]
    """By group: segments whose timeline is older must not answer reads. An opening that broke off may have installed
    its own in one group only; what it annulled there nobody reads."""
    leases_end_s: float = 0.0
    """By our clock: when no older writer answers reads any more."""

    async def until_leases_end(self, clock: Clock) -> None:
        """Nobody may be told of what we write, or see it, before this returns: whoever wrote before us answers
        reads until its lease ends."""
        await clock.sleep(max(0.0, self.leases_end_s - clock.monotonic()))


async def open_volume(control: ControlClient, transport: Transport, clock: Clock) -> Opened:
    """Raises QuorumLost (fewer than three of a group answer), StaleEpoch (another writer opens it too),
    StaleMembership (a group's members changed meanwhile: open again).

    With three of six segments of some group it is opened read-only: `writable` is false. Otherwise it may be
    read at once, and written once the leases of older writers have ended.
    """
    layout = await control.open_volume()
    granted_s = clock.monotonic()
    calls = SegmentCalls(transport, layout.volume, layout.epoch)
    started = clock.monotonic()
    promised = await _in_all(layout, _promise(calls, layout), READ_QUORUM)
    tails = [tail for found in promised.values() for tail in found.values() if tail is not None]
    recovered = recover(tails, list(layout.groups), layout.epoch)
    if min(layout.groups[group].count(found) for group, found in promised.items()) < WRITE_QUORUM:
        scl = {
            group: {node: tail.scl for node, tail in found.items() if tail is not None}
            for group, found in promised.items()
        }
        newest = {
            group: max(tail.timeline.epoch for tail in tails if tail.group == group)
            for group in layout.groups
        }
        # An older writer's lease is confirmed by four: by none of those that have promised, from now on.
        leases_end = max(clock.monotonic() + LEASE_S, granted_s + layout.lease_left_s)
        return Opened(layout, recovered, scl, False, newest, leases_end)
    scl, lease_left_s = await _install(layout, calls, recovered)
    leases_end = max(clock.monotonic() + lease_left_s, granted_s + layout.lease_left_s)
    await _complete(layout, calls, recovered, scl)
    now = clock.monotonic()
    events.info(
        "volume.opened",
        epoch=layout.epoch,
        vdl=recovered.vdl,
        vcl=recovered.vcl,
        took_ms=round(1000 * (now - started), 1),
        leases_ms=round(1000 * max(0.0, leases_end - now), 1),
    )
    return Opened(layout, recovered, scl, True, dict.fromkeys(layout.groups, layout.epoch), leases_end)


def _promise(
    calls: SegmentCalls, layout: VolumeLayout
) -> "Callable[[GroupId, Member], Awaitable[SegmentTail | None]]":
    return lambda group, member: calls.promise(member, group, layout.groups[group].epoch)


async def _install(
    layout: VolumeLayout, calls: SegmentCalls, recovered: Recovered
) -> tuple[dict[GroupId, dict[str, Lsn]], float]:
    async def install(group: GroupId, member: Member) -> Installed:
        return await calls.install_timeline(
            member, group, layout.groups[group].epoch, recovered.timeline, recovered.known_vdl
        )

    answers = await _in_all(layout, install, WRITE_QUORUM)
    scl = {group: {node: each.scl for node, each in found.items()} for group, found in answers.items()}
    return scl, max(each.lease_left_s for found in answers.values() for each in found.values())


async def _complete(
    layout: VolumeLayout, calls: SegmentCalls, recovered: Recovered, scl: dict[GroupId, dict[str, Lsn]]
) -> None:
    """Wait until four slots of each group hold its log up to its end. Asking makes them fetch it."""
    async with asyncio.timeout(_COMPLETION_S):
        for group, quorum in layout.groups.items():
            end = recovered.group_ends[group]
            while quorum.complete_lsn(scl[group]) < end:
                await asyncio.sleep(_COMPLETION_POLL_S)
                for member in quorum.members:
                    if scl[group].get(member.node, end) < end:
                        found = await calls.install_timeline(
                            member, group, quorum.epoch, recovered.timeline, recovered.known_vdl
                        )
                        scl[group][member.node] = found.scl


async def _in_all(
    layout: VolumeLayout, ask: Callable[[GroupId, Member], Awaitable[T]], needed: int
) -> dict[GroupId, dict[str, T]]:
    found = await asyncio.gather(
        *(_in_group(group, quorum, ask, needed) for group, quorum in layout.groups.items())
    )
    return dict(zip(layout.groups, found, strict=True))


async def _in_group(
    group: GroupId, quorum: QuorumSet, ask: Callable[[GroupId, Member], Awaitable[T]], needed: int
) -> dict[str, T]:
    """Ask all members at once; the answers, by node, that came until enough slots did, and a moment longer."""
    asked = {asyncio.ensure_future(ask(group, member)): member for member in quorum.members}
    found: dict[str, T] = {}
    waiting = set(asked)
    loop = asyncio.get_running_loop()
    deadline = loop.time() + _PHASE_S
    slots = 0
    try:
        while waiting and (left := deadline - loop.time()) > 0:
            done, waiting = await asyncio.wait(waiting, timeout=left, return_when=asyncio.FIRST_COMPLETED)
            for task, member in asked.items():
                if task in done:
                    _take(task, member.node, found)
            slots = quorum.count(found)
            if slots >= needed:
                deadline = min(deadline, loop.time() + _LATECOMERS_S)
    finally:
        for task in waiting:
            task.cancel()
    if slots < needed:
        raise QuorumLost(
            f"open volume: {slots} of {COPIES} segments of pg{group} answered, {needed} are needed"
        )
    return found


def _take(task: asyncio.Future[T], node: str, found: dict[str, T]) -> None:
    error = task.exception()
    if isinstance(error, StaleEpoch | StaleMembership):
        raise error
    if error is not None and not isinstance(error, VolumeError):
        raise error
    if error is None:
        found[node] = task.result()
