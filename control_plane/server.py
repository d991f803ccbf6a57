"""The edge: requests of instances and of the command line, translated and answered."""

import json
import os
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from google.protobuf.message import Message

from control_plane.cluster.model import MAIN_VOLUME, Node, NodeId, ProcessFacts, Volume, Wanted
from control_plane.cluster.status import View, describe
from control_plane.local_processes import LocalProcesses
from control_plane.metadata.interface import Metadata
from control_plane.observer import Observer
from control_plane.volumes import Volumes
from proto import control_pb2
from runtime.transport import Handlers, Unary
from volume.errors import InvalidRequest
from volume.ids import Epoch, GroupId, Lsn

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
        local: LocalProcesses | None,
        end: Callable[[], None],
    ) -> None:
        self._own = own
        self._cluster = cluster
        self._metadata = metadata
        self._volumes = volumes
        self._observer = observer
        self._local = local
        self._end = end

    def handlers(self) -> Handlers:
        pb = control_pb2
        unary = {
            "OpenVolume": _unary(pb.OpenVolumeRequest, self.open_volume),
            "GetVolume": _unary(pb.GetVolumeRequest, self.get_volume),
            "AddGroup": _unary(pb.AddGroupRequest, self.add_group),
            "Status": _unary(pb.StatusRequest, self.status),
            "SetWanted": _unary(pb.SetWantedRequest, self.set_wanted),
            "Shutdown": _unary(pb.ShutdownRequest, self.shutdown),
        }
        return Handlers(unary={PREFIX + name: handler for name, handler in unary.items()}, stream={})

    async def open_volume(self, request: control_pb2.OpenVolumeRequest) -> control_pb2.Volume:
        name = request.volume or MAIN_VOLUME
        return await self._translate(
            await self._volumes.open(name, request.instance, Epoch(request.expected_epoch))
        )

    async def get_volume(self, request: control_pb2.GetVolumeRequest) -> control_pb2.Volume:
        return await self._translate(await self._metadata.volume(request.volume or MAIN_VOLUME))

    async def add_group(self, request: control_pb2.AddGroupRequest) -> control_pb2.Volume:
        volume = await self._volumes.add_group(
            request.volume or MAIN_VOLUME,
            GroupId(request.group),
            Epoch(request.epoch),
            Lsn(request.born_lsn),
        )
        return await self._translate(volume)

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
        )
        return control_pb2.StatusReply(json=json.dumps(describe(view)))

    async def set_wanted(self, request: control_pb2.SetWantedRequest) -> control_pb2.SetWantedReply:
        if request.wanted not in list(Wanted):
            raise InvalidRequest(f"set what is wanted of {request.target}: {request.wanted!r} is unknown")
        changed = await self._local_processes().set_wanted(request.target, Wanted(request.wanted))
        return control_pb2.SetWantedReply(process=changed)

    async def shutdown(self, request: control_pb2.ShutdownRequest) -> control_pb2.ShutdownReply:
        await self._local_processes().end_all()
        self._end()
        return control_pb2.ShutdownReply()

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
                    member=[_member(each.slot, nodes[each.node]) for each in group.members],
                )
                for group in volume.groups
            ],
        )


def own_facts(id: str, address: str) -> ProcessFacts:
    """The control plane as one of the processes that it reports."""
    return ProcessFacts(id, "control", "", address, Wanted.RUNNING, pid=os.getpid())


def _member(slot: int, node: Node) -> control_pb2.Member:
    return control_pb2.Member(slot=slot, node=NodeId(node.id), address=node.address, az=node.az)


def _unary(kind: type[Request], answer: Callable[[Request], Awaitable[Message]]) -> Unary:
    async def handle(request: bytes) -> bytes:
        reply = await answer(kind.FromString(request))
        return reply.SerializeToString()

    return handle
