"""Storage nodes join, move, are drained and scrubbed, and what is told of how well they are."""

import json
import random
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any, cast

import pytest
from structlog.testing import capture_logs

from control_plane.agents import Agents
from control_plane.cluster.health import Health, NodeHealth
from control_plane.cluster.model import Member, Node, NodeId
from control_plane.metadata.embedded import EmbeddedMetadata
from control_plane.observer import Observer
from control_plane.server import ControlServer, own_facts
from control_plane.supervisor import Supervisor
from proto import control_pb2 as pb
from proto import storage_pb2
from runtime.clock import RealClock
from volume.errors import InvalidRequest, PeerUnavailable
from volume.ids import GroupId, Lsn

NODES = [Node(NodeId(f"s{i + 1}"), f"az{i // 2 + 1}", f"h:{i}") for i in range(6)]
SIX = tuple(Member(slot, node.id) for slot, node in enumerate(NODES))


class NodeAgents:
    """s2 does not answer; of the others each has been asked so often. At h:7 is one that is no member yet."""

    def __init__(self) -> None:
        self.started: dict[str, int] = {}

    async def who_is(self, address: str) -> tuple[str, str]:
        if address != "h:7":
            raise PeerUnavailable(f"call {address}: nobody there")
        return "s7", "az1"

    async def scrub(self, address: str, *, start: bool) -> storage_pb2.ScrubReply:
        if address == "h:1":
            raise PeerUnavailable("it is away")
        self.started[address] = self.started.get(address, 0) + start
        return storage_pb2.ScrubReply(
            running=True,
            bytes_done=1,
            bytes_total=2,
            layers=3,
            frames=4,
            found=["a", "b"],
            mended=["a; so"],
            number=5,
        )


class LeftOver:
    """The processes of a local cluster: s7 stays there, as if the control plane always died too early."""

    def __init__(self) -> None:
        self.removed: list[str] = []

    def has_storage(self, id: str) -> bool:
        return id == "s7"

    async def remove_storage(self, id: str) -> None:
        self.removed.append(id)


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[EmbeddedMetadata]:
    store = EmbeddedMetadata(tmp_path / "metadata.db")
    await store.put_nodes(NODES, [])
    await store.create_volume("main", 1 << 20)
    for group in range(2):
        await store.add_group("main", GroupId(group), Lsn(0), SIX)
    yield store
    await store.close()


def server(store: EmbeddedMetadata, agents: Any, local: Any = None) -> ControlServer:
    nothing = cast(Any, None)
    return ControlServer(
        own_facts("control", ""), "main", store, nothing, nothing, cast(Agents, agents), local, lambda: None
    )


async def epochs(store: EmbeddedMetadata) -> list[int]:
    return [group.membership_epoch for group in (await store.volume("main")).groups]


async def test_members_that_moved_are_told_to_the_others_as_a_new_membership(store: EmbeddedMetadata) -> None:
    await store.put_nodes(NODES, [])
    await store.put_nodes([Node(NodeId("s7"), "az1", "h:7")], [])
    assert await epochs(store) == [1, 1], "nobody has moved, and nobody's peer has"
    await store.put_nodes([Node(node.id, node.az, f"{node.address}0") for node in NODES], [])
    assert await epochs(store) == [2, 2], "once, however many have"
    await store.put_nodes([Node(NodeId("s7"), "az1", "h:70")], [])
    assert await epochs(store) == [2, 2]


async def test_a_node_joins(store: EmbeddedMetadata) -> None:
    edge = server(store, NodeAgents())
    for _ in range(2):
        await edge.add_node(pb.AddNodeRequest(node="s7", az="az1", address="h:7"))
    assert (await store.nodes())[-1] == Node(NodeId("s7"), "az1", "h:7")
    assert await epochs(store) == [1, 1]


@pytest.mark.parametrize(
    ("id", "az", "address", "why"),
    [
        ("s8", "az1", "", "a name, a zone and an address"),
        ("s6", "az3", "h:7", "add s6: it is there already, in az3 at h:5"),
        ("s6", "az1", "h:5", "add s6: it is there already, in az3 at h:5"),
        ("s8", "az3", "h:5", "add s8: at h:5 is s6"),
        ("s8", "az1", "h:7", "add s8 in az1: at h:7 is s7 in az1"),
        ("s7", "az2", "h:7", "add s7 in az2: at h:7 is s7 in az1"),
        ("s8", "az1", "h:8", "call h:8: nobody there"),
    ],
)
async def test_a_node_that_is_not_what_was_said_does_not_join(
    store: EmbeddedMetadata, id: str, az: str, address: str, why: str
) -> None:
    with pytest.raises((InvalidRequest, PeerUnavailable), match=why):
        await server(store, NodeAgents()).add_node(pb.AddNodeRequest(node=id, az=az, address=address))
    assert await store.nodes() == tuple(NODES)


async def test_a_node_that_this_control_plane_is_to_start_joins_before_it_answers(
    store: EmbeddedMetadata,
) -> None:
    await server(store, NodeAgents(), LeftOver()).add_node(
        pb.AddNodeRequest(node="s7", az="az2", address="h:70")
    )
    assert (await store.nodes())[-1] == Node(NodeId("s7"), "az2", "h:70")


async def test_a_drain_says_what_is_left_and_is_undone(store: EmbeddedMetadata) -> None:
    edge = server(store, None)
    assert (await edge.drain(pb.DrainRequest(node="s3"))).segments == 2
    assert [node.id for node in await store.nodes() if node.draining] == ["s3"]
    await edge.drain(pb.DrainRequest(node="s3", undo=True))
    assert not any(node.draining for node in await store.nodes())
    with pytest.raises(InvalidRequest, match="no storage node of that name"):
        await edge.drain(pb.DrainRequest(node="s99"))


async def test_what_is_left_of_a_removal_is_done_when_it_is_asked_again(store: EmbeddedMetadata) -> None:
    local = LeftOver()
    edge = server(store, None, local)
    await store.put_nodes([Node(NodeId("s7"), "az1", "h:7")], [])
    with pytest.raises(InvalidRequest, match="drain it first"):
        await edge.remove_node(pb.RemoveNodeRequest(node="s6"))
    assert local.removed == []
    for _ in range(2):
        await edge.remove_node(pb.RemoveNodeRequest(node="s7"))
        assert [node.id for node in await store.nodes()] == [node.id for node in NODES]
    assert local.removed == ["s7", "s7"]
    with pytest.raises(InvalidRequest, match="no storage node of that name"):
        await edge.remove_node(pb.RemoveNodeRequest(node="w1"))


async def test_a_scrub_is_begun_on_all_nodes_and_the_silent_are_named(store: EmbeddedMetadata) -> None:
    agents = NodeAgents()
    reply = await server(store, agents).scrub(pb.ScrubRequest(start=True))
    found = json.loads(reply.json)
    assert sorted(found) == [node.id for node in NODES]
    assert found["s2"] == {"error": "PeerUnavailable: it is away"}
    assert found["s1"] == {
        "running": True,
        "bytes_done": 1,
        "bytes_total": 2,
        "layers": 3,
        "frames": 4,
        "number": 5,
        "found": ["a", "b"],
        "mended": ["a; so"],
    }
    assert set(agents.started.values()) == {1}


async def test_a_scrub_of_some_nodes_leaves_the_others_alone(store: EmbeddedMetadata) -> None:
    agents = NodeAgents()
    edge = server(store, agents)
    assert list(json.loads((await edge.scrub(pb.ScrubRequest(start=False, node=["s4"]))).json)) == ["s4"]
    assert agents.started == {"h:3": 0}
    with pytest.raises(InvalidRequest, match="scrub s99: "):
        await edge.scrub(pb.ScrubRequest(start=True, node=["s4", "s99"]))
    assert agents.started == {"h:3": 0}


class ScriptedObserver:
    def __init__(self) -> None:
        self.now: Mapping[str, NodeHealth] = {}

    async def node_health(self) -> Mapping[str, NodeHealth]:
        return self.now


async def test_a_change_of_a_nodes_health_is_told_once() -> None:
    observer, nothing = ScriptedObserver(), cast(Any, None)
    supervisor = Supervisor(
        cast(Observer, observer), nothing, nothing, None, nothing, 1, RealClock(), random.Random(1)
    )
    seen = [
        {"s1": NodeHealth(Health.UNKNOWN), "s2": NodeHealth(Health.OK)},
        {"s1": NodeHealth(Health.OK), "s2": NodeHealth(Health.OK)},
        {"s1": NodeHealth(Health.OK), "s2": NodeHealth(Health.UNREACHABLE, "no answer for 4 s")},
        {"s1": NodeHealth(Health.OK), "s2": NodeHealth(Health.UNREACHABLE, "no answer for 5 s")},
        {"s1": NodeHealth(Health.OK), "s2": NodeHealth(Health.OK)},
    ]
    with capture_logs() as told:
        for now in seen:
            observer.now = now
            await supervisor._tell_health()
    assert [(each["node"], each["from"], each["to"], each["why"]) for each in told] == [
        ("s2", "ok", "unreachable", "no answer for 4 s"),
        ("s2", "unreachable", "ok", ""),
    ]
    assert {each["event"] for each in told} == {"node.health"}
