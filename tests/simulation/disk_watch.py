"""An ignorant judge: knows nothing of writers and segments, looks at what lies on six disks.

Every frame that a sync makes durable passes here. An announced VDL is then a sentence that can be
checked: each LSN up to it lies on four disks, and wherever it lies it is the same record.
"""

from collections.abc import Iterator

from tests.simulation.sim_disk import SimDisk
from volume.errors import VolumeError
from volume.ids import Lsn
from volume.log_batch import MAGIC_BYTES, check_frame, frame_records, read_header
from volume.page import checksum
from volume.quorum import WRITE_QUORUM
from volume.redo_record import encode_record


class DiskWatch:
    def __init__(self) -> None:
        self.holders: dict[Lsn, set[str]] = {}
        """The nodes on whose disk each LSN has been durable."""
        self._digest: dict[Lsn, int] = {}

    def look(self, node: str, disk: SimDisk) -> None:
        """The node's disk from now on; what survived the last power cut is on it as well."""

        def on_durable(path: str, data: bytes) -> None:
            for lsn, digest in _records_in(data):
                self.holders.setdefault(lsn, set()).add(node)
                known = self._digest.setdefault(lsn, digest)
                assert known == digest, f"two records carry lsn {lsn}; the second is on {node}'s disk"

        disk.on_durable = on_durable
        durable = disk.durable_copy()
        for path in durable.paths():
            on_durable(path, durable.read_all(path))

    def missing(self, after: Lsn, up_to: Lsn) -> list[tuple[Lsn, int]]:
        """The LSNs in (after, up_to] on fewer than four disks, with how many have them."""
        counts = ((lsn, len(self.holders.get(Lsn(lsn), ()))) for lsn in range(after + 1, up_to + 1))
        return [(Lsn(lsn), count) for lsn, count in counts if count < WRITE_QUORUM]


def _records_in(data: bytes) -> Iterator[tuple[Lsn, int]]:
    at = data.find(MAGIC_BYTES)
    while at >= 0:
        try:
            frame = data[at : at + read_header(data, at).size]
            check_frame(frame)
        except VolumeError:
            at = data.find(MAGIC_BYTES, at + 1)
            continue
        for record in frame_records(frame):
            yield record.lsn, checksum(encode_record(record))
        at = data.find(MAGIC_BYTES, at + len(frame))
