"""The control plane as an instance sees it: grants epochs, adds groups. It remembers everything.

The real one has tests of its own; here it only has to be right, and reachable by the simulated network.
"""

import asyncio
import random

from proto import control_pb2, storage_pb2
from runtime.transport import Handlers
from tests.simulation.sim_transport import Host
from volume.errors import StaleEpoch, VolumeError
from volume.quorum import COPIES, WRITE_QUORUM

ADDRESS = "control:1"
VOLUME = 1
_CREATE = "/sixfold.storage.Storage/CreateSegment"
_RETRY_S = 0.2


class SimControl:
    def __init__(
        self, host: Host, dice: random.Random, nodes: list[tuple[str, str]], segment_size: int
    ) -> None:
        """`nodes`: name and zone of the six; each hosts one segment of every group."""
        self.epoch = 0
        self.groups: list[int] = []
        """Slot 0's node, by group: the slots are dealt out anew for each."""
        self._host = host
        self._dice = dice
        self._nodes = nodes
        self._segment_size = segment_size
        self._adding = asyncio.Lock()

    async def start(self) -> None:
        service = "/sixfold.control.Control/"
        unary = {
            service + "OpenVolume": self._open_volume,
            service + "AddGroup": self._add_group,
            service + "GetVolume": self._get_volume,
        }
        await self._host.serve(ADDRESS, Handlers(unary))

    def members(self, group: int) -> list[tuple[int, str]]:
        """(slot, node) of the group."""
        first = self.groups[group]
        return [(slot, self._nodes[(first + slot) % COPIES][0]) for slot in range(COPIES)]

    async def _open_volume(self, request: bytes) -> bytes:
        if not self.groups:
            await self._create(0)
        self.epoch += 1
        return self._volume()

    async def _get_volume(self, request: bytes) -> bytes:
        return self._volume()

    async def _add_group(self, request: bytes) -> bytes:
        wanted = control_pb2.AddGroupRequest.FromString(request)
        self._check(wanted.epoch)
        await self._create(wanted.group)
        self._check(wanted.epoch)
        return self._volume()

    def _check(self, epoch: int) -> None:
        if epoch < self.epoch:
            raise StaleEpoch(f"add group in epoch {epoch}: {self.epoch} is granted")

    async def _create(self, group: int) -> None:
        """Create the group's segments; done when a write quorum has answered, the others are asked on."""
        async with self._adding:
            if group < len(self.groups):
                return
            assert group == len(self.groups)
            first = self._dice.randrange(COPIES)
            members = [(slot, *self._nodes[(first + slot) % COPIES]) for slot in range(COPIES)]
            request = storage_pb2.CreateSegmentRequest(
                volume=VOLUME,
                group=group,
                membership_epoch=1,
                segment_size=self._segment_size,
                member=[
                    storage_pb2.Member(slot=slot, node=node, address=f"{node}:1", az=az)
                    for slot, node, az in members
                ],
            )
            waiting = {
                self._host.process.spawn(self._asker(request, slot, node)) for slot, node, _ in members
            }
            while len(waiting) > COPIES - WRITE_QUORUM:
                _, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            self.groups.append(first)

    def _asker(self, request: storage_pb2.CreateSegmentRequest, slot: int, node: str):  # type: ignore[no-untyped-def]
        async def ask() -> None:
            own = storage_pb2.CreateSegmentRequest()
            own.CopyFrom(request)
            own.slot = slot
            while True:
                try:
                    await self._host.call(f"{node}:1", _CREATE, own.SerializeToString(), timeout_s=2.0)
                    return
                except VolumeError:
                    await asyncio.sleep(_RETRY_S)

        return ask

    def _volume(self) -> bytes:
        zones = dict(self._nodes)
        groups = [
            control_pb2.Group(
                group=group,
                membership_epoch=1,
                member=[
                    control_pb2.Member(slot=slot, node=node, address=f"{node}:1", az=zones[node])
                    for slot, node in self.members(group)
                ],
            )
            for group in range(len(self.groups))
        ]
        volume = control_pb2.Volume(
            volume=VOLUME, name="main", epoch=self.epoch, segment_size=self._segment_size, group=groups
        )
        return volume.SerializeToString()
