"""Asks the control plane for what only it may give: an epoch, and another protection group."""

from dataclasses import dataclass
from typing import Final

from proto import control_pb2
from runtime.transport import Transport
from volume.errors import InvalidRequest
from volume.geometry import Geometry
from volume.ids import Epoch, GroupId, Lsn, VolumeId
from volume.quorum_set import Member, QuorumSet, problem_with

_OPEN: Final = "/sixfold.control.Control/OpenVolume"
_GET: Final = "/sixfold.control.Control/GetVolume"
_ADD_GROUP: Final = "/sixfold.control.Control/AddGroup"
_TIMEOUT_S: Final = 10.0
"""Creating a group's six segments takes several disk syncs on each of six nodes."""


@dataclass(frozen=True, slots=True)
class VolumeLayout:
    """What the control plane says of a volume: its newest epoch and where its segments are."""

    volume: VolumeId
    name: str
    epoch: Epoch
    geometry: Geometry
    groups: dict[GroupId, QuorumSet]
    lease_left_s: float = 0.0
    """For so long the writer before us may still answer reads, by what the control plane has confirmed to it."""


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

    async def confirm(self, epoch: Epoch, timeout_s: float) -> VolumeLayout:
        """The volume as it is, if no epoch newer than ours was granted. Raises StaleEpoch."""
        request = control_pb2.GetVolumeRequest(volume=self._volume, epoch=epoch)
        return await self._ask(_GET, request.SerializeToString(), timeout_s)

    async def _ask(self, method: str, request: bytes, timeout_s: float = _TIMEOUT_S) -> VolumeLayout:
        reply = await self._transport.call(self._address, method, request, timeout_s=timeout_s)
        return _layout(control_pb2.Volume.FromString(reply))


def _layout(volume: control_pb2.Volume) -> VolumeLayout:
    groups = {GroupId(group.group): _members(group) for group in volume.group}
    geometry = Geometry.of_segment_size(volume.segment_size)
    lease_left_s = volume.lease_left_ms / 1000
    return VolumeLayout(
        VolumeId(volume.volume), volume.name, Epoch(volume.epoch), geometry, groups, lease_left_s
    )


def _members(group: control_pb2.Group) -> QuorumSet:
    members = tuple(
        Member(each.slot, each.node, each.address, each.az, each.filling) for each in group.member
    )
    if problem := problem_with(members):
        raise InvalidRequest(f"read members of pg{group.group}: {problem}")
    return QuorumSet(group.membership_epoch, members)
