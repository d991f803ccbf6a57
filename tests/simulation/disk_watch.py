"""An ignorant judge: knows nothing of writers and segments, looks at what lies on six disks.

Every frame that a sync makes durable passes here, and layers are read when a record seems to be missing
(a segment may have been given them whole by a peer). What a client was told is then a sentence that can
be checked: each LSN up to its commit is on four disks, and wherever it is, it is the same record.
"""

from collections.abc import Callable, Iterator, Mapping

from storage_node.layers.layer_file import KIND_DELTA, LayerReader
from tests.simulation.sim_disk import SimDisk
from volume.errors import VolumeError
from volume.ids import GroupId, Lsn
from volume.log_batch import MAGIC_BYTES, check_frame, frame_records, read_header
from volume.page import checksum
from volume.quorum import WRITE_QUORUM
from volume.redo_record import COMMIT_STAMP, FLAG_WHOLE_PAGE, RedoRecord, encode_record, iter_records


class DiskWatch:
    def __init__(self) -> None:
        self._disks: dict[str, SimDisk] = {}
        self._holders: dict[Lsn, set[str]] = {}
        """The nodes on whose disk each LSN is or has been durable."""
        self._digest: dict[Lsn, int] = {}
        self._group: dict[Lsn, GroupId] = {}

    def look(self, node: str, disk: SimDisk) -> None:
        """The node's disk from now on; what survived the last power cut is on it as well."""

        def on_durable(_path: str, data: bytes) -> None:
            for group, record in _records_in(data):
                self._note(node, group, record)

        self._disks[node] = disk
        disk.on_durable = on_durable
        durable = disk.durable_copy()
        for path in durable.paths():
            on_durable(path, durable.read_all(path))

    def _note(self, node: str, group: GroupId, record: RedoRecord) -> None:
        # A node may keep the whole page instead of the change: what comes of it is the same.
        stamp = record.payload[: COMMIT_STAMP.size] if record.is_cpl else b""
        same = record._replace(flags=record.flags & ~FLAG_WHOLE_PAGE, payload=stamp)
        lsn, digest = record.lsn, checksum(encode_record(same))
        self._holders.setdefault(lsn, set()).add(node)
        self._group[lsn] = group
        known = self._digest.setdefault(lsn, digest)
        assert known == digest, f"two records carry lsn {lsn}; the second is on {node}'s disk"

    def missing(self, after: Lsn, up_to: Lsn, members: Mapping[GroupId, set[str]]) -> list[tuple[Lsn, int]]:
        """The LSNs in (after, up_to] on the disks of fewer than four members of their group, with how many have
        them. Of a group whose members are not known every disk counts."""
        if self._too_few(after, up_to, members):
            for node, disk in self._disks.items():
                self._read_layers(node, disk.durable_copy())
        return self._too_few(after, up_to, members)

    def too_few_of_what_counts(
        self, up_to: Lsn, counts: Callable[[Lsn], bool], members: Mapping[GroupId, set[str]]
    ) -> list[tuple[Lsn, int]]:
        """Of the records that any disk has ever had, those that count and are on fewer than four members'."""

        def found() -> list[tuple[Lsn, int]]:
            known = [
                (lsn, len(nodes & members[group] if (group := self._group[lsn]) in members else nodes))
                for lsn, nodes in self._holders.items()
                if lsn <= up_to
            ]
            return [(lsn, copies) for lsn, copies in known if copies < WRITE_QUORUM and counts(lsn)]

        if found():
            for node, disk in self._disks.items():
                self._read_layers(node, disk.durable_copy())
        return found()

    def _too_few(self, after: Lsn, up_to: Lsn, members: Mapping[GroupId, set[str]]) -> list[tuple[Lsn, int]]:
        found = []
        for lsn in map(Lsn, range(after + 1, up_to + 1)):
            holders = self._holders.get(lsn, set())
            group = self._group.get(lsn)
            if group in members:
                holders = holders & members[group]
            if len(holders) < WRITE_QUORUM:
                found.append((lsn, len(holders)))
        return found

    def _read_layers(self, node: str, disk: SimDisk) -> None:
        for path in disk.paths():
            if not path.endswith(".layer"):
                continue
            group = GroupId(int(path.split("/")[1].partition("-")[2]))
            try:
                self._read_layer(node, group, LayerReader(disk.open(path), path))
            except VolumeError:
                continue  # one that is still being written

    def _read_layer(self, node: str, group: GroupId, reader: LayerReader) -> None:
        if reader.kind == KIND_DELTA:
            for entry in reader.entries():
                for record in iter_records(reader.blob(entry)):
                    self._note(node, group, record)
            return
        # An image holds what all records of its range came to.
        for lsn, owner in self._group.items():
            if owner == group and reader.lsn_from < lsn <= reader.lsn_to:
                self._holders[lsn].add(node)


def _records_in(data: bytes) -> Iterator[tuple[GroupId, RedoRecord]]:
    at = data.find(MAGIC_BYTES)
    while at >= 0:
        try:
            header = read_header(data, at)
            frame = data[at : at + header.size]
            check_frame(frame)
        except VolumeError:
            at = data.find(MAGIC_BYTES, at + 1)
            continue
        for record in frame_records(frame):
            yield header.group, record
        at = data.find(MAGIC_BYTES, at + len(frame))
