"""The loop: look, decide, act. Nothing on the data path waits for it.

Two rhythms, since looking at processes of this machine is quick and asking over the network is not:
a crashed process starts again within a fraction of a second even while a node's deadline runs.
"""

import asyncio
import random
from typing import Final

from control_plane.cluster.health import Health
from control_plane.cluster.model import NodeId
from control_plane.gauges import Gauges
from control_plane.local_cluster import LocalClusterError
from control_plane.local_processes import LocalProcesses
from control_plane.observer import Observer
from control_plane.repairs import Repairs
from control_plane.volumes import Volumes
from runtime.clock import Clock
from runtime.events import get_logger
from volume.errors import VolumeError

events = get_logger("control.supervisor")

PROCESSES_EVERY_S: Final = 0.1
CLUSTER_EVERY_S: Final = 0.5
LOOK_S_MAX: Final = 1.0


class Supervisor:
    def __init__(
        self,
        observer: Observer,
        volumes: Volumes,
        repairs: Repairs,
        local: LocalProcesses | None,
        gauges: Gauges,
        segment_size: int,
        clock: Clock,
        dice: random.Random,
    ) -> None:
        self._observer = observer
        self._volumes = volumes
        self._repairs = repairs
        self._local = local
        self._gauges = gauges
        self._segment_size = segment_size
        self._clock = clock
        self._dice = dice
        self._last_complaint = ""
        self._health: dict[NodeId, Health] = {}

    async def run(self) -> None:
        """Until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._watch_cluster())
            if self._local is not None:
                tasks.create_task(self._watch_processes(self._local))

    async def _watch_processes(self, local: LocalProcesses) -> None:
        while True:
            try:
                local.step()
                self._complain("")
            except (OSError, LocalClusterError) as error:
                # Without knowing what is wanted, the best is to leave everything as it is.
                self._complain(f"{type(error).__name__}: {error}")
            await self._rest(PROCESSES_EVERY_S)

    async def _watch_cluster(self) -> None:
        while True:
            await self._observer.look(LOOK_S_MAX)
            try:
                await self.act()
            except (VolumeError, OSError, LocalClusterError) as error:
                events.warning("supervisor.round_failed", reason=f"{type(error).__name__}: {error}")
            await self._rest(CLUSTER_EVERY_S)

    async def act(self) -> None:
        """One round of what the last look asks for."""
        await self._tell_health()
        await self._volumes.create_main(self._segment_size)
        await self._volumes.create_missing()
        await self._repairs.act()
        await self._gauges.update(self._observer, self._local)

    async def _tell_health(self) -> None:
        """Once for each change. That a node is well from the beginning is no change."""
        for node, now in (await self._observer.node_health()).items():
            before = self._health.get(node, Health.OK)
            if now.health in (before, Health.UNKNOWN):
                continue
            self._health[node] = now.health
            change = {"from": str(before), "to": str(now.health)}
            events.info("node.health", node=node, **change, why=now.why)

    async def _rest(self, about_s: float) -> None:
        await self._clock.sleep(about_s * (0.75 + self._dice.random() / 2))

    def _complain(self, about: str) -> None:
        if about and about != self._last_complaint:
            events.error("processes.unattended", reason=about)
        self._last_complaint = about
