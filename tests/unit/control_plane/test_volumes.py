"""Who may write and where segments are, against storage nodes made of a dictionary."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from control_plane.agents import CREATE_SEGMENT, INSTANCE_STATUS, NODE_STATUS, Agents
from control_plane.cluster.model import Member, Node, NodeId, Reason
from control_plane.metadata.embedded import EmbeddedMetadata
from control_plane.observer import Observer
from control_plane.volumes import FIRST_NODES_S, Volumes
from proto import storage_pb2
from runtime.clock import RealClock
from runtime.transport import Handlers, Server, Stream
from volume.errors import InvalidRequest, PeerUnavailable, QuorumLost, SegmentFailed, StaleEpoch
from volume.ids import LSN_ZERO, Epoch, GroupId, Lsn, VolumeId
from volume.limits import LEASE_S

NODES = [Node(NodeId(f"s{i + 1}"), f"az{i // 2 + 1}", f"h:{i}") for i in range(6)]


class StorageNodes:
    """A transport to six nodes that remember which segments they were asked for."""

    def __init__(self) -> None:
        self.down: set[str] = set()
        self.slow: set[str] = set()
        self.broken: set[str] = set()
        """Their disks have failed, and they say so."""
        self.full: set[str] = set()
        """Their disks are full, and nobody has noticed yet."""
        self.hurry = asyncio.Event()
        self.created: dict[str, set[tuple[int, int]]] = {}
        self.asked: list[tuple[str, storage_pb2.CreateSegmentRequest]] = []

    async def call(self, address: str, method: str, request: bytes, *, timeout_s: float) -> bytes:
        if address in self.down:
            raise PeerUnavailable(f"call {address}: nobody there")
        if address in self.slow:
            await self.hurry.wait()
        assert method in (CREATE_SEGMENT, NODE_STATUS), f"{method} is not {INSTANCE_STATUS}"
        if method == CREATE_SEGMENT:
            if address in self.broken | self.full:
                raise SegmentFailed(f"create at {address}: [Errno 28] No space left on device")
            wanted = storage_pb2.CreateSegmentRequest.FromString(request)
            assert len({member.slot for member in wanted.member}) == 6
            self.asked.append((address, wanted))
            self.created.setdefault(address, set()).add((wanted.group, wanted.slot))
        if address in self.broken:
            return storage_pb2.NodeStatusReply(failed="hot log: [Errno 5] disk").SerializeToString()
        return b""

    def open_stream(self, address: str, method: str) -> Stream:
        raise NotImplementedError

    async def serve(self, address: str, handlers: Handlers) -> Server:
        raise NotImplementedError

    async def close(self) -> None: ...


class StandingClock(RealClock):
    """Time passes when a test says so."""

    at_s = 100.0

    def monotonic(self) -> float:
        return self.at_s


class Cluster:
    def __init__(self, path: Path) -> None:
        self.clock = StandingClock()
        self.storage = StorageNodes()
        self.metadata = EmbeddedMetadata(path)
        agents = Agents(self.storage)
        self.observer = Observer(agents, self.metadata, RealClock())
        self.volumes = Volumes(self.metadata, agents, self.observer, self.clock)

    async def begin(self) -> None:
        await self.metadata.put_nodes(NODES, [])
        await self.observer.look(1.0)
        if self.storage.down:
            self.clock.at_s += FIRST_NODES_S
        await self.volumes.create_main(1 << 20)


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[Cluster]:
    cluster = Cluster(tmp_path / "metadata.db")
    yield cluster
    await cluster.volumes.close()
    await cluster.observer.close()
    await cluster.metadata.close()


async def created(cluster: Cluster) -> list[int]:
    return [group.created_count for group in (await cluster.metadata.volume("main")).groups]


async def test_the_first_volume_is_placed_on_six_nodes_and_opened(cluster: Cluster) -> None:
    await cluster.begin()
    assert {slot for made in cluster.storage.created.values() for _, slot in made} == set(range(6))
    opened = await cluster.volumes.open("main", "w1", Epoch(0))
    assert (opened.id, opened.epoch, opened.writer, await created(cluster)) == (1, 1, "w1", [6])


async def test_nodes_that_are_late_at_the_start_are_waited_for(cluster: Cluster) -> None:
    cluster.storage.down = {"h:5"}
    await cluster.metadata.put_nodes(NODES, [])
    await cluster.observer.look(1.0)
    await cluster.volumes.create_main(1 << 20)
    assert await created(cluster) == []
    cluster.storage.down = set()
    await cluster.observer.look(1.0)
    await cluster.volumes.create_main(1 << 20)
    assert await created(cluster) == [6]


async def test_three_that_vote_are_enough_to_open_while_the_others_are_filled_in_their_place(
    cluster: Cluster,
) -> None:
    await cluster.begin()
    for slot in range(3):
        node = NodeId(f"s{slot + 1}")
        await cluster.metadata.begin_change("main", GroupId(0), Epoch(slot + 1), slot, node, Reason.REPAIR)
    assert (await cluster.volumes.open("main", "w1", Epoch(0))).epoch == 1


async def test_without_enough_nodes_there_is_no_group_and_no_epoch(cluster: Cluster) -> None:
    await cluster.metadata.put_nodes(NODES[:5], [])
    cluster.clock.at_s += FIRST_NODES_S
    with pytest.raises(QuorumLost):
        await cluster.volumes.create_main(1 << 20)
    with pytest.raises(QuorumLost):
        await cluster.volumes.open("main", "w1", Epoch(0))
    assert (await cluster.metadata.volume("main")).epoch == 0


async def test_four_segments_are_enough_and_none_is_made_empty_from_then_on(cluster: Cluster) -> None:
    cluster.storage.down = {"h:4", "h:5"}
    await cluster.begin()
    assert (await cluster.volumes.open("main", "w1", Epoch(0))).epoch == 1
    assert await created(cluster) == [4]
    cluster.storage.down = set()
    await cluster.observer.look(1.0)
    await cluster.volumes.create_missing()
    assert await created(cluster) == [4], "the others are filled, as replacements"


async def test_three_segments_are_not_enough_and_the_others_follow(cluster: Cluster) -> None:
    cluster.storage.down = {"h:3", "h:4", "h:5"}
    await cluster.begin()
    assert await created(cluster) == [3]
    cluster.storage.down = set()
    await cluster.observer.look(1.0)
    await cluster.volumes.create_missing()
    assert await created(cluster) == [6]


async def test_three_segments_are_not(cluster: Cluster) -> None:
    cluster.storage.down = {"h:3", "h:4", "h:5"}
    await cluster.begin()
    with pytest.raises(QuorumLost):
        await cluster.volumes.open("main", "w1", Epoch(0))
    assert (await cluster.metadata.volume("main")).epoch == 0


async def test_a_group_is_added_once_however_often_it_is_asked_for(cluster: Cluster) -> None:
    await cluster.begin()
    await cluster.volumes.open("main", "w1", Epoch(0))
    asked = [cluster.volumes.add_group("main", GroupId(1), Epoch(1), Lsn(50)) for _ in range(3)]
    volumes = await asyncio.gather(*asked)
    assert [len(volume.groups) for volume in volumes] == [2, 2, 2]
    assert volumes[0].groups[1].born_lsn == 50
    assert await created(cluster) == [6, 6]


async def test_a_group_begun_before_a_crash_is_finished_when_asked_again(cluster: Cluster) -> None:
    await cluster.begin()
    await cluster.volumes.open("main", "w1", Epoch(0))
    cluster.storage.down = {node.address for node in NODES}
    with pytest.raises(QuorumLost):
        await cluster.volumes.add_group("main", GroupId(1), Epoch(1), Lsn(50))
    cluster.storage.down = {"h:0"}
    await cluster.volumes.add_group("main", GroupId(1), Epoch(1), Lsn(50))
    assert await created(cluster) == [6, 5]


NINE = [*NODES, *(Node(NodeId(f"t{az}"), f"az{az}", f"h:{5 + az}") for az in (1, 2, 3))]


@pytest.mark.parametrize("known", [True, False], ids=["failed", "full"])
async def test_a_volume_grows_where_disks_are_well(cluster: Cluster, known: bool) -> None:
    """One node in each zone is no good, and holds least: what it had is elsewhere."""
    await cluster.begin()
    await cluster.volumes.open("main", "w1", Epoch(0))
    await cluster.metadata.put_nodes(NINE, [])
    (cluster.storage.broken if known else cluster.storage.full).update({"h:6", "h:7", "h:8"})
    await cluster.observer.look(1.0)
    if not known:
        await cluster.metadata.begin_change("main", GroupId(0), Epoch(1), 0, NodeId("t1"), Reason.REPAIR)
        await cluster.metadata.begin_change("main", GroupId(0), Epoch(2), 2, NodeId("t2"), Reason.REPAIR)
        await cluster.metadata.begin_change("main", GroupId(0), Epoch(3), 4, NodeId("t3"), Reason.REPAIR)
        await cluster.volumes.create_missing()
        assert cluster.observer.refusing() == {"t1", "t2", "t3"}
        for slot in (0, 2, 4):
            await cluster.metadata.end_change("main", GroupId(0), Epoch(4 + slot // 2), slot, keep_new=False)
    await cluster.volumes.add_group("main", GroupId(1), Epoch(1), Lsn(50))
    assert await created(cluster) == [6, 6]
    assert (await cluster.volumes.open("main", "w1", Epoch(1))).epoch == 2


async def test_a_node_that_could_not_make_a_segment_is_noted(
    cluster: Cluster,
) -> None:
    cluster.storage.full = {"h:5"}
    await cluster.begin()
    assert (await created(cluster), cluster.observer.refusing()) == ([5], {"s6"})


async def test_only_the_newest_writer_may_add_a_group(cluster: Cluster) -> None:
    await cluster.begin()
    await cluster.volumes.open("main", "w1", Epoch(0))
    await cluster.volumes.open("main", "w2", Epoch(0))
    with pytest.raises(StaleEpoch):
        await cluster.volumes.add_group("main", GroupId(1), Epoch(1), LSN_ZERO)
    with pytest.raises(InvalidRequest):
        await cluster.volumes.add_group("main", GroupId(1), Epoch(3), LSN_ZERO)
    with pytest.raises(InvalidRequest):
        await cluster.volumes.add_group("main", GroupId(2), Epoch(2), LSN_ZERO)
    assert await created(cluster) == [6]


async def test_a_slow_node_is_not_waited_for_and_counts_when_it_comes(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("control_plane.volumes.SLOW_NODE_S", 0.001)
    await cluster.begin()
    await cluster.volumes.open("main", "w1", Epoch(0))
    cluster.storage.slow = {"h:5"}
    await cluster.volumes.add_group("main", GroupId(1), Epoch(1), LSN_ZERO)
    assert await created(cluster) == [6, 5]
    main = (await cluster.metadata.volume("main")).id
    assert cluster.volumes.is_asking(main, GroupId(1), NodeId("s6"))
    assert not cluster.volumes.is_asking(main, GroupId(1), NodeId("s5"))
    cluster.storage.hurry.set()
    async with asyncio.timeout(10):
        while await created(cluster) != [6, 6]:
            await asyncio.sleep(0)


async def test_a_replacement_is_asked_for_though_the_one_it_replaces_still_is(cluster: Cluster) -> None:
    await cluster.begin()
    await cluster.volumes.open("main", "w1", Epoch(0))
    cluster.storage.slow = {"h:5"}
    adding = asyncio.create_task(cluster.volumes.add_group("main", GroupId(1), Epoch(1), LSN_ZERO))
    async with asyncio.timeout(10):
        while await created(cluster) != [6, 5]:
            await asyncio.sleep(0)
    await cluster.metadata.begin_change("main", GroupId(1), Epoch(1), 5, NodeId("s6"), Reason.REPAIR)
    making = asyncio.create_task(cluster.volumes.create_missing())
    await asyncio.sleep(0)
    cluster.storage.hurry.set()
    await asyncio.gather(adding, making)
    asked = [each for address, each in cluster.storage.asked if address == "h:5" and each.group == 1]
    assert sorted(each.membership_epoch for each in asked) == [1, 2]


# Leases

MAIN = VolumeId(1)


async def test_the_newest_writer_is_confirmed_for_a_while(cluster: Cluster) -> None:
    await cluster.begin()
    await cluster.volumes.open("main", "w1", Epoch(0))
    cluster.clock.at_s += 10
    assert cluster.volumes.lease_left_s(MAIN) == 0
    assert (await cluster.volumes.confirm("main", Epoch(1))).epoch == 1
    assert cluster.volumes.lease_left_s(MAIN) == LEASE_S
    cluster.clock.at_s += 0.75 * LEASE_S
    assert cluster.volumes.lease_left_s(MAIN) == 0.25 * LEASE_S
    cluster.clock.at_s += LEASE_S
    assert cluster.volumes.lease_left_s(MAIN) == 0


async def test_a_writer_that_is_not_the_newest_is_not_confirmed(cluster: Cluster) -> None:
    await cluster.begin()
    await cluster.volumes.open("main", "w1", Epoch(0))
    await cluster.volumes.open("main", "w2", Epoch(0))
    cluster.clock.at_s += 10
    with pytest.raises(StaleEpoch, match="confirm epoch 1 of main: 2 is granted to w2"):
        await cluster.volumes.confirm("main", Epoch(1))
    assert cluster.volumes.lease_left_s(MAIN) == 0


async def test_whoever_only_looks_is_given_no_lease(cluster: Cluster) -> None:
    await cluster.begin()
    await cluster.volumes.open("main", "w1", Epoch(0))
    cluster.clock.at_s += 10
    assert (await cluster.volumes.confirm("main", Epoch(0))).epoch == 1
    assert cluster.volumes.lease_left_s(MAIN) == 0


async def test_a_lease_outlives_the_grant_of_a_newer_epoch(cluster: Cluster) -> None:
    await cluster.begin()
    await cluster.volumes.open("main", "w1", Epoch(0))
    cluster.clock.at_s += 10
    await cluster.volumes.confirm("main", Epoch(1))
    await cluster.volumes.open("main", "w2", Epoch(0))
    assert cluster.volumes.lease_left_s(MAIN) == LEASE_S


async def test_a_control_plane_that_was_started_anew_does_not_know_what_was_confirmed(
    cluster: Cluster,
) -> None:
    assert cluster.volumes.lease_left_s(MAIN) == LEASE_S
    cluster.clock.at_s += 0.75 * LEASE_S
    assert cluster.volumes.lease_left_s(MAIN) == 0.25 * LEASE_S


# Replacements


async def test_a_replacement_is_asked_for_with_all_members(cluster: Cluster) -> None:
    await cluster.begin()
    await cluster.metadata.put_nodes([Node(NodeId("s7"), "az3", "h:6")], [])
    await cluster.metadata.begin_change("main", GroupId(0), Epoch(1), 5, NodeId("s7"), Reason.REPAIR)
    await cluster.observer.look(1.0)
    await cluster.volumes.create_missing()
    (asked,) = [each for address, each in cluster.storage.asked if address == "h:6"]
    assert (asked.slot, asked.membership_epoch) == (5, 2)
    assert [(each.slot, each.node, each.filling) for each in asked.member] == [
        *((slot, f"s{slot + 1}", False) for slot in range(6)),
        (5, "s7", True),
    ]
    group = (await cluster.metadata.volume("main")).groups[0]
    assert group.replacements == (Member(5, NodeId("s7"), created=True, reason=Reason.REPAIR),)


async def test_a_replacement_makes_no_group_that_can_be_written(cluster: Cluster) -> None:
    """Four of six are needed, and a replacement has no vote yet."""
    cluster.storage.down = {"h:3", "h:4", "h:5"}
    await cluster.begin()
    await cluster.metadata.put_nodes([Node(NodeId("s7"), "az3", "h:6")], [])
    await cluster.metadata.begin_change("main", GroupId(0), Epoch(1), 5, NodeId("s7"), Reason.REPAIR)
    await cluster.observer.look(1.0)
    await cluster.volumes.create_missing()
    assert await created(cluster) == [3]
    with pytest.raises(QuorumLost):
        await cluster.volumes.open("main", "w1", Epoch(0))
