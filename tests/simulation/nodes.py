"""Starts a real storage node on a simulated machine. Limits are small here, so that they are met."""

import random
from typing import Final

import db_instance.engine.engine
import db_instance.engine.pages
import db_instance.engine.vfs
import storage_node.copying
import storage_node.hot_log
import storage_node.layers.layer_map
import storage_node.node
import storage_node.server
from storage_node.node import StorageNode
from storage_node.server import StorageService
from tests.simulation.process import Process
from tests.simulation.sim_clock import SimClock
from tests.simulation.sim_disk import SimDisk
from tests.simulation.sim_transport import Host

_SMALL: Final = {
    storage_node.node: {
        "_SEGMENT_FLUSH_BYTES": 12_000,
        "_NODE_FLUSH_BYTES": 40_000,
        "_HOT_LOG_FLUSH_BYTES": 80_000,
    },
    storage_node.hot_log: {"_FILE_BYTES": 30_000},
    storage_node.layers.layer_map: {"_LONG_CHAIN": 6},
    storage_node.server: {"LAYER_CHUNK_BYTES": 2_000},
    storage_node.copying: {"_SYNC_BYTES": 4_000, "_SYNC_AHEAD_BYTES": 8_000},
    db_instance.engine.engine: {"_CONNECTION_CACHE_KIB": 24},
    db_instance.engine.vfs: {"_STAGED_MEMORY_MAX": 3 * 4096},
    db_instance.engine.pages: {"_CHUNK_PAGES": 4, "_WHOLE_ONE_IN": 20},
}


def use_small_limits() -> None:
    """Layers, compaction, the hot log's rotation and transactions that spill happen in every run."""
    for module, limits in _SMALL.items():
        for name, value in limits.items():
            assert hasattr(module, name), f"{module.__name__} has no {name} any more"
            setattr(module, name, value)


async def start_node(
    name: str, az: str, disk: SimDisk, host: Host, process: Process, clock: SimClock, dice: random.Random
) -> StorageNode:
    """As storage_node/__main__.py does it."""

    async def serve() -> StorageNode:
        node = StorageNode(name, az, disk, host, clock, dice)
        await node.open()
        await host.serve(f"{name}:1", StorageService(node).handlers())
        node.start()
        return node

    return await process.spawn(serve)
