"""Turns deltas into images and many layers into few, so that a cold read never walks far.

    images   four or more deltas (up to the VDL) that no image covers: one image layer of their pages
    merge    images that came to be about as large as what is newer than them: one layer of the newest
    drop     deltas below an image that no reader needs any more

Each step is a generator that yields after a few pages, so that the caller can make it wait.
"""

import heapq
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from typing import Final

from runtime.disk import Disk, File
from storage_node.layers.layer_file import KIND_IMAGE, Entry, LayerWriter
from storage_node.layers.layer_map import LayerInfo, LayerMap, Places, unpack_image
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
        content_of = self._newest if self._plan.kind == "merge" else self._after_all
        for count, (page, places) in enumerate(self._pages()):
            if count % _PAGES_A_STEP == 0:
                yield
            lsn, packed = content_of(page, places)
            if lsn:
                writer.add(page, lsn, packed)
        writer.finish()
        self.crc = writer.crc

    def _pages(self) -> Iterator[tuple[PageNumber, Places]]:
        """Each page of the inputs, ascending, and where in them it is."""

        def entries(info: LayerInfo, order: int) -> Iterator[tuple[PageNumber, int, Entry]]:
            return ((entry.page, order, entry) for entry in self._map.reader(info.name).entries())

        inputs = self._plan.inputs
        nowhere: Places = dict.fromkeys(info.name for info in inputs)
        found = heapq.merge(*(entries(info, order) for order, info in enumerate(inputs)))
        for page, same in groupby(found, key=itemgetter(0)):
            places = nowhere.copy()
            for _, order, entry in same:
                places[inputs[order].name] = entry
            yield page, places

    def _newest(self, page: PageNumber, places: Places) -> tuple[Lsn, bytes]:
        """Of images the newest one's, unpacked only to check it."""
        name, entry = next((name, entry) for name, entry in places.items() if entry is not None)
        blob = self._map.reader(name).blob(entry)
        unpack_image(blob, page)
        return entry.lsn, blob

    def _after_all(self, page: PageNumber, places: Places) -> tuple[Lsn, bytes]:
        return self._map.read_packed(page, self._plan.lsn_to, self._timeline, places)
