"""A storage node on a disk that fails: what it acknowledged is there, and a failed disk acknowledges nothing."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage_node import hot_log
from storage_node import node as node_module
from storage_node.node import StorageNode
from storage_node.segment_store import SegmentStore
from tests.simulation.sim_clock import SimClock
from tests.simulation.sim_disk import SimDisk
from tests.simulation.virtual_loop import run
from tests.unit.storage_node.log_model import GROUP, VOLUME, GroupLog, framed
from tests.unit.volume.quorum_model import quorum_set
from volume.errors import CorruptRecord, StaleEpoch, StaleTimeline, VolumeBusy
from volume.ids import LSN_ZERO, Epoch, GroupId, Lsn, PageNumber, SegmentId, VolumeId

_MEMBERSHIP = quorum_set("n b c d e f")
_ONE = Epoch(1)


class NoTransport:
    """These nodes have no peers to call."""


def _node(disk: SimDisk, name: str = "n") -> StorageNode:
    return StorageNode(name, "az1", disk, cast(Any, NoTransport()), SimClock(), random.Random(1))


async def _hosting(disk: SimDisk, log: GroupLog, groups: int = 1) -> StorageNode:
    node = _node(disk)
    await node.open()
    for group in range(groups):
        await node.create_segment(VOLUME, SegmentId(GroupId(group), 0), _MEMBERSHIP)
        segment = node.segment(VOLUME, GroupId(group))
        await segment.promise(_ONE)
        await segment.install(log.timeline, LSN_ZERO)
    return node


async def _append(node: StorageNode, log: GroupLog, pages: list[int], vdl: int = 0) -> SegmentStore:
    frames = [framed([log.write(page)], log.timeline.epoch) for page in pages]
    (segment,) = await node.append(VOLUME, log.timeline.epoch, frames, Lsn(vdl), Lsn(vdl))
    return segment


def _with_node(
    work: Callable[[SimDisk, GroupLog, StorageNode], Awaitable[None]], seed: int = 1, groups: int = 1
) -> SimDisk:
    disk = SimDisk(random.Random(seed))

    async def main() -> None:
        log = GroupLog()
        await work(disk, log, await _hosting(disk, log, groups))

    run(main())
    return disk


def _check_pages(segment: SegmentStore, log: GroupLog, lsn: Lsn) -> None:
    for page in range(1, 5):
        assert segment.read(PageNumber(page), lsn, lsn) == log.page_at(page, lsn)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.tuples(st.lists(st.integers(1, 4), min_size=1, max_size=3), st.booleans()), min_size=1, max_size=6
    ),
    st.integers(0, 999),
)
def test_what_was_acknowledged_is_there_after_a_power_cut(
    batches: list[tuple[list[int], bool]], seed: int
) -> None:
    async def work(disk: SimDisk, log: GroupLog, node: StorageNode) -> None:
        segment = node.segment(VOLUME, GROUP)
        for pages, flush in batches:
            segment = await _append(node, log, pages)
            assert segment.chain.durable_scl == log.end, "acknowledged as soon as it is synced"
            if flush:
                await segment.flush()
                node.log.release(node._flushed)
        acknowledged = segment.chain.durable_scl
        for found in (disk.durable_copy(), disk.crash()):
            again = _node(found)
            await again.open()
            opened = again.segment(VOLUME, GROUP)
            assert opened.chain.durable_scl == acknowledged
            _check_pages(opened, log, acknowledged)

    _with_node(work, seed)


@pytest.mark.parametrize("fault", ["full", "broken"])
def test_a_failed_disk_acknowledges_nothing_and_says_why(fault: str) -> None:
    async def work(disk: SimDisk, log: GroupLog, node: StorageNode) -> None:
        segment = await _append(node, log, [1, 2])
        acknowledged = segment.chain.durable_scl
        setattr(disk.faults, fault, True)
        await _append(node, log, [1])
        assert segment.state.startswith("failed: hot log: ")
        assert segment.chain.durable_scl == acknowledged
        other = node.segment(VOLUME, GroupId(1))
        assert other.failed is not None, "all segments share the one log"
        setattr(disk.faults, fault, False)
        await _append(node, log, [1])
        assert segment.chain.durable_scl == acknowledged, "what a failed sync left is unknown: never again"

    disk = _with_node(work, groups=2)

    async def reopened() -> None:
        again = _node(disk.durable_copy())
        await again.open()
        assert again.segment(VOLUME, GROUP).chain.durable_scl >= 2

    run(reopened())


def test_a_promise_during_the_sync_takes_the_acknowledgement_back() -> None:
    async def work(disk: SimDisk, log: GroupLog, node: StorageNode) -> None:
        disk.faults.sync_s = (1.0, 1.0)
        appending = asyncio.create_task(_append(node, log, [1]))
        await asyncio.sleep(0.5)
        await node.segment(VOLUME, GROUP).promise(Epoch(2))
        with pytest.raises(StaleEpoch):
            await appending

    _with_node(work)


def test_a_writer_that_goes_away_leaves_no_frame_unnoted() -> None:
    async def work(disk: SimDisk, log: GroupLog, node: StorageNode) -> None:
        disk.faults.sync_s = (1.0, 1.0)
        appending = asyncio.create_task(_append(node, log, [1]))
        await asyncio.sleep(0.5)
        appending.cancel()
        await asyncio.sleep(2)
        assert node.segment(VOLUME, GROUP).chain.durable_scl == log.end

    _with_node(work)


@pytest.mark.parametrize(
    ("why", "epoch", "refused"),
    [
        ("an older epoch", 0, StaleEpoch),
        ("an epoch whose timeline is not here", 2, StaleTimeline),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_an_append_is_refused(why: str, epoch: int, refused: type[Exception]) -> None:
    async def work(disk: SimDisk, log: GroupLog, node: StorageNode) -> None:
        with pytest.raises(refused):
            await node.append(VOLUME, Epoch(epoch), [framed([log.write(1)])], LSN_ZERO, LSN_ZERO)
        assert node.segment(VOLUME, GROUP).chain.scl == 0

    _with_node(work)


@pytest.mark.parametrize(
    ("why", "volume", "group"),
    [("a volume that is not here", 8, 0), ("a group that is not here", 7, 5)],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_log_of_a_segment_that_is_not_here_is_not_taken_and_the_others_are(
    why: str, volume: int, group: int
) -> None:
    async def work(disk: SimDisk, log: GroupLog, node: StorageNode) -> None:
        header, frame = framed([log.write(1)])
        foreign = (header._replace(volume=VolumeId(volume), group=GroupId(group)), frame)
        assert await node.append(VolumeId(volume), _ONE, [foreign], LSN_ZERO, LSN_ZERO) == []
        segment = node.segment(VOLUME, GROUP)
        assert (segment.chain.scl, node.log.bytes_appended) == (0, 0)
        if volume == VOLUME:
            own = framed(log.records)
            assert await node.append(VOLUME, _ONE, [foreign, own], LSN_ZERO, LSN_ZERO) == [segment]
            assert segment.chain.durable_scl == 1

    _with_node(work)


def test_a_frame_of_another_volume_is_refused() -> None:
    async def work(disk: SimDisk, log: GroupLog, node: StorageNode) -> None:
        header, frame = framed([log.write(1)])
        with pytest.raises(CorruptRecord, match="a frame of volume 9"):
            await node.append(
                VOLUME, _ONE, [(header._replace(volume=VolumeId(9)), frame)], LSN_ZERO, LSN_ZERO
            )

    _with_node(work)


def test_a_vdl_of_another_epoch_is_not_believed() -> None:
    async def work(disk: SimDisk, log: GroupLog, node: StorageNode) -> None:
        await _append(node, log, [1, 1], vdl=1)
        await node.append(VOLUME, Epoch(2), [], Lsn(9), Lsn(9))
        segment = node.segment(VOLUME, GROUP)
        assert (segment.chain.known_vdl, segment.read_floor) == (1, 1)

    _with_node(work)


def test_a_directory_serves_one_node() -> None:
    disk = _with_node(lambda *_: asyncio.sleep(0))

    async def main() -> None:
        with pytest.raises(CorruptRecord, match="belongs to 'sixfold storage node n'"):
            await _node(disk.kill(), "other").open()

    run(main())


def test_creating_a_segment_again_changes_nothing_and_a_newer_membership_does() -> None:
    async def work(disk: SimDisk, log: GroupLog, node: StorageNode) -> None:
        await _append(node, log, [1])
        segment, id = node.segment(VOLUME, GROUP), SegmentId(GROUP, 0)
        await node.create_segment(VOLUME, id, quorum_set("n b c d e g"))
        assert (node.segment(VOLUME, GROUP), segment.membership) == (segment, _MEMBERSHIP)
        newer = quorum_set("n b c d e f+g", epoch=2)
        await node.create_segment(VOLUME, id, newer)
        assert (node.segment(VOLUME, GROUP), segment.membership, segment.chain.scl) == (segment, newer, 1)

    _with_node(work)


def test_a_segment_half_created_is_asked_for_again() -> None:
    disk = SimDisk(random.Random(1))
    disk.open("segments/7-0/delta-1.layer", create=True).append(b"of a crash")

    async def main() -> None:
        node = _node(disk)
        await node.open()
        assert node.segments == {}

    run(main())


@pytest.fixture
def small_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    for module, name, value in (
        (node_module, "_SEGMENT_FLUSH_BYTES", 300),
        (node_module, "_NODE_FLUSH_BYTES", 600),
        (node_module, "_HOT_LOG_FLUSH_BYTES", 1200),
        (hot_log, "_FILE_BYTES", 500),
    ):
        monkeypatch.setattr(module, name, value)


@pytest.mark.usefixtures("small_limits")
def test_in_the_background_log_becomes_layers_and_the_hot_log_is_let_go() -> None:
    async def work(disk: SimDisk, log: GroupLog, node: StorageNode) -> None:
        node.gossip.run = lambda: asyncio.sleep(0)  # type: ignore[method-assign]
        node.start()
        for turn in range(60):
            segment = await _append(node, log, [turn % 4 + 1, 1], vdl=log.end)
            await asyncio.sleep(0.15)
        await asyncio.sleep(1)
        kinds = [info.kind for info in segment.layers.layers]
        assert "image" in kinds and len(kinds) < 14
        assert node.log.size_bytes < 2500
        assert segment.state == "ok"
        _check_pages(segment, log, log.end)
        await node.stop()
        again = _node(disk.crash())
        await again.open()
        _check_pages(again.segment(VOLUME, GROUP), log, log.end)

    _with_node(work)


@pytest.mark.usefixtures("small_limits")
def test_a_full_disk_met_in_the_background_fails_its_segment() -> None:
    async def work(disk: SimDisk, log: GroupLog, node: StorageNode) -> None:
        node.gossip.run = lambda: asyncio.sleep(0)  # type: ignore[method-assign]
        segment = await _append(node, log, [1, 2, 3, 4] * 4)
        node.start()
        disk.faults.full = True
        await asyncio.sleep(0.5)
        assert segment.state.startswith("failed: write layer: ")
        await node.stop()

    _with_node(work)


def test_a_node_whose_memory_is_full_makes_the_writer_wait_and_then_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(node_module, "HOT_BYTES_MAX", 100)

    async def work(disk: SimDisk, log: GroupLog, node: StorageNode) -> None:
        segment = await _append(node, log, [1, 1])
        with pytest.raises(VolumeBusy):
            await _append(node, log, [1])
        log.records.pop()
        log.lsn = Lsn(log.lsn - 1)
        waiting = asyncio.create_task(_append(node, log, [1]))
        await asyncio.sleep(1)
        assert not waiting.done()
        await segment.flush()
        node._room.set()
        await waiting
        assert segment.chain.durable_scl == log.end

    _with_node(work)


def test_watchers_hear_of_log_that_peers_brought() -> None:
    async def work(disk: SimDisk, log: GroupLog, node: StorageNode) -> None:
        heard: list[Lsn] = []
        segment = node.segment(VOLUME, GROUP)
        unwatch = node.watch(lambda each: heard.append(each.chain.durable_scl))
        await node.take_from_peer(segment, [framed([log.write(1)])])
        await node.take_from_peer(segment, [framed(log.records)])
        unwatch()
        await node.take_from_peer(segment, [framed([log.write(1)])])
        assert heard == [1]

    _with_node(work)
