"""The end of a run: the cluster is at rest, nothing is wrong any more, and everything is compared."""

import asyncio
from typing import Final

from control_plane.cluster.model import Group
from db_instance.volume_driver.driver import VolumeDriver
from db_instance.volume_driver.segment_calls import SegmentCalls
from tests.simulation.process import Process
from tests.simulation.world import Node, World, Writer
from volume.errors import VolumeError
from volume.ids import GroupId, Lsn, PageNumber, VolumeId
from volume.quorum import COPIES

_POLL_S: Final = 0.2
_VOLUME: Final = VolumeId(1)
_PAGES_A_READ: Final = 64


async def judge_at_rest(world: World) -> None:
    """Raises AssertionError for what is lost, half there, or different from copy to copy."""
    await _serving_writer(world)
    await _whole_again(world)
    if world.bits_flipped or world.disks_unreadable:
        await _scrubbed(world)
        await _whole_again(world)
    before = len(world.ledger.acknowledged)
    writer = await _serving_writer(world)
    while len(world.ledger.acknowledged) < before + 5:
        await asyncio.sleep(_POLL_S)
        writer = await _serving_writer(world)  # what the faults have left behind may still end one
    await world.end_clients(writer)
    await world.judge_rows(writer)
    world.histories.judge()
    assert writer.instance.driver is not None
    await _compare_copies(world, writer.instance.driver)


async def _whole_again(world: World) -> None:
    """No segment is being replaced any more, and every group has six that are well."""
    while not all(_is_whole(world, group) for group in world.control.groups()):
        await asyncio.sleep(_POLL_S)


async def _scrubbed(world: World) -> None:
    """A scrub of every node finds what is still damaged, and after it another one finds nothing."""
    await _scrub_all(world)
    found = await _scrub_all(world)
    assert not found, f"still damaged after a scrub: {found}"


async def _scrub_all(world: World) -> list[str]:
    return [line for node in world.nodes.values() for line in await _scrub_one(node)]


async def _scrub_one(node: Node) -> list[str]:
    """Of a process that ends meanwhile, as one whose disk has room again does, the next one is asked."""
    while True:
        service = node.service
        while service is not None and node.service is service and service.scrub.report.running:
            await asyncio.sleep(_POLL_S)
        if service is not None and node.service is service:
            service.scrub.start()
            while node.service is service and service.scrub.report.running:
                await asyncio.sleep(_POLL_S)
        if service is not None and node.service is service:
            return service.scrub.report.found
        await asyncio.sleep(_POLL_S)


def _is_whole(world: World, group: Group) -> bool:
    if group.replacements or len(group.voters) != COPIES:
        return False
    for member in group.voters:
        service = world.nodes[member.node].service
        segment = service.segments.get((_VOLUME, group.id)) if service is not None else None
        if (
            segment is None
            or segment.failed is not None
            or segment.membership.epoch != group.membership_epoch
        ):
            return False
    return True


async def _serving_writer(world: World) -> Writer:
    """The writer of the newest epoch, once it serves; all others are ended."""
    while True:
        for writer in [writer for writer in world.writers if writer.task.done()]:
            await world.stop_writer(writer)
        serving = [writer for writer in world.writers if _serves(world, writer)]
        for writer in [writer for writer in world.writers if writer not in (serving or world.writers[-1:])]:
            await world.stop_writer(writer)
        if serving:
            return serving[0]
        for writer in [writer for writer in world.writers if _is_outrun(world, writer)]:
            await world.stop_writer(writer)
        if not world.writers:
            await world.start_writer()
        await asyncio.sleep(_POLL_S)


def _serves(world: World, writer: Writer) -> bool:
    driver = writer.instance.driver
    newest = driver is not None and driver.epoch == world.control.newest_epoch
    return newest and writer.opened.is_set() and writer.instance.state == "ok"


def _is_outrun(world: World, writer: Writer) -> bool:
    """It serves in an epoch older than the last one granted, which only a repeated message was given."""
    driver = writer.instance.driver
    return driver is not None and writer.opened.is_set() and driver.epoch < world.control.newest_epoch


async def _compare_copies(world: World, driver: VolumeDriver) -> None:
    """Each page of each group from each of its six segments, as of the VDL."""
    while driver.vdl < driver.last_lsn:
        await asyncio.sleep(_POLL_S)
    per_group = driver.pages_per_group
    for group in driver.group_scl():
        first = group * per_group + 1
        for start in range(first, first + per_group, _PAGES_A_READ):
            pages = list(range(start, min(start + _PAGES_A_READ, first + per_group)))
            await _compare_pages(world, driver, group, pages)


async def _compare_pages(world: World, driver: VolumeDriver, group: GroupId, pages: list[int]) -> None:
    answers: dict[str, list[tuple[Lsn, bytes]]] = {}
    while not answers:
        for slot, node in world.control.members(group):
            answer = await _read(world, driver, node, group, pages)
            if answer is None:
                answers.clear()
                break
            answers[f"pg{group}/{slot} on {node}"] = answer
    reference = next(iter(answers.values()))
    for name, answer in answers.items():
        differing = [page for page, one, other in zip(pages, answer, reference, strict=True) if one != other]
        assert not differing, f"{name} differs from the first copy in pages {differing}"
    world.pages_compared += len(pages)


async def _read(
    world: World, driver: VolumeDriver, node: str, group: GroupId, pages: list[PageNumber]
) -> list[tuple[Lsn, bytes]] | None:
    """Asked until the copy is complete: gossip closes its gaps, and damage is mended from the peers. None if

    the node hosts the group no more: segments are moved to nodes that came back with room.
    """
    judge = world.network.host("judge", Process("judge"))
    calls = SegmentCalls(judge, _VOLUME, driver.epoch)
    required = driver._frontier.durable_end(group)
    try:
        while True:
            try:
                return await calls.read_pages(f"{node}:1", group, driver.vdl, required, pages)
            except VolumeError as error:
                world.trace.note("not_yet", node=node, group=group, reason=error)
                if all(member != node for _, member in world.control.members(group)):
                    return None
                await asyncio.sleep(_POLL_S)
    finally:
        await calls.close()
