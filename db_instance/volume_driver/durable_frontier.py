"""How far the volume is durable, worked out from what the segments have acknowledged.

    PGCL   per group: four of six segments hold every record up to here
    VCL    volume: every record up to here is at or below its own group's PGCL
    VDL    volume: the last mini-transaction end (CPL) at or below the VCL

Frames are sealed in rounds (batcher.py), and the frontier moves by whole rounds, in order: a round is
complete when each of its groups' PGCL has reached the round's last record in that group. Commits wait
for the VDL, readers read at it. All three only move forward:  VDL <= VCL <= last sealed LSN.
"""

from collections import deque
from collections.abc import Collection
from typing import NamedTuple

from volume.ids import LSN_ZERO, GroupId, Lsn
from volume.quorum import WRITE_QUORUM
from volume.quorum_set import QuorumSet


class Round(NamedTuple):
    last_lsn: Lsn
    last_cpl: Lsn
    """The last CPL in the round, or zero: a giant mini-transaction spans rounds."""
    ends: tuple[tuple[GroupId, Lsn], ...]
    """Each group in the round with its last record there."""
    size_bytes: int


class DurableFrontier:
    def __init__(self, vdl: Lsn) -> None:
        self.vcl = vdl
        self.vdl = vdl
        self.last_sealed = vdl
        self._members: dict[GroupId, QuorumSet] = {}
        self._scl: dict[GroupId, dict[str, Lsn]] = {}
        self._pgcl: dict[GroupId, Lsn] = {}
        self._durable_end: dict[GroupId, Lsn] = {}
        self._rounds: deque[Round] = deque()

    @property
    def in_flight(self) -> int:
        """Rounds sealed and not yet complete."""
        return len(self._rounds)

    def add_group(self, group: GroupId, members: QuorumSet, end: Lsn) -> None:
        """A group whose records up to `end` are durable at a write quorum."""
        assert group not in self._scl
        self._members[group] = members
        self._scl[group] = {member.node: LSN_ZERO for member in members.members}
        self._pgcl[group] = LSN_ZERO
        self._durable_end[group] = end

    @property
    def groups(self) -> Collection[GroupId]:
        return self._members.keys()

    def members(self, group: GroupId) -> QuorumSet:
        return self._members[group]

    def change_members(self, group: GroupId, members: QuorumSet) -> list[Round]:
        """The group has other members from now on; rounds that this completes. What was durable stays so."""
        before = self._members[group].epoch
        assert members.epoch > before
        self._members[group] = members
        # Of changes that we have not heard of a node may have lost its segment, and have another one now: it
        # tells again what it has.
        known = self._scl[group] if members.epoch == before + 1 else {}
        self._scl[group] = {
            # A replacement may be on the node of the segment that is gone: what that one had does not count.
            member.node: LSN_ZERO if member.filling else known.get(member.node, LSN_ZERO)
            for member in members.members
        }
        return self._recount(group)

    def pgcl(self, group: GroupId) -> Lsn:
        return self._pgcl[group]

    def scl(self, group: GroupId) -> dict[str, Lsn]:
        """The SCLs as last heard, by node."""
        return self._scl[group]

    def durable_end(self, group: GroupId) -> Lsn:
        """The group's last record that a completed round carried: what a reader at the VDL requires."""
        return self._durable_end[group]

    def on_sealed(self, round_: Round) -> None:
        assert round_.last_lsn > self.last_sealed
        self.last_sealed = round_.last_lsn
        self._rounds.append(round_)

    def on_acknowledged(self, group: GroupId, node: str, scl: Lsn) -> list[Round]:
        """Take one acknowledgement; the rounds that it completed. Late and repeated ones do no harm."""
        seen = self._scl[group]
        if scl <= seen.get(node, scl):
            return []  # known, or of a node that is no member any more
        seen[node] = scl
        return self._recount(group)

    def on_joined(self, group: GroupId, node: str, scl: Lsn) -> list[Round]:
        """What a segment says it has when it begins to take our log. Less than it had acknowledged, if its disk
        has not kept that: what is not complete yet must do without."""
        if node not in self._scl[group]:
            return []
        self._scl[group][node] = scl
        return self._recount(group)

    def _recount(self, group: GroupId) -> list[Round]:
        members, seen = self._members[group], self._scl[group]
        # Nearly always nobody is being replaced: then the fourth highest of the six is the PGCL.
        pgcl = members.complete_lsn(seen) if members.changes else sorted(seen.values())[-WRITE_QUORUM]
        if pgcl <= self._pgcl[group]:
            return []
        self._pgcl[group] = pgcl
        return self._advance()

    def _advance(self) -> list[Round]:
        completed = []
        vdl_before = self.vdl
        while self._rounds and self._is_complete(self._rounds[0]):
            oldest = self._rounds.popleft()
            completed.append(oldest)
            self.vcl = oldest.last_lsn
            self.vdl = max(self.vdl, oldest.last_cpl)
            self._durable_end.update(oldest.ends)
        assert vdl_before <= self.vdl <= self.vcl <= self.last_sealed
        return completed

    def _is_complete(self, round_: Round) -> bool:
        pgcl = self._pgcl
        return all(end <= pgcl[group] for group, end in round_.ends)
