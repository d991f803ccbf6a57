"""The control plane over real gRPC on loopback, with one storage node standing for all six."""

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from control_plane.agents import CREATE_SEGMENT, NODE_STATUS, Agents
from control_plane.cluster.model import Instance, Node, NodeId
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


async def create_segment(request: bytes) -> bytes:
    return storage_pb2.CreateSegmentReply().SerializeToString()


async def node_status(request: bytes) -> bytes:
    segment = storage_pb2.SegmentStatus(volume=1, group=0, slot=0, scl=7, known_vdl=5, state="ok")
    return storage_pb2.NodeStatusReply(node="s1", az="az1", segment=[segment]).SerializeToString()


class Control:
    def __init__(self, transport: GrpcTransport, address: str) -> None:
        self._transport = transport
        self._address = address

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
    await volumes.create_main(1 << 20)
    own = own_facts("control", "127.0.0.1:0")
    edge = ControlServer(own, "main", metadata, volumes, observer, agents, None, lambda: None)
    server = await transport.serve("127.0.0.1:0", edge.handlers())
    yield Control(transport, server.address)
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
    ],
    ids=[
        "no such volume",
        "no instance",
        "no such state",
        "not a local cluster",
        "nor to be ended",
        "not the next",
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
