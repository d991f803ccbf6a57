"""A writer's driver: rounds of commits, and what disks and nodes that are slow do to them."""

import asyncio

import pytest

from tests.unit.volume_driver.driver_world import GROUP, World, in_world, soon


def test_a_disk_that_does_not_keep_what_it_syncs_is_found_out() -> None:
    async def story(world: World) -> None:
        driver = await world.open("w")
        await world.commit(driver)
        kept = world.disks["a"].synced("hot")
        await world.commit(driver)
        await soon(lambda: driver.nodes_seen()[0].behind == 0)
        await world.nodes["a"].stop()
        world.network.kill("a")
        world.disks["a"].unsync("hot", kept)
        world.disks["a"] = world.disks["a"].durable_copy()
        await world.start_node("a", "az1")
        await soon(lambda: driver.nodes["a"].lost_log)
        assert [seen.node for seen in driver.nodes_seen() if seen.lost_log] == ["a"]
        await soon(lambda: world.nodes["a"].segment(driver.volume, GROUP).chain.durable_scl == driver.vdl)
        await driver.stop()

    in_world(story)


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

    in_world(story)


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

    in_world(story)


def test_bulk_work_waits_a_moment_for_nodes_that_are_slow_and_no_longer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What it has not waited is saved up, and used up by the first node that is slow for long."""
    monkeypatch.setattr("db_instance.volume_driver.bulk_pace._SLOW_QUEUE_BYTES", 1)
    monkeypatch.setattr("db_instance.volume_driver.node_client._WINDOW_BYTES", 1)

    async def story(world: World) -> None:
        driver = await world.open("w")
        await world.commit(driver)

        async def waited_s() -> float:
            before = asyncio.get_running_loop().time()
            await driver.bulk_pace.give_way()
            return asyncio.get_running_loop().time() - before

        assert await waited_s() == 0.0
        world.network.cut("w", "f")
        for _ in range(3):
            await world.commit(driver)
        assert driver.nodes["f"].connected
        for at_most_s in (1.0, 0.05, 0.05):
            assert at_most_s <= await waited_s() < at_most_s + 0.01
        world.network.heal()
        await soon(lambda: driver.nodes["f"].queued_bytes == 0)
        for _ in range(4):
            assert await waited_s() == 0.0
        world.network.cut("w", "f")
        for _ in range(3):
            await world.commit(driver)
        assert 0.25 <= await waited_s() < 0.26
        world.network.heal()
        await driver.stop()

    in_world(story)


def test_bulk_work_is_on_its_way_while_there_is_more_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("db_instance.volume_driver.driver._PIPELINE_BYTES", 1)

    async def story(world: World) -> None:
        driver = await world.open("w")
        for portion in range(1, 4):
            lsn = world.append(driver)
            await driver.bulk_pace.give_way()
            assert driver._frontier.in_flight == portion, "not gathered until somebody has to wait"
        await driver.wait_durable(lsn)
        await driver.stop()

    in_world(story)
