"""A writer's driver on real storage nodes and a real control plane, in made-up time."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

import lz4.block
import pytest

from control_plane.agents import Agents
from control_plane.cluster.model import Group, Member, Node, NodeId, Reason
from control_plane.metadata.embedded import EmbeddedMetadata
from control_plane.observer import Observer
from control_plane.server import ControlServer, own_facts
from control_plane.volumes import Volumes
from db_instance.volume_driver.batcher import Change
from db_instance.volume_driver.control_client import ControlClient
from db_instance.volume_driver.driver import DriverSettings, VolumeDriver
from db_instance.volume_driver.opening import Opened, open_volume
from storage_node.node import StorageNode
from storage_node.server import StorageService
from tests.simulation.process import Process
from tests.simulation.sim_clock import SimClock
from tests.simulation.sim_disk import SimDisk
from tests.simulation.sim_transport import Host, Network
from tests.simulation.virtual_loop import run
from volume.errors import (
    OutcomeUnknown,
)
from volume.ids import Epoch, GroupId, Lsn, PageNumber
from volume.limits import LEASE_S
from volume.page import ZERO_PAGE, checksum, xor_pages
from volume.redo_record import COMMIT_STAMP, FLAG_CPL

ZONES: Final = {
    **{"a": "az1", "b": "az1", "c": "az2", "d": "az2", "e": "az3", "f": "az3"},
    **{"g": "az3"},
}
GROUP: Final = GroupId(0)
CONTROL: Final = "control:1"
READ_TIMEOUT_S: Final = 5.0


class World:
    def __init__(self) -> None:
        self.dice = random.Random(1)
        self.network = Network(self.dice)
        self.nodes: dict[str, StorageNode] = {}
        self.disks: dict[str, SimDisk] = {}
        self.metadata = EmbeddedMetadata(Path(":memory:"))
        self.pages: dict[Lsn, bytes] = {}
        """What page 1 held, by LSN."""

    async def start(self) -> None:
        for name, az in ZONES.items():
            self.disks[name] = SimDisk(self.dice)
            await self.start_node(name, az)
        host = self.network.host("control", Process("control"))
        everybody = [Node(NodeId(name), az, f"{name}:1") for name, az in ZONES.items()]
        await self.metadata.put_nodes(everybody[:6], [])
        self.agents = Agents(host)
        observer = self.observer = Observer(self.agents, self.metadata, SimClock())
        self.volumes = Volumes(self.metadata, self.agents, observer, SimClock())
        own = own_facts("control", CONTROL)
        edge = ControlServer(own, "w", self.metadata, self.volumes, observer, self.agents, None, lambda: None)
        await host.serve(CONTROL, edge.handlers())
        await observer.look(1.0)
        await self.volumes.create_main(1 << 24)
        await self.metadata.put_nodes(everybody, [])
        await observer.look(1.0)
        await asyncio.sleep(2 * LEASE_S)  # what was granted before the start is over

    async def start_node(self, name: str, az: str, host: str = "") -> None:
        where = self.network.host(host or name, Process(name))
        node = self.nodes[name] = StorageNode(name, az, self.disks[name], where, SimClock(), self.dice)
        await node.open()
        await where.serve(f"{host or name}:1", StorageService(node).handlers())
        node.start()

    async def stop(self) -> None:
        for node in self.nodes.values():
            await node.stop()
        await self.volumes.close()
        await self.metadata.close()
        assert not self.network.bugs, self.network.bugs

    # Instances

    def control_of(self, instance: str) -> tuple[ControlClient, Host]:
        host = self.network.host(instance, Process(instance))
        return ControlClient(host, CONTROL, instance), host

    async def open(self, instance: str) -> VolumeDriver:
        control, host = self.control_of(instance)
        opened = await open_volume(control, host, SimClock())
        await opened.until_leases_end(SimClock())
        return self.drive(opened, control, host)

    def drive(self, opened: Opened, control: ControlClient, host: Host) -> VolumeDriver:
        settings = DriverSettings(az="az1", commit_timeout_s=3.0, read_timeout_s=READ_TIMEOUT_S)
        driver = VolumeDriver(opened, control, host, SimClock(), self.dice, settings)
        driver.start()
        return driver

    def append(self, driver: VolumeDriver) -> Lsn:
        """A commit that changes page 1."""
        last = driver.last_lsn
        before = self.pages.get(last, ZERO_PAGE)
        after = (last + 1).to_bytes(8, "little") + before[8:]
        payload = COMMIT_STAMP.pack(last + 1, 9) + lz4.block.compress(
            xor_pages(before, after), store_size=False
        )
        previous = last if last in self.pages else Lsn(0)
        lsn = driver.append([Change(PageNumber(1), previous, checksum(after), FLAG_CPL, payload)])
        self.pages[lsn] = after
        return lsn

    async def commit(self, driver: VolumeDriver) -> None:
        await driver.wait_durable(self.append(driver))

    async def hangs(self, driver: VolumeDriver) -> None:
        """A commit finds no write quorum."""
        with pytest.raises(OutcomeUnknown):
            await self.commit(driver)

    def cut(self, instance: str, *others: str) -> None:
        """The instance and these hear nothing of each other."""
        for other in others:
            self.network.cut(instance, other)
            self.network.cut(other, instance)

    # Members

    async def group(self) -> Group:
        return (await self.metadata.volume("main")).groups[0]

    async def begin(self, slot: int, node: str) -> None:
        group = await self.group()
        await self.metadata.begin_change(
            "main", GROUP, group.membership_epoch, slot, NodeId(node), Reason.REPAIR
        )
        await self.volumes.create_missing()

    async def end(self, slot: int, *, keep_new: bool = True) -> None:
        group = await self.group()
        await self.metadata.end_change("main", GROUP, group.membership_epoch, slot, keep_new=keep_new)

    async def tell(self, *names: str) -> None:
        """These members learn who the members are; without names all."""
        volume, group = await self.metadata.volume("main"), await self.group()
        by_id = {node.id: node for node in await self.metadata.nodes()}
        asked = [member for member in group.members if not names or member.node in names]
        await asyncio.gather(*(self._tell(volume, group, member, by_id) for member in asked))

    async def _tell(self, volume, group: Group, member: Member, nodes: dict[NodeId, Node]) -> None:  # type: ignore[no-untyped-def]
        await self.agents.set_membership(volume, group, member, nodes, Epoch(0))


def in_world(work: Callable[[World], Awaitable[None]]) -> None:
    async def main() -> None:
        world = World()
        await world.start()
        await work(world)
        await world.stop()

    run(main())


async def soon(condition: Callable[[], bool], within_s: float = 5.0) -> None:
    async with asyncio.timeout(within_s):
        while not condition():
            await asyncio.sleep(0.05)
