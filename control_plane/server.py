"""The edge: requests of instances and of the command line, translated and answered."""

import asyncio
import json
import math
import os
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar

from google.protobuf.message import Message

from control_plane.agents import Agents
from control_plane.cluster.model import MAIN_VOLUME, Member, Node, NodeId, ProcessFacts, Volume, Wanted
from control_plane.cluster.status import View, describe
from control_plane.local_processes import LocalProcesses
from control_plane.metadata.interface import Metadata
from control_plane.observer import Observer
from control_plane.volumes import Volumes
from proto import control_pb2
from runtime.transport import Handlers, Unary
from runtime.uninterrupted import uninterrupted
from volume.errors import InvalidRequest, VolumeError
from volume.ids import Epoch, GroupId, Lsn, VolumeId

Request = TypeVar("Request", bound=Message)

PREFIX: Final = "/sixfold.control.Control/"

STATUS_LOOK_S: Final = 0.3
"""Status is for a human who waits: what has not answered by then is shown as it was seen last."""


class ControlServer:
    def __init__(
        self,
        own: ProcessFacts,
        cluster: str,
        metadata: Metadata,
        volumes: Volumes,
        observer: Observer,
        agents: Agents,
        local: LocalProcesses | None,
        end: Callable[[], None],
    ) -> None:
        self._own = own
        self._cluster = cluster
        self._metadata = metadata
        self._volumes = volumes
        self._observer = observer
        self._agents = agents
        self._local = local
        self._end = end

    def handlers(self) -> Handlers:
        pb = control_pb2
        unary = {
            "OpenVolume": _unary(pb.OpenVolumeRequest, self.open_volume),
            "GetVolume": _unary(pb.GetVolumeRequest, self.get_volume),
            "AddGroup": _unary(pb.AddGroupRequest, self.add_group),
            "AddNode": _unary(pb.AddNodeRequest, self.add_node),
            "Drain": _unary(pb.DrainRequest, self.drain),
            "RemoveNode": _unary(pb.RemoveNodeRequest, self.remove_node),
            "Scrub": _unary(pb.ScrubRequest, self.scrub),
            "AcceptLoss": _unary(pb.AcceptLossRequest, self.accept_loss),
            "Status": _unary(pb.StatusRequest, self.status),
            "SetWanted": _unary(pb.SetWantedRequest, self.set_wanted),
            "Shutdown": _unary(pb.ShutdownRequest, self.shutdown),
        }
        return Handlers(unary={PREFIX + name: handler for name, handler in unary.items()}, stream={})

    async def open_volume(self, request: control_pb2.OpenVolumeRequest) -> control_pb2.Volume:
        name = request.volume or MAIN_VOLUME
        opened = await self._translate(
            await self._volumes.open(name, request.instance, Epoch(request.expected_epoch))
        )
        opened.lease_left_ms = math.ceil(1000 * self._volumes.lease_left_s(VolumeId(opened.volume)))
        return opened

    async def get_volume(self, request: control_pb2.GetVolumeRequest) -> control_pb2.Volume:
        return await self._translate(
            await self._volumes.confirm(request.volume or MAIN_VOLUME, Epoch(request.epoch))
        )

    async def add_group(self, request: control_pb2.AddGroupRequest) -> control_pb2.Volume:
        volume = await self._volumes.add_group(
            request.volume or MAIN_VOLUME,
            GroupId(request.group),
            Epoch(request.epoch),
            Lsn(request.born_lsn),
        )
        return await self._translate(volume)

    async def add_node(self, request: control_pb2.AddNodeRequest) -> control_pb2.AddNodeReply:
        if not (request.node and request.az and request.address):
            raise InvalidRequest("add a storage node: it needs a name, a zone and an address")
        added = Node(NodeId(request.node), request.az, request.address)
        for node in await self._metadata.nodes():
            if node.id == added.id and (node.az, node.address) != (added.az, added.address):
                raise InvalidRequest(f"add {added.id}: it is there already, in {node.az} at {node.address}")
            if node.id != added.id and node.address == added.address:
                raise InvalidRequest(f"add {added.id}: at {node.address} is {node.id}")
        if self._local is None or not self._local.has_storage(added.id):
            await self._check_identity(added)
        await self._metadata.put_nodes([added], [])
        return control_pb2.AddNodeReply()

    async def _check_identity(self, added: Node) -> None:
        id, az = await self._agents.who_is(added.address)
        if (id, az) != (added.id, added.az):
            raise InvalidRequest(f"add {added.id} in {added.az}: at {added.address} is {id} in {az}")

    async def drain(self, request: control_pb2.DrainRequest) -> control_pb2.DrainReply:
        node = NodeId(request.node)
        await self._metadata.set_draining(node, not request.undo)
        left = sum(
            member.node == node
            for volume in await self._metadata.volumes()
            for group in volume.groups
            for member in group.members
        )
        return control_pb2.DrainReply(segments=left)

    async def remove_node(self, request: control_pb2.RemoveNodeRequest) -> control_pb2.RemoveNodeReply:
        """May be asked again: what a control plane that died has left of it is done then."""
        known = {node.id for node in await self._metadata.nodes()}
        if request.node in known or self._local is None or not self._local.has_storage(request.node):
            await self._metadata.remove_node(NodeId(request.node))
        if self._local is not None:
            await self._local.remove_storage(request.node)
        return control_pb2.RemoveNodeReply()

    async def scrub(self, request: control_pb2.ScrubRequest) -> control_pb2.ScrubReply:
        nodes = [node for node in await self._metadata.nodes() if not request.node or node.id in request.node]
        if unknown := set(request.node) - {node.id for node in nodes}:
            raise InvalidRequest(f"scrub {', '.join(sorted(unknown))}: there is no storage node of that name")
        found = await asyncio.gather(*(self._scrub_of(node, request.start) for node in nodes))
        return control_pb2.ScrubReply(json=json.dumps(dict(found)))

    async def _scrub_of(self, node: Node, start: bool) -> tuple[str, dict[str, Any]]:
        try:
            reply = await self._agents.scrub(node.address, start=start)
        except VolumeError as error:
            return node.id, {"error": f"{type(error).__name__}: {error}"}
        fields = ("number", "running", "bytes_done", "bytes_total", "layers", "frames")
        lists = {"found": list(reply.found), "mended": list(reply.mended)}
        return node.id, {name: getattr(reply, name) for name in fields} | lists

    async def accept_loss(self, request: control_pb2.AcceptLossRequest) -> control_pb2.AcceptLossReply:
        await self._metadata.accept_loss(request.volume or MAIN_VOLUME, GroupId(request.group))
        return control_pb2.AcceptLossReply()

    async def status(self, request: control_pb2.StatusRequest) -> control_pb2.StatusReply:
        await self._observer.look(STATUS_LOOK_S)
        view = View(
            cluster=self._cluster,
            volumes=await self._metadata.volumes(),
            nodes=await self._metadata.nodes(),
            instances=await self._metadata.instances(),
            processes=[self._own, *(self._local.facts() if self._local else [])],
            node_reports=self._observer.node_reports(),
            instance_reports=self._observer.instance_reports(),
            silent_s=self._observer.silent_s(),
            gone_after_s=self._observer.gone_after_s,
        )
        return control_pb2.StatusReply(json=json.dumps(describe(view)))

    async def set_wanted(self, request: control_pb2.SetWantedRequest) -> control_pb2.SetWantedReply:
        if request.wanted not in list(Wanted):
            raise InvalidRequest(f"set what is wanted of {request.target}: {request.wanted!r} is unknown")
        changed = await self._local_processes().set_wanted(request.target, Wanted(request.wanted))
        return control_pb2.SetWantedReply(process=changed)

    async def shutdown(self, request: control_pb2.ShutdownRequest) -> control_pb2.ShutdownReply:
        """Goes on to its end, once begun: a control plane that has ended half of the processes starts none again."""
        await uninterrupted(self._end_all(self._local_processes()))
        return control_pb2.ShutdownReply()

    async def _end_all(self, local: LocalProcesses) -> None:
        await local.end_all()
        self._end()

    def _local_processes(self) -> LocalProcesses:
        if self._local is None:
            raise InvalidRequest("this control plane runs no processes of its own: it is no local cluster's")
        return self._local

    async def _translate(self, volume: Volume) -> control_pb2.Volume:
        nodes = {node.id: node for node in await self._metadata.nodes()}
        return control_pb2.Volume(
            volume=volume.id,
            name=volume.name,
            epoch=volume.epoch,
            writer=volume.writer,
            segment_size=volume.segment_size,
            group=[
                control_pb2.Group(
                    group=group.id,
                    membership_epoch=group.membership_epoch,
                    member=[_member(each, nodes[each.node]) for each in group.members],
                )
                for group in volume.groups
            ],
        )


def own_facts(id: str, address: str) -> ProcessFacts:
    """The control plane as one of the processes that it reports."""
    return ProcessFacts(id, "control", "", address, Wanted.RUNNING, pid=os.getpid())


def _member(member: Member, node: Node) -> control_pb2.Member:
    return control_pb2.Member(
        slot=member.slot, node=node.id, address=node.address, az=node.az, filling=member.filling
    )


def _unary(kind: type[Request], answer: Callable[[Request], Awaitable[Message]]) -> Unary:
    async def handle(request: bytes) -> bytes:
        reply = await answer(kind.FromString(request))
        return reply.SerializeToString()

    return handle
