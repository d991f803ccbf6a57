"""Layers are copied for nothing: what they took of the disk is free again, and the log never lacks it."""

import asyncio
import os
import random
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from runtime.disk import RealDisk
from storage_node import server
from storage_node.copying import Copier
from storage_node.segment_store import FILLING_WITHOUT_ROOM, SegmentStore
from tests.simulation.sim_disk import SimDisk
from tests.unit.storage_node.log_model import GROUP, VOLUME, GroupLog, framed
from tests.unit.storage_node.test_copying import _FILLING, Seven, _with_seven
from tests.unit.storage_node.test_segment_store import _FOLDER, _copied, _opened, _with_store
from tests.unit.volume.quorum_model import quorum_set
from volume.errors import CorruptPage, VolumeBusy, VolumeError
from volume.ids import LSN_ZERO, Epoch, GroupId, SegmentId
from volume.log_batch import FrameHeader, read_header, seal_frame
from volume.redo_record import encode_record

_OTHER = GroupId(1)


@pytest.mark.parametrize("meanwhile", ["damaged", "removed"])
def test_layers_copied_for_a_segment_that_cannot_take_them_any_more_are_removed(meanwhile: str) -> None:
    async def work(disk: SimDisk, log: GroupLog, peer: SegmentStore) -> None:
        other = SimDisk(random.Random(2))
        ours = await _opened(other, log)
        peer.offer(*framed([log.write(1), log.write(2)]))
        await peer.flush()
        copied = await _copied(peer, disk, ours)
        if meanwhile == "damaged":
            ours.fail("a read met a flipped bit", mendable=True)
        else:
            await ours.join(quorum_set("s7 s2 s3 s4 s5 s6", epoch=4), Epoch(0))
        with pytest.raises(VolumeError):
            await ours.adopt(copied, peer.flushed_lsn, log.timeline)
        assert other.list(_FOLDER) == ["manifest"]

    _with_store(work)


def _open_below(folder: Path) -> list[str]:
    """The files in the folder that this process has open, also those that are deleted and take up the disk still."""
    found = []
    for name in os.listdir("/proc/self/fd"):
        try:
            found.append(os.readlink(f"/proc/self/fd/{name}"))
        except FileNotFoundError:
            continue  # that of the listing
    return [path for path in found if path.startswith(str(folder))]


async def test_a_copy_that_comes_to_nothing_keeps_no_file_open(tmp_path: Path) -> None:
    seven = Seven()
    await seven.start()
    layers = seven.segment("a").layers
    # An older release wrote them, without checksums of the files, and the newest one is damaged.
    layers.layers = tuple(replace(info, crc=0) for info in layers.layers)
    seven.disks["a"]._names[f"segments/7-0/{layers.layers[0].name}"].data[40] ^= 1
    segment = SegmentStore(cast(Any, RealDisk(tmp_path)), "g", VOLUME, SegmentId(GROUP, 5), _FILLING)
    source = next(peer for peer in segment.peers if peer.node == "a")
    for _ in range(3):
        with pytest.raises(CorruptPage):
            await seven.nodes["g"].gossip.copier.copy(source, segment)
    left = _open_below(tmp_path)
    await seven.stop()
    assert left == []


def test_a_copy_for_which_there_is_no_room_leaves_what_there_is_to_the_log(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(server, "LAYER_CHUNK_BYTES", 64)

    async def work(seven: Seven) -> None:
        node, disk, log = seven.nodes["g"], seven.disks["g"], GroupLog()
        await node.create_segment(VOLUME, SegmentId(_OTHER, 5), quorum_set("a b c d e g"))
        serving = node.segment(VOLUME, _OTHER)
        await serving.promise(Epoch(1))
        await serving.install(log.timeline, LSN_ZERO)
        await seven.append(*range(1, 301))
        for name in "abcdef":
            await seven.nodes[name].flush(seven.segment(name))
        newest, other, oldest = (info.size_bytes for info in seven.segment("a").layers.layers)
        room = newest + other + oldest // 2  # five times what the log needs
        monkeypatch.setattr(disk, "_capacity", disk._capacity - disk.free_bytes() + room)
        await seven.begin()
        await seven.until(lambda: seven.nodes["g"].gossip._copying != {})
        disk.faults.sync_s = (0.2, 0.2)
        appends = []

        async def append(frames: list[tuple[FrameHeader, bytes]]) -> None:
            await node.settle(await node.append(VOLUME, Epoch(1), frames, LSN_ZERO, LSN_ZERO))

        for _ in range(60):
            record = log.write(1)
            of_log = (record.lsn, record.lsn, LSN_ZERO)
            frame = seal_frame(
                VOLUME, _OTHER, Epoch(1), record.group_prev_lsn, [encode_record(record)], *of_log
            )
            appends.append(asyncio.create_task(append([(read_header(frame), frame)])))
            await asyncio.sleep(0.01)
        await asyncio.gather(*appends)
        assert (serving.state, serving.chain.durable_scl) == ("ok", log.end)

    _with_seven(work)


def test_two_copies_at_a_time_share_the_room_that_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "LAYER_CHUNK_BYTES", 64)

    async def work(seven: Seven) -> None:
        for name in "abcdef":
            layers = seven.segment(name).layers
            layers.layers = layers.layers[:1]  # one layer each: nobody looks again half way
        (info,) = seven.segment("a").layers.layers
        spare = [info.size_bytes * 3 // 2]
        copier = Copier(seven.nodes["g"].gossip._transport, lambda: 0, lambda: spare[0])
        stores = [
            SegmentStore(SimDisk(random.Random(1)), "g", VOLUME, SegmentId(GROUP, 5), _FILLING)
            for _ in range(2)
        ]
        source = next(peer for peer in stores[0].peers if peer.node == "a")
        listed = await copier._list(source, stores[0], LSN_ZERO)
        copies = (copier._copy_all(source, each, listed) for each in stores)
        found = await asyncio.gather(*copies, return_exceptions=True)
        assert [type(each) for each in found] == [dict, VolumeBusy]
        assert await copier._copy_all(source, stores[1], listed), "the other one is done"

    _with_seven(work)


def test_a_replacement_that_has_no_room_says_so_until_it_has() -> None:
    async def work(seven: Seven) -> None:
        room = [0]
        seven.nodes["g"].gossip.copier._spare = lambda: room[0]
        await seven.begin()
        await seven.until(lambda: seven.segment("g").state == FILLING_WITHOUT_ROOM)
        room[0] = 1 << 30
        await seven.until(seven.is_filled)
        assert seven.segment("g").state == "filling"

    _with_seven(work)
