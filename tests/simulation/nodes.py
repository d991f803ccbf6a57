"""Starts a real storage node on a simulated machine. Limits are small here, so that they are met."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Final

import db_instance.engine.engine
import db_instance.engine.pages
import db_instance.engine.vfs
import db_instance.instance
import db_instance.volume_driver.batcher
import db_instance.volume_driver.bulk_pace
import db_instance.volume_driver.driver
import db_instance.volume_driver.node_client
import storage_node.copying
import storage_node.gossip
import storage_node.hot_log
import storage_node.layers.compaction
import storage_node.layers.layer_file
import storage_node.layers.layer_map
import storage_node.node
import storage_node.scrub
import storage_node.segment.chain
import storage_node.segment_store
import storage_node.server
import volume.log_batch
import volume.recovery
from db_instance.volume_driver.driver import DriverSettings
from storage_node.node import StorageNode
from storage_node.server import StorageService
from tests.simulation.process import Process
from tests.simulation.sim_clock import SimClock
from tests.simulation.sim_disk import SimDisk
from tests.simulation.sim_transport import Host

_FRAME_BYTES_MAX: Final = 3_000
_LSN_ALLOCATION_LIMIT: Final = 600

_SMALL: Final[dict[Any, dict[str, Any]]] = {
    storage_node.node: {
        "_SEGMENT_FLUSH_BYTES": 12_000,
        "_NODE_FLUSH_BYTES": 40_000,
        "_HOT_LOG_FLUSH_BYTES": 80_000,
        "HOT_BYTES_MAX": 60_000,
        "_SYNC_BYTES": 4_000,
        "_SLICE_STEPS": 1,
    },
    storage_node.hot_log: {"_FILE_BYTES": 30_000},
    storage_node.layers.compaction: {"_PAGES_A_STEP": 2},
    storage_node.layers.layer_file: {"_BLOCK_BYTES": 200, "_ENTRIES_MAX": 6},
    storage_node.layers.layer_map: {
        "_LONG_CHAIN": 6,
        "_FRAMES_A_PORTION": 3,
        "_PAGES_A_PORTION": 4,
        "_RECORDS_A_PORTION": 4,
    },
    storage_node.segment.chain: {"WAITING_BYTES_MAX": 20_000},
    storage_node.segment_store: {"_LONG_CHAIN": 4, "_RECENT_MAX": 4},
    storage_node.scrub: {"_SLICE_BYTES": 4_000, "_SLICE_STEPS": 4},
    storage_node.server: {"LAYER_CHUNK_BYTES": 2_000},
    storage_node.gossip: {"GOSSIP_REPLY_BYTES_MAX": 10_000},
    storage_node.copying: {"_SYNC_BYTES": 4_000, "_SYNC_AHEAD_BYTES": 8_000, "_BLOBS_A_STEP": 4},
    volume.log_batch: {"FRAME_BYTES_MAX": _FRAME_BYTES_MAX},
    volume.recovery: {"LSN_ALLOCATION_LIMIT": _LSN_ALLOCATION_LIMIT},
    db_instance.engine.engine: {"_CONNECTION_CACHE_KIB": 24, "_STEPS_BETWEEN_LOOKS": 100},
    db_instance.engine.vfs: {"_STAGED_MEMORY_MAX": 3 * 4096},
    db_instance.engine.pages: {
        "_BEFORE_AT_ONCE": 3,
        "_CHUNK_PAGES": 4,
        "_WHOLE_ONE_IN": 20,
        "READ_PAGES_MAX": 8,
    },
    db_instance.instance: {"DriverSettings": partial(DriverSettings, unacknowledged_bytes_max=40_000)},
    db_instance.volume_driver.batcher: {
        "FRAME_BYTES_MAX": _FRAME_BYTES_MAX,
        "LSN_ALLOCATION_LIMIT": _LSN_ALLOCATION_LIMIT,
    },
    db_instance.volume_driver.driver: {
        "_PIPELINE_BYTES": 5_000,
        "_ROUNDS_IN_FLIGHT_MAX": 4,
    },
    db_instance.volume_driver.bulk_pace: {"_SLOW_QUEUE_BYTES": 20_000},
    db_instance.volume_driver.node_client: {
        "APPEND_MESSAGE_BYTES_MAX": 8_000,
        "_WINDOW_BYTES": 16_000,
        "_QUEUE_BYTES_MAX": 40_000,
        "_SHARED_BYTES_MAX": 2_000,
    },
}


@contextmanager
def small_limits() -> Iterator[None]:
    """Layers, compaction, the hot log's rotation and transactions that spill happen in every run."""
    usual = [(module, name, getattr(module, name)) for module, limits in _SMALL.items() for name in limits]
    for module, limits in _SMALL.items():
        for name, value in limits.items():
            setattr(module, name, value)
    try:
        yield
    finally:
        for module, name, value in usual:
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
