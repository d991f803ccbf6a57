"""The whole database in one process: real engine, driver, control plane and six storage nodes, for tests with
sockets.

Nothing of ours is replaced. All stand on the simulated disks and the simulated network of
tests/simulation, without their delays and on the test's own event loop, so that a test can cut or kill
nodes in the middle of a statement and psycopg can talk to the rest over loopback.
"""

import random
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from control_plane.agents import Agents
from control_plane.cluster.model import Node, NodeId
from control_plane.metadata.embedded import EmbeddedMetadata
from control_plane.observer import Observer
from control_plane.server import ControlServer, own_facts
from control_plane.volumes import Volumes
from db_instance.config import InstanceConfig
from db_instance.engine.engine import Engine
from db_instance.instance import Instance
from db_instance.volume_driver.driver import VolumeDriver
from runtime.clock import RealClock
from runtime.transport import Server
from storage_node.node import StorageNode
from storage_node.server import StorageService
from tests.simulation.process import Process
from tests.simulation.sim_disk import SimDisk
from tests.simulation.sim_transport import Network
from volume.limits import LEASE_S, MIB
from volume.quorum import COPIES, WRITE_QUORUM

ZONES: Final = {"s1": "az1", "s2": "az1", "s3": "az2", "s4": "az2", "s5": "az3", "s6": "az3"}

_GROUP_BYTES: Final = 16 * MIB
"""pgbench's tables fit one protection group; growth has tests of its own."""

_ENOUGH_TO_STALL: Final = COPIES - WRITE_QUORUM + 1
_CONTROL: Final = "control:1"


class PassingClock(RealClock):
    """Real time, of which some may pass at once: between two instances, until the first one's lease is over."""

    def __init__(self) -> None:
        self._passed_s = 0.0

    def let_pass(self, seconds: float) -> None:
        self._passed_s += seconds

    def monotonic(self) -> float:
        return super().monotonic() + self._passed_s


@dataclass(slots=True)
class _Node:
    service: StorageNode
    server: Server


@dataclass(slots=True)
class _Control:
    metadata: EmbeddedMetadata
    observer: Observer
    volumes: Volumes


class SmallCluster:
    def __init__(self, folder: Path, commit_timeout_s: float) -> None:
        self._folder = folder
        self._commit_timeout_s = commit_timeout_s
        self._dice = random.Random(1)
        self._network = Network(self._dice)
        self._network.faults.latency_s = (0.0, 0.0)
        self._nodes: dict[str, _Node] = {}
        self._clock = PassingClock()
        self._control: _Control | None = None
        self._instance: Instance | None = None
        self._cut_off: list[Instance] = []
        self._started = 0

    async def start(self) -> None:
        for name in ZONES:
            await self._start_node(name)
        await self._start_control()
        self._clock.let_pass(LEASE_S)  # nobody remembers what was granted before a start
        await self.open()

    async def stop(self) -> None:
        await self.close()
        self.heal()
        for instance in self._cut_off:
            await instance.close()
        for name in list(self._nodes):
            await self.kill_node(name)
        if self._control is not None:
            await self._control.volumes.close()
            await self._control.observer.close()
            await self._control.metadata.close()
        assert not self._network.bugs, self._network.bugs

    async def open(self) -> Engine:
        """An instance opens the volume; a new one each time."""
        assert self._instance is None
        self._started += 1
        name = f"w{self._started}"
        config = InstanceConfig(
            id=name,
            az="az1",
            dir=self._folder,
            control=_CONTROL,
            listen="",
            sql="",
            metrics="",
            cache_mib=16,
            commit_timeout_s=self._commit_timeout_s,
            max_connections=100,
        )
        host = self._network.host(name, Process(name))
        self._instance = Instance(config, host, self._clock, self._dice)
        return await self._instance.open()

    async def close(self) -> None:
        """The instance ends; the volume stays."""
        if self._instance is not None:
            await self._instance.close()
            self._instance = None
            self._clock.let_pass(LEASE_S)

    @property
    def engine(self) -> Engine:
        assert self._instance is not None and self._instance.engine is not None
        return self._instance.engine

    @property
    def driver(self) -> VolumeDriver:
        return self.engine.pages.driver

    # Faults

    def lose_the_write_quorum(self) -> None:
        """The writer and three of the six no longer hear each other: no commit is acknowledged.

        Gossip goes on, so what is in flight may well become durable: its outcome is unknown, not refused.
        """
        writer = f"w{self._started}"
        for name in list(self._nodes)[:_ENOUGH_TO_STALL]:
            self._network.cut(writer, name)
            self._network.cut(name, writer)

    def heal(self) -> None:
        self._network.heal()

    async def replace_the_writer(self) -> None:
        """The writer hears nobody any more. Another instance has opened the volume, and the first knows nothing of it."""
        assert self._instance is not None
        writer = f"w{self._started}"
        for name in (*self._nodes, "control"):
            self._network.cut(writer, name)
            self._network.cut(name, writer)
        self._cut_off.append(self._instance)
        self._instance = None
        self.let_pass(LEASE_S)
        await self.open()

    def let_pass(self, seconds: float) -> None:
        self._clock.let_pass(seconds)

    async def leave_only_enough_to_read(self) -> None:
        for name in list(self._nodes)[:_ENOUGH_TO_STALL]:
            await self.kill_node(name)

    async def kill_node(self, name: str) -> None:
        node = self._nodes.pop(name)
        self._network.kill(name)
        await node.service.stop()

    async def _start_node(self, name: str) -> None:
        disk = SimDisk(self._dice)
        disk.faults.sync_s = (0.0, 0.0)
        host = self._network.host(name, Process(name))
        service = StorageNode(name, ZONES[name], disk, host, self._clock, self._dice)
        await service.open()
        server = await host.serve(f"{name}:1", StorageService(service).handlers())
        service.start()
        self._nodes[name] = _Node(service, server)

    async def _start_control(self) -> None:
        """Without its supervisor: nothing is replaced that a test has killed."""
        host = self._network.host("control", Process("control"))
        metadata = EmbeddedMetadata(self._folder / "metadata.db")
        await metadata.put_nodes([Node(NodeId(name), az, f"{name}:1") for name, az in ZONES.items()], [])
        agents = Agents(host)
        observer = Observer(agents, metadata, self._clock)
        volumes = Volumes(metadata, agents, observer, self._clock)
        self._control = _Control(metadata, observer, volumes)
        own = own_facts("control", _CONTROL)
        edge = ControlServer(own, "small", metadata, volumes, observer, agents, None, lambda: None)
        await host.serve(_CONTROL, edge.handlers())
        await observer.look(1.0)
        await volumes.create_main(_GROUP_BYTES)
