"""Gives out LSNs and gathers records into frames, one run of records a protection group.

Records enter in LSN order. `seal` closes what has gathered: one frame or more a group, all together a
round. A sealed frame is kept until a write quorum of its group has it, so that a segment whose stream
broke can be sent it again; what a quorum has, the others fetch from each other.
"""

from collections import deque
from dataclasses import dataclass, field
from typing import NamedTuple

from db_instance.volume_driver.durable_frontier import Round
from volume.errors import TransactionTooLarge
from volume.geometry import Geometry
from volume.ids import LSN_ZERO, Epoch, GroupId, Lsn, PageNumber, VolumeId
from volume.limits import FRAME_BYTES_MAX, LSN_ALLOCATION_LIMIT
from volume.log_batch import seal_frame
from volume.redo_record import FLAG_CPL, HEADER


class Change(NamedTuple):
    """One page's change, not yet numbered."""

    page: PageNumber
    page_prev_lsn: Lsn
    page_crc: int
    flags: int
    payload: bytes


class Frame(NamedTuple):
    group: GroupId
    last_lsn: Lsn
    data: bytes


@dataclass(slots=True)
class _Gathering:
    """One group's records that wait to be sealed, and its frames that wait for their quorum."""

    prev_lsn: Lsn
    """Last LSN of the group's last sealed frame."""
    last_lsn: Lsn
    records: list[bytes] = field(default_factory=list)
    first_lsn: Lsn = LSN_ZERO
    size_bytes: int = 0
    closed: list[Frame] = field(default_factory=list)
    """Frames that were full before the round was sealed."""
    retained: deque[Frame] = field(default_factory=deque)


class Batcher:
    def __init__(self, volume: VolumeId, epoch: Epoch, geometry: Geometry, next_lsn: Lsn, vdl: Lsn) -> None:
        self._volume = volume
        self._epoch = epoch
        self._geometry = geometry
        self._next_lsn = next_lsn
        self._floor = Lsn(next_lsn - 1)
        self._last_cpl = LSN_ZERO
        self._groups: dict[GroupId, _Gathering] = {}
        self._touched: dict[GroupId, None] = {}
        self.last_lsn = vdl
        """The last LSN given out, or the VDL at which the volume was opened."""
        self.pending_bytes = 0
        self.retained_bytes = 0

    def add_group(self, group: GroupId, end: Lsn) -> None:
        assert group not in self._groups
        self._groups[group] = _Gathering(prev_lsn=end, last_lsn=end)

    def has_group(self, group: GroupId) -> bool:
        return group in self._groups

    def room(self, vdl: Lsn) -> int:
        """How many LSNs may be given out now: none further than LAL above the VDL."""
        return max(vdl, self._floor) + LSN_ALLOCATION_LIMIT - self._next_lsn + 1

    def add(self, changes: list[Change], vdl: Lsn) -> Lsn:
        """Number the changes, in order, and gather them. Returns the last one's LSN."""
        if len(changes) > self.room(vdl):
            raise TransactionTooLarge(
                f"allocate {len(changes)} LSNs: {self.room(vdl)} are left above VDL {vdl}"
            )
        lsn = self._next_lsn
        pages_per_group = self._geometry.pages_per_group
        for page, page_prev, crc, flags, payload in changes:
            group = GroupId((page - 1) // pages_per_group)
            gathering = self._groups[group]
            head = HEADER.pack(lsn, gathering.last_lsn, page_prev, page, crc, flags, len(payload))
            if not gathering.records:
                gathering.first_lsn = lsn
                self._touched[group] = None
            gathering.records.append(head + payload)
            gathering.last_lsn = lsn
            size = 40 + len(payload)
            gathering.size_bytes += size
            self.pending_bytes += size
            if flags & FLAG_CPL:
                self._last_cpl = lsn
            if gathering.size_bytes >= FRAME_BYTES_MAX:
                self._close(group, gathering, vdl)
            lsn = Lsn(lsn + 1)
        self._next_lsn = lsn
        self.last_lsn = Lsn(lsn - 1)
        return self.last_lsn

    def seal(self, vdl: Lsn) -> tuple[Round, list[Frame]] | None:
        """Close what has gathered; None if there is nothing."""
        if not self._touched:
            return None
        frames: list[Frame] = []
        ends = []
        size = 0
        for group in self._touched:
            gathering = self._groups[group]
            if gathering.records:
                self._close(group, gathering, vdl)
            frames += gathering.closed
            gathering.retained += gathering.closed
            size += sum(len(frame.data) for frame in gathering.closed)
            gathering.closed = []
            ends.append((group, gathering.last_lsn))
        self._touched = {}
        self.pending_bytes = 0
        self.retained_bytes += size
        cpl, self._last_cpl = self._last_cpl, LSN_ZERO
        return Round(self.last_lsn, cpl, tuple(ends), size), frames

    def _close(self, group: GroupId, gathering: _Gathering, vdl: Lsn) -> None:
        data = seal_frame(
            self._volume,
            group,
            self._epoch,
            gathering.prev_lsn,
            gathering.records,
            gathering.first_lsn,
            gathering.last_lsn,
            vdl,
        )
        gathering.closed.append(Frame(group, gathering.last_lsn, data))
        gathering.prev_lsn = gathering.last_lsn
        gathering.records = []
        gathering.size_bytes = 0

    def release(self, group: GroupId, pgcl: Lsn) -> None:
        """A write quorum has the group's records up to `pgcl`: they need not be sent again."""
        retained = self._groups[group].retained
        while retained and retained[0].last_lsn <= pgcl:
            self.retained_bytes -= len(retained.popleft().data)

    def retained(self, group: GroupId) -> list[Frame]:
        return list(self._groups[group].retained)
