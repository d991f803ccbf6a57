"""Pages found in layers, whatever was flushed, compacted and annulled: as the naive replay has them."""

import asyncio
import errno
import random
from collections.abc import Awaitable, Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage_node.layers import layer_map
from storage_node.layers.compaction import DELTAS_MAX, ImageWriting, Plan, plan
from storage_node.layers.layer_map import LayerInfo, LayerMap
from tests.simulation.sim_disk import SimDisk
from tests.simulation.virtual_loop import run
from tests.unit.storage_node.log_model import GroupLog
from volume.errors import CorruptPage
from volume.ids import LSN_ZERO, Lsn, PageNumber
from volume.page import ZERO_PAGE
from volume.redo_record import RedoRecord, encode_record

PAGES = range(1, 6)


class Layered:
    """A log and its layers: records wait in memory, are flushed, and layers compacted, as the node does it."""

    def __init__(self) -> None:
        self.log = GroupLog()
        self.disk = SimDisk(random.Random(1))
        self.map = LayerMap(self.disk, "segments/7-0")
        self.memory: list[RedoRecord] = []
        self.flushed = LSN_ZERO
        self.in_deltas: list[RedoRecord] = []
        self.vdl = LSN_ZERO
        """Keep out of the case of test_an_image_that_ends_at_an_annulled_lsn_is_no_loss."""

    def _counts(self, wanted: Plan) -> bool:
        return self.log.timeline.counts(wanted.lsn_to)

    def write(self, page: int, gap: int = 1) -> None:
        self.memory.append(self.log.write(page, gap, cpl=True))

    async def flush(self) -> None:
        if self.memory:
            last = self.memory[-1].lsn
            body = b"".join(map(encode_record, self.memory))
            await self.map.write_delta([body], 0, self.flushed, last, self.log.timeline)
            self.in_deltas += self.memory
            self.flushed, self.memory = last, []

    def truncate(self, back: int) -> None:
        """Annul the last records, none of which was durable."""
        above = [each.lsn for each in self.log.chain if each.lsn > self.vdl]
        if above[-back:]:
            self.log.truncate(above[-back:][0] - 1)
        self.memory = [each for each in self.memory if self.log.timeline.counts(each.lsn)]

    def durable(self, back: int) -> None:
        """The VDL moves to one of the last records."""
        lsns = [each.lsn for each in self.log.chain]
        if lsns:
            self.vdl = max(self.vdl, lsns[max(0, len(lsns) - 1 - back)])

    def _counted_end(self, info: LayerInfo) -> Lsn:
        return self.map.counted_end(info, self.log.timeline)

    def compact(self, floor: int) -> Plan | None:
        """One step of what is worth doing, for readers at or above the floor."""
        wanted = plan(self.map.layers, self._counted_end, self.vdl, Lsn(min(floor, self.vdl)))
        if wanted is None:
            return None
        assert wanted.kind != "images" or self.log.timeline.counts(wanted.lsn_to)
        if wanted.kind != "drop":
            writing = ImageWriting(self.disk, "segments/7-0", self.map, wanted, self.log.timeline)
            for _ in writing.steps():
                pass
            self.map.add(writing.name, writing.crc)
        if wanted.kind != "images":
            names = [info.name for info in wanted.inputs]
            self.map.drop(names)
            self.map.retire(names)
            self.map.retained_from = max(self.map.retained_from, wanted.lsn_to)
        return wanted

    def read(self, page: int, lsn: int) -> tuple[Lsn, bytes]:
        newer = [each for each in self.memory if each.page_number == page]
        return self.map.read_page(PageNumber(page), Lsn(lsn), self.log.timeline, newer)

    def check(self) -> None:
        """Every page at every LSN that a reader may ask for."""
        for lsn in range(self.map.retained_from, self.log.lsn + 1):
            if self.log.timeline.counts(Lsn(lsn)):
                for page in PAGES:
                    assert self.read(page, lsn) == self.log.page_at(page, lsn), f"page {page} at {lsn}"


steps = st.one_of(
    st.tuples(st.just("write"), st.integers(1, 4), st.integers(1, 3)),
    st.tuples(st.just("write"), st.integers(1, 2), st.just(1)),
    st.tuples(st.sampled_from(["flush", "flush", "compact"]), st.integers(0, 60), st.just(0)),
    st.tuples(st.sampled_from(["truncate", "durable"]), st.integers(0, 3), st.just(0)),
)


async def _do(layered: Layered, step: tuple[str, int, int]) -> None:
    match step:
        case ("write", page, gap):
            layered.write(page, gap)
        case ("flush", _, _):
            await layered.flush()
        case ("compact", floor, _):
            layered.compact(floor)
        case ("truncate", back, _):
            layered.truncate(back)
        case ("durable", back, _):
            layered.durable(back)


def _played(played: list[tuple[str, int, int]], judge: Callable[[Layered], object]) -> None:
    async def main() -> None:
        layered = Layered()
        for step in played:
            await _do(layered, step)
        judge(layered)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(layer_map, "_LONG_CHAIN", 3)
        patch.setattr(layer_map, "_RECORDS_A_PORTION", 2)
        run(main())


@settings(max_examples=150, deadline=None)
@given(st.lists(steps, min_size=15, max_size=60))
def test_a_page_at_any_retained_lsn_is_the_naive_replay(played: list[tuple[str, int, int]]) -> None:
    _played(played, Layered.check)


def _lsns(layered: Layered) -> range:
    return range(layered.log.lsn + 3)


@settings(max_examples=80, deadline=None)
@given(st.lists(steps, min_size=10, max_size=50))
def test_log_and_ends_agree_with_the_list_of_records(played: list[tuple[str, int, int]]) -> None:
    def judge(layered: Layered) -> None:
        layers, timeline = layered.map, layered.log.timeline
        flushed = layered.in_deltas
        # What is annulled may be gone, and its layer with it.
        counted_end = max((each.lsn for each in flushed if timeline.counts(each.lsn)), default=0)
        assert counted_end <= layers.complete_lsn <= max((each.lsn for each in flushed), default=0)
        start = layers.log_start
        for lsn in _lsns(layered):
            if lsn >= start:
                runs = list(layers.runs_after(Lsn(lsn)))
                held = [at for run in runs for at in range(run.first, run.last + 1) if at > lsn]
                above = [each.lsn for each in flushed if each.lsn > lsn]
                assert held == [at for at in above if timeline.counts(at) or at in held]
            if lsn >= layers.retained_from:
                counted = (each.lsn for each in flushed if each.lsn <= lsn and timeline.counts(each.lsn))
                assert layers.last_counted(Lsn(lsn), timeline) == max(counted, default=0)

    _played(played, judge)


def test_an_image_that_ends_at_an_annulled_lsn_is_no_loss() -> None:
    async def main() -> None:
        layered = Layered()
        for page in (1, 2, 3):
            layered.write(page)
            await layered.flush()
        layered.durable(0)
        layered.write(4)
        await layered.flush()
        layered.truncate(1)
        layered.write(1)
        layered.durable(0)
        layered.check()
        while layered.compact(floor=99):
            layered.check()

    run(main())


def test_reads_walk_few_layers_however_long_the_history() -> None:
    async def main() -> None:
        layered = Layered()
        for turn in range(150):
            layered.write(turn % 5 + 1)
            layered.write(turn % 3 + 1)
            await layered.flush()
            layered.durable(0)
            while layered.compact(floor=layered.vdl):
                pass
            kinds = [info.kind for info in layered.map.layers]
            assert kinds.count("delta") < DELTAS_MAX + 1
            assert kinds.count("image") <= 8
        layered.check()

    run(main())


def test_a_pinned_reader_keeps_what_it_reads() -> None:
    async def main() -> None:
        layered = Layered()
        floor = 5
        for turn in range(40):
            layered.write(turn % 3 + 1)
            await layered.flush()
            layered.durable(0)
            while layered.compact(floor):
                pass
        assert layered.map.retained_from <= floor
        layered.check()

    run(main())


def _info(kind: str, lsn_from: int, lsn_to: int, size: int = 100) -> LayerInfo:
    return LayerInfo(f"{kind}-{lsn_from}-{lsn_to}", kind, Lsn(lsn_from), Lsn(lsn_to), 1, size)


def _deltas(*ends: int) -> list[LayerInfo]:
    return [_info("delta", start, end) for start, end in zip((0, *ends), ends, strict=False)]


@pytest.mark.parametrize(
    ("why", "layers", "vdl", "floor", "kind", "inputs"),
    [
        ("nothing of nothing", [], 9, 9, None, 0),
        ("three deltas may stay", _deltas(1, 2, 3), 9, 9, None, 0),
        ("four become an image", _deltas(1, 2, 3, 4), 9, 0, "images", 4),
        ("what is not durable is left out", _deltas(1, 2, 3, 4), 3, 3, None, 0),
        ("covered deltas wait for the readers", [*_deltas(1, 2, 3, 4), _info("image", 0, 4)], 9, 3, None, 0),
        ("and go once nobody reads below", [*_deltas(1, 2, 3, 4), _info("image", 0, 4)], 9, 4, "drop", 4),
        (
            "a delta above the image stays",
            [_info("delta", 4, 6), *_deltas(1, 2), _info("image", 0, 4)],
            9,
            9,
            "drop",
            2,
        ),
        (
            "images of like size become one",
            [_info("image", at, at + 1) for at in (3, 2, 1, 0)],
            9,
            9,
            "merge",
            4,
        ),
        ("not while someone reads below", [_info("image", at, at + 1) for at in (3, 2, 1, 0)], 9, 3, None, 0),
        (
            "a large one is not copied for small ones",
            [*(_info("image", at, at + 1) for at in (3, 2, 1)), _info("image", 0, 1, 1000)],
            9,
            9,
            None,
            0,
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_worth_doing(
    why: str, layers: list[LayerInfo], vdl: int, floor: int, kind: str | None, inputs: int
) -> None:
    wanted = plan(tuple(layers), lambda info: info.lsn_to, Lsn(vdl), Lsn(floor))
    assert (wanted.kind if wanted else None, len(wanted.inputs) if wanted else 0) == (kind, inputs)


def _with_one_delta(work: Callable[[Layered], Awaitable[None]]) -> None:
    async def main() -> None:
        layered = Layered()
        layered.write(1)
        layered.write(2)
        await layered.flush()
        await work(layered)

    run(main())


def test_a_page_never_written_is_zeros() -> None:
    async def work(layered: Layered) -> None:
        assert layered.read(5, 2) == (LSN_ZERO, ZERO_PAGE)
        assert layered.read(1, 0) == (LSN_ZERO, ZERO_PAGE)

    _with_one_delta(work)


def test_a_damaged_page_is_refused_and_the_others_are_served() -> None:
    async def work(layered: Layered) -> None:
        path = f"segments/7-0/{layered.map.layers[0].name}"
        content = bytearray(layered.disk.read_all(path))
        content[40] ^= 1
        copy = SimDisk(random.Random(1))
        copy.open(path, create=True).append(bytes(content))
        damaged = LayerMap(copy, "segments/7-0")
        assert await damaged.open(layered.map.layers) == []
        with pytest.raises(CorruptPage):
            damaged.read_page(PageNumber(1), Lsn(2), layered.log.timeline)
        assert damaged.read_page(PageNumber(2), Lsn(2), layered.log.timeline) == layered.log.page_at(2, 2)

    _with_one_delta(work)


def test_of_a_page_that_changes_all_the_time_one_record_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layer_map, "_LONG_CHAIN", 10)
    applied: list[int] = []
    apply = layer_map.apply_records
    monkeypatch.setattr(
        layer_map, "apply_records", lambda page, records: applied.append(len(records)) or apply(page, records)
    )

    async def main() -> None:
        layered = Layered()
        for _ in range(3):
            for _ in range(30):
                layered.write(1)
            layered.write(2)
            await layered.flush()
        applied.clear()
        assert layered.read(1, layered.log.lsn) == layered.log.page_at(1, layered.log.lsn)
        assert applied == [1]
        layered.check()

    run(main())


def test_damage_below_is_no_reason_to_lose_what_is_flushed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever reads the page comes upon it."""
    monkeypatch.setattr(layer_map, "_LONG_CHAIN", 2)

    async def work(layered: Layered) -> None:
        broken = layered.map.layers[0].name
        path = f"segments/7-0/{broken}"
        layered.disk.open(path).truncate(0)
        layered.disk.open(path).append(bytes(200))
        for _ in range(4):
            layered.write(1)
        await layered.flush()
        newest = layered.map.layers[0].name
        assert newest != broken
        assert layered.map.records_of(newest) == layered.log.records[-4:]
        with pytest.raises(CorruptPage):
            layered.read(1, layered.log.lsn)

    _with_one_delta(work)


def test_opening_names_what_is_missing_and_removes_what_is_not_named() -> None:
    async def work(layered: Layered) -> None:
        folder = "segments/7-0"
        layered.disk.open(f"{folder}/delta-0-9-77.layer", create=True).append(b"of a crash")
        layered.disk.open(f"{folder}/manifest", create=True).append(b"stays")
        known = layered.map.layers[0]
        lost = LayerInfo("delta-1-2-9.layer", "delta", Lsn(1), Lsn(2), 1, 1)
        opened = LayerMap(layered.disk, folder)
        assert await opened.open([known, lost]) == [lost.name]
        assert opened.layers == (known,)
        assert layered.disk.list(folder) == [known.name, "manifest"]
        assert int(opened.new_name("delta", Lsn(0), Lsn(1)).removesuffix(".layer").rsplit("-", 1)[1]) > 77

    _with_one_delta(work)


def test_a_layer_is_on_disk_when_writing_it_returns() -> None:
    async def work(layered: Layered) -> None:
        name = layered.map.layers[0].name
        opened = LayerMap(layered.disk.durable_copy(), "segments/7-0")
        assert await opened.open(layered.map.layers) == []
        assert opened.records_of(name) == layered.log.records

    _with_one_delta(work)


@pytest.mark.parametrize("why", ["written", "synced", "opened", "waited for"])
def test_a_layer_that_cannot_be_finished_leaves_no_file(why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def work(layered: Layered) -> None:
        disk, before = layered.disk, layered.disk.paths()
        layered.write(1)
        disk.faults.slow_factor = 100.0
        disk.faults.full = why == "written"
        if why == "opened":
            monkeypatch.setattr(layered.map, "_reader", _refuse)
        flushing = asyncio.create_task(layered.flush())
        await asyncio.sleep(0.001)
        if why == "synced":
            monkeypatch.setattr(disk, "sync_folder", _refuse)
        if why == "waited for":
            flushing.cancel()
        with pytest.raises((OSError, asyncio.CancelledError)):
            await flushing
        assert disk.paths() == before
        monkeypatch.undo()
        disk.faults.full = False
        await layered.flush()
        layered.check()

    _with_one_delta(work)


def _refuse(what: str) -> None:
    raise OSError(errno.EIO, "input/output error", what)


# Layers that a peer copies


def test_a_layer_that_a_peer_copies_stays_until_the_peer_has_it() -> None:
    async def work(layered: Layered) -> None:
        name = layered.map.layers[0].name
        path = f"segments/7-0/{name}"
        content = layered.disk.read_all(path)
        first, second = layered.map.pin([name]), layered.map.pin([name])
        layered.map.drop([name])
        layered.map.retire([name])
        assert layered.map.layers == () and layered.map.has(name)
        first()
        assert layered.disk.read_all(path) == content, "another peer copies it still"
        second()
        assert not layered.disk.exists(path)
        assert not layered.map.has(name)

    _with_one_delta(work)


def test_a_layer_that_is_pinned_and_not_retired_stays() -> None:
    async def work(layered: Layered) -> None:
        name = layered.map.layers[0].name
        layered.map.pin([name])()
        assert layered.map.has(name)
        assert layered.disk.exists(f"segments/7-0/{name}")
        assert layered.read(1, 2) == layered.log.page_at(1, 2)

    _with_one_delta(work)


def test_a_layer_that_nobody_copies_goes_at_once() -> None:
    async def work(layered: Layered) -> None:
        name = layered.map.layers[0].name
        layered.map.pin([name])()
        layered.map.drop([name])
        layered.map.retire([name])
        assert not layered.disk.exists(f"segments/7-0/{name}")
        assert not layered.map.has(name)

    _with_one_delta(work)
