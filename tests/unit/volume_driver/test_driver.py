"""A writer's driver on real storage nodes and a real control plane, in made-up time: members that change, and leases."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

import lz4.block
import pytest

from control_plane.agents import Agents
from control_plane.cluster.model import Group, Member, Node, NodeId, Reason
from control_plane.metadata.embedded import EmbeddedMetadata
from control_plane.observer import Observer
from control_plane.server import ControlServer, own_facts
from control_plane.volumes import Volumes
from db_instance.volume_driver import opening
from db_instance.volume_driver.batcher import Change
from db_instance.volume_driver.control_client import ControlClient, VolumeLayout
from db_instance.volume_driver.driver import DriverSettings, VolumeDriver
from db_instance.volume_driver.opening import Opened, open_volume
from proto import control_pb2, storage_pb2
from runtime.transport import Handlers
from storage_node.node import StorageNode
from storage_node.server import StorageService
from tests.simulation.process import Process
from tests.simulation.sim_clock import SimClock
from tests.simulation.sim_disk import SimDisk
from tests.simulation.sim_transport import Host, Network
from tests.simulation.virtual_loop import run
from tests.unit.volume.quorum_model import quorum_set as members_of
from volume import quorum_set
from volume.errors import (
    InvalidRequest,
    LeaseExpired,
    OutcomeUnknown,
    QuorumLost,
    StaleMembership,
    VolumeError,
)
from volume.ids import Epoch, GroupId, Lsn, PageNumber
from volume.limits import LEASE_S
from volume.page import ZERO_PAGE, checksum, xor_pages
from volume.redo_record import COMMIT_STAMP, FLAG_CPL

_ZONES: Final = {
    **{"a": "az1", "b": "az1", "c": "az2", "d": "az2", "e": "az3", "f": "az3"},
    **{"g": "az3"},
}
_GROUP: Final = GroupId(0)
_CONTROL: Final = "control:1"
_READ_TIMEOUT_S: Final = 5.0


class World:
    def __init__(self) -> None:
        self.dice = random.Random(1)
        self.network = Network(self.dice)
        self.nodes: dict[str, StorageNode] = {}
        self.disks: dict[str, SimDisk] = {}
        self.metadata = EmbeddedMetadata(Path(":memory:"))
        self.pages: dict[Lsn, bytes] = {}
        """What page 1 held, by LSN."""

    async def start(self) -> None:
        for name, az in _ZONES.items():
            self.disks[name] = SimDisk(self.dice)
            await self.start_node(name, az)
        host = self.network.host("control", Process("control"))
        everybody = [Node(NodeId(name), az, f"{name}:1") for name, az in _ZONES.items()]
        await self.metadata.put_nodes(everybody[:6], [])
        self.agents = Agents(host)
        observer = self.observer = Observer(self.agents, self.metadata, SimClock())
        self.volumes = Volumes(self.metadata, self.agents, observer, SimClock())
        own = own_facts("control", _CONTROL)
        edge = ControlServer(own, "w", self.metadata, self.volumes, observer, self.agents, None, lambda: None)
        await host.serve(_CONTROL, edge.handlers())
        await observer.look(1.0)
        await self.volumes.create_main(1 << 24)
        await self.metadata.put_nodes(everybody, [])
        await observer.look(1.0)
        await asyncio.sleep(2 * LEASE_S)  # what was granted before the start is over

    async def start_node(self, name: str, az: str, host: str = "") -> None:
        where = self.network.host(host or name, Process(name))
        node = self.nodes[name] = StorageNode(name, az, self.disks[name], where, SimClock(), self.dice)
        await node.open()
        await where.serve(f"{host or name}:1", StorageService(node).handlers())
        node.start()

    async def stop(self) -> None:
        for node in self.nodes.values():
            await node.stop()
        await self.volumes.close()
        await self.metadata.close()
        assert not self.network.bugs, self.network.bugs

    # Instances

    def control_of(self, instance: str) -> tuple[ControlClient, Host]:
        host = self.network.host(instance, Process(instance))
        return ControlClient(host, _CONTROL, instance), host

    async def open(self, instance: str) -> VolumeDriver:
        control, host = self.control_of(instance)
        opened = await open_volume(control, host, SimClock())
        await opened.until_leases_end(SimClock())
        return self.drive(opened, control, host)

    def drive(self, opened: Opened, control: ControlClient, host: Host) -> VolumeDriver:
        settings = DriverSettings(az="az1", commit_timeout_s=3.0, read_timeout_s=_READ_TIMEOUT_S)
        driver = VolumeDriver(opened, control, host, SimClock(), self.dice, settings)
        driver.start()
        return driver

    def append(self, driver: VolumeDriver) -> Lsn:
        """A commit that changes page 1."""
        last = driver.last_lsn
        before = self.pages.get(last, ZERO_PAGE)
        after = (last + 1).to_bytes(8, "little") + before[8:]
        payload = COMMIT_STAMP.pack(last + 1, 9) + lz4.block.compress(
            xor_pages(before, after), store_size=False
        )
        previous = last if last in self.pages else Lsn(0)
        lsn = driver.append([Change(PageNumber(1), previous, checksum(after), FLAG_CPL, payload)])
        self.pages[lsn] = after
        return lsn

    async def commit(self, driver: VolumeDriver) -> None:
        await driver.wait_durable(self.append(driver))

    async def hangs(self, driver: VolumeDriver) -> None:
        """A commit finds no write quorum."""
        with pytest.raises(OutcomeUnknown):
            await self.commit(driver)

    def cut(self, instance: str, *others: str) -> None:
        """The instance and these hear nothing of each other."""
        for other in others:
            self.network.cut(instance, other)
            self.network.cut(other, instance)

    # Members

    async def group(self) -> Group:
        return (await self.metadata.volume("main")).groups[0]

    async def begin(self, slot: int, node: str) -> None:
        group = await self.group()
        await self.metadata.begin_change(
            "main", _GROUP, group.membership_epoch, slot, NodeId(node), Reason.REPAIR
        )
        await self.volumes.create_missing()

    async def end(self, slot: int, *, keep_new: bool = True) -> None:
        group = await self.group()
        await self.metadata.end_change("main", _GROUP, group.membership_epoch, slot, keep_new=keep_new)

    async def tell(self, *names: str) -> None:
        """These members learn who the members are; without names all."""
        volume, group = await self.metadata.volume("main"), await self.group()
        by_id = {node.id: node for node in await self.metadata.nodes()}
        asked = [member for member in group.members if not names or member.node in names]
        await asyncio.gather(*(self._tell(volume, group, member, by_id) for member in asked))

    async def _tell(self, volume, group: Group, member: Member, nodes: dict[NodeId, Node]) -> None:  # type: ignore[no-untyped-def]
        await self.agents.set_membership(volume, group, member, nodes, Epoch(0))


def _in_world(work: Callable[[World], Awaitable[None]]) -> None:
    async def main() -> None:
        world = World()
        await world.start()
        await work(world)
        await world.stop()

    run(main())


async def _soon(condition: Callable[[], bool], within_s: float = 5.0) -> None:
    async with asyncio.timeout(within_s):
        while not condition():
            await asyncio.sleep(0.05)


def test_a_disk_that_does_not_keep_what_it_syncs_is_found_out() -> None:
    async def story(world: World) -> None:
        driver = await world.open("w")
        await world.commit(driver)
        kept = world.disks["a"].synced("hot")
        await world.commit(driver)
        await _soon(lambda: driver.nodes_seen()[0].behind == 0)
        await world.nodes["a"].stop()
        world.network.kill("a")
        world.disks["a"].unsync("hot", kept)
        world.disks["a"] = world.disks["a"].durable_copy()
        await world.start_node("a", "az1")
        await _soon(lambda: driver.nodes["a"].lost_log)
        assert [seen.node for seen in driver.nodes_seen() if seen.lost_log] == ["a"]
        await _soon(lambda: world.nodes["a"].segment(driver.volume, _GROUP).chain.durable_scl == driver.vdl)
        await driver.stop()

    _in_world(story)


def test_after_a_long_rest_nobody_takes_the_first_commit_for_one_that_is_stuck() -> None:
    async def story(world: World) -> None:
        driver = await world.open("w")
        await world.commit(driver)
        await asyncio.sleep(60.0)
        driver.more_to_come = lambda: 2
        lsn = world.append(driver)
        assert driver.stalled_s == 0
        async with asyncio.timeout(0):
            await driver.wait_for_room()
        await driver.wait_durable(lsn)
        await driver.stop()

    _in_world(story)


def test_a_round_waits_for_commits_that_are_to_come_once_and_not_longer() -> None:
    async def story(world: World) -> None:
        driver = await world.open("w")
        driver.more_to_come = lambda: 2
        for _ in range(3):
            before = asyncio.get_running_loop().time()
            first = world.append(driver)
            await asyncio.sleep(0.002)
            second = world.append(driver)
            await driver.wait_durable(second)
            assert driver.vdl >= first
            assert 0.003 <= asyncio.get_running_loop().time() - before < 0.02
        await driver.stop()

    _in_world(story)


def test_bulk_work_waits_a_moment_for_nodes_that_are_slow_and_no_longer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("db_instance.volume_driver.driver._SLOW_QUEUE_BYTES", 1)
    monkeypatch.setattr("db_instance.volume_driver.node_client._WINDOW_BYTES", 1)

    async def story(world: World) -> None:
        driver = await world.open("w")
        await world.commit(driver)
        await driver.wait_for_the_slow()
        world.network.cut("w", "f")
        for _ in range(3):
            await world.commit(driver)
        assert driver.nodes["f"].connected
        for at_most_s in (0.05, 0.05):
            before = asyncio.get_running_loop().time()
            await driver.wait_for_the_slow()
            assert at_most_s <= asyncio.get_running_loop().time() - before < at_most_s + 0.01
        world.network.heal()
        await _soon(lambda: driver.nodes["f"].queued_bytes == 0)
        await driver.stop()

    _in_world(story)


# Members that change


def test_a_writer_that_hears_of_a_replacement_writes_to_both() -> None:
    async def story(world: World) -> None:
        driver = await world.open("w")
        await world.commit(driver)
        world.cut("w", "control")  # storage tells it
        await world.begin(5, "g")
        await world.tell("a", "b", "c")
        await _soon(lambda: driver.members(_GROUP).epoch == 2)
        assert sorted(driver.nodes) == list("abcdefg")
        await world.commit(driver)
        await _soon(lambda: world.nodes["g"].segment(driver.volume, _GROUP).chain.durable_scl == driver.vdl)
        world.cut("w", "a", "b")
        await world.commit(driver)
        world.cut("w", "g")
        await world.hangs(driver)
        world.network.heal()
        await _soon(lambda: driver.vdl == driver.last_lsn)
        await driver.stop()

    _in_world(story)


def test_four_others_do_without_the_slot_that_changes() -> None:
    async def story(world: World) -> None:
        driver = await world.open("w")
        world.cut("w", "f", "g")
        await world.begin(5, "g")
        await world.tell("a", "b", "c", "d", "e")
        await _soon(lambda: driver.members(_GROUP).epoch == 2)
        await world.commit(driver)
        await driver.stop()

    _in_world(story)


def test_who_is_no_member_any_more_is_written_to_no_more() -> None:
    async def story(world: World) -> None:
        driver = await world.open("w")
        await world.begin(5, "g")
        await world.tell()
        await world.commit(driver)
        await world.end(5)
        await world.tell()
        await _soon(lambda: driver.members(_GROUP).epoch == 3)
        assert sorted(driver.nodes) == list("abcdeg")
        world.cut("w", "a", "b")
        await world.commit(driver)
        assert world.nodes["f"].segment(driver.volume, _GROUP).chain.scl < driver.vdl
        await driver.stop()

    _in_world(story)


def test_a_change_that_is_taken_back_leaves_the_old_member() -> None:
    async def story(world: World) -> None:
        driver = await world.open("w")
        await world.begin(5, "g")
        await world.tell()
        await world.commit(driver)
        await world.end(5, keep_new=False)
        await world.tell()
        await _soon(lambda: driver.members(_GROUP).epoch == 3)
        assert sorted(driver.nodes) == list("abcdef")
        world.cut("w", "a", "b")
        await world.commit(driver)
        await driver.stop()

    _in_world(story)


def test_a_node_that_has_moved_is_found_again() -> None:
    async def story(world: World) -> None:
        driver = await world.open("w")
        await world.commit(driver)
        for name in "abc":
            await world.nodes[name].stop()
            world.network.kill(name)
            world.disks[name] = world.disks[name].durable_copy()
            await world.start_node(name, _ZONES[name], host=f"{name}new")
        moved = {name: f"{name}new:1" if name in "abc" else f"{name}:1" for name in _ZONES}
        await world.metadata.put_nodes(
            [Node(NodeId(name), _ZONES[name], address) for name, address in moved.items()], []
        )
        await world.tell()
        await _soon(lambda: driver.members(_GROUP).epoch > 1)
        await _soon(lambda: all(driver.nodes[name].connected for name in "abc"))
        sent = driver.nodes["a"].bytes_sent
        world.cut("w", "d", "e")
        await world.commit(driver)
        assert driver.nodes["a"].bytes_sent > sent
        world.network.heal()
        await _soon(lambda: driver.group_scl()[_GROUP] == dict.fromkeys("abcdef", driver.vdl))
        await driver.stop()

    _in_world(story)


def test_what_is_in_flight_when_the_members_change_is_written_to_the_new_ones_too() -> None:
    async def story(world: World) -> None:
        driver = await world.open("w")
        await world.commit(driver)
        world.cut("w", "a", "b", "f")
        commit = asyncio.create_task(world.commit(driver))
        await asyncio.sleep(0.5)
        await world.begin(5, "g")
        await world.tell("c", "d", "e", "g")
        await _soon(lambda: driver.group_scl()[_GROUP].get("g") == driver.last_lsn)
        await asyncio.sleep(0.5)
        assert not commit.done(), "C, D and E have it, and of the fourth slot G alone"
        await world.end(5)
        await world.tell("c")
        await asyncio.wait_for(commit, 1)
        await driver.stop()

    _in_world(story)


def test_a_writer_that_missed_a_change_hears_from_all_what_they_have() -> None:
    async def story(world: World) -> None:
        driver = await world.open("w")
        await world.commit(driver)
        await world.begin(5, "g")
        await world.end(5)
        await world.tell()
        await _soon(lambda: driver.members(_GROUP).epoch == 3)
        await _soon(lambda: driver.group_scl()[_GROUP] == dict.fromkeys("abcdeg", driver.vdl))
        await driver.stop()

    _in_world(story)


def test_a_replacement_that_was_given_up_does_not_stand_for_the_next_one_on_its_node() -> None:
    async def story(world: World) -> None:
        driver = await world.open("w")
        await world.commit(driver)
        await world.begin(5, "g")
        await world.tell()
        await _soon(lambda: driver.group_scl()[_GROUP].get("g") == driver.vdl)
        await world.end(5, keep_new=False)
        epoch = (await world.group()).membership_epoch
        await world.metadata.begin_change("main", _GROUP, epoch, 4, NodeId("g"), Reason.REPAIR)
        await world.tell(*"abcdef")
        await _soon(lambda: driver.members(_GROUP).epoch == 4)
        world.cut("w", "a", "b", "control")
        await world.hangs(driver)
        assert driver.group_scl()[_GROUP]["g"] == 0
        assert not driver.lease.holds()
        await world.observer.look(1.0)
        await world.volumes.create_missing()
        await world.tell("g")
        await _soon(lambda: driver.vdl == driver.last_lsn)
        await _soon(lambda: driver.lease.holds())
        await driver.stop()

    _in_world(story)


def test_what_was_known_of_the_members_before_is_forgotten() -> None:
    async def story(world: World) -> None:
        driver = await world.open("w")
        before = driver.members(_GROUP)
        await world.begin(5, "g")
        await world.tell()
        await _soon(lambda: driver.members(_GROUP).epoch == 2)
        now = driver.members(_GROUP)
        for late in (before, now):
            driver.on_members(_GROUP, late)
        driver.on_members(GroupId(7), before)
        assert driver.members(_GROUP) == now
        await world.commit(driver)
        await driver.stop()

    _in_world(story)


def test_a_segment_that_is_filled_in_its_own_place_counts_again_when_it_votes() -> None:
    async def story(world: World) -> None:
        driver = await world.open("w")
        await world.commit(driver)
        await world.nodes["f"].drop_segment(driver.volume, _GROUP, 2)
        await world.begin(5, "f")
        await world.tell()
        await _soon(lambda: driver.members(_GROUP).epoch == 2)
        world.cut("w", "a", "b")
        await world.hangs(driver)
        await world.end(5)
        await world.tell()
        await _soon(lambda: driver.vdl == driver.last_lsn)
        await driver.stop()

    _in_world(story)


def test_a_volume_is_opened_with_a_replacement_that_has_no_vote() -> None:
    async def story(world: World) -> None:
        driver = await world.open("w")
        await world.commit(driver)
        await driver.stop()
        await world.begin(5, "g")
        await world.tell()
        again = await world.open("w2")
        assert again.vdl == driver.vdl
        assert sorted(again.nodes) == list("abcdefg")
        await world.commit(again)
        for name in "ab":
            world.network.kill(name)
            await world.nodes.pop(name).stop()
        third = await world.open("w3")
        assert (third.vdl, third.writable) == (again.vdl, True)
        world.network.kill("g")
        await world.nodes.pop("g").stop()
        fourth = await world.open("w4")
        assert not fourth.writable, "F alone is no slot: three are left"
        for each in (again, third, fourth):
            await each.stop()

    _in_world(story)


def test_an_opening_whose_members_change_meanwhile_is_begun_again() -> None:
    async def story(world: World) -> None:
        class Overtaken(ControlClient):
            async def open_volume(self) -> VolumeLayout:
                layout = await super().open_volume()
                await world.begin(5, "g")
                await world.tell("a", "b", "c")
                return layout

        host = world.network.host("w", Process("w"))
        with pytest.raises(StaleMembership):
            await open_volume(Overtaken(host, _CONTROL, "w"), host, SimClock())
        driver = await world.open("w")
        assert driver.members(_GROUP).epoch == 2
        await world.commit(driver)
        await driver.stop()

    _in_world(story)


def test_pages_are_read_from_whoever_is_a_member_now() -> None:
    async def story(world: World) -> None:
        driver = await world.open("w")
        await world.commit(driver)
        await world.begin(5, "g")
        await world.tell()
        await world.commit(driver)
        await _soon(lambda: driver.group_scl()[_GROUP].get("g") == driver.vdl)
        await world.end(5)
        await world.tell()
        await _soon(lambda: driver.members(_GROUP).epoch == 3)
        world.cut("w", *"abcdef")
        ((lsn, page),) = await driver.read_pages([PageNumber(1)], driver.vdl)
        assert (lsn, page) == (driver.vdl, world.pages[driver.vdl])
        await driver.stop()

    _in_world(story)


@pytest.mark.parametrize(
    ("why", "words", "answer_after_s", "needed", "counted"),
    [
        ("three slots", "a b c d e f", {"a": 0, "b": 0, "c": 0, "d": 9, "e": 9, "f": 9}, 3, "abc"),
        ("a moment for those that come soon", "a b c d e f", {"a": 0, "b": 0, "c": 0, "d": 0.2}, 3, "abcd"),
        ("F and G are one slot", "a b c d e f+g", {"a": 0, "f": 0, "g": 0, "b": 2, "c": 2}, 3, "abcfg"),
        ("F without G is none", "a b c d e f+g", {"a": 0, "b": 0, "f": 0}, 3, None),
        ("G without F is none", "a b c d e +g", {"a": 0, "b": 0, "g": 0}, 3, None),
        ("two slots", "a b c d e f", {"a": 0, "b": 0}, 3, None),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_an_opening_waits_for_slots(
    why: str, words: str, answer_after_s: dict[str, float], needed: int, counted: str | None
) -> None:
    async def ask(_: GroupId, member: quorum_set.Member) -> str:
        await asyncio.sleep(answer_after_s.get(member.node, 3600))
        return member.node

    async def main() -> None:
        asked = opening._in_group(_GROUP, members_of(words), ask, needed)
        if counted is None:
            with pytest.raises(QuorumLost, match="2 of 6 segments of pg0 answered, 3 are needed"):
                await asked
        else:
            found = await asked
            assert found == {node: node for node in counted}

    run(main())


def test_growth_that_failed_for_one_who_went_away_is_tried_again_for_the_next() -> None:
    async def story(world: World) -> None:
        driver = await world.open("w")
        world.cut("w", "control")
        grows = asyncio.create_task(driver.ensure_groups(driver.pages_per_group + 1))
        await asyncio.sleep(1)
        grows.cancel()
        await asyncio.sleep(30)
        world.network.heal()
        await driver.ensure_groups(driver.pages_per_group + 1)
        assert not driver.needs_groups(driver.pages_per_group + 1)
        await driver.stop()

    _in_world(story)


def test_a_node_that_joins_while_it_leaves_a_group_does_not_end_the_writer() -> None:
    async def story(world: World) -> None:
        driver = await world.open("w")
        await driver.ensure_groups(driver.pages_per_group + 1)
        await world.commit(driver)
        assert list(driver.nodes["e"].groups) == [0, 1]
        world.network.kill("e")
        await world.nodes.pop("e").stop()
        await world.begin(4, "g")
        await world.tell(*"abcdfg")
        await _soon(lambda: driver.group_scl()[_GROUP].get("g") == driver.vdl)
        # E is back, and hears nothing of its peers and the control plane yet.
        for other in (*"abcdfg", "control"):
            world.cut("e", other)
        world.disks["e"] = world.disks["e"].durable_copy()
        await world.start_node("e", "az3")
        usual, world.network.faults.latency_s = world.network.faults.latency_s, (1.5, 1.5)
        await asyncio.sleep(1.2)  # the writer is asking it
        world.network.faults.latency_s = usual
        await world.end(4)
        await world.tell("a")
        await _soon(lambda: driver.members(_GROUP).epoch == 3, 0.2)
        assert not driver.nodes["e"].connected
        await _soon(lambda: driver.nodes["e"].connected)
        await world.commit(driver)
        await asyncio.sleep(0.5)
        assert not driver.fenced.done(), driver.fenced
        await driver.stop()

    _in_world(story)


def test_what_a_segment_answered_before_it_was_given_up_does_not_count_for_the_next_one() -> None:
    async def story(world: World) -> None:
        driver = await world.open("w")
        await world.commit(driver)
        await world.begin(5, "g")
        await world.tell()
        await _soon(lambda: driver.group_scl()[_GROUP].get("g") == driver.vdl)
        for other in (*"abcdef", "control"):
            world.cut("g", other)  # it hears of no members any more
        world.cut("w", *"bdef")
        lsn = world.append(driver)
        await _soon(lambda: driver.group_scl()[_GROUP]["g"] == lsn)
        usual, world.network.faults.latency_s = world.network.faults.latency_s, (1.0, 1.0)
        driver.nodes["g"].rejoin()  # as after any break of its stream
        await asyncio.sleep(0.01)
        world.network.faults.latency_s = usual
        await world.end(5, keep_new=False)
        epoch = (await world.group()).membership_epoch
        await world.metadata.begin_change("main", _GROUP, epoch, 4, NodeId("g"), Reason.REPAIR)
        await world.tell("a")
        await _soon(lambda: driver.members(_GROUP).epoch == 4, 0.5)
        assert driver.group_scl()[_GROUP]["g"] == 0
        for other in "de":
            world.network.heal(other)
            world.cut("g", other)
        await _soon(lambda: {driver.group_scl()[_GROUP][name] for name in "acde"} == {lsn}, 10.0)
        assert driver.vdl < lsn, "of the slot of E and G only E has it: G's new segment has not been made yet"
        await driver.stop()

    _in_world(story)


def test_an_opening_that_broke_off_in_one_group_keeps_nobody_from_reading_another() -> None:
    async def story(world: World) -> None:
        driver = await world.open("w")
        await driver.ensure_groups(driver.pages_per_group + 1)
        await world.commit(driver)
        await driver.stop()
        control, host = world.control_of("x")
        opening_task = asyncio.create_task(open_volume(control, host, SimClock()))
        stores = [store for node in world.nodes.values() for store in node.segments.values()]
        while not all(store.chain.promised == 2 for store in stores):
            await asyncio.sleep(0.0001)
        for other in "abcdeg":
            world.network.cut(
                "x", other
            )  # what they have promised arrives, what is asked of them next does not
        with pytest.raises(QuorumLost):
            await opening_task
        assert world.nodes["f"].segment(driver.volume, _GROUP).chain.timeline.epoch == 2
        assert (driver.volume, GroupId(1)) not in world.nodes["f"].segments
        for name in "bcd":
            world.network.kill(name)
            await world.nodes.pop(name).stop()
        reading = await world.open("y")
        assert not reading.writable
        for page in (PageNumber(1), PageNumber(driver.pages_per_group + 1)):
            await reading.read_pages([page], reading.vdl)
        await reading.stop()

    _in_world(story)


# Leases


def test_a_writer_that_is_cut_off_reads_no_more_and_goes_on_when_it_is_back() -> None:
    async def story(world: World) -> None:
        driver = await world.open("w")
        await driver.lease.wait()
        assert driver.lease.holds()
        world.cut("w", *"abcdef", "control")
        await asyncio.sleep(0.5 * LEASE_S)
        assert driver.lease.holds(), "nobody can have acknowledged anything else yet"
        await asyncio.sleep(0.6 * LEASE_S)
        assert not driver.lease.holds()
        began = asyncio.get_running_loop().time()
        with pytest.raises(LeaseExpired):
            await driver.lease.wait()
        assert asyncio.get_running_loop().time() - began >= _READ_TIMEOUT_S
        waiting = asyncio.create_task(driver.lease.wait())
        await asyncio.sleep(1)
        assert not waiting.done()
        world.network.heal()
        await waiting
        assert driver.lease.holds()
        await driver.stop()

    _in_world(story)


@pytest.mark.parametrize(
    ("why", "cut", "holds"),
    [
        ("four confirm", ["a", "b", "control"], True),
        ("three do not", ["a", "b", "c", "control"], False),
        ("the control plane does where storage does not", ["a", "b", "c"], True),
        ("the control plane alone", list("abcdef"), True),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_lease_holds_as_long_as_somebody_confirms_it(why: str, cut: list[str], holds: bool) -> None:
    async def story(world: World) -> None:
        driver = await world.open("w")
        await driver.lease.wait()
        world.cut("w", *cut)
        for _ in range(40):
            await asyncio.sleep(0.1)
            assert driver.lease.holds() or not holds
        assert driver.lease.holds() == holds
        await driver.stop()

    _in_world(story)


def test_while_a_segment_of_group_0_is_replaced_both_confirm() -> None:
    async def story(world: World) -> None:
        driver = await world.open("w")
        await world.begin(5, "g")
        await world.tell()
        await _soon(lambda: driver.members(_GROUP).epoch == 2)
        world.cut("w", "a", "b", "control")
        await asyncio.sleep(3 * LEASE_S)
        assert driver.lease.holds()
        world.cut("w", "g")
        await asyncio.sleep(3 * LEASE_S)
        assert not driver.lease.holds()
        await driver.stop()

    _in_world(story)


def test_members_that_have_not_confirmed_it_end_a_lease_at_once() -> None:
    async def story(world: World) -> None:
        driver = await world.open("w")
        world.cut("w", "b", "c", "control")
        await asyncio.sleep(3 * LEASE_S)
        assert driver.lease.holds(), "A, D, E and F confirm it"
        driver.on_members(_GROUP, members_of("a b c d e f+g", epoch=2))
        assert not driver.lease.holds()
        await driver.stop()

    _in_world(story)


def test_who_opens_the_volume_only_to_read_waits_for_the_older_writers_lease_too() -> None:
    async def story(world: World) -> None:
        old = await world.open("w")
        await world.commit(old)
        await _soon(old.lease.holds)
        world.cut("w", "d", "e", "f")  # what it writes reaches three
        world.append(old)
        await asyncio.sleep(0.01)
        world.cut("x", "d", "e", "f")
        control, host = world.control_of("x")
        opened = await open_volume(control, host, SimClock())
        assert not opened.writable
        assert old.lease.holds()
        await opened.until_leases_end(SimClock())
        new = world.drive(opened, control, host)
        await new.lease.wait()
        assert new.vdl > old.vdl
        assert not old.lease.holds()
        await old.stop()
        await new.stop()

    _in_world(story)


@pytest.mark.parametrize("confirmed_by", ["storage", "control"])
def test_a_newer_writer_is_open_when_the_older_one_reads_no_more(confirmed_by: str) -> None:
    async def story(world: World) -> None:
        old = await world.open("w")
        await world.commit(old)
        if confirmed_by == "control":
            world.cut("w", *"abcdef")
            await asyncio.sleep(3 * LEASE_S)
        assert old.lease.holds()
        world.cut("w", *"abcdef", "control")
        new = await world.open("w2")
        assert not old.lease.holds()
        await world.commit(new)
        await old.stop()
        await new.stop()

    _in_world(story)


def test_where_the_older_writer_has_no_lease_nobody_waits() -> None:
    async def story(world: World) -> None:
        old = await world.open("w")
        await old.stop()
        await asyncio.sleep(2 * LEASE_S)
        began = asyncio.get_running_loop().time()
        new = await world.open("w2")
        assert asyncio.get_running_loop().time() - began < 0.5 * LEASE_S
        await new.stop()

    _in_world(story)


def test_a_writer_that_asks_the_control_plane_hears_that_a_newer_one_is_granted() -> None:
    async def story(world: World) -> None:
        old = await world.open("w")
        world.cut("w", *"abcdef")
        await world.metadata.grant_epoch("main", Epoch(0), "w2")
        await asyncio.wait_for(old.fenced, 5)
        with pytest.raises(LeaseExpired):
            await asyncio.sleep(2 * LEASE_S)
            await old.lease.wait()
        await old.stop()

    _in_world(story)


def test_a_volume_that_can_only_be_read_is_read_under_the_lease_of_the_control_plane() -> None:
    async def story(world: World) -> None:
        driver = await world.open("w")
        await world.commit(driver)
        await driver.stop()
        for name in "abc":
            world.network.kill(name)
            await world.nodes.pop(name).stop()
        reading = await world.open("w2")
        assert not reading.writable
        await reading.lease.wait()
        ((lsn, _),) = await reading.read_pages([PageNumber(1)], reading.vdl)
        assert lsn == driver.vdl
        world.cut("w2", "control")
        await asyncio.sleep(2 * LEASE_S)
        assert not reading.lease.holds()
        await reading.stop()
        world.network.kill("d")
        await world.nodes.pop("d").stop()
        with pytest.raises(QuorumLost):
            await world.open("w3")

    _in_world(story)


# What makes no sense


@pytest.mark.parametrize("slots", [range(5), [0, 1, 2, 3, 4, 4], range(7)])
def test_members_that_are_no_group_are_refused(slots: list[int]) -> None:
    told = [
        control_pb2.Member(slot=slot, node=f"n{i}", address="n:1", az="az1") for i, slot in enumerate(slots)
    ]
    group = control_pb2.Group(group=0, membership_epoch=1, member=told)
    volume = control_pb2.Volume(volume=1, name="main", segment_size=1 << 24, group=[group])

    async def open_volume_(_: bytes) -> bytes:
        return volume.SerializeToString()

    async def main() -> None:
        network = Network(random.Random(1))
        control = network.host("control", Process("control"))
        await control.serve(_CONTROL, Handlers({"/sixfold.control.Control/OpenVolume": open_volume_}))
        client = ControlClient(network.host("w", Process("w")), _CONTROL, "w")
        with pytest.raises(InvalidRequest, match="read members of pg0"):
            await client.open_volume()

    run(main())


def test_a_node_that_tells_members_that_are_no_group_is_not_believed() -> None:
    async def story(world: World) -> None:
        driver = await world.open("w")
        client = driver.nodes["a"]
        before = driver.members(_GROUP)
        with pytest.raises(VolumeError, match="read members of pg0 from a"):
            client._on_newer(storage_pb2.Membership(volume=1, group=0, epoch=9))
        assert driver.members(_GROUP) == before
        await driver.stop()

    _in_world(story)
