"""The control plane over real gRPC on loopback, with one storage node standing for all six."""

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from control_plane.agents import CREATE_SEGMENT, NODE_STATUS, Agents
from control_plane.cluster.model import Instance, Node, NodeId, Reason
from control_plane.metadata.embedded import EmbeddedMetadata
from control_plane.observer import Observer
from control_plane.server import PREFIX, ControlServer, own_facts
from control_plane.volumes import Volumes
from proto import control_pb2 as pb
from proto import storage_pb2
from runtime.clock import RealClock
from runtime.grpc_transport import GrpcTransport
from runtime.transport import Handlers
from volume.errors import InvalidRequest, StaleEpoch
from volume.ids import Epoch, GroupId
from volume.limits import LEASE_S


async def create_segment(request: bytes) -> bytes:
    return storage_pb2.CreateSegmentReply().SerializeToString()


async def node_status(request: bytes) -> bytes:
    segment = storage_pb2.SegmentStatus(volume=1, group=0, slot=0, scl=7, known_vdl=5, state="ok")
    return storage_pb2.NodeStatusReply(node="s1", az="az1", segment=[segment]).SerializeToString()


class Control:
    def __init__(self, transport: GrpcTransport, address: str, metadata: EmbeddedMetadata) -> None:
        self._transport = transport
        self._address = address
        self.metadata = metadata

    async def ask(self, method: str, request: bytes) -> bytes:
        return await self._transport.call(self._address, PREFIX + method, request, timeout_s=5.0)


@pytest.fixture
async def control(tmp_path: Path) -> AsyncIterator[Control]:
    transport = GrpcTransport()
    storage = await transport.serve(
        "127.0.0.1:0", Handlers({CREATE_SEGMENT: create_segment, NODE_STATUS: node_status})
    )
    metadata = EmbeddedMetadata(tmp_path / "metadata.db")
    nodes = [Node(NodeId(f"s{i + 1}"), f"az{i // 2 + 1}", storage.address) for i in range(6)]
    await metadata.put_nodes(nodes, [Instance("w1", "az1", "127.0.0.1:1")])
    agents = Agents(transport)
    observer = Observer(agents, metadata, RealClock())
    volumes = Volumes(metadata, agents, observer, RealClock())
    await observer.look(1.0)
    await volumes.create_main(1 << 20)
    own = own_facts("control", "127.0.0.1:0")
    edge = ControlServer(own, "main", metadata, volumes, observer, agents, None, lambda: None)
    server = await transport.serve("127.0.0.1:0", edge.handlers())
    yield Control(transport, server.address, metadata)
    await volumes.close()
    await observer.close()
    await server.stop(0)
    await storage.stop(0)
    await transport.close()
    await metadata.close()


async def test_a_writer_opens_the_volume_and_learns_where_it_is(control: Control) -> None:
    request = pb.OpenVolumeRequest(instance="w1").SerializeToString()
    volume = pb.Volume.FromString(await control.ask("OpenVolume", request))
    assert (volume.volume, volume.name, volume.epoch, volume.writer) == (1, "main", 1, "w1")
    (group,) = volume.group
    assert [(each.slot, each.node, each.az) for each in group.member] == [
        (0, "s1", "az1"),
        (1, "s2", "az1"),
        (2, "s3", "az2"),
        (3, "s4", "az2"),
        (4, "s5", "az3"),
        (5, "s6", "az3"),
    ]
    assert all(each.address for each in group.member)
    seen = pb.Volume.FromString(await control.ask("GetVolume", pb.GetVolumeRequest().SerializeToString()))
    volume.ClearField("lease_left_ms")  # that is for the one who opens
    assert seen == volume


async def test_the_loser_of_a_race_for_the_epoch_hears_it(control: Control) -> None:
    first = pb.OpenVolumeRequest(instance="w1").SerializeToString()
    await control.ask("OpenVolume", first)
    await control.ask("OpenVolume", first)
    late = pb.OpenVolumeRequest(instance="w2", expected_epoch=1).SerializeToString()
    with pytest.raises(StaleEpoch):
        await control.ask("OpenVolume", late)


async def test_a_group_is_added_by_the_writer(control: Control) -> None:
    await control.ask("OpenVolume", pb.OpenVolumeRequest(instance="w1").SerializeToString())
    request = pb.AddGroupRequest(group=1, epoch=1, born_lsn=9).SerializeToString()
    volume = pb.Volume.FromString(await control.ask("AddGroup", request))
    assert [group.group for group in volume.group] == [0, 1]


async def test_a_writer_is_confirmed_while_it_is_the_newest(control: Control) -> None:
    open_it = pb.OpenVolumeRequest(instance="w1").SerializeToString()
    await control.ask("OpenVolume", open_it)
    ours = pb.GetVolumeRequest(epoch=1).SerializeToString()
    assert pb.Volume.FromString(await control.ask("GetVolume", ours)).epoch == 1
    newer = pb.Volume.FromString(await control.ask("OpenVolume", open_it))
    assert 0 < newer.lease_left_ms <= 1000 * LEASE_S
    with pytest.raises(StaleEpoch):
        await control.ask("GetVolume", ours)


async def test_members_are_told_with_those_that_fill(control: Control) -> None:
    await control.metadata.put_nodes([Node(NodeId("s7"), "az3", "h:7")], [])
    await control.metadata.begin_change("main", GroupId(0), Epoch(1), 5, NodeId("s7"), Reason.MOVE)
    volume = pb.Volume.FromString(await control.ask("GetVolume", b""))
    (group,) = volume.group
    assert group.membership_epoch == 2
    assert [(each.slot, each.node, each.filling) for each in group.member][-2:] == [
        (5, "s6", False),
        (5, "s7", True),
    ]
    assert group.member[-1].address == "h:7"


async def test_a_node_is_drained_and_says_what_is_left_there(control: Control) -> None:
    drain = pb.DrainRequest(node="s6").SerializeToString()
    assert pb.DrainReply.FromString(await control.ask("Drain", drain)).segments == 1
    assert [node.id for node in await control.metadata.nodes() if node.draining] == ["s6"]
    await control.ask("Drain", pb.DrainRequest(node="s6", undo=True).SerializeToString())
    assert not any(node.draining for node in await control.metadata.nodes())


async def test_a_loss_is_accepted_of_one_group(control: Control) -> None:
    await control.ask("AcceptLoss", pb.AcceptLossRequest(group=0).SerializeToString())
    assert (await control.metadata.volume("main")).groups[0].loss_accepted


async def test_status_is_one_json_object(control: Control) -> None:
    reply = pb.StatusReply.FromString(await control.ask("Status", b""))
    found = json.loads(reply.json)
    assert {"cluster", "writer", "epoch", "vdl", "processes", "segments", "instances"} <= set(found)
    assert (found["writer"], found["epoch"], found["vdl"]) == (None, 0, 5)
    states = {each["id"]: each["state"] for each in found["processes"]}
    assert states == {"control": "running", **{f"s{i}": "running" for i in range(1, 7)}, "w1": "down"}
    assert found["segments"][0]["scl"] == 7


@pytest.mark.parametrize(
    ("method", "request_"),
    [
        ("OpenVolume", pb.OpenVolumeRequest(instance="w1", volume="other")),
        ("OpenVolume", pb.OpenVolumeRequest()),
        ("SetWanted", pb.SetWantedRequest(target="s1", wanted="flying")),
        ("SetWanted", pb.SetWantedRequest(target="s1", wanted="killed")),
        ("Shutdown", pb.ShutdownRequest()),
        ("AddGroup", pb.AddGroupRequest(group=7, epoch=0)),
        ("AddNode", pb.AddNodeRequest(node="s7", az="az3")),
        ("AddNode", pb.AddNodeRequest(az="az3", address="h:7")),
        ("AddNode", pb.AddNodeRequest(node="s6", az="az3", address="h:7")),
        ("Drain", pb.DrainRequest(node="s99")),
        ("AcceptLoss", pb.AcceptLossRequest(group=7)),
    ],
    ids=[
        "no such volume",
        "no instance",
        "no such state",
        "not a local cluster",
        "nor to be ended",
        "not the next",
        "no address",
        "no name",
        "another node's name",
        "no such node",
        "no such group",
    ],
)
async def test_what_makes_no_sense_is_refused(
    control: Control, method: str, request_: pb.OpenVolumeRequest
) -> None:
    with pytest.raises(InvalidRequest):
        await control.ask(method, request_.SerializeToString())


async def test_bytes_that_are_no_message_are_refused(control: Control) -> None:
    with pytest.raises(InvalidRequest):
        await control.ask("OpenVolume", b"\xff\xff\xff")
