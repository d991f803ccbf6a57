"""What the control plane knows of a cluster: what is wanted durably, and what was last seen.

The first half is kept in the metadata store, the second half is made anew by looking.
"""

import errno
import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, NewType

from volume.ids import Epoch, GroupId, Lsn, SegmentId, VolumeId
from volume.quorum import COPIES, WRITE_QUORUM

NodeId = NewType("NodeId", str)
"""The name of a storage node, as in `s1`."""

MAIN_VOLUME: Final = "main"
"""The volume a cluster begins with, and the one meant when a request names none."""


@dataclass(frozen=True, slots=True)
class Node:
    """A storage node: where a segment may live."""

    id: NodeId
    az: str
    address: str
    draining: bool = False
    """Its segments are to be moved elsewhere, and none are placed on it."""


@dataclass(frozen=True, slots=True)
class Instance:
    """A db instance, which may be granted a volume to write."""

    id: str
    az: str
    address: str


class Reason(StrEnum):
    """Why a segment is being replaced."""

    REPAIR = "repair"
    """It is suspect: if it comes back before the replacement is filled, it stays."""
    MOVE = "move"
    """It is well, and goes elsewhere: its node is drained, or another one has room."""


@dataclass(frozen=True, slots=True)
class Member:
    """Who holds one of the six places of a group, or is being filled to hold it.

    `created`: the node has answered that it has the segment. `reason`: of one that is being filled.
    """

    slot: int
    node: NodeId
    created: bool = False
    reason: Reason | None = None

    @property
    def filling(self) -> bool:
        return self.reason is not None


@dataclass(frozen=True, slots=True)
class Group:
    id: GroupId
    membership_epoch: Epoch
    born_lsn: Lsn
    """The group has no record at or below it."""
    members: tuple[Member, ...]
    loss_accepted: bool = False
    """An operator wants the group rebuilt from what is left of it, until a read quorum is there again."""

    @property
    def voters(self) -> tuple[Member, ...]:
        return tuple(member for member in self.members if not member.filling)

    @property
    def replacements(self) -> tuple[Member, ...]:
        return tuple(member for member in self.members if member.filling)

    def voter_of(self, slot: int) -> Member | None:
        return next((member for member in self.voters if member.slot == slot), None)

    @property
    def created_count(self) -> int:
        """How many of the six were made. One that is filled again in its own place, and has no vote until then,
        counts: it was made once."""
        return sum(member.created for member in self.voters) + COPIES - len(self.voters)

    def may_be_made(self, member: Member) -> bool:
        """May its node be asked for the segment, which is empty when it is made?

        Once four of the six are made the group may have been written to. What was made without our hearing of it
        counts then, and if it was lost since, an empty one with a vote in its place would have forgotten that:
        who lacks its segment is filled, as a replacement.
        """
        return not member.created and (member.filling or self.created_count < WRITE_QUORUM)


@dataclass(frozen=True, slots=True)
class Volume:
    id: VolumeId
    name: str
    segment_size: int
    epoch: Epoch
    """The newest one granted; 0 before the first writer."""
    writer: str
    """The instance it was granted to; empty before the first one."""
    groups: tuple[Group, ...]


_DISK_ERRORS: Final = {errno.EIO, errno.ENOSPC, errno.EROFS, errno.EDQUOT}
_ERROR_NUMBER: Final = re.compile(r"\[Errno (\d+)\]")


def is_of_the_disk(failure: str) -> bool:
    """Has a segment failed because of its disk? Damage is not: peers mend it."""
    number = _ERROR_NUMBER.search(failure)
    return number is not None and int(number[1]) in _DISK_ERRORS


def lacks_room(state: str) -> bool:
    """Does a replacement wait for room on its node's disk?"""
    return state.startswith("filling: ")


@dataclass(frozen=True, slots=True)
class Fill:
    """How far a segment has got in copying a peer's layers."""

    source: str
    bytes_done: int
    bytes_total: int
    bytes_per_s: int


@dataclass(frozen=True, slots=True)
class SegmentReport:
    """What a storage node says of one segment."""

    volume: VolumeId
    id: SegmentId
    scl: Lsn
    known_vdl: Lsn
    promised_epoch: Epoch
    timeline_epoch: Epoch
    membership_epoch: Epoch
    state: str
    hot_bytes: int
    delta_layers: int
    image_layers: int
    layer_bytes: int
    fill: Fill | None = None


@dataclass(frozen=True, slots=True)
class NodeReport:
    segments: tuple[SegmentReport, ...]
    free_bytes: int
    sync_us: int = 0
    """How long its disk's syncs take lately."""
    failed: str = ""
    """Why it can keep no log any more, until it is started anew."""


@dataclass(frozen=True, slots=True)
class NodeSeen:
    """A storage node as an instance sees it."""

    node: NodeId
    connected: bool
    read_us: int
    behind: int
    lost_log: bool = False
    """It came back without log that it had acknowledged."""


@dataclass(frozen=True, slots=True)
class InstanceReport:
    role: str
    state: str
    epoch: Epoch
    vdl: Lsn
    vcl: Lsn
    last_lsn: Lsn
    sessions: int
    cache_bytes: int
    sql_address: str
    nodes: tuple[NodeSeen, ...] = ()


class Wanted(StrEnum):
    """What a process of the local cluster should be doing."""

    RUNNING = "running"
    PAUSED = "paused"
    KILLED = "killed"


@dataclass(frozen=True, slots=True)
class ProcessFacts:
    """What the operating system says of one process of the local cluster, and what is wanted of it."""

    id: str
    role: str
    az: str
    address: str
    wanted: Wanted
    pid: int | None = None
    """None: it is not alive."""
    paused: bool = False
    age_s: float = 0.0
    """For how long it has been watched since it started or was adopted."""
    crashes: int = 0
    """How often in a row it ended on its own, soon after its start."""
    restart_in_s: float = 0.0
    last_exit: str = ""
