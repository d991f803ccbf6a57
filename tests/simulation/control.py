"""The real control plane in the simulated cluster: its metadata outlive its processes.

The metadata store is the real one, on a folder in memory: SQLite's own durability is not on trial here.
"""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from prometheus_client import CollectorRegistry

from control_plane.agents import Agents
from control_plane.cluster.membership import Patience
from control_plane.cluster.model import Group, Node, NodeId, Volume
from control_plane.gauges import Gauges
from control_plane.metadata.embedded import EmbeddedMetadata
from control_plane.observer import Observer
from control_plane.repairs import Repairs
from control_plane.server import ControlServer, own_facts
from control_plane.supervisor import Supervisor
from control_plane.volumes import Volumes
from tests.simulation.process import Process
from tests.simulation.sim_clock import SimClock
from tests.simulation.sim_transport import Network
from volume.ids import Epoch, GroupId

ADDRESS: Final = "control:1"
_PATIENCE: Final = Patience(unreachable_s=3.0, failed_s=1.0)
_IN_MEMORY: Final = Path("/dev/shm")


class _Metadata(EmbeddedMetadata):
    """Tells of the epochs it grants."""

    newest_epoch = 0

    async def grant_epoch(self, name: str, expected: Epoch, writer: str) -> Volume:
        volume = await super().grant_epoch(name, expected, writer)
        self.newest_epoch = volume.epoch
        return volume


class Control:
    def __init__(self, network: Network, dice, nodes: Sequence[tuple[str, str]], segment_size: int) -> None:  # type: ignore[no-untyped-def]
        self.process: Process | None = None
        self.epoch = 0
        """The newest one granted."""
        self._network = network
        self._dice = dice
        self._nodes = [Node(NodeId(name), az, f"{name}:1") for name, az in nodes]
        self._segment_size = segment_size
        self._folder = tempfile.TemporaryDirectory(
            prefix="sixfold-simulation-", dir=_IN_MEMORY if _IN_MEMORY.is_dir() else None
        )
        self._metadata: _Metadata | None = None

    async def start(self) -> None:
        assert self.process is None
        self.process = Process("control")
        await self.process.spawn(self._serve)

    async def _serve(self) -> None:
        """As control_plane/__main__.py does it."""
        assert self.process is not None
        host = self._network.host("control", self.process)
        clock = SimClock()
        metadata = self._metadata = _Metadata(Path(self._folder.name) / "metadata.db")
        metadata.newest_epoch = self.epoch
        await metadata.put_nodes(self._nodes, [])
        agents = Agents(host)
        observer = Observer(agents, metadata, clock)
        volumes = Volumes(metadata, agents, observer, clock)
        repairs = Repairs(metadata, agents, observer, clock, _PATIENCE, volumes.is_asking)
        gauges = Gauges(CollectorRegistry(), metadata)
        supervisor = Supervisor(
            observer, volumes, repairs, None, gauges, self._segment_size, clock, self._dice
        )
        own = own_facts("control", ADDRESS)
        server = ControlServer(own, "simulated", metadata, volumes, observer, agents, None, lambda: None)
        await host.serve(ADDRESS, server.handlers())
        self.process.spawn(supervisor.run)

    async def stop(self) -> None:
        """kill -9."""
        if self.process is None:
            return
        process, self.process = self.process, None
        self.epoch = self.newest_epoch
        self._network.kill("control")
        await process.kill()
        assert self._metadata is not None
        await self._metadata.close()
        self._metadata = None

    def close(self) -> None:
        self._folder.cleanup()

    @property
    def metadata(self) -> EmbeddedMetadata:
        assert self._metadata is not None
        return self._metadata

    @property
    def newest_epoch(self) -> int:
        return self._metadata.newest_epoch if self._metadata is not None else self.epoch

    def groups(self) -> tuple[Group, ...]:
        """Of the main volume; none while there is none, or the control plane is down."""
        if self._metadata is None:
            return ()
        volumes = [self._metadata._read_volume(name) for (name,) in self._names()]
        return volumes[0].groups if volumes else ()

    def _names(self) -> list[tuple[str]]:
        assert self._metadata is not None
        return self._metadata._db.execute("SELECT name FROM volume").fetchall()

    def members(self, group: GroupId) -> list[tuple[int, str]]:
        """(slot, node) of those that vote."""
        return [(member.slot, member.node) for member in self.groups()[group].voters]
