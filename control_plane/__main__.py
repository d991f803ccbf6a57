"""Starts the control plane: `python -m control_plane --dir DIR [--local-cluster DIR]`."""

import asyncio
import random
import sqlite3
import sys

from prometheus_client import CollectorRegistry

from control_plane.agents import Agents
from control_plane.cluster.membership import Patience
from control_plane.cluster.model import Instance, Node, NodeId
from control_plane.config import Config, parse
from control_plane.gauges import Gauges
from control_plane.local_cluster import ClusterFolder, LocalClusterError
from control_plane.local_processes import LocalProcesses
from control_plane.metadata.embedded import EmbeddedMetadata
from control_plane.metadata.interface import Metadata
from control_plane.observer import Observer
from control_plane.repairs import Repairs
from control_plane.server import ControlServer, own_facts
from control_plane.supervisor import Supervisor
from control_plane.volumes import Volumes
from runtime import events, lifecycle
from runtime.addresses import host_and_port
from runtime.clock import RealClock
from runtime.grpc_transport import GrpcTransport
from runtime.metrics import serve_metrics
from volume.errors import VolumeError

log = events.get_logger("control")


async def serve(config: Config, stop: asyncio.Event) -> int:
    clock, dice = RealClock(), random.Random()
    folder = ClusterFolder(config.local_cluster) if config.local_cluster else None
    local = LocalProcesses(folder, clock, dice) if folder else None
    metadata = EmbeddedMetadata(config.dir / "metadata.db")
    cluster, segment_size = await _take_in_nodes(config, local, metadata)

    transport = GrpcTransport()
    agents = Agents(transport)
    observer = Observer(agents, metadata, clock, config.replace_after_s)
    volumes = Volumes(metadata, agents, observer, clock)
    patience = Patience(unreachable_s=config.replace_after_s)
    repairs = Repairs(metadata, agents, observer, clock, patience, volumes.is_asking)
    registry = CollectorRegistry()
    gauges = Gauges(registry, metadata)
    supervisor = Supervisor(observer, volumes, repairs, local, gauges, segment_size, clock, dice)
    own = own_facts(config.id, config.listen)
    control = ControlServer(own, cluster, metadata, volumes, observer, agents, local, stop.set)

    server = await transport.serve(config.listen, control.handlers())
    metrics = await serve_metrics(*host_and_port(config.metrics), registry)
    log.info("control.started", address=server.address)
    supervising = asyncio.create_task(supervisor.run())
    try:
        return await _until_stopped(supervising, stop)
    finally:
        # The processes stay: everything on the data path goes on without us.
        supervising.cancel()
        await asyncio.gather(supervising, return_exceptions=True)
        await volumes.close()
        await observer.close()
        await server.stop()
        metrics.close()
        await transport.close()
        await metadata.close()


async def _until_stopped(supervising: asyncio.Task[None], stop: asyncio.Event) -> int:
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait([supervising, stopping], return_when=asyncio.FIRST_COMPLETED)
    if not stopping.done():
        supervising.result()  # it ends only by a bug of ours: show it
    return 0


async def _take_in_nodes(config: Config, local: LocalProcesses | None, metadata: Metadata) -> tuple[str, int]:
    """Record who there is; the cluster's name and segment size."""
    nodes, instances = list(config.nodes), list(config.instances)
    name, segment_size = config.id, config.segment_size
    if local is not None:
        spec = local.spec()
        name, segment_size = spec.name, spec.segment_size
        for each in spec.processes:
            if each.role == "storage":
                nodes.append(Node(NodeId(each.id), each.az, each.address))
            if each.role == "instance":
                instances.append(Instance(each.id, each.az, each.address))
    await metadata.put_nodes(nodes, instances)
    return name, segment_size


def main() -> int:
    config = parse()
    events.configure("control", config.dir / "log" / f"{config.id}.log")
    try:
        return lifecycle.run(lambda stop: serve(config, stop))
    except (OSError, sqlite3.Error, LocalClusterError, VolumeError) as error:
        print(f"control_plane: {type(error).__name__}: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
