"""A replacement on a real node is filled from its peers, on simulated disks and a simulated network."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Final

import pytest

from storage_node import copying
from storage_node.node import StorageNode
from storage_node.segment_store import SegmentStore
from storage_node.server import StorageService
from tests.simulation.process import Process
from tests.simulation.sim_clock import SimClock
from tests.simulation.sim_disk import SimDisk
from tests.simulation.sim_transport import Network
from tests.simulation.virtual_loop import run
from tests.unit.storage_node.log_model import GROUP, VOLUME, GroupLog, framed
from tests.unit.volume.quorum_model import quorum_set
from volume.ids import LSN_ZERO, Epoch, PageNumber, SegmentId
from volume.quorum_set import QuorumSet

_ONE: Final = Epoch(1)
_NONE: Final = Epoch(0)
_PAGES: Final = 30
_FOLDER: Final = f"segments/{VOLUME}-{GROUP}"
_FILLING: Final = quorum_set("a b c d e f+g", epoch=2)


class Seven:
    """A group on A to F, all of which have the same: two layers, and more in memory. G has nothing."""

    def __init__(self, seed: int = 1) -> None:
        self.dice = random.Random(seed)
        self.network = Network(self.dice)
        self.log = GroupLog()
        self.nodes: dict[str, StorageNode] = {}
        self.disks = {name: SimDisk(self.dice) for name in "abcdefg"}

    async def start(self) -> None:
        for slot, name in enumerate("abcdefg"):
            node = await self.start_node(name)
            if name != "g":
                await node.create_segment(VOLUME, SegmentId(GROUP, slot), quorum_set("a b c d e f"))
                await node.segment(VOLUME, GROUP).promise(_ONE)
                await node.segment(VOLUME, GROUP).install(self.log.timeline, LSN_ZERO)
        for _ in range(2):
            await self.append(*range(1, _PAGES + 1))
            for name in "abcdef":
                await self.nodes[name].flush(self.segment(name))
        await self.append(*range(1, 11))

    async def start_node(self, name: str) -> StorageNode:
        host = self.network.host(name, Process(name))
        node = self.nodes[name] = StorageNode(name, "az1", self.disks[name], host, SimClock(), self.dice)
        await node.open()
        await host.serve(f"{name}:1", StorageService(node).handlers())
        node.start()
        return node

    async def restart(self, name: str) -> None:
        self.network.kill(name)
        await self.nodes[name].stop()
        self.disks[name] = self.disks[name].crash()
        await self.start_node(name)

    async def stop(self) -> None:
        for name, node in self.nodes.items():
            self.network.kill(name)
            await node.stop()
        assert not self.network.bugs, self.network.bugs

    async def append(self, *pages: int, to: str = "abcdef") -> None:
        frames = [framed([self.log.write(page)]) for page in pages]
        for name in to:
            node = self.nodes[name]
            await node.settle(await node.append(VOLUME, _ONE, frames, self.log.end, LSN_ZERO))

    def segment(self, name: str) -> SegmentStore:
        return self.nodes[name].segment(VOLUME, GROUP)

    async def tell(self, members: QuorumSet, to: str = "abcdef") -> None:
        for name in to:
            await self.nodes[name].join(self.segment(name), members, _NONE)

    async def begin(self, members: QuorumSet = _FILLING) -> None:
        await self.tell(members)
        await self.nodes["g"].create_segment(VOLUME, SegmentId(GROUP, 5), members)

    async def until(self, condition: Callable[[], bool], within_s: float = 30.0) -> None:
        async with asyncio.timeout(within_s):
            while not condition():
                await asyncio.sleep(0.005)

    def is_filled(self, name: str = "g") -> bool:
        return self.segment(name).chain.durable_scl == self.log.end

    def check(self, name: str = "g") -> None:
        segment, end = self.segment(name), self.log.end
        assert (segment.failed, segment.chain.durable_scl) == (None, end)
        for page in range(1, _PAGES + 1):
            assert segment.read(PageNumber(page), end, end) == self.log.page_at(page, end)


def _with_seven(work: Callable[[Seven], Awaitable[None]], seed: int = 1) -> None:
    async def main() -> None:
        seven = Seven(seed)
        await seven.start()
        await work(seven)
        await seven.stop()

    run(main())


@pytest.mark.parametrize("seed", range(3))
def test_a_replacement_gets_the_layers_of_a_peer_and_then_its_log(seed: int) -> None:
    async def work(seven: Seven) -> None:
        await seven.begin()
        await seven.until(seven.is_filled)
        seven.check()
        assert seven.segment("g").state == "filling", "a vote is given, not taken"
        assert seven.segment("g").layers.layers
        await seven.restart("g")
        await seven.until(seven.is_filled)
        seven.check()

    _with_seven(work, seed)


def test_log_that_is_written_meanwhile_is_not_missed() -> None:
    async def work(seven: Seven) -> None:
        await seven.begin()
        for _ in range(20):
            await seven.append(1, 2, to="abcdef")
            await asyncio.sleep(0.05)
        await seven.until(seven.is_filled)
        seven.check()

    _with_seven(work)


def test_a_segment_that_lost_its_manifest_is_filled_in_its_own_place() -> None:
    async def work(seven: Seven) -> None:
        seven.network.kill("f")
        await seven.nodes["f"].stop()
        seven.disks["f"].flip_bit(f"{_FOLDER}/manifest")
        seven.disks["f"] = seven.disks["f"].kill()
        await seven.start_node("f")
        assert seven.nodes["f"].segments == {}
        members = quorum_set("a b c d e +f", epoch=2)
        await seven.tell(members, to="abcde")
        await seven.nodes["f"].create_segment(VOLUME, SegmentId(GROUP, 5), members)
        await seven.until(lambda: seven.is_filled("f"))
        seven.check("f")

    _with_seven(work)


def test_a_peer_whose_layers_are_damaged_spreads_nothing() -> None:
    async def work(seven: Seven) -> None:
        for name in "abcde":
            path = next(path for path in seven.disks[name].paths() if path.endswith(".layer"))
            seven.disks[name].flip_bit(path)
        await seven.begin()
        await seven.until(seven.is_filled)  # F is the one that is well, or the others are mended first
        seven.check()

    _with_seven(work)


def test_members_hear_of_newer_members_from_each_other() -> None:
    async def work(seven: Seven) -> None:
        await seven.nodes["g"].create_segment(VOLUME, SegmentId(GROUP, 5), _FILLING)
        await seven.tell(_FILLING, to="a")
        await seven.until(lambda: all(seven.segment(name).membership == _FILLING for name in "abcdefg"))
        done = quorum_set("a b c d e g", epoch=3)
        await seven.tell(done, to="b")
        await seven.until(lambda: all(seven.segment(name).membership == done for name in "abcdeg"))
        await seven.until(lambda: seven.segment("f").removed)
        assert seven.segment("g").state == "ok"

    _with_seven(work)


@pytest.mark.parametrize("after_s", [0.1, 0.2, 0.25, 0.3])
def test_what_is_dropped_while_it_is_filled_does_not_disturb_what_comes_after_it(after_s: float) -> None:
    async def work(seven: Seven) -> None:
        seven.network.faults.latency_s = (0.05, 0.05)
        await seven.begin()
        await asyncio.sleep(after_s)
        before = seven.segment("g")
        await seven.nodes["g"].drop_segment(VOLUME, GROUP, 3)
        assert seven.disks["g"].list(_FOLDER) == []
        await seven.tell(quorum_set("a b c d e f+g", epoch=4))
        await seven.nodes["g"].create_segment(VOLUME, SegmentId(GROUP, 5), quorum_set("a b c d e f+g", 4))
        await seven.until(seven.is_filled)
        await asyncio.sleep(2)
        seven.check()
        named = {info.name for info in seven.segment("g").layers.layers}
        assert named == {name for name in seven.disks["g"].list(_FOLDER) if name.endswith(".layer")}
        assert before is not seven.segment("g")
        await seven.restart("g")
        await seven.until(seven.is_filled)
        seven.check()

    _with_seven(work)


def test_whoever_waits_for_layers_of_a_segment_that_is_dropped_goes_on() -> None:
    async def work(seven: Seven) -> None:
        seven.network.faults.latency_s = (0.05, 0.05)
        await seven.begin()
        gossip = seven.nodes["g"].gossip
        waiting = asyncio.create_task(gossip._copy_layers("a:1", seven.segment("g")))
        await asyncio.sleep(0.15)
        assert not waiting.done()
        await seven.nodes["g"].drop_segment(VOLUME, GROUP, 3)
        await asyncio.wait_for(waiting, 1)

    _with_seven(work)


def test_portions_go_to_disk_while_more_comes_and_an_error_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copying, "_SYNC_AHEAD_BYTES", 100)
    monkeypatch.setattr(copying, "_SYNC_BYTES", 10)

    async def work() -> None:
        disk = SimDisk(random.Random(1))
        durable: list[int] = []
        disk.on_durable = lambda _path, data: durable.append(len(data))
        file = disk.open("x", create=True)
        portions = copying._Portions(file)
        for _ in range(3):
            file.append(bytes(50))
            await portions.sync_if_due(served=False)
        assert durable == [], "nobody has waited"
        file.append(bytes(50))
        await portions.sync_if_due(served=False)
        assert sum(durable) >= 100, "one at a time"
        await portions.settle()
        assert sum(durable) == 200
        file.append(bytes(10))
        await portions.sync_if_due(served=True)
        assert sum(durable) == 210
        file.append(bytes(100))
        await portions.sync_if_due(served=False)
        disk.faults.broken = True
        with pytest.raises(OSError, match="simulated I/O error"):
            await portions.settle()
        await portions.settle()

    run(work())


def test_a_copy_that_is_cancelled_closes_no_file_that_is_being_synced(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(copying, "_SYNC_BYTES", 100)

    async def work() -> None:
        disk = SimDisk(random.Random(1))
        disk.faults.slow_factor = 1000.0
        file = disk.open("x", create=True)
        portions = copying._Portions(file)

        async def copy() -> None:
            try:
                file.append(bytes(100))
                await portions.sync_if_due(served=True)
            finally:
                await portions.settle()

        copies = asyncio.create_task(copy())
        await asyncio.sleep(0.001)
        copies.cancel()
        with pytest.raises(asyncio.CancelledError):
            await copies
        assert disk.syncs == 1, "it was let go on to its end"

    run(work())
