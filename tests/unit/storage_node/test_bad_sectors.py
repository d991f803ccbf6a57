"""Sectors that the disk cannot read any more: under a layer, a peer's take the place of ours, whoever met it; under a
manifest, the segment is gone and the others are not."""

import errno

import pytest

from storage_node.layers import layer_map
from storage_node.node import StorageNode
from tests.simulation.sim_disk import SimDisk, SimFile
from tests.unit.storage_node.log_model import GROUP, VOLUME, GroupLog
from tests.unit.storage_node.test_node import _append, _node, _with_node
from tests.unit.volume.quorum_model import quorum_set
from volume.errors import CorruptPage
from volume.ids import LSN_ZERO, GroupId, PageNumber, SegmentId


@pytest.mark.parametrize("who", ["a read", "compaction", "a flush, and a read after it"])
def test_a_bad_sector_can_be_mended_whoever_meets_it(who: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layer_map, "_LONG_CHAIN", 2)
    read, bad = SimFile.read, ""

    def unless_it_is_bad(file: SimFile, offset: int, size: int) -> bytes:
        if bad and bad in file._path and offset == 32:
            raise OSError(errno.EIO, "input/output error", bad)
        return read(file, offset, size)

    monkeypatch.setattr(SimFile, "read", unless_it_is_bad)

    async def work(disk: SimDisk, log: GroupLog, node: StorageNode) -> None:
        nonlocal bad
        for lsn in range(1, 5):
            segment = await _append(node, log, [1], vdl=lsn)
            await node.flush(segment)
        bad = segment.layers.layers[0].name
        if who == "compaction":
            await node._guard(segment, node._compact(segment))
        elif who != "a read":
            await _append(node, log, [1, 1, 1])
            await node.flush(segment)
        if segment.failed is None:
            with pytest.raises(CorruptPage), segment.noticing_damage():
                segment.read(PageNumber(1), log.end, LSN_ZERO)
        assert segment.failed is not None
        assert segment.mendable, segment.failed

    _with_node(work)


def test_a_node_opens_without_a_segment_whose_manifest_cannot_be_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    read = SimFile.read

    def unless_it_is_bad(file: SimFile, offset: int, size: int) -> bytes:
        if file._path == f"segments/{VOLUME}-{GROUP}/manifest":
            raise OSError(errno.EIO, "input/output error", file._path)
        return read(file, offset, size)

    async def work(disk: SimDisk, log: GroupLog, node: StorageNode) -> None:
        await _append(node, log, [1, 2])
        again = _node(disk.durable_copy())
        monkeypatch.setattr(SimFile, "read", unless_it_is_bad)
        await again.open()
        assert list(again.segments) == [(VOLUME, GroupId(1))]
        await again.create_segment(VOLUME, SegmentId(GROUP, 0), quorum_set("+n b c d e f", epoch=2))
        assert (again.segment(VOLUME, GROUP).chain.scl, again.segment(VOLUME, GROUP).state) == (0, "filling")

    _with_node(work, groups=2)
