"""One segment on a disk: what its manifest says, what it reads, what it gives to peers, how it fails."""

import asyncio
import errno
import json
import random
from collections.abc import Awaitable, Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage_node import segment_store
from storage_node.layers import layer_map
from storage_node.layers.compaction import ImageWriting
from storage_node.segment.chain import Chain
from storage_node.segment_store import SegmentStore
from tests.simulation.sim_disk import SimDisk, SimFile
from tests.simulation.virtual_loop import run
from tests.unit.storage_node.log_model import GROUP, VOLUME, GroupLog, cut, framed
from tests.unit.volume.quorum_model import quorum_set
from volume import log_batch
from volume.errors import (
    CorruptRecord,
    LsnCollected,
    NotYetComplete,
    SegmentFailed,
    StaleEpoch,
    StaleMembership,
    StaleTimeline,
    UnknownFormat,
    UnknownSegment,
)
from volume.ids import LSN_ZERO, Epoch, Lsn, PageNumber, SegmentId
from volume.log_batch import split_frames
from volume.page import checksum

_FOLDER = "segments/7-0"
_MANIFEST = f"{_FOLDER}/manifest"
_NODE = "s1"
_MEMBERSHIP = quorum_set("s1 s2 s3 s4 s5 s6+s7", epoch=3)


def _new(disk: SimDisk) -> SegmentStore:
    return SegmentStore(disk, _NODE, VOLUME, SegmentId(GROUP, 0), _MEMBERSHIP)


async def _opened(disk: SimDisk, log: GroupLog) -> SegmentStore:
    store = _new(disk)
    await store.install(log.timeline, LSN_ZERO)
    return store


def _with_store(work: Callable[[SimDisk, GroupLog, SegmentStore], Awaitable[None]]) -> SimDisk:
    disk = SimDisk(random.Random(1))

    async def main() -> None:
        log = GroupLog()
        await work(disk, log, await _opened(disk, log))

    run(main())
    return disk


def _says(store: SegmentStore) -> tuple[object, ...]:
    """What a manifest must bring back."""
    chain = store.chain
    return (
        (store.volume, store.id, store.node, store.membership, store.flushed_lsn),
        (chain.promised, chain.timeline, chain.known_vdl, chain.scl),
        (store.layers.layers, store.layers.retained_from, store.state),
    )


def _synced(store: SegmentStore) -> None:
    store.chain.on_synced(store.chain.scl)


# The manifest


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 5), st.integers(0, 3), st.integers(0, 9), st.integers(0, 3))
def test_a_manifest_comes_back_from_a_power_cut(writes: int, lost: int, vdl: int, promised_more: int) -> None:
    async def work(disk: SimDisk, log: GroupLog, store: SegmentStore) -> None:
        for page in range(1, writes + 1):
            store.offer(*framed([log.write(page)]))
        await store.flush()
        log.truncate(max(0, writes - lost))
        await store.install(log.timeline, Lsn(min(vdl, max(0, writes - lost))))
        await store.promise(Epoch(2 + promised_more))
        for found in (disk.durable_copy(), disk.crash()):
            assert _says(await SegmentStore.load(found, _NODE, _FOLDER)) == _says(store)

    _with_store(work)


def test_any_flipped_bit_of_a_manifest_is_refused() -> None:
    async def work(disk: SimDisk, log: GroupLog, store: SegmentStore) -> None:
        await store.promise(Epoch(2))
        content = disk.read_all(_MANIFEST)
        end = len(content.rstrip())
        for at in range(0, end, 3):
            damaged = bytearray(content)
            damaged[at] ^= 1 << at % 8
            other = SimDisk(random.Random(1))
            other.open(_MANIFEST, create=True).append(bytes(damaged))
            with pytest.raises(CorruptRecord):
                await SegmentStore.load(other, _NODE, _FOLDER)

    _with_store(work)


@pytest.mark.parametrize(
    ("why", "content", "refused"),
    [
        ("an empty one", b"", CorruptRecord),
        ("one cut short", b'{"format": 1', CorruptRecord),
        ("one of another format", json.dumps({"format": 99}).encode(), UnknownFormat),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_manifest_is_refused(why: str, content: bytes, refused: type[Exception]) -> None:
    disk = SimDisk(random.Random(1))
    sealed = b"%s\n%08x\n" % (content, checksum(content)) if refused is UnknownFormat else content
    disk.open(_MANIFEST, create=True).append(sealed)

    async def main() -> None:
        with pytest.raises(refused, match="manifest"):
            await SegmentStore.load(disk, _NODE, _FOLDER)

    run(main())


def test_a_segment_whose_layer_is_gone_is_failed_and_says_which() -> None:
    async def work(disk: SimDisk, log: GroupLog, store: SegmentStore) -> None:
        store.offer(*framed([log.write(1)]))
        await store.flush()
        name = store.layers.layers[0].name
        disk.remove(f"{_FOLDER}/{name}")
        loaded = await SegmentStore.load(disk, _NODE, _FOLDER)
        assert loaded.state == f"failed: layers missing or damaged: {name}"
        with pytest.raises(SegmentFailed, match=name):
            loaded.check()

    _with_store(work)


@pytest.mark.parametrize("fault", ["full", "broken"])
@pytest.mark.parametrize("step", ["promise", "install", "flush"])
def test_a_disk_that_cannot_ends_the_segment(step: str, fault: str) -> None:
    async def work(disk: SimDisk, log: GroupLog, store: SegmentStore) -> None:
        store.offer(*framed([log.write(1)]))
        _synced(store)
        before = disk.durable_copy().read_all(_MANIFEST)
        setattr(disk.faults, fault, True)
        log.truncate(1)

        async def attempt() -> None:
            match step:
                case "promise":
                    await store.promise(Epoch(5))
                case "install":
                    await store.install(log.timeline, LSN_ZERO)
                case _:
                    await store.flush()

        with pytest.raises((OSError, SegmentFailed)):
            await attempt()
        assert store.state.startswith(("failed: write manifest: ", "failed: write layer: "))
        setattr(disk.faults, fault, False)
        with pytest.raises(SegmentFailed):
            await attempt()
        assert disk.durable_copy().read_all(_MANIFEST) == before, "what was not told is not kept either"

    _with_store(work)


@pytest.mark.parametrize("cancelled", [False, True])
def test_a_flush_that_comes_to_nothing_leaves_its_log_in_memory(cancelled: bool) -> None:
    async def work(disk: SimDisk, log: GroupLog, store: SegmentStore) -> None:
        store.offer(*framed([log.write(1), log.write(2)]))
        disk.faults.slow_factor = 100.0
        flushing = asyncio.create_task(store.flush())
        await asyncio.sleep(0.001)
        store.offer(*framed([log.write(1)]))  # while the layer is on its way to the disk
        if cancelled:
            flushing.cancel()
        disk.faults.broken = not cancelled
        await asyncio.gather(flushing, return_exceptions=True)
        disk.faults.broken = False
        _synced(store)
        assert (store.memory.last_lsn, store.flushed_lsn, store.layers.layers) == (log.end, 0, ())
        for page in (1, 2):
            assert store.read(PageNumber(page), log.end, log.end) == log.page_at(page, log.end)
        if cancelled:
            await store.flush()
            again = await SegmentStore.load(disk.durable_copy(), _NODE, _FOLDER)
            for page in (1, 2):
                assert again.read(PageNumber(page), log.end, log.end) == log.page_at(page, log.end)

    _with_store(work)


def test_a_promise_is_durable_when_it_is_told_and_kept_after_that() -> None:
    async def work(disk: SimDisk, log: GroupLog, store: SegmentStore) -> None:
        await store.promise(Epoch(4))
        loaded = await SegmentStore.load(disk.durable_copy(), _NODE, _FOLDER)
        with pytest.raises(StaleEpoch):
            await loaded.promise(Epoch(3))
        await loaded.promise(Epoch(4))

    _with_store(work)


@pytest.mark.parametrize("change", ["promise", "install", "join"])
def test_what_was_asked_for_is_durable_when_it_is_told_though_the_first_to_ask_went_away(change: str) -> None:
    async def work(disk: SimDisk, log: GroupLog, store: SegmentStore) -> None:
        store.offer(*framed([log.write(1), log.write(2)]))
        log.truncate(1)

        async def ask() -> None:
            match change:
                case "promise":
                    await store.promise(Epoch(9))
                case "install":
                    await store.install(log.timeline, LSN_ZERO)
                case _:
                    await store.join(quorum_set("s1 s2 s3 s4 s5 s7", epoch=4), Epoch(9))

        disk.faults.slow_factor = 100.0
        first = asyncio.create_task(ask())
        await asyncio.sleep(0.001)
        assert not first.done()
        first.cancel()
        await ask()
        left = await SegmentStore.load(disk.durable_copy(), _NODE, _FOLDER)
        assert (left.chain.promised, left.chain.timeline) == (store.chain.promised, store.chain.timeline)
        assert left.membership == store.membership

    _with_store(work)


def test_a_timeline_that_is_not_newer_changes_nothing() -> None:
    async def work(disk: SimDisk, log: GroupLog, store: SegmentStore) -> None:
        store.offer(*framed([log.write(1), log.write(1)]))
        old = log.timeline
        log.truncate(1)
        await store.install(log.timeline, LSN_ZERO)
        said = _says(store)
        await store.install(old, LSN_ZERO)
        assert _says(store) == said
        assert store.chain.scl == 1

    _with_store(work)


# Reading

steps = st.one_of(
    st.tuples(st.just("write"), st.integers(1, 4), st.integers(1, 3)),
    st.tuples(st.just("write"), st.just(1), st.just(1)),
    st.tuples(st.sampled_from(["flush", "compact", "reload"]), st.integers(0, 50), st.just(0)),
    st.tuples(st.sampled_from(["truncate", "durable", "read", "read"]), st.integers(0, 3), st.just(0)),
)


class Driven:
    """A segment driven through its life, and the log it was given."""

    def __init__(self, disk: SimDisk, log: GroupLog, store: SegmentStore) -> None:
        self.disk, self.log, self.store = disk, log, store

    async def do(self, step: tuple[str, int, int]) -> None:
        chain, log, store = self.store.chain, self.log, self.store
        match step:
            case ("write", page, gap):
                store.offer(*framed([log.write(page, gap, cpl=True)], log.timeline.epoch))
                _synced(store)
            case ("flush", _, _):
                await store.flush()
            case ("durable", back, _):
                lsns = [LSN_ZERO, *(each.lsn for each in log.chain)]
                chain.known_vdl = max(chain.known_vdl, lsns[max(0, len(lsns) - 1 - back)])
            case ("truncate", back, _):
                above = [each.lsn for each in log.chain if each.lsn > chain.known_vdl]
                if above[-back:]:
                    log.truncate(above[-back:][0] - 1)
                    await store.install(log.timeline, chain.known_vdl)
                    _synced(store)
            case ("compact", floor, _):
                await self._compact(min(floor, chain.known_vdl))
            case ("reload", _, _):
                await self._reload()
            case _:
                self.check_reads()
                self.check_frames()

    async def _compact(self, floor: int) -> None:
        store = self.store
        store.read_floor = Lsn(floor)
        wanted = store.worth_doing()
        if wanted is None:
            return
        writing = None
        if wanted.kind != "drop":
            writing = ImageWriting(self.disk, _FOLDER, store.layers, wanted, self.log.timeline)
            for _ in writing.steps():
                pass
        await store.finish(wanted, writing)

    async def _reload(self) -> None:
        """The process dies; the manifest is read back, and the hot log gives back every frame."""
        self.disk = self.disk.kill()
        self.store = await SegmentStore.load(self.disk, _NODE, _FOLDER)
        for record in self.log.records:
            self.store.offer(*framed([record], self.log.epoch_of[record.lsn]))
        _synced(self.store)

    def check_reads(self) -> None:
        store, log = self.store, self.log
        assert (store.state, store.chain.scl) == ("ok", log.end)
        for lsn in range(store.layers.retained_from, log.lsn + 2, 2):
            if log.timeline.counts(Lsn(lsn)):
                for page in range(1, 5):
                    assert store.read(PageNumber(page), Lsn(lsn), LSN_ZERO) == log.page_at(page, lsn)

    def check_frames(self) -> None:
        """A peer that asks again and again gets everything, wherever it stands above our log's start."""
        store, log = self.store, self.log
        peer_at = [each.lsn for each in log.chain if each.lsn >= store.layers.log_start]
        for scl in [LSN_ZERO] * (store.layers.log_start == 0) + peer_at:
            peer = Chain(scl=scl, timeline=log.timeline)
            while True:
                blob, log_start = store.frames_after(peer.scl)
                assert log_start <= scl
                before = peer.scl
                for header, frame in split_frames(blob):
                    peer.offer(header, frame)
                if peer.scl == before:
                    break
            assert peer.scl == log.end
        if store.layers.log_start:
            assert store.frames_after(Lsn(store.layers.log_start - 1)) == (b"", store.layers.log_start)

    def check_report(self) -> None:
        found = self.store.report()
        vdl = self.store.chain.known_vdl
        reported = {lsn for first, last in found.runs for lsn in range(first, last + 1)}
        counted = {lsn for lsn in reported if self.log.timeline.counts(Lsn(lsn))}
        assert counted == {each.lsn for each in self.log.chain if each.lsn > vdl}
        assert set(found.cpls) == reported
        assert found.chain_base == max([0, *(each.lsn for each in self.log.chain if each.lsn <= vdl)])


@settings(max_examples=120, deadline=None)
@given(st.lists(steps, min_size=10, max_size=40))
def test_whatever_a_segment_lives_through_it_reads_gossips_and_reports_the_log(
    played: list[tuple[str, int, int]],
) -> None:
    async def work(disk: SimDisk, log: GroupLog, store: SegmentStore) -> None:
        driven = Driven(disk, log, store)
        for step in played:
            await driven.do(step)
        driven.check_reads()
        driven.check_frames()
        driven.check_report()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(segment_store, "_LONG_CHAIN", 2)
        patch.setattr(layer_map, "_LONG_CHAIN", 3)
        patch.setattr(segment_store, "_RECENT_MAX", 2)
        patch.setattr(segment_store, "GOSSIP_REPLY_BYTES_MAX", 150)
        patch.setattr(log_batch, "FRAME_BYTES_MAX", 200)
        _with_store(work)


def test_a_page_read_before_the_cut_is_not_remembered_after_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segment_store, "_LONG_CHAIN", 1)

    async def work(disk: SimDisk, log: GroupLog, store: SegmentStore) -> None:
        store.offer(*framed([log.write(1), log.write(1), log.write(1)]))
        assert store.read(PageNumber(1), Lsn(3), LSN_ZERO) == log.page_at(1, 3)
        log.truncate(2)
        await store.install(log.timeline, LSN_ZERO)
        store.offer(*framed([log.write(1)], log.timeline.epoch))
        assert store.read(PageNumber(1), log.lsn, LSN_ZERO) == log.page_at(1, log.lsn)

    _with_store(work)


def test_a_segment_that_is_behind_or_has_let_go_says_so() -> None:
    async def work(disk: SimDisk, log: GroupLog, store: SegmentStore) -> None:
        store.offer(*framed([log.write(1)]))
        with pytest.raises(NotYetComplete, match="complete to 0 of 1"):
            store.read(PageNumber(1), Lsn(1), Lsn(1))  # taken, not yet synced
        _synced(store)
        assert store.read(PageNumber(1), Lsn(1), Lsn(1)) == log.page_at(1, 1)
        store.layers.retained_from = Lsn(1)
        with pytest.raises(LsnCollected, match="kept from 1 on"):
            store.read(PageNumber(1), LSN_ZERO, LSN_ZERO)

    _with_store(work)


def test_a_gap_shows_in_the_state() -> None:
    async def work(disk: SimDisk, log: GroupLog, store: SegmentStore) -> None:
        first, second = log.write(1), log.write(1)
        store.offer(*framed([second]))
        assert store.state == "behind"
        store.offer(*framed([first]))
        assert store.state == "ok"

    _with_store(work)


# Layers of a peer


async def _copied(source: SegmentStore, disk: SimDisk, target: SegmentStore) -> dict[str, int]:
    """Names and checksums."""
    copied = {}
    for info in source.layers.layers:
        name = target.layers.new_name("copied", LSN_ZERO, LSN_ZERO)
        file = target.layers.create(name)
        data = source.layers.open_file(info.name).read(0, info.size_bytes)
        assert checksum(data) == info.crc
        file.append(data)
        await file.sync()
        copied[name] = info.crc
    return copied


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 4),
    st.integers(0, 4),
    st.integers(0, 2),
    st.sampled_from(("same", "newer", "cut")),
    st.data(),
)
def test_damaged_layers_are_replaced_by_a_peers(
    flushed: int, after: int, more: int, timeline: str, data: st.DataObject
) -> None:
    """What was acknowledged and counts is there again, and the SCL is not lower than that."""

    async def work(disk: SimDisk, log: GroupLog, ours: SegmentStore) -> None:
        other = SimDisk(random.Random(2))
        peer = await _opened(other, log)
        stores = (ours, peer)
        for turn in range(flushed):
            frame = framed([log.write(1), log.write(turn % 3 + 2)])
            for store in stores:
                store.offer(*frame)
            await ours.flush()
        for _ in range(after):
            frame = framed([log.write(1)])
            for store in stores:
                store.offer(*frame)
        acknowledged = ours.chain.scl
        ours.fail("a bit flipped", mendable=True)
        if timeline != "same":
            log.truncate(log.end if timeline == "newer" else log.chain[len(log.chain) // 2].lsn)
            await peer.install(log.timeline, LSN_ZERO)
        for _ in range(more):
            peer.offer(*framed([log.write(1)], log.timeline.epoch))
        await peer.flush()
        mended = await ours.mend(await _copied(peer, other, ours), peer.flushed_lsn, peer.chain.timeline)
        if not mended:
            assert timeline == "cut", "only what was annulled makes it wait"
            assert ours.failed is not None
            return
        counted = max((each.lsn for each in log.chain if each.lsn <= acknowledged), default=LSN_ZERO)
        assert ours.failed is None
        assert counted <= ours.chain.scl <= log.end
        ours.chain.on_synced(ours.chain.scl)
        for page in range(1, 5):
            assert ours.read(PageNumber(page), ours.chain.scl, LSN_ZERO) == log.page_at(page, ours.chain.scl)

    _with_store(work)


@pytest.mark.parametrize("mended", [False, True])
@pytest.mark.parametrize("why", ["its folder", "one of them"])
def test_a_peers_layers_of_which_one_cannot_be_had_change_nothing(
    why: str, mended: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def work(disk: SimDisk, log: GroupLog, peer: SegmentStore) -> None:
        other = SimDisk(random.Random(2))
        ours = await _opened(other, log)
        for own in (True, True, mended):
            frame = framed([log.write(1), log.write(2)])
            for store in (ours, peer) if own else (peer,):
                store.offer(*frame)
            await ours.flush()
            await peer.flush()
        last = framed([log.write(3)])
        for store in (ours, peer) if mended else (peer,):
            store.offer(*last)
        await peer.flush()
        _synced(ours)
        if mended:
            ours.fail("a bit flipped", mendable=True)
        take = ours.mend if mended else ours.adopt
        before, files, frames = _says(ours), other.list(_FOLDER), ours.memory.frames
        copied = await _copied(peer, disk, ours)
        assert len(copied) > 1

        def refuse(path: str, **_: bool) -> None:
            raise OSError(errno.EMFILE, "too many open files", path)

        with monkeypatch.context() as patch:
            if why == "its folder":
                patch.setattr(other, "sync_folder", refuse)
            else:
                opened = other.open
                patch.setattr(
                    other, "open", lambda path: (refuse if list(copied)[-1] in path else opened)(path)
                )
            with pytest.raises(OSError, match="too many open files"):
                await take(copied, peer.flushed_lsn, log.timeline)
        assert (_says(ours), other.list(_FOLDER), ours.memory.frames) == (before, files, frames)
        for page in range(1, 4):
            assert ours.read(PageNumber(page), ours.chain.scl, LSN_ZERO) == log.page_at(page, ours.chain.scl)
        assert await take(await _copied(peer, disk, ours), peer.flushed_lsn, log.timeline)
        for page in range(1, 4):
            assert ours.read(PageNumber(page), log.end, log.end) == log.page_at(page, log.end)

    _with_store(work)


def test_a_disk_that_cannot_name_a_peers_layers_ends_the_segment() -> None:
    async def work(disk: SimDisk, log: GroupLog, peer: SegmentStore) -> None:
        other = SimDisk(random.Random(2))
        ours = await _opened(other, log)
        peer.offer(*framed([log.write(1)]))
        await peer.flush()
        copied = await _copied(peer, disk, ours)
        other.faults.full = True
        with pytest.raises(SegmentFailed):
            await ours.adopt(copied, peer.flushed_lsn, log.timeline)
        assert (ours.out_of_room, ours.chain.durable_scl) == (True, 0)

    _with_store(work)


@pytest.mark.parametrize("fault", ["full", "broken"])
def test_damage_is_not_mended_once_the_disk_has_failed_as_well(fault: str) -> None:
    async def work(disk: SimDisk, log: GroupLog, peer: SegmentStore) -> None:
        other = SimDisk(random.Random(2))
        ours = await _opened(other, log)
        frame = framed([log.write(1)])
        for store in (ours, peer):
            store.offer(*frame)
        await peer.flush()
        flushing = asyncio.create_task(ours.flush())
        await asyncio.sleep(0)
        ours.fail("a bit flipped", mendable=True)
        setattr(other.faults, fault, True)
        await asyncio.gather(flushing, return_exceptions=True)
        setattr(other.faults, fault, False)
        ours.fail("another bit flipped", mendable=True)
        assert ours.state.startswith("failed: write ")
        assert (ours.mendable, ours.out_of_room) == (False, fault == "full")
        assert not await ours.mend(await _copied(peer, disk, ours), peer.flushed_lsn, log.timeline)
        assert ours.failed is not None

    _with_store(work)


def test_whoever_fails_while_it_is_mended_stays_failed() -> None:
    async def work(disk: SimDisk, log: GroupLog, peer: SegmentStore) -> None:
        other = SimDisk(random.Random(2))
        ours = await _opened(other, log)
        peer.offer(*framed([log.write(1)]))
        await peer.flush()
        ours.fail("a bit flipped", mendable=True)
        copied = await _copied(peer, disk, ours)
        mending = asyncio.create_task(ours.mend(copied, peer.flushed_lsn, log.timeline))
        await asyncio.sleep(0)
        assert not mending.done()
        ours.fail("its hot log")
        assert not await mending
        assert ours.state == "failed: its hot log"

    _with_store(work)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 6), st.integers(0, 3), st.integers(0, 4))
def test_a_peers_layers_take_the_place_of_ours(flushes: int, own: int, held: int) -> None:
    async def work(disk: SimDisk, log: GroupLog, source: SegmentStore) -> None:
        other = SimDisk(random.Random(2))
        target = await _opened(other, log)
        for turn in range(flushes):
            source.offer(*framed([log.write(1), log.write(turn % 3 + 2)]))
            await source.flush()
        for run_ in cut(log.records[: min(own, len(log.records) - 1)], [1]):
            target.offer(*framed(run_))
        complete = source.flushed_lsn
        newer = [log.write(1) for _ in range(held)]
        for record in newer:
            target.offer(*framed([record]))  # waits for the gap to close
        await target.adopt(await _copied(source, disk, target), complete, log.timeline)
        for store in (target, await SegmentStore.load(other.durable_copy(), _NODE, _FOLDER)):
            for record in newer:
                store.offer(*framed([record]))
            _synced(store)
            assert store.chain.scl == log.end
            for page in range(1, 5):
                assert store.read(PageNumber(page), log.lsn, log.end) == log.page_at(page, log.lsn)

    _with_store(work)


def test_a_peers_layers_that_end_in_annulled_log_leave_the_chain_whole() -> None:
    async def work(disk: SimDisk, log: GroupLog, source: SegmentStore) -> None:
        target = await _opened(SimDisk(random.Random(2)), log)
        source.offer(*framed([log.write(1), log.write(1), log.write(1)]))
        await source.flush()
        log.truncate(2)
        for store in (source, target):
            await store.install(log.timeline, LSN_ZERO)
        assert await target.adopt(await _copied(source, disk, target), source.flushed_lsn, log.timeline)
        new = log.write(1)
        target.offer(*framed([new], log.timeline.epoch))
        assert target.chain.scl == new.lsn

    _with_store(work)


@pytest.mark.parametrize("doing", ["flush", "adopt"])
def test_nothing_is_told_to_be_durable_before_the_manifest_names_its_layers(doing: str) -> None:
    """At every moment, what was told is what a power cut would leave."""

    async def work(disk: SimDisk, log: GroupLog, source: SegmentStore) -> None:
        other = SimDisk(random.Random(2))
        target = await _opened(other, log)
        source.offer(*framed([log.write(1), log.write(2)]))
        await source.flush()
        other.faults.slow_factor = 100.0
        if doing == "adopt":
            copied = await _copied(source, disk, target)
            task = asyncio.create_task(target.adopt(copied, source.flushed_lsn, log.timeline))
        else:
            target.offer(*framed(log.records))
            task = asyncio.create_task(target.flush())
        looks = 0
        while not task.done():
            left = await SegmentStore.load(other.durable_copy(), _NODE, _FOLDER)
            assert target.chain.durable_scl <= left.chain.scl
            assert target.released_lsn <= left.flushed_lsn
            looks += 1
            await asyncio.sleep(0.01)
        assert looks > 5
        assert target.released_lsn == source.flushed_lsn

    _with_store(work)


def test_log_of_a_new_timeline_is_taken_once_the_manifest_has_it() -> None:
    """Otherwise a power cut would leave log of a timeline that the segment knows nothing of."""

    async def work(disk: SimDisk, log: GroupLog, store: SegmentStore) -> None:
        store.offer(*framed([log.write(1), log.write(2)]))
        log.truncate(1)
        new = framed([log.write(1)], log.timeline.epoch)
        disk.faults.slow_factor = 100.0
        task = asyncio.create_task(store.install(log.timeline, LSN_ZERO))
        while store.chain.timeline != log.timeline:
            await asyncio.sleep(0)
        refused = 0
        while not task.done():
            left = disk.durable_copy()
            try:
                store.offer(*new)
            except StaleTimeline:
                refused += 1
                await asyncio.sleep(0.01)
                continue
            assert (await SegmentStore.load(left, _NODE, _FOLDER)).chain.timeline == log.timeline
        assert refused > 1
        store.offer(*new)
        assert store.chain.scl == log.end

    _with_store(work)


def test_a_copied_layer_that_is_missing_is_mended_under_another_name() -> None:
    async def work(disk: SimDisk, log: GroupLog, peer: SegmentStore) -> None:
        own_disk = SimDisk(random.Random(2))
        ours = await _opened(own_disk, log)
        peer.offer(*framed([log.write(1), log.write(2)]))
        await peer.flush()
        assert await ours.adopt(await _copied(peer, disk, ours), peer.flushed_lsn, log.timeline)
        (info,) = ours.layers.layers
        own_disk.remove(f"{_FOLDER}/{info.name}")
        again = await SegmentStore.load(own_disk, _NODE, _FOLDER)
        assert again.mendable
        assert await again.mend(await _copied(peer, disk, again), peer.flushed_lsn, log.timeline)
        for page in (1, 2):
            assert again.read(PageNumber(page), log.end, log.end) == log.page_at(page, log.end)
        assert (await SegmentStore.load(own_disk.durable_copy(), _NODE, _FOLDER)).failed is None

    _with_store(work)


def test_whoever_is_mended_knows_the_vdl_below_which_its_peer_has_no_log() -> None:
    async def work(disk: SimDisk, log: GroupLog, peer: SegmentStore) -> None:
        own_disk = SimDisk(random.Random(2))
        ours = await _opened(own_disk, log)
        for _ in range(4):
            frame = framed([log.write(1), log.write(2)])
            for store in (ours, peer):
                store.offer(*frame)
                await store.flush()
        peer.chain.known_vdl = peer.read_floor = log.end
        await _compact(peer, disk, log)
        assert [info.kind for info in peer.layers.layers] == ["image"]
        ours.fail("a bit flipped", mendable=True)
        layers = await _copied(peer, disk, ours)
        assert await ours.mend(layers, peer.flushed_lsn, log.timeline, peer.chain.known_vdl)
        assert (ours.chain.known_vdl, ours.report().runs) == (log.end, [])
        loaded = await SegmentStore.load(own_disk.durable_copy(), _NODE, _FOLDER)
        assert loaded.chain.known_vdl == log.end

    _with_store(work)


async def _compact(store: SegmentStore, disk: SimDisk, log: GroupLog) -> None:
    while (wanted := store.worth_doing()) is not None:
        if wanted.kind == "drop":
            await store.finish(wanted, None)
            continue
        writing = ImageWriting(disk, _FOLDER, store.layers, wanted, log.timeline)
        for _ in writing.steps():
            pass
        await store.finish(wanted, writing)


def test_a_tail_that_counts_again_and_comes_in_parts_is_read_and_reported() -> None:
    async def work(disk: SimDisk, log: GroupLog, store: SegmentStore) -> None:
        first = log.timeline
        records = [log.write(1) for _ in range(10)]
        for part in (records[:2], records[2:]):
            store.offer(*framed(part))
            await store.flush()
        # An opening that gets no further than to this segment annuls 6 to 10; to the next one they count.
        await store.install(first.annul(Epoch(2), Lsn(5), Lsn(100)), LSN_ZERO)
        assert store.chain.scl == 5
        await store.install(first.annul(Epoch(3), Lsn(10), Lsn(110)), LSN_ZERO)
        for part in (records[5:8], records[8:]):
            store.offer(*framed(part))
            _synced(store)
            await store.flush()
            scl = store.chain.scl
            assert store.report().runs == [(1, 10)]
            assert store.read(PageNumber(1), scl, scl) == log.page_at(1, scl)
        assert store.flushed_lsn == 10

    _with_store(work)


# Members that change


def test_a_newer_membership_is_durable_when_it_is_told_and_an_older_one_is_refused() -> None:
    async def work(disk: SimDisk, log: GroupLog, store: SegmentStore) -> None:
        newer = quorum_set("s1 s2 s3 s4 s5 s7", epoch=5)
        assert await store.join(newer, Epoch(0))
        loaded = await SegmentStore.load(disk.durable_copy(), _NODE, _FOLDER)
        assert (loaded.membership, store.membership) == (newer, newer)
        with pytest.raises(StaleMembership, match="in membership epoch 4: it is 5"):
            await store.join(quorum_set("s1 s2 s3 s4 s5 s6", epoch=4), Epoch(0))
        assert not await store.join(newer, Epoch(0)), "known already"
        assert store.membership == newer

    _with_store(work)


def test_with_a_membership_come_the_promises_of_the_group() -> None:
    async def work(disk: SimDisk, log: GroupLog, store: SegmentStore) -> None:
        assert not await store.join(_MEMBERSHIP, Epoch(7)), "it is no newer membership"
        loaded = await SegmentStore.load(disk.durable_copy(), _NODE, _FOLDER)
        for each in (store, loaded):
            with pytest.raises(StaleEpoch):
                await each.promise(Epoch(6))
        await store.join(quorum_set("s1 s2 s3 s4 s5 s6", epoch=4), Epoch(2))
        assert store.chain.promised == 7, "an older one takes nothing back"

    _with_store(work)


def test_a_disk_that_cannot_ends_the_segment_when_it_joins() -> None:
    async def work(disk: SimDisk, log: GroupLog, store: SegmentStore) -> None:
        disk.faults.broken = True
        with pytest.raises(SegmentFailed, match="write manifest"):
            await store.join(quorum_set("s1 s2 s3 s4 s5 s7", epoch=4), Epoch(0))
        assert store.failed is not None

    _with_store(work)


@pytest.mark.parametrize(("epoch", "known"), [(2, False), (3, True), (4, True)])
def test_whoever_knows_an_older_membership_is_refused(epoch: int, known: bool) -> None:
    async def work(disk: SimDisk, log: GroupLog, store: SegmentStore) -> None:
        if known:
            store.check_membership(epoch)
        else:
            with pytest.raises(StaleMembership, match=f"in membership epoch {epoch}: it is 3 now"):
                store.check_membership(epoch)

    _with_store(work)


@pytest.mark.parametrize(
    ("why", "words", "state"),
    [
        ("it votes", "s1 s2 s3 s4 s5 s6", "ok"),
        ("another one is replaced", "s1 s2 s3 s4 s5 s6+s7", "ok"),
        ("it is replaced", "s1+s7 s2 s3 s4 s5 s6", "ok"),
        ("it is the replacement", "s7+s1 s2 s3 s4 s5 s6", "filling"),
        ("it is the replacement of one that is gone", "+s1 s2 s3 s4 s5 s6", "filling"),
        ("another one has its slot", "s7 s2 s3 s4 s5 s6", "removed"),
        ("its node votes in another slot", "s7 s1 s3 s4 s5 s6", "removed"),
        ("its node fills another slot", "s7 s2+s1 s3 s4 s5 s6", "removed"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_the_membership_says_what_a_segment_is(why: str, words: str, state: str) -> None:
    async def work(disk: SimDisk, log: GroupLog, store: SegmentStore) -> None:
        await store.join(quorum_set(words, epoch=4), Epoch(0))
        assert (store.state, store.filling, store.removed) == (state, state == "filling", state == "removed")
        assert [peer.node for peer in store.peers] == [
            m.node for m in store.membership.members if m.node != "s1"
        ]

    _with_store(work)


def test_a_segment_that_is_removed_refuses_all_but_to_hear_of_it() -> None:
    async def work(disk: SimDisk, log: GroupLog, store: SegmentStore) -> None:
        store.offer(*framed([log.write(1)]))
        log.truncate(1)
        await store.join(quorum_set("s7 s2 s3 s4 s5 s6", epoch=4), Epoch(0))
        for refused in (store.promise(Epoch(9)), store.install(log.timeline, LSN_ZERO), store.flush()):
            with pytest.raises(UnknownSegment, match="s1 is no member in epoch 4"):
                await refused
        assert (store.chain.promised, store.chain.timeline.epoch, store.layers.layers) == (1, 1, ())
        assert await store.join(quorum_set("s7+s1 s2 s3 s4 s5 s6", epoch=5), Epoch(0)), "and it may come back"
        await store.promise(Epoch(9))

    _with_store(work)


def test_a_reader_is_not_served_in_a_timeline_older_than_its_own() -> None:
    async def work(disk: SimDisk, log: GroupLog, store: SegmentStore) -> None:
        store.check_timeline(Epoch(1))
        with pytest.raises(StaleTimeline, match="read in the timeline of epoch 2: pg0/a has that of 1"):
            store.check_timeline(Epoch(2))
        log.truncate(0)
        await store.install(log.timeline, LSN_ZERO)
        store.check_timeline(Epoch(2))
        store.check_timeline(Epoch(1))  # one that is newer counts nothing that is annulled

    _with_store(work)


def test_a_segment_that_is_erased_leaves_nothing_behind() -> None:
    async def work(disk: SimDisk, log: GroupLog, store: SegmentStore) -> None:
        store.offer(*framed([log.write(1)]))
        await store.flush()
        await store.erase()
        assert disk.list(_FOLDER) == []
        for found in (disk.durable_copy(), disk.crash()):
            assert not found.exists(_MANIFEST)

    _with_store(work)


def test_what_layers_hold_of_a_long_tail_is_read_once_however_often_it_is_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A large transaction stopped half way: no VDL covers any of it. Who opens the volume waits five seconds for each
    promise, and asks again: it must not take as long each time."""
    read, reads, ours = SimFile.read, 0, None

    def counted(file: SimFile, offset: int, size: int) -> bytes:
        nonlocal reads
        reads += file._disk is ours
        return read(file, offset, size)

    async def work(disk: SimDisk, log: GroupLog, store: SegmentStore) -> None:
        nonlocal ours
        ours = disk
        for _ in range(5):
            store.offer(*framed([log.write(1) for _ in range(10)]))
            _synced(store)
            await store.flush()
        monkeypatch.setattr(SimFile, "read", counted)
        preparing = asyncio.create_task(store.prepare_report())
        await asyncio.sleep(0)
        preparing.cancel()  # nobody waited so long
        await asyncio.gather(preparing, return_exceptions=True)
        of_one_layer = reads
        await store.prepare_report()
        assert reads == 5 * of_one_layer
        for _ in range(3):
            told = store.report()
            assert (told.runs, told.chain_base) == ([(1, 50)], LSN_ZERO)
        assert reads == 5 * of_one_layer
        # What comes after it is told as well.
        store.offer(*framed([log.write(1)]))
        await store.flush()
        assert store.report().runs == [(1, 51)]

    _with_store(work)
