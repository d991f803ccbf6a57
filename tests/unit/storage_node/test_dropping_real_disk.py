"""A segment is dropped on a real disk, whose threads go on although nobody waits for them any more."""

import os
import threading
from pathlib import Path
from typing import Any, cast

import pytest

from runtime.disk import RealDisk
from tests.unit.storage_node.log_model import GROUP, VOLUME
from tests.unit.storage_node.test_copying import Seven
from volume.errors import UnknownSegment

_FOLDER = f"segments/{VOLUME}-{GROUP}"


async def test_a_manifest_on_its_way_to_the_disk_does_not_bring_a_dropped_segment_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seven, disk = Seven(), RealDisk(tmp_path)
    seven.disks["g"] = cast(Any, disk)
    await seven.start()
    await seven.begin()
    segment = seven.segment("g")
    under_way, go_on, in_place = threading.Event(), threading.Event(), threading.Event()
    fsync, rename = os.fsync, os.replace

    def slow_fsync(fd: int) -> None:
        """The manifest's and the folder's end together: one commit of the file system's journal is for both."""
        path = os.readlink(f"/proc/self/fd/{fd}")
        if path.endswith("manifest.new") and segment.layers.layers:
            under_way.set()
            go_on.wait(1)
        fsync(fd)
        if path == str(tmp_path / _FOLDER) and under_way.is_set():
            go_on.set()
            in_place.wait(1)

    def noted_rename(old: Path, new: Path) -> None:
        rename(old, new)
        if under_way.is_set():
            in_place.set()

    monkeypatch.setattr(os, "fsync", slow_fsync)
    monkeypatch.setattr(os, "replace", noted_rename)
    await seven.until(under_way.is_set)  # the layers are copied, and the manifest that names them is written
    await seven.nodes["g"].drop_segment(VOLUME, GROUP, 3)
    disk._executor.shutdown()  # once the threads have done what they were at
    with pytest.raises(UnknownSegment):
        seven.segment("g")
    seven.network.kill("g")
    await seven.nodes["g"].stop()
    seven.disks["g"] = cast(Any, RealDisk(tmp_path))
    await seven.start_node("g")
    found = [(each.state, each.filling) for each in seven.nodes["g"].segments.values()]
    left = disk.list(_FOLDER)
    await seven.stop()
    assert (found, left) == ([], [])
