"""Asks the control plane for what only it may give: an epoch, and another protection group."""

from dataclasses import dataclass
from typing import Final

from proto import control_pb2
from runtime.transport import Transport
from volume.geometry import Geometry
from volume.ids import Epoch, GroupId, Lsn, VolumeId

_OPEN: Final = "/sixfold.control.Control/OpenVolume"
_ADD_GROUP: Final = "/sixfold.control.Control/AddGroup"
_TIMEOUT_S: Final = 10.0
"""Creating a group's six segments takes several disk syncs on each of six nodes."""


@dataclass(frozen=True, slots=True)
class Member:
    slot: int
    node: str
    address: str
    az: str


@dataclass(frozen=True, slots=True)
class VolumeLayout:
    """What the control plane says of a volume: its newest epoch and where its segments are."""

    volume: VolumeId
    name: str
    epoch: Epoch
    geometry: Geometry
    groups: dict[GroupId, tuple[Member, ...]]


class ControlClient:
    def __init__(self, transport: Transport, address: str, instance: str, volume: str = "main") -> None:
        self._transport = transport
        self._address = address
        self._instance = instance
        self._volume = volume

    async def open_volume(self) -> VolumeLayout:
        """Be granted a new epoch: from now on every older writer is refused, once storage has promised."""
        request = control_pb2.OpenVolumeRequest(instance=self._instance, volume=self._volume)
        return await self._ask(_OPEN, request.SerializeToString())

    async def add_group(self, group: GroupId, epoch: Epoch, born: Lsn) -> VolumeLayout:
        """The volume with `group` in it: created now, or as it already is. Raises StaleEpoch."""
        request = control_pb2.AddGroupRequest(volume=self._volume, group=group, epoch=epoch, born_lsn=born)
        return await self._ask(_ADD_GROUP, request.SerializeToString())

    async def _ask(self, method: str, request: bytes) -> VolumeLayout:
        reply = await self._transport.call(self._address, method, request, timeout_s=_TIMEOUT_S)
        return _layout(control_pb2.Volume.FromString(reply))


def _layout(volume: control_pb2.Volume) -> VolumeLayout:
    groups = {
        GroupId(group.group): tuple(
            Member(member.slot, member.node, member.address, member.az) for member in group.member
        )
        for group in volume.group
    }
    geometry = Geometry.of_segment_size(volume.segment_size)
    return VolumeLayout(VolumeId(volume.volume), volume.name, Epoch(volume.epoch), geometry, groups)
