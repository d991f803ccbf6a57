"""A volume that is too simple to be wrong, for recovery to be judged by.

Segments are sets of LSNs. Every LSN that was ever given out is remembered, with its group, the record
before it and its mini-transaction, and so is every LSN that was ever announced as durable. All choices
come from one Random: which record reaches which segment, who is told what, who answers an opening, and
where an opening is broken off.
"""

import random
from dataclasses import dataclass, field

from volume.ids import LSN_ZERO, Epoch, GroupId, Lsn
from volume.quorum import COPIES, READ_QUORUM, WRITE_QUORUM, group_complete_lsn
from volume.recovery import Recovered, SegmentTail, recover
from volume.timeline import EMPTY_TIMELINE, Timeline


@dataclass(frozen=True)
class Given:
    """One LSN as the writer gave it out."""

    lsn: Lsn
    prev: Lsn
    group: GroupId
    epoch: Epoch
    cpl: Lsn
    """The end of the mini-transaction that it is part of."""


@dataclass
class ModelSegment:
    group: GroupId
    slot: int
    held: dict[Lsn, Given] = field(default_factory=dict)
    timeline: Timeline = EMPTY_TIMELINE
    promised: Epoch = EMPTY_TIMELINE.epoch
    known_vdl: Lsn = LSN_ZERO

    def take(self, record: Given) -> None:
        if record.epoch <= self.timeline.epoch and self.timeline.counts(record.lsn):
            self.held[record.lsn] = record

    def adopt(self, timeline: Timeline) -> None:
        if timeline.epoch > self.timeline.epoch:
            self.timeline = timeline
            self.held = {lsn: given for lsn, given in self.held.items() if timeline.counts(lsn)}

    @property
    def scl(self) -> Lsn:
        follows = {record.prev: record.lsn for record in self.held.values()}
        assert len(follows) == len(self.held), "two records follow the same one"
        scl = LSN_ZERO
        while scl in follows:
            scl = follows[scl]
        return scl

    def tail(self) -> SegmentTail:
        above = sorted(lsn for lsn in self.held if lsn > self.known_vdl)
        runs: list[tuple[Lsn, Lsn]] = []
        for lsn in above:
            if runs and runs[-1][1] == lsn - 1:
                runs[-1] = (runs[-1][0], lsn)
            else:
                runs.append((lsn, lsn))
        chained = [lsn for lsn in above if lsn <= self.scl]
        return SegmentTail(
            self.group,
            self.slot,
            self.scl,
            self.known_vdl,
            self.timeline,
            tuple(runs),
            tuple(lsn for lsn in above if self.held[lsn].cpl == lsn),
            self.held[chained[0]].prev if chained else self.scl,
        )


class ModelVolume:
    def __init__(self, dice: random.Random, groups: int) -> None:
        self.dice = dice
        self.groups = [GroupId(group) for group in range(groups)]
        self.segments = {
            group: [ModelSegment(group, slot) for slot in range(COPIES)] for group in self.groups
        }
        self.given: dict[Lsn, Given] = {}
        self.epoch = Epoch(0)
        self.announced: set[Lsn] = set()
        """Every LSN at or below a VDL that some writer announced, as long as it counted then."""
        self.openings = 0
        self.broken_off = 0
        self.vdl = LSN_ZERO
        self._next = Lsn(1)
        self._ends: dict[GroupId, Lsn] = dict.fromkeys(self.groups, LSN_ZERO)
        self._acknowledged: dict[tuple[GroupId, int], Lsn] = {}
        self._unfinished: list[Given] = []

    # The writer.

    def commit(self) -> list[Given]:
        """One mini-transaction of one to five records; its last one is in group 0."""
        groups = [self.dice.choice(self.groups) for _ in range(self.dice.randrange(5))] + [GroupId(0)]
        cpl = Lsn(self._next + len(groups) - 1)
        records = []
        for group in groups:
            assert self._next not in self.given, "an LSN is never used twice"
            record = Given(self._next, self._ends[group], group, self.epoch, cpl)
            self.given[record.lsn] = record
            self._ends[group] = record.lsn
            self._next = Lsn(self._next + 1)
            records.append(record)
        return records

    def deliver(self, records: list[Given], reach: float) -> None:
        """Each record to each of its segments by dice; then acknowledgements, by dice."""
        for record in records:
            for segment in self.segments[record.group]:
                if segment.promised == self.epoch == segment.timeline.epoch and self.dice.random() < reach:
                    segment.take(record)
                    if self.dice.random() < 0.3:
                        segment.known_vdl = max(segment.known_vdl, self.vdl)
        for segment in self._all():
            if segment.promised == self.epoch and self.dice.random() < 0.7:
                self._acknowledged[segment.group, segment.slot] = segment.scl
        self._announce()

    def _announce(self) -> None:
        """The VDL by its definition: the last commit all of whose LSNs and all before are at a quorum."""
        pgcl = {
            group: group_complete_lsn(
                [self._acknowledged.get((group, slot), LSN_ZERO) for slot in range(COPIES)]
            )
            for group in self.groups
        }
        for lsn in sorted(lsn for lsn, record in self.given.items() if record.epoch == self.epoch):
            if lsn > pgcl[self.given[lsn].group]:
                break
            if self.given[lsn].cpl == lsn and lsn > self.vdl:
                self.vdl = lsn
                self.announced |= self.counted_to(lsn)

    def counted_to(self, vdl: Lsn) -> set[Lsn]:
        return {lsn for lsn in self.given if lsn <= vdl and self.timeline.counts(lsn)}

    # The segments among themselves.

    def gossip(self) -> None:
        asker, peer = self.dice.sample(self.segments[self.dice.choice(self.groups)], 2)
        asker.adopt(peer.timeline)
        for record in peer.held.values():
            asker.take(record)
        asker.known_vdl = max(asker.known_vdl, peer.known_vdl)

    # The next writer.

    def open(self) -> Recovered | None:
        """Each step may be the last one. None if it was broken off."""
        self.epoch = Epoch(self.epoch + 1)
        answering = []
        for group in self.groups:
            count = self.dice.choice([3, 3, 3, 4, 5, 6])
            assert count >= READ_QUORUM
            answering += self.dice.sample(self.segments[group], count)
        for segment in answering:
            segment.promised = self.epoch
        recovered = recover([segment.tail() for segment in answering], self.groups, self.epoch)
        self.judge(recovered, answering)
        if not (self._install(recovered) and self._complete(recovered)):
            self.broken_off += 1
            return None
        self._take_over(recovered)
        return recovered

    def _install(self, recovered: Recovered) -> bool:
        enough = self.dice.random() < 0.7
        for group in self.groups:
            count = self.dice.randint(WRITE_QUORUM, COPIES) if enough else self.dice.randint(0, COPIES)
            for segment in self.dice.sample(self.segments[group], count):
                segment.promised = self.epoch
                segment.adopt(recovered.timeline)
                segment.known_vdl = max(segment.known_vdl, recovered.known_vdl)
        return enough

    def _complete(self, recovered: Recovered) -> bool:
        for _ in range(200):
            if all(self._holders(group, end) >= WRITE_QUORUM for group, end in recovered.group_ends.items()):
                return True
            if self.dice.random() < 0.01:
                return False
            self.gossip()
        return False

    def _holders(self, group: GroupId, end: Lsn) -> int:
        return sum(s.scl >= end and s.timeline.epoch == self.epoch for s in self.segments[group])

    def _take_over(self, recovered: Recovered) -> None:
        self.openings += 1
        self.timeline = recovered.timeline
        self.vdl = recovered.vdl
        self.announced |= self.counted_to(recovered.vdl)
        self._next = recovered.next_lsn
        self._ends = dict(recovered.group_ends)
        self._acknowledged = {}

    timeline: Timeline = EMPTY_TIMELINE
    """Of the last writer that took over: what a reader of the volume goes by."""

    def judge(self, recovered: Recovered, answering: list[ModelSegment]) -> None:
        """What must hold of every answer that recovery gives, broken off later or not."""
        timeline, vdl = recovered.timeline, recovered.vdl
        inside = {lsn for lsn in self.given if lsn <= vdl and timeline.counts(lsn)}
        assert self.announced <= inside, f"lost {sorted(self.announced - inside)}"
        held = {lsn for segment in answering for lsn in segment.held}
        durable = {lsn for lsn in inside if lsn <= recovered.known_vdl}
        assert durable <= self.announced, "a segment was told a VDL that no writer announced"
        assert inside <= held, f"{sorted(inside - held)} is on no segment that answered"
        for lsn in inside:
            assert self.given[lsn].cpl in inside, f"lsn {lsn} is half a transaction"
        assert vdl == max(inside, default=LSN_ZERO), "the volume ends with a commit"
        assert vdl <= recovered.vcl
        assert all(not timeline.counts(lsn) for lsn in self.given if lsn > vdl)
        assert recovered.next_lsn > max(self.given, default=0)
        assert timeline.counts(recovered.next_lsn)
        assert timeline.epoch == self.epoch
        for group, end in recovered.group_ends.items():
            expected = max([lsn for lsn in inside if self.given[lsn].group == group], default=LSN_ZERO)
            assert end == expected, f"pg{group} ends at {end}, not at {expected}"

    def _all(self) -> list[ModelSegment]:
        return [segment for group in self.groups for segment in self.segments[group]]
