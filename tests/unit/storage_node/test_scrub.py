"""Bits rot on one of six real nodes on simulated disks; the scrub finds each and puts it right."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Any, cast

import pytest

from storage_node import hot_log, scrub
from storage_node.metrics import registry_of
from storage_node.node import StorageNode
from storage_node.scrub import Report
from storage_node.segment_store import SegmentStore
from storage_node.server import StorageService
from tests.simulation.process import Process
from tests.simulation.sim_clock import SimClock
from tests.simulation.sim_disk import SimDisk
from tests.simulation.sim_transport import Network
from tests.simulation.virtual_loop import run
from tests.unit.storage_node.log_model import GROUP, VOLUME, GroupLog, framed
from volume.ids import LSN_ZERO, Epoch, PageNumber, SegmentId
from volume.quorum_set import Member, QuorumSet

_NAMES = [f"s{number}" for number in range(1, 7)]
_MEMBERS = tuple(Member(slot, name, f"{name}:1", f"az{slot // 2 + 1}") for slot, name in enumerate(_NAMES))
_PAGES = 40
_ONE = Epoch(1)


class Six:
    """A group on six nodes that all have the same."""

    def __init__(self, seed: int = 1) -> None:
        self.dice = random.Random(seed)
        self.network = Network(self.dice)
        self.log = GroupLog()
        self.nodes: dict[str, StorageNode] = {}
        self.disks = {name: SimDisk(self.dice) for name in _NAMES}

    async def start(self) -> None:
        for slot, name in enumerate(_NAMES):
            node = await self.start_node(name)
            await node.create_segment(VOLUME, SegmentId(GROUP, slot), QuorumSet(1, _MEMBERS))
            await node.segment(VOLUME, GROUP).promise(_ONE)
            await node.segment(VOLUME, GROUP).install(self.log.timeline, LSN_ZERO)

    async def start_node(self, name: str) -> StorageNode:
        host = self.network.host(name, Process(name))
        node = StorageNode(name, "az1", self.disks[name], host, SimClock(), self.dice)
        await node.open()
        await host.serve(f"{name}:1", StorageService(node).handlers())
        node.start()
        self.nodes[name] = node
        return node

    async def restart(self, name: str) -> StorageNode:
        self.network.kill(name)
        await self.nodes[name].stop()
        self.disks[name] = self.disks[name].durable_copy()
        return await self.start_node(name)

    async def stop(self) -> None:
        for name, node in self.nodes.items():
            self.network.kill(name)
            await node.stop()
        assert not self.network.bugs, self.network.bugs

    async def append(self, *pages: int) -> None:
        frames = [framed([self.log.write(page)]) for page in pages]
        for node in self.nodes.values():
            await node.settle(await node.append(VOLUME, _ONE, frames, self.log.end, LSN_ZERO))

    async def fill(self) -> None:
        """Two layers, and more in memory."""
        for _ in range(2):
            await self.append(*range(1, _PAGES + 1))
            for node in self.nodes.values():
                await node.flush(node.segment(VOLUME, GROUP))
        await self.append(*range(1, 11))

    def segment(self, name: str) -> SegmentStore:
        return self.nodes[name].segment(VOLUME, GROUP)

    def files(self, name: str, kind: str) -> list[str]:
        return [path for path in self.disks[name].paths() if path.endswith(kind)]

    async def scrubbed(self, name: str) -> Report:
        node = self.nodes[name]
        node.scrub.start()
        while node.scrub.report.running:
            await asyncio.sleep(0.01)
        return node.scrub.report

    def check(self, name: str) -> None:
        segment, end = self.segment(name), self.log.end
        assert (segment.failed, segment.chain.durable_scl) == (None, end)
        for page in range(1, _PAGES + 1):
            assert segment.read(PageNumber(page), end, end) == self.log.page_at(page, end)


def _with_six(work: Callable[[Six], Awaitable[None]], seed: int = 1) -> None:
    async def main() -> None:
        six = Six(seed)
        await six.start()
        await six.fill()
        await work(six)
        await six.stop()

    run(main())


def test_a_scrub_of_sound_disks_reads_everything_and_finds_nothing() -> None:
    async def work(six: Six) -> None:
        report = await six.scrubbed("s1")
        stored = [*six.files("s1", ".layer"), *six.files("s1", ".log")]
        assert report.bytes_total == sum(len(six.disks["s1"].read_all(path)) for path in stored)
        assert report.bytes_done == report.bytes_total
        assert (report.number, report.layers, report.frames) == (1, 2, 2 * _PAGES + 10)
        assert (report.found, report.mended, report.running) == ([], [], False)
        assert (await six.scrubbed("s1")).number == 2

    _with_six(work)


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("kind", [".layer", ".log", "manifest", "node"])
def test_a_flipped_bit_is_found_told_and_mended(kind: str, seed: int) -> None:
    async def work(six: Six) -> None:
        path = six.dice.choice(six.files("s1", kind))
        six.disks["s1"].flip_bit(path)
        report = await six.scrubbed("s1")
        assert len(report.found) == len(report.mended) == 1, report
        assert path.rpartition("/")[2] in report.found[0], "the line names the file"
        assert report.mended[0].startswith(report.found[0])
        six.check("s1")
        again = await six.scrubbed("s1")
        assert again.found == []
        await six.restart("s1")
        six.check("s1")

    _with_six(work, seed)


def test_a_damaged_layer_costs_the_segment_until_a_peers_layers_are_there() -> None:
    async def work(six: Six) -> None:
        layer = six.files("s3", ".layer")[0]
        six.disks["s3"].flip_bit(layer)
        report = await six.scrubbed("s3")
        assert report.found[0].startswith("pg0/c of volume 7: ")
        assert "a peer's layers have taken the place of its own" in report.mended[0]
        assert layer not in six.disks["s3"].paths()

    _with_six(work)


def test_prometheus_hears_of_it() -> None:
    async def work(six: Six) -> None:
        registry = registry_of(six.nodes["s1"])
        assert registry.get_sample_value("sixfold_scrub_bytes_total") == 0
        six.disks["s1"].flip_bit(six.files("s1", "manifest")[0])
        report = await six.scrubbed("s1")
        assert registry.get_sample_value("sixfold_scrub_damage_total") == 1
        read = registry.get_sample_value("sixfold_scrub_bytes_total") or 0
        assert 0 < read <= report.bytes_total

    _with_six(work)


def test_a_damaged_log_file_goes_once_all_of_it_is_in_layers() -> None:
    async def work(six: Six) -> None:
        (damaged,) = six.files("s1", ".log")
        six.disks["s1"].flip_bit(damaged)
        await six.scrubbed("s1")
        assert damaged not in six.disks["s1"].paths()
        assert six.segment("s1").flushed_lsn == six.log.end
        await six.append(1)
        six.check("s1")

    _with_six(work)


def test_a_layer_that_is_not_there_is_damage_as_well() -> None:
    async def work(six: Six) -> None:
        for layer in six.files("s1", ".layer"):
            six.disks["s1"].remove(layer)
        report = await six.scrubbed("s1")
        assert len(report.found) == len(report.mended) == 1
        six.check("s1")

    _with_six(work)


def test_layers_that_are_damaged_are_not_forgotten_by_what_is_saved_meanwhile() -> None:
    async def work(six: Six) -> None:
        six.disks["s1"].open(six.files("s1", ".layer")[0]).truncate(100)
        for name in _NAMES[1:]:
            six.network.kill(name)
        await six.restart("s1")
        assert six.segment("s1").mendable
        await six.segment("s1").join(QuorumSet(2, _MEMBERS), _ONE)
        await six.restart("s1")
        assert six.segment("s1").mendable, "it does not take what is left of it for all of it"

    _with_six(work)


def test_a_manifest_that_was_never_written_is_noticed() -> None:
    async def work(six: Six) -> None:
        (path,) = six.files("s1", "manifest")
        old = six.disks["s1"].read_all(path)
        await six.segment("s1").promise(Epoch(2))
        await six.disks["s1"].replace(path, old)
        report = await six.scrubbed("s1")
        assert "promised as it was before" in report.found[0]
        assert len(report.mended) == 1
        assert (await six.restart("s1")).segment(VOLUME, GROUP).chain.promised == 2

    _with_six(work)


def test_scrubs_on_all_nodes_leave_the_group_its_quorum(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of six copies is damaged, each elsewhere: given up all at once none could be mended."""
    monkeypatch.setattr(scrub, "_NO_PROGRESS_S", 5.0)

    async def work(six: Six) -> None:
        for name in _NAMES:
            six.disks[name].flip_bit(six.files(name, ".layer")[0])
        scrubs = asyncio.gather(*(six.scrubbed(name) for name in _NAMES))
        while not scrubs.done():
            await asyncio.sleep(0.005)
            assert sum(six.segment(name).failed is None for name in _NAMES) >= 3
        assert all(report.found for report in await scrubs)

    _with_six(work)


def test_damage_is_left_in_service_while_too_few_others_serve(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scrub, "_NO_PROGRESS_S", 2.0)

    async def work(six: Six) -> None:
        for name in ("s4", "s5"):
            six.network.kill(name)
        six.disks["s1"].flip_bit(six.files("s1", ".layer")[0])
        report = await six.scrubbed("s1")
        assert report.found[0].endswith("not mended: it serves on, since only 3 other copies of the group do")
        assert (report.mended, six.segment("s1").failed) == ([], None)

    _with_six(work)


def test_a_segment_that_cannot_be_mended_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    async def work(six: Six) -> None:
        six.segment("s1").fail("hot log: [Errno 5] Input/output error")
        report = await six.scrubbed("s1")
        assert report.found == [
            "pg0/a of volume 7: hot log: [Errno 5] Input/output error; "
            "not mended: hot log: [Errno 5] Input/output error"
        ]

    _with_six(work)


@pytest.mark.parametrize("seed", range(5))
def test_nothing_that_is_being_written_is_taken_for_damage(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hot_log, "_FILE_BYTES", 3_000)

    async def work(six: Six) -> None:
        async def load() -> None:
            for _ in range(40):
                await six.append(*six.dice.sample(range(1, _PAGES + 1), 5))
                if six.dice.random() < 0.3:
                    for node in six.nodes.values():
                        await node.flush(node.segment(VOLUME, GROUP))
                        node.release_log()

        loading = asyncio.create_task(load())
        while not loading.done():
            report = await six.scrubbed("s1")
            assert report.found == []
        await loading
        assert six.nodes["s1"].scrub.report.number > 3
        six.check("s1")

    _with_six(work, seed)


def test_once_a_day_one_begins_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scrub, "EVERY_S", 10.0)

    async def work(six: Six) -> None:
        await asyncio.sleep(45)
        assert all(3 <= node.scrub.report.number <= 5 for node in six.nodes.values())

    _with_six(work)


def test_one_that_runs_is_not_begun_again() -> None:
    async def work(six: Six) -> None:
        node = six.nodes["s1"]
        node.scrub.start()
        node.scrub.start()
        assert (node.scrub.report.number, node.scrub.report.running) == (1, True)
        await asyncio.sleep(1)
        assert (node.scrub.report.number, node.scrub.report.running) == (1, False)

    _with_six(work)


class TickingClock:
    """Each look at it takes a millisecond; rests are noted."""

    def __init__(self) -> None:
        self.at = 0.0
        self.rests: list[float] = []

    def now(self) -> float:
        return self.at

    def monotonic(self) -> float:
        self.at += 0.001
        return self.at

    async def sleep(self, seconds: float) -> None:
        self.rests.append(round(seconds, 6))


@pytest.mark.parametrize(
    ("why", "slow", "served", "factor"),
    [
        ("somebody waits, and no client", False, False, 0),
        ("clients are served", False, True, scrub._REST_FACTOR),
        ("the daily one", True, False, scrub._SLOW_REST_FACTOR),
        ("the daily one, and clients", True, True, scrub._SLOW_REST_FACTOR),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_it_rests_after_each_slice(why: str, slow: bool, served: bool, factor: int) -> None:
    clock = TickingClock()
    node = StorageNode(
        "s1", "az1", SimDisk(random.Random(1)), cast(Any, None), cast(Any, clock), random.Random(1)
    )
    node.scrub._slow = slow
    for size in (*[1] * 3 * scrub._SLICE_STEPS, scrub._SLICE_BYTES):
        node.batches += served
        await node.scrub._step(size)
    assert clock.rests[1:] == [round(factor * 0.001, 6)] * 3
