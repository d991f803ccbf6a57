"""A writer's driver while the members of its groups change."""

import asyncio
import random

import pytest

from control_plane.cluster.model import Node, NodeId, Reason
from db_instance.volume_driver import opening
from db_instance.volume_driver.control_client import ControlClient, VolumeLayout
from db_instance.volume_driver.opening import open_volume
from proto import control_pb2, storage_pb2
from runtime.transport import Handlers
from tests.simulation.process import Process
from tests.simulation.sim_clock import SimClock
from tests.simulation.sim_transport import Network
from tests.simulation.virtual_loop import run
from tests.unit.volume.quorum_model import quorum_set as members_of
from tests.unit.volume_driver.driver_world import CONTROL, GROUP, ZONES, World, in_world, soon
from volume import quorum_set
from volume.errors import (
    InvalidRequest,
    QuorumLost,
    StaleMembership,
    VolumeError,
)
from volume.ids import GroupId, PageNumber


def test_a_writer_that_hears_of_a_replacement_writes_to_both() -> None:
    async def story(world: World) -> None:
        driver = await world.open("w")
        await world.commit(driver)
        world.cut("w", "control")  # storage tells it
        await world.begin(5, "g")
        await world.tell("a", "b", "c")
        await soon(lambda: driver.members(GROUP).epoch == 2)
        assert sorted(driver.nodes) == list("abcdefg")
        await world.commit(driver)
        await soon(lambda: world.nodes["g"].segment(driver.volume, GROUP).chain.durable_scl == driver.vdl)
        world.cut("w", "a", "b")
        await world.commit(driver)
        world.cut("w", "g")
        await world.hangs(driver)
        world.network.heal()
        await soon(lambda: driver.vdl == driver.last_lsn)
        await driver.stop()

    in_world(story)


def test_four_others_do_without_the_slot_that_changes() -> None:
    async def story(world: World) -> None:
        driver = await world.open("w")
        world.cut("w", "f", "g")
        await world.begin(5, "g")
        await world.tell("a", "b", "c", "d", "e")
        await soon(lambda: driver.members(GROUP).epoch == 2)
        await world.commit(driver)
        await driver.stop()

    in_world(story)


def test_who_is_no_member_any_more_is_written_to_no_more() -> None:
    async def story(world: World) -> None:
        driver = await world.open("w")
        await world.begin(5, "g")
        await world.tell()
        await world.commit(driver)
        await world.end(5)
        await world.tell()
        await soon(lambda: driver.members(GROUP).epoch == 3)
        assert sorted(driver.nodes) == list("abcdeg")
        world.cut("w", "a", "b")
        await world.commit(driver)
        assert world.nodes["f"].segment(driver.volume, GROUP).chain.scl < driver.vdl
        await driver.stop()

    in_world(story)


def test_a_change_that_is_taken_back_leaves_the_old_member() -> None:
    async def story(world: World) -> None:
        driver = await world.open("w")
        await world.begin(5, "g")
        await world.tell()
        await world.commit(driver)
        await world.end(5, keep_new=False)
        await world.tell()
        await soon(lambda: driver.members(GROUP).epoch == 3)
        assert sorted(driver.nodes) == list("abcdef")
        world.cut("w", "a", "b")
        await world.commit(driver)
        await driver.stop()

    in_world(story)


def test_a_node_that_has_moved_is_found_again() -> None:
    async def story(world: World) -> None:
        driver = await world.open("w")
        await world.commit(driver)
        for name in "abc":
            await world.nodes[name].stop()
            world.network.kill(name)
            world.disks[name] = world.disks[name].durable_copy()
            await world.start_node(name, ZONES[name], host=f"{name}new")
        moved = {name: f"{name}new:1" if name in "abc" else f"{name}:1" for name in ZONES}
        await world.metadata.put_nodes(
            [Node(NodeId(name), ZONES[name], address) for name, address in moved.items()], []
        )
        await world.tell()
        await soon(lambda: driver.members(GROUP).epoch > 1)
        await soon(lambda: all(driver.nodes[name].connected for name in "abc"))
        sent = driver.nodes["a"].bytes_sent
        world.cut("w", "d", "e")
        await world.commit(driver)
        assert driver.nodes["a"].bytes_sent > sent
        world.network.heal()
        await soon(lambda: driver.group_scl()[GROUP] == dict.fromkeys("abcdef", driver.vdl))
        await driver.stop()

    in_world(story)


def test_what_is_in_flight_when_the_members_change_is_written_to_the_new_ones_too() -> None:
    async def story(world: World) -> None:
        driver = await world.open("w")
        await world.commit(driver)
        world.cut("w", "a", "b", "f")
        commit = asyncio.create_task(world.commit(driver))
        await asyncio.sleep(0.5)
        await world.begin(5, "g")
        await world.tell("c", "d", "e", "g")
        await soon(lambda: driver.group_scl()[GROUP].get("g") == driver.last_lsn)
        await asyncio.sleep(0.5)
        assert not commit.done(), "C, D and E have it, and of the fourth slot G alone"
        await world.end(5)
        await world.tell("c")
        await asyncio.wait_for(commit, 1)
        await driver.stop()

    in_world(story)


def test_a_writer_that_missed_a_change_hears_from_all_what_they_have() -> None:
    async def story(world: World) -> None:
        driver = await world.open("w")
        await world.commit(driver)
        await world.begin(5, "g")
        await world.end(5)
        await world.tell()
        await soon(lambda: driver.members(GROUP).epoch == 3)
        await soon(lambda: driver.group_scl()[GROUP] == dict.fromkeys("abcdeg", driver.vdl))
        await driver.stop()

    in_world(story)


def test_a_replacement_that_was_given_up_does_not_stand_for_the_next_one_on_its_node() -> None:
    async def story(world: World) -> None:
        driver = await world.open("w")
        await world.commit(driver)
        await world.begin(5, "g")
        await world.tell()
        await soon(lambda: driver.group_scl()[GROUP].get("g") == driver.vdl)
        await world.end(5, keep_new=False)
        epoch = (await world.group()).membership_epoch
        await world.metadata.begin_change("main", GROUP, epoch, 4, NodeId("g"), Reason.REPAIR)
        await world.tell(*"abcdef")
        await soon(lambda: driver.members(GROUP).epoch == 4)
        world.cut("w", "a", "b", "control")
        await world.hangs(driver)
        assert driver.group_scl()[GROUP]["g"] == 0
        assert not driver.lease.holds()
        await world.observer.look(1.0)
        await world.volumes.create_missing()
        await world.tell("g")
        await soon(lambda: driver.vdl == driver.last_lsn)
        await soon(lambda: driver.lease.holds())
        await driver.stop()

    in_world(story)


def test_what_was_known_of_the_members_before_is_forgotten() -> None:
    async def story(world: World) -> None:
        driver = await world.open("w")
        before = driver.members(GROUP)
        await world.begin(5, "g")
        await world.tell()
        await soon(lambda: driver.members(GROUP).epoch == 2)
        now = driver.members(GROUP)
        for late in (before, now):
            driver.on_members(GROUP, late)
        driver.on_members(GroupId(7), before)
        assert driver.members(GROUP) == now
        await world.commit(driver)
        await driver.stop()

    in_world(story)


def test_a_segment_that_is_filled_in_its_own_place_counts_again_when_it_votes() -> None:
    async def story(world: World) -> None:
        driver = await world.open("w")
        await world.commit(driver)
        await world.nodes["f"].drop_segment(driver.volume, GROUP, 2)
        await world.begin(5, "f")
        await world.tell()
        await soon(lambda: driver.members(GROUP).epoch == 2)
        world.cut("w", "a", "b")
        await world.hangs(driver)
        await world.end(5)
        await world.tell()
        await soon(lambda: driver.vdl == driver.last_lsn)
        await driver.stop()

    in_world(story)


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

    in_world(story)


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
            await open_volume(Overtaken(host, CONTROL, "w"), host, SimClock())
        driver = await world.open("w")
        assert driver.members(GROUP).epoch == 2
        await world.commit(driver)
        await driver.stop()

    in_world(story)


def test_pages_are_read_from_whoever_is_a_member_now() -> None:
    async def story(world: World) -> None:
        driver = await world.open("w")
        await world.commit(driver)
        await world.begin(5, "g")
        await world.tell()
        await world.commit(driver)
        await soon(lambda: driver.group_scl()[GROUP].get("g") == driver.vdl)
        await world.end(5)
        await world.tell()
        await soon(lambda: driver.members(GROUP).epoch == 3)
        world.cut("w", *"abcdef")
        ((lsn, page),) = await driver.read_pages([PageNumber(1)], driver.vdl)
        assert (lsn, page) == (driver.vdl, world.pages[driver.vdl])
        await driver.stop()

    in_world(story)


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
        asked = opening._in_group(GROUP, members_of(words), ask, needed)
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

    in_world(story)


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
        await soon(lambda: driver.group_scl()[GROUP].get("g") == driver.vdl)
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
        await soon(lambda: driver.members(GROUP).epoch == 3, 0.2)
        assert not driver.nodes["e"].connected
        await soon(lambda: driver.nodes["e"].connected)
        await world.commit(driver)
        await asyncio.sleep(0.5)
        assert not driver.fenced.done(), driver.fenced
        await driver.stop()

    in_world(story)


def test_what_a_segment_answered_before_it_was_given_up_does_not_count_for_the_next_one() -> None:
    async def story(world: World) -> None:
        driver = await world.open("w")
        await world.commit(driver)
        await world.begin(5, "g")
        await world.tell()
        await soon(lambda: driver.group_scl()[GROUP].get("g") == driver.vdl)
        for other in (*"abcdef", "control"):
            world.cut("g", other)  # it hears of no members any more
        world.cut("w", *"bdef")
        lsn = world.append(driver)
        await soon(lambda: driver.group_scl()[GROUP]["g"] == lsn)
        usual, world.network.faults.latency_s = world.network.faults.latency_s, (1.0, 1.0)
        driver.nodes["g"].rejoin()  # as after any break of its stream
        await asyncio.sleep(0.01)
        world.network.faults.latency_s = usual
        await world.end(5, keep_new=False)
        epoch = (await world.group()).membership_epoch
        await world.metadata.begin_change("main", GROUP, epoch, 4, NodeId("g"), Reason.REPAIR)
        await world.tell("a")
        await soon(lambda: driver.members(GROUP).epoch == 4, 0.5)
        assert driver.group_scl()[GROUP]["g"] == 0
        for other in "de":
            world.network.heal(other)
            world.cut("g", other)
        await soon(lambda: {driver.group_scl()[GROUP][name] for name in "acde"} == {lsn}, 10.0)
        assert driver.vdl < lsn, "of the slot of E and G only E has it: G's new segment has not been made yet"
        await driver.stop()

    in_world(story)


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
        assert world.nodes["f"].segment(driver.volume, GROUP).chain.timeline.epoch == 2
        assert (driver.volume, GroupId(1)) not in world.nodes["f"].segments
        for name in "bcd":
            world.network.kill(name)
            await world.nodes.pop(name).stop()
        reading = await world.open("y")
        assert not reading.writable
        for page in (PageNumber(1), PageNumber(driver.pages_per_group + 1)):
            await reading.read_pages([page], reading.vdl)
        await reading.stop()

    in_world(story)


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
        await control.serve(CONTROL, Handlers({"/sixfold.control.Control/OpenVolume": open_volume_}))
        client = ControlClient(network.host("w", Process("w")), CONTROL, "w")
        with pytest.raises(InvalidRequest, match="read members of pg0"):
            await client.open_volume()

    run(main())


def test_a_node_that_tells_members_that_are_no_group_is_not_believed() -> None:
    async def story(world: World) -> None:
        driver = await world.open("w")
        client = driver.nodes["a"]
        before = driver.members(GROUP)
        with pytest.raises(VolumeError, match="read members of pg0 from a"):
            client._on_newer(storage_pb2.Membership(volume=1, group=0, epoch=9))
        assert driver.members(GROUP) == before
        await driver.stop()

    in_world(story)
