"""Which writer may read, and until when."""

import asyncio

import pytest

from db_instance.volume_driver.opening import open_volume
from tests.simulation.sim_clock import SimClock
from tests.unit.volume.quorum_model import quorum_set as members_of
from tests.unit.volume_driver.driver_world import GROUP, READ_TIMEOUT_S, World, in_world, soon
from volume.errors import (
    LeaseExpired,
    QuorumLost,
)
from volume.ids import Epoch, PageNumber
from volume.limits import LEASE_S


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
        assert asyncio.get_running_loop().time() - began >= READ_TIMEOUT_S
        waiting = asyncio.create_task(driver.lease.wait())
        await asyncio.sleep(1)
        assert not waiting.done()
        world.network.heal()
        await waiting
        assert driver.lease.holds()
        await driver.stop()

    in_world(story)


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

    in_world(story)


def test_while_a_segment_of_group_0_is_replaced_both_confirm() -> None:
    async def story(world: World) -> None:
        driver = await world.open("w")
        await world.begin(5, "g")
        await world.tell()
        await soon(lambda: driver.members(GROUP).epoch == 2)
        world.cut("w", "a", "b", "control")
        await asyncio.sleep(3 * LEASE_S)
        assert driver.lease.holds()
        world.cut("w", "g")
        await asyncio.sleep(3 * LEASE_S)
        assert not driver.lease.holds()
        await driver.stop()

    in_world(story)


def test_members_that_have_not_confirmed_it_end_a_lease_at_once() -> None:
    async def story(world: World) -> None:
        driver = await world.open("w")
        world.cut("w", "b", "c", "control")
        await asyncio.sleep(3 * LEASE_S)
        assert driver.lease.holds(), "A, D, E and F confirm it"
        driver.on_members(GROUP, members_of("a b c d e f+g", epoch=2))
        assert not driver.lease.holds()
        await driver.stop()

    in_world(story)


def test_who_opens_the_volume_only_to_read_waits_for_the_older_writers_lease_too() -> None:
    async def story(world: World) -> None:
        old = await world.open("w")
        await world.commit(old)
        await soon(old.lease.holds)
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

    in_world(story)


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

    in_world(story)


def test_where_the_older_writer_has_no_lease_nobody_waits() -> None:
    async def story(world: World) -> None:
        old = await world.open("w")
        await old.stop()
        await asyncio.sleep(2 * LEASE_S)
        began = asyncio.get_running_loop().time()
        new = await world.open("w2")
        assert asyncio.get_running_loop().time() - began < 0.5 * LEASE_S
        await new.stop()

    in_world(story)


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

    in_world(story)


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

    in_world(story)
