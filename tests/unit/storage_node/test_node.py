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
from storage_node.layers.compaction import ImageWriting, Plan
from storage_node.node import StorageNode
from storage_node.segment_store import SegmentStore
from tests.simulation.sim_clock import SimClock
from tests.simulation.sim_disk import SimDisk
from tests.simulation.virtual_loop import run
from tests.unit.storage_node.log_model import GROUP, VOLUME, GroupLog, framed
from tests.unit.volume.quorum_model import quorum_set
from volume.errors import (
    CorruptPage,
    CorruptRecord,
    InvalidRequest,
    SegmentFailed,
    StaleEpoch,
    StaleMembership,
    StaleTimeline,
    UnknownSegment,
    VolumeBusy,
)
from volume.ids import LSN_ZERO, Epoch, GroupId, Lsn, PageNumber, SegmentId, VolumeId
from volume.limits import LEASE_S
from volume.log_batch import read_header, seal_frame
from volume.redo_record import encode_record

_MEMBERSHIP = quorum_set("n b c d e f")
_NONE = Epoch(0)
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
    await node.settle([segment])
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
            assert segment.chain.durable_scl == 0
            await node.settle([segment])
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


# Segments that come and go


def test_a_segment_is_created_to_stay() -> None:
    async def work(disk: SimDisk, log: GroupLog, node: StorageNode) -> None:
        membership = quorum_set("a b c d e f+n", epoch=4)
        await node.create_segment(VOLUME, SegmentId(GroupId(1), 5), membership)
        again = _node(disk.durable_copy())
        await again.open()
        segment = again.segment(VOLUME, GroupId(1))
        assert (segment.id, segment.membership, segment.state) == (
            SegmentId(GroupId(1), 5),
            membership,
            "filling",
        )

    _with_node(work)


def test_what_a_segment_left_that_was_here_before_is_gone() -> None:
    async def work(disk: SimDisk, log: GroupLog, node: StorageNode) -> None:
        disk.open("segments/7-1/delta-0-9-77.layer", create=True).append(b"of another time")
        await node.create_segment(VOLUME, SegmentId(GroupId(1), 0), _MEMBERSHIP)
        assert disk.list("segments/7-1") == ["manifest"]

    _with_node(work)


def test_on_a_broken_disk_no_segment_is_made() -> None:
    async def work(disk: SimDisk, log: GroupLog, node: StorageNode) -> None:
        disk.open("segments/7-1/delta-0-9-77.layer", create=True).append(b"of another time")
        disk.faults.broken = True
        for group in (1, 2):
            with pytest.raises(SegmentFailed, match="Errno 5"):
                await node.create_segment(VOLUME, SegmentId(GroupId(group), 0), _MEMBERSHIP)
        assert set(node.segments) == {(VOLUME, GROUP)}

    _with_node(work)


def test_a_segment_that_is_no_member_any_more_is_dropped_for_good() -> None:
    async def work(disk: SimDisk, log: GroupLog, node: StorageNode) -> None:
        segment = await _append(node, log, [1])
        await segment.flush()
        await node.drop_segment(VOLUME, GROUP, 2)
        await node.drop_segment(VOLUME, GROUP, 2)
        with pytest.raises(UnknownSegment):
            node.segment(VOLUME, GROUP)
        with pytest.raises(SegmentFailed, match="given up"):
            segment.check()  # whoever has hold of it still
        again = _node(disk.durable_copy())
        await again.open()
        assert again.segments == {}

    _with_node(work)


def test_a_member_is_not_dropped_by_who_does_not_know_that_it_is_one() -> None:
    async def work(disk: SimDisk, log: GroupLog, node: StorageNode) -> None:
        segment = node.segment(VOLUME, GROUP)
        await segment.join(quorum_set("n b c d e f", epoch=3), _NONE)
        with pytest.raises(StaleMembership, match="drop pg0/a in membership epoch 2: it is 3"):
            await node.drop_segment(VOLUME, GROUP, 2)
        with pytest.raises(InvalidRequest, match="it is a member in epoch 3"):
            await node.drop_segment(VOLUME, GROUP, 3)
        await segment.join(quorum_set("g b c d e f", epoch=4), _NONE)
        await node.drop_segment(VOLUME, GROUP, 4)
        assert node.segments == {}

    _with_node(work)


def test_a_segment_dropped_while_a_peer_copies_it_leaves_nothing_and_its_names_may_come_again() -> None:
    async def work(disk: SimDisk, log: GroupLog, node: StorageNode) -> None:
        segment = await _append(node, log, [1, 2])
        await segment.flush()
        layers = disk.list("segments/7-0")
        unpin = segment.layers.pin([info.name for info in segment.layers.layers])
        segment.layers.create("copied-of-another-time.layer")
        await node.drop_segment(VOLUME, GROUP, 2)
        assert disk.list("segments/7-0") == []
        await node.create_segment(VOLUME, SegmentId(GROUP, 0), _MEMBERSHIP)
        new = node.segment(VOLUME, GROUP)
        await new.promise(_ONE)
        await new.install(log.timeline, LSN_ZERO)
        for record in log.records:
            await node.settle(await node.append(VOLUME, _ONE, [framed([record])], LSN_ZERO, LSN_ZERO))
        await new.flush()
        assert disk.list("segments/7-0") == layers
        unpin()
        assert disk.list("segments/7-0") == layers
        _check_pages(new, log, log.end)

    _with_node(work)


@pytest.mark.parametrize("how", ["its disk failed meanwhile", "its manifest was damaged"])
def test_dropping_a_segment_that_is_not_there_removes_what_it_has_left(how: str) -> None:
    async def work(disk: SimDisk, log: GroupLog, node: StorageNode) -> None:
        segment = await _append(node, log, [1, 2])
        await segment.flush()
        if how == "its manifest was damaged":
            disk.flip_bit("segments/7-0/manifest")
            disk = disk.kill()
            node = _node(disk)
            await node.open()
        disk.faults.broken = True
        with pytest.raises(SegmentFailed, match="simulated I/O error"):
            await node.drop_segment(VOLUME, GROUP, 2)
        disk.faults.broken = False
        assert node.segments == {}
        assert len(disk.list("segments/7-0")) == 2
        await node.drop_segment(VOLUME, GROUP, 2)
        assert disk.list("segments/7-0") == []
        assert not disk.durable_copy().exists("segments/7-0/manifest")

    _with_node(work)


def test_what_was_dropped_begins_anew_when_it_is_created_again() -> None:
    async def work(disk: SimDisk, log: GroupLog, node: StorageNode) -> None:
        segment = await _append(node, log, [1, 2])
        await segment.flush()
        await node.drop_segment(VOLUME, GROUP, 2)
        await node.create_segment(VOLUME, SegmentId(GROUP, 0), quorum_set("+n b c d e f", epoch=3))
        new = node.segment(VOLUME, GROUP)
        assert (new.chain.scl, new.chain.promised, new.layers.layers, new.state) == (0, 0, (), "filling")

    _with_node(work)


@pytest.mark.parametrize(
    ("why", "words", "epoch", "slot"),
    [
        ("its node has another slot now", "a n c d e f", 3, 1),
        ("it has failed and was given up", "+n b c d e f", 3, 0),
        ("it has heard itself that it has another slot now", "a n c d e f", 2, 1),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_a_segment_was_it_can_never_be_again(why: str, words: str, epoch: int, slot: int) -> None:
    async def work(disk: SimDisk, log: GroupLog, node: StorageNode) -> None:
        segment = await _append(node, log, [1])
        if slot == 0:
            segment.fail("its disk")
        await segment.join(quorum_set("a n c d e f" if slot else "n b c d e f", epoch=2), _NONE)
        # In an epoch that it knows itself it was not given up; it has no other slot by an older one.
        for stale in [1] if slot else [1, 2]:
            with pytest.raises(StaleMembership):
                await node.create_segment(VOLUME, SegmentId(GROUP, slot), quorum_set(words, stale))
        assert node.segment(VOLUME, GROUP) is segment
        await node.create_segment(VOLUME, SegmentId(GROUP, slot), quorum_set(words, epoch))
        new = node.segment(VOLUME, GROUP)
        assert new is not segment
        assert (new.id.slot, new.chain.scl, new.failed) == (slot, 0, None)

    _with_node(work)


def test_a_segment_that_can_be_mended_is_not_made_anew() -> None:
    async def work(disk: SimDisk, log: GroupLog, node: StorageNode) -> None:
        segment = await _append(node, log, [1])
        segment.fail("a bit flipped", mendable=True)
        await node.create_segment(VOLUME, SegmentId(GROUP, 0), quorum_set("n b c d e f", epoch=2))
        assert node.segment(VOLUME, GROUP) is segment
        assert segment.membership.epoch == 2

    _with_node(work)


def test_a_segment_that_can_be_mended_still_can_when_its_flush_is_refused() -> None:
    async def work(disk: SimDisk, log: GroupLog, node: StorageNode) -> None:
        segment = await _append(node, log, [1])
        segment.fail("a bit flipped", mendable=True)
        await node.flush(segment)
        assert (segment.state, segment.mendable) == ("failed: a bit flipped", True)

    _with_node(work)


def test_a_node_opens_without_a_segment_whose_manifest_is_damaged_and_can_have_it_again() -> None:
    async def work(disk: SimDisk, log: GroupLog, node: StorageNode) -> None:
        await _append(node, log, [1, 2])
        disk.flip_bit("segments/7-0/manifest")
        again = _node(disk.durable_copy())
        await again.open()
        assert list(again.segments) == [(VOLUME, GroupId(1))]
        await again.create_segment(VOLUME, SegmentId(GROUP, 0), quorum_set("+n b c d e f", epoch=2))
        assert (again.segment(VOLUME, GROUP).chain.scl, again.segment(VOLUME, GROUP).state) == (0, "filling")

    _with_node(work, groups=2)


@pytest.mark.parametrize("late", ["a membership", "images", "a promise", "layers of a peer"])
@pytest.mark.parametrize("again", [False, True])
def test_work_that_was_under_way_writes_nothing_for_a_segment_that_was_dropped(
    late: str, again: bool
) -> None:
    async def work(disk: SimDisk, log: GroupLog, node: StorageNode) -> None:
        segment = await _append(node, log, [1, 2], vdl=2)
        await segment.flush()
        wanted = Plan("images", segment.layers.layers, LSN_ZERO, log.end)
        writing = ImageWriting(disk, "segments/7-0", segment.layers, wanted, log.timeline)
        for _ in writing.steps():
            pass
        await node.drop_segment(VOLUME, GROUP, 2)
        if again:
            await node.create_segment(VOLUME, SegmentId(GROUP, 0), quorum_set("+n b c d e f", epoch=3))
        with pytest.raises(SegmentFailed, match="given up"):
            match late:
                case "a membership":
                    await node.join(segment, quorum_set("n b c d e f", epoch=9), Epoch(9))
                case "images":
                    await segment.finish(wanted, writing)
                case "a promise":
                    await segment.promise(Epoch(9))
                case _:
                    await segment.adopt({}, Lsn(99), log.timeline)
        opened = _node(disk.durable_copy())
        await opened.open()
        assert [segment.membership.epoch for segment in opened.segments.values()] == ([3] if again else [])

    _with_node(work)


def test_compaction_ends_when_the_layers_of_a_peer_take_the_place_of_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def work(disk: SimDisk, log: GroupLog, node: StorageNode) -> None:
        for page in range(1, 5):
            segment = await _append(node, log, [page], vdl=page)
            await segment.flush()
        assert segment.worth_doing() is not None

        async def adopt(segment: SegmentStore) -> None:
            assert await segment.adopt({}, Lsn(99), log.timeline)

        monkeypatch.setattr(node, "_give_way", adopt)
        await node._compact(segment)
        assert segment.failed is None
        assert segment.layers.layers == ()
        assert not [name for name in disk.list("segments/7-0") if name.endswith(".layer")]

    _with_node(work)


@pytest.mark.parametrize("how", ["full", "damaged", "cancelled"])
def test_an_image_that_cannot_be_finished_leaves_no_file(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def work(disk: SimDisk, log: GroupLog, node: StorageNode) -> None:
        for page in range(1, 5):
            segment = await _append(node, log, [page], vdl=page)
            await segment.flush()
        layers = disk.list("segments/7-0")

        async def meanwhile(segment: SegmentStore) -> None:
            assert disk.list("segments/7-0") != layers
            disk.faults.full = how == "full"
            if how == "damaged":
                raise CorruptPage("read page 1")
            if how == "cancelled":
                raise asyncio.CancelledError

        monkeypatch.setattr(node, "_give_way", meanwhile)
        await asyncio.gather(node._guard(segment, node._compact(segment)), return_exceptions=True)
        assert disk.list("segments/7-0") == layers
        assert (segment.out_of_room, segment.mendable) == (how == "full", how == "damaged")

    _with_node(work)


def test_on_a_disk_that_is_nearly_full_what_is_left_is_for_the_log(monkeypatch: pytest.MonkeyPatch) -> None:
    async def work(disk: SimDisk, log: GroupLog, node: StorageNode) -> None:
        for page in range(1, 5):
            segment = await _append(node, log, [page], vdl=page)
            await segment.flush()
        free = disk.free_bytes()
        size = sum(info.size_bytes for info in segment.layers.layers)
        for room, layers in ((free - size + 1, 4), (free - size, 5)):
            monkeypatch.setattr(node_module, "_ROOM_BYTES", room)
            await node._compact(segment)
            assert (segment.state, len(segment.layers.layers)) == ("ok", layers)

    _with_node(work)


@pytest.mark.parametrize("installed", [False, True])
def test_log_of_a_segment_that_was_there_before_does_not_keep_a_node_from_opening(installed: bool) -> None:
    async def work(disk: SimDisk, log: GroupLog, node: StorageNode) -> None:
        await _append(node, log, [1, 2])
        await node.drop_segment(VOLUME, GROUP, 2)
        await node.create_segment(VOLUME, SegmentId(GROUP, 0), quorum_set("+n b c d e f", epoch=3))
        log.truncate(1)
        if installed:
            await node.segment(VOLUME, GROUP).install(log.timeline, LSN_ZERO)
        again = _node(disk.durable_copy())
        await again.open()
        # What counts may be taken: it is the same record wherever it was kept.
        assert again.segment(VOLUME, GROUP).chain.scl == (1 if installed else 0)

    _with_node(work)


def test_a_segment_half_created_is_asked_for_again_and_leaves_nothing() -> None:
    disk = SimDisk(random.Random(1))
    for name in ("delta-1.layer", "manifest.new"):
        disk.open(f"segments/7-0/{name}", create=True).append(b"of a crash")

    async def main() -> None:
        node = _node(disk)
        await node.open()
        assert node.segments == {}
        assert disk.list("segments") == []

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


# Leases


def _lease_left_s(node: StorageNode, epoch: int) -> float:
    """To a hundredth: a disk in made-up time takes some as well."""
    return round(node.lease_left_s(VOLUME, Epoch(epoch)), 2)


def test_a_newer_writer_hears_how_long_the_older_one_may_read() -> None:
    async def work(disk: SimDisk, log: GroupLog, node: StorageNode) -> None:
        await asyncio.sleep(10)
        node.grant_lease(VOLUME, _ONE)
        assert _lease_left_s(node, 2) == LEASE_S
        assert _lease_left_s(node, 1) == 0, "its own lease is none to wait for"
        await asyncio.sleep(0.75 * LEASE_S)
        assert _lease_left_s(node, 2) == 0.25 * LEASE_S
        node.grant_lease(VOLUME, _ONE)
        assert _lease_left_s(node, 2) == LEASE_S
        await asyncio.sleep(2 * LEASE_S)
        assert _lease_left_s(node, 2) == 0
        assert node.lease_left_s(VolumeId(8), Epoch(2)) == 0, "of another volume nobody asked"

    _with_node(work)


def test_a_node_that_was_started_anew_does_not_remember_its_leases_and_says_so() -> None:
    async def work(disk: SimDisk, log: GroupLog, node: StorageNode) -> None:
        await asyncio.sleep(10)
        again = _node(disk.durable_copy())
        await again.open()
        assert _lease_left_s(again, 2) == LEASE_S
        await asyncio.sleep(0.25 * LEASE_S)
        assert _lease_left_s(again, 2) == 0.75 * LEASE_S
        again.grant_lease(VOLUME, Epoch(2))
        assert _lease_left_s(again, 2) == 0

    _with_node(work)


def test_nothing_is_confirmed_to_a_writer_once_a_newer_one_is_promised() -> None:
    async def work(disk: SimDisk, log: GroupLog, node: StorageNode) -> None:
        await asyncio.sleep(10)
        await node.segment(VOLUME, GroupId(1)).promise(Epoch(2))
        with pytest.raises(StaleEpoch, match="beat in epoch 1: epoch 2 is promised"):
            node.grant_lease(VOLUME, _ONE)
        assert _lease_left_s(node, 2) == 0
        node.grant_lease(VOLUME, Epoch(2))
        assert _lease_left_s(node, 3) == LEASE_S

    _with_node(work, groups=2)


def test_a_segment_that_must_not_flush_yet_keeps_no_other_from_it(monkeypatch: pytest.MonkeyPatch) -> None:
    async def work(disk: SimDisk, log: GroupLog, node: StorageNode) -> None:
        segment, other = node.segment(VOLUME, GROUP), node.segment(VOLUME, GroupId(1))
        first = log.timeline
        records = [log.write(1) for _ in range(10)]
        segment.offer(*framed(records))
        await node.flush(segment)
        await segment.install(first.annul(Epoch(2), Lsn(5), Lsn(100)), LSN_ZERO)
        await segment.install(first.annul(Epoch(3), Lsn(8), Lsn(110)), LSN_ZERO)
        segment.offer(*framed(records[5:8]))  # the layer there is reaches further
        encoded = [encode_record(records[0])]
        frame = seal_frame(VOLUME, other.id.group, Epoch(1), LSN_ZERO, encoded, Lsn(1), Lsn(1), LSN_ZERO)
        other.offer(read_header(frame), frame)
        monkeypatch.setattr(node_module, "_NODE_FLUSH_BYTES", 1)
        assert segment.memory.size_bytes > other.memory.size_bytes
        for due in node._due_for_flush():
            await node.flush(due)
        assert segment.memory.frames
        assert not other.memory.frames

    _with_node(work, groups=2)
