"""Log that is in layers already, as frames for a peer that lacks it.

A layer holds its records by page: to have them in order all of it is read. A peer takes it in portions, so
the last layer's frames are kept while someone goes on asking for them.
"""

from bisect import bisect_right
from typing import NamedTuple

from storage_node.layers.layer_map import LayerMap
from storage_node.segment.chain import Chain
from volume.ids import Epoch, GroupId, Lsn, VolumeId
from volume.log_batch import read_header, seal_records


class _Kept(NamedTuple):
    layer: str
    epoch: Epoch
    frames: list[bytes]
    ends: list[Lsn]
    """Each frame's last LSN."""


class PeerLog:
    def __init__(self, layers: LayerMap, volume: VolumeId, group: GroupId) -> None:
        self._layers = layers
        self._volume = volume
        self._group = group
        self._kept: _Kept | None = None
        self._asked = False

    def frames_after(self, lsn: Lsn, chain: Chain) -> list[bytes]:
        """Frames that begin above `lsn`, or have it inside, of the oldest layer that has any; none if none has.

        Raises CorruptPage, OSError.
        """
        self._asked = True
        for info in self._layers.log_layers_after(lsn):
            kept = self._kept
            if kept is None or kept.layer != info.name or kept.epoch != chain.timeline.epoch:
                kept = self._kept = self._read(info.name, chain)
            if found := kept.frames[bisect_right(kept.ends, lsn) :]:
                return found
        return []

    def _read(self, layer: str, chain: Chain) -> _Kept:
        self._kept = None  # before the next one is in memory
        counts = chain.timeline.counts
        records = [record for record in self._layers.records_of(layer) if counts(record.lsn)]
        epoch = chain.timeline.epoch
        frames = seal_records(self._volume, self._group, epoch, records, chain.known_vdl) if records else []
        return _Kept(layer, epoch, frames, [read_header(frame).last_lsn for frame in frames])

    def tidy(self) -> None:
        """Called now and then: what nobody has asked for since the last time is let go."""
        if not self._asked:
            self._kept = None
        self._asked = False
