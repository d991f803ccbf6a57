"""A segment that is given up while it reads its tail tells of none: an empty one would say that nothing was there."""

import asyncio
import random

import pytest

from proto import storage_pb2
from runtime.disk import Disk
from storage_node.node import StorageNode
from storage_node.server import StorageService
from tests.simulation.process import Process
from tests.simulation.sim_clock import SimClock
from tests.simulation.sim_disk import SimDisk
from tests.simulation.sim_transport import Network
from tests.simulation.virtual_loop import run
from tests.unit.storage_node.log_model import GROUP, VOLUME, GroupLog, framed
from tests.unit.volume.quorum_model import quorum_set
from volume.errors import SegmentFailed
from volume.ids import LSN_ZERO, Epoch, SegmentId


def test_a_segment_dropped_while_its_tail_is_read_tells_of_no_empty_one() -> None:
    async def main() -> None:
        dice, log = random.Random(1), GroupLog()
        disk: Disk = SimDisk(dice)
        host = Network(dice).host("a", Process("a"))
        node = StorageNode("a", "az1", disk, host, SimClock(), dice)
        await node.open()
        await node.create_segment(VOLUME, SegmentId(GROUP, 0), quorum_set("a b c d e f"))
        segment = node.segment(VOLUME, GROUP)
        await segment.promise(Epoch(1))
        await segment.install(log.timeline, LSN_ZERO)
        for _ in range(12):
            frames = [framed([log.write(page)]) for page in range(1, 5)]
            await node.settle(await node.append(VOLUME, Epoch(1), frames, LSN_ZERO, LSN_ZERO))
            await node.flush(segment)
        ask = storage_pb2.PromiseRequest(volume=VOLUME, group=GROUP, epoch=1)
        promising = asyncio.ensure_future(StorageService(node).promise(ask.SerializeToString()))
        while not (segment.layers._runs or promising.done()):
            await asyncio.sleep(0)
        await node.drop_segment(VOLUME, GROUP, 3)
        with pytest.raises(SegmentFailed):
            reply = storage_pb2.PromiseReply.FromString(await promising)
            pytest.fail(f"told of {list(reply.run_last)} up to scl {reply.scl}, above VDL {reply.known_vdl}")

    run(main())
