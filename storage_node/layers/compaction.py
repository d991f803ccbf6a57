"""Turns deltas into images and many layers into few, so that a cold read never walks far.

    images   four or more deltas (up to the VDL) that no image covers: one image layer of their pages
    merge    images that came to be about as large as what is newer than them: one layer of the newest
    drop     deltas below an image that no reader needs any more

Each step is a generator that yields after a few pages, so that the caller can make it wait.
"""

import heapq
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

import lz4.block

from runtime.disk import Disk, File
from storage_node.layers.layer_file import KIND_IMAGE, LayerWriter
from storage_node.layers.layer_map import LayerInfo, LayerMap, unpack_image
from volume.ids import LSN_ZERO, Lsn, PageNumber
from volume.timeline import Timeline

DELTAS_MAX: Final = 4
_IMAGES_MAX: Final = 4
_GROWTH: Final = 2
_PAGES_A_STEP: Final = 8


@dataclass(frozen=True, slots=True)
class Plan:
    kind: str
    """"images", "merge" or "drop"."""
    inputs: tuple[LayerInfo, ...]
    lsn_from: Lsn = LSN_ZERO
    lsn_to: Lsn = LSN_ZERO


def plan(
    layers: tuple[LayerInfo, ...], counted_end: Callable[[LayerInfo], Lsn], vdl: Lsn, read_floor: Lsn
) -> Plan | None:
    """What is worth doing now, most useful first.

    A layer reaches as far as the last of its LSNs that counts (`counted_end`): an image of an LSN that was
    annulled later covers nothing, and one is made of an LSN that counts.
    """
    images = [info for info in layers if info.kind == "image" and counted_end(info)]
    deltas = [info for info in layers if info.kind == "delta"]
    covered = max((info.lsn_to for info in images), default=LSN_ZERO)
    unneeded = [info for info in deltas if counted_end(info) <= covered and info.lsn_to <= vdl]
    if unneeded and LSN_ZERO < covered <= read_floor:
        return Plan("drop", tuple(unneeded), lsn_to=covered)
    ready = [info for info in deltas if covered < counted_end(info) and info.lsn_to <= vdl]
    if len(ready) >= DELTAS_MAX:
        end = max(counted_end(info) for info in ready)
        return Plan("images", tuple(ready), min(i.lsn_from for i in ready), end)
    if images and images[0].lsn_to <= read_floor and (tier := _tier(images)):
        return Plan("merge", tuple(tier), min(i.lsn_from for i in tier), tier[0].lsn_to)
    return None


def _tier(images: list[LayerInfo]) -> list[LayerInfo]:
    """The newest images that are worth merging: each not much larger than all newer ones together."""
    tier = [images[0]]
    size = images[0].size_bytes
    for info in images[1:]:
        if info.size_bytes > _GROWTH * size:
            break
        tier.append(info)
        size += info.size_bytes
    return tier if len(tier) >= _IMAGES_MAX else []


class ImageWriting:
    """Carries out a plan "images" or "merge": iterate to the end, then `name` is a complete layer."""

    def __init__(
        self, disk: Disk, folder: str, layer_map: LayerMap, wanted: Plan, timeline: Timeline
    ) -> None:
        self._map = layer_map
        self._plan = wanted
        self._timeline = timeline
        self.name = layer_map.new_name("image", wanted.lsn_from, wanted.lsn_to)
        self.crc = 0
        self.file: File = disk.open(f"{folder}/{self.name}", create=True)

    def steps(self) -> Iterator[None]:
        writer = LayerWriter(self.file, KIND_IMAGE, self._plan.lsn_from, self._plan.lsn_to)
        last = 0
        for count, (page, order) in enumerate(heapq.merge(*self._pages_of_inputs())):
            if count % _PAGES_A_STEP == 0:
                yield
            if page == last:
                continue
            last = page
            lsn, content = self._content(PageNumber(page), order)
            if lsn:
                writer.add(PageNumber(page), lsn, content)
        writer.finish()
        self.crc = writer.crc

    def _pages_of_inputs(self) -> list[Iterator[tuple[int, int]]]:
        def pages(order: int, info: LayerInfo) -> Iterator[tuple[int, int]]:
            return ((entry.page, order) for entry in self._map.reader(info.name).entries())

        return [pages(order, info) for order, info in enumerate(self._plan.inputs)]

    def _content(self, page: PageNumber, order: int) -> tuple[Lsn, bytes]:
        """The page's LSN and packed bytes; of images the newest one's, unpacked only to check it."""
        if self._plan.kind == "merge":
            reader = self._map.reader(self._plan.inputs[order].name)
            entry = reader.find(page)
            assert entry is not None
            blob = reader.blob(entry)
            unpack_image(blob, page)
            return entry.lsn, blob
        lsn, content = self._map.read_page(page, self._plan.lsn_to, self._timeline)
        return lsn, lz4.block.compress(content, store_size=False)
