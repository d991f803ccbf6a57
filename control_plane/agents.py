"""Asks storage nodes and instances: translate, call, translate."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from control_plane.cluster.model import (
    Fill,
    Group,
    InstanceReport,
    Member,
    Node,
    NodeId,
    NodeReport,
    NodeSeen,
    SegmentReport,
    Volume,
)
from proto import instance_pb2, storage_pb2
from runtime.transport import Transport
from volume.ids import Epoch, GroupId, Lsn, SegmentId, VolumeId
from volume.limits import CALL_TIMEOUT_S

SET_MEMBERSHIP: Final = "/sixfold.storage.Storage/SetMembership"
DROP_SEGMENT: Final = "/sixfold.storage.Storage/DropSegment"
SCRUB: Final = "/sixfold.storage.Storage/Scrub"
CREATE_SEGMENT: Final = "/sixfold.storage.Storage/CreateSegment"
NODE_STATUS: Final = "/sixfold.storage.Storage/NodeStatus"
INSTANCE_STATUS: Final = "/sixfold.instance.Instance/Status"


@dataclass(frozen=True, slots=True)
class Joined:
    """Where a segment stood when it learned a membership."""

    scl: Lsn
    timeline_epoch: Epoch
    promised: Epoch


class Agents:
    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    async def create_segment(
        self, volume: Volume, group: Group, member: Member, nodes: Mapping[NodeId, Node]
    ) -> None:
        """Safe to repeat: a node that has the segment already says so by answering."""
        request = storage_pb2.CreateSegmentRequest(
            volume=volume.id,
            group=group.id,
            slot=member.slot,
            membership_epoch=group.membership_epoch,
            segment_size=volume.segment_size,
            born_lsn=group.born_lsn,
            member=[_storage_member(each, nodes[each.node]) for each in group.members],
        )
        address = nodes[member.node].address
        await self._transport.call(
            address, CREATE_SEGMENT, request.SerializeToString(), timeout_s=CALL_TIMEOUT_S
        )

    async def set_membership(
        self, volume: Volume, group: Group, member: Member, nodes: Mapping[NodeId, Node], promised: Epoch
    ) -> Joined:
        """Once this returns, the segment refuses whoever knows only an older membership. Safe to repeat."""
        request = storage_pb2.SetMembershipRequest(
            membership=storage_pb2.Membership(
                volume=volume.id,
                group=group.id,
                epoch=group.membership_epoch,
                member=[_storage_member(each, nodes[each.node]) for each in group.members],
            ),
            promised=promised,
        )
        answer = await self._transport.call(
            nodes[member.node].address, SET_MEMBERSHIP, request.SerializeToString(), timeout_s=CALL_TIMEOUT_S
        )
        reply = storage_pb2.SetMembershipReply.FromString(answer)
        return Joined(Lsn(reply.scl), Epoch(reply.timeline_epoch), Epoch(reply.promised))

    async def drop_segment(self, volume: VolumeId, group: Group, address: str) -> None:
        request = storage_pb2.DropSegmentRequest(
            volume=volume, group=group.id, membership_epoch=group.membership_epoch
        )
        await self._transport.call(
            address, DROP_SEGMENT, request.SerializeToString(), timeout_s=CALL_TIMEOUT_S
        )

    async def scrub(self, address: str, *, start: bool) -> storage_pb2.ScrubReply:
        request = storage_pb2.ScrubRequest(start=start).SerializeToString()
        answer = await self._transport.call(address, SCRUB, request, timeout_s=CALL_TIMEOUT_S)
        return storage_pb2.ScrubReply.FromString(answer)

    async def who_is(self, address: str) -> tuple[str, str]:
        """The name of the storage node that answers there, and its zone."""
        reply = await self._ask_node(address, CALL_TIMEOUT_S)
        return reply.node, reply.az

    async def node_status(self, address: str, timeout_s: float) -> NodeReport:
        reply = await self._ask_node(address, timeout_s)
        return NodeReport(
            tuple(_segment_report(each) for each in reply.segment),
            reply.free_bytes,
            reply.sync_us,
            reply.failed,
        )

    async def _ask_node(self, address: str, timeout_s: float) -> storage_pb2.NodeStatusReply:
        request = storage_pb2.NodeStatusRequest().SerializeToString()
        answer = await self._transport.call(address, NODE_STATUS, request, timeout_s=timeout_s)
        return storage_pb2.NodeStatusReply.FromString(answer)

    async def instance_status(self, address: str, timeout_s: float) -> InstanceReport:
        request = instance_pb2.StatusRequest().SerializeToString()
        answer = await self._transport.call(address, INSTANCE_STATUS, request, timeout_s=timeout_s)
        reply = instance_pb2.StatusReply.FromString(answer)
        return InstanceReport(
            role=reply.role,
            state=reply.state,
            epoch=Epoch(reply.epoch),
            vdl=Lsn(reply.vdl),
            vcl=Lsn(reply.vcl),
            last_lsn=Lsn(reply.last_lsn),
            sessions=reply.sessions,
            cache_bytes=reply.cache_bytes,
            sql_address=reply.sql_address,
            nodes=tuple(
                NodeSeen(NodeId(each.node), each.connected, each.read_us, each.behind, each.lost_log)
                for each in reply.node
            ),
        )


def _storage_member(member: Member, node: Node) -> storage_pb2.Member:
    return storage_pb2.Member(
        slot=member.slot, node=node.id, address=node.address, az=node.az, filling=member.filling
    )


def _segment_report(report: storage_pb2.SegmentStatus) -> SegmentReport:
    return SegmentReport(
        volume=VolumeId(report.volume),
        id=SegmentId(GroupId(report.group), report.slot),
        scl=Lsn(report.scl),
        known_vdl=Lsn(report.known_vdl),
        promised_epoch=Epoch(report.promised_epoch),
        timeline_epoch=Epoch(report.timeline_epoch),
        membership_epoch=Epoch(report.membership_epoch),
        state=report.state,
        hot_bytes=report.hot_bytes,
        delta_layers=report.delta_layers,
        image_layers=report.image_layers,
        layer_bytes=report.layer_bytes,
        fill=_fill(report.fill) if report.HasField("fill") else None,
    )


def _fill(fill: storage_pb2.Fill) -> Fill:
    return Fill(fill.source, fill.bytes_done, fill.bytes_total, fill.bytes_per_s)
