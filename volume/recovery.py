"""From what segments hold to where the volume ends: VCL, VDL and the range that no longer counts.

Told the tails of at least a read quorum of every protection group, whose promises have shut out the
old writer. Every record a writer ever announced as durable is on four segments of its group, so it is
in the union of any three tails. LSNs grow by one a record, so the log is complete up to the first LSN
that no tail of any group holds. The argument, and the phases around it, follow Verbitski et al.,
"Amazon Aurora: On Avoiding Distributed Consensus for I/Os, Commits, and Membership Changes" (2018).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from volume.errors import QuorumLost
from volume.ids import LSN_ZERO, Epoch, GroupId, Lsn
from volume.limits import LSN_ALLOCATION_LIMIT
from volume.quorum import READ_QUORUM
from volume.timeline import EMPTY_TIMELINE, Timeline


@dataclass(frozen=True, slots=True)
class SegmentTail:
    """What one segment reports after its promise."""

    group: GroupId
    slot: int
    scl: Lsn
    known_vdl: Lsn
    timeline: Timeline
    runs: tuple[tuple[Lsn, Lsn], ...] = ()
    """Ranges of LSNs of this group held above known_vdl, both ends included; runs hold only own records."""
    cpls: tuple[Lsn, ...] = ()
    chain_base: Lsn = LSN_ZERO
    """The segment's last LSN at or below known_vdl in its unbroken chain."""


@dataclass(frozen=True, slots=True)
class Recovered:
    vcl: Lsn
    vdl: Lsn
    timeline: Timeline
    next_lsn: Lsn
    """The first LSN the new writer may give out: above everything annulled."""
    known_vdl: Lsn
    """The highest VDL that some segment was told. What lies between it and `vdl` may be on one segment
    only: no segment may be told `vdl` before a write quorum of every group is complete up to it."""
    group_ends: dict[GroupId, Lsn] = field(default_factory=dict)
    """Each group's last record at or below the VDL: where the new writer's chain goes on."""


def recover(tails: Sequence[SegmentTail], groups: Sequence[GroupId], epoch: Epoch) -> Recovered:
    """Compute the end of the volume. Raises QuorumLost for a group with fewer than three tails."""
    for group in groups:
        slots = {tail.slot for tail in tails if tail.group == group}
        if len(slots) < READ_QUORUM:
            raise QuorumLost(
                f"open volume: {len(slots)} segments of pg{group} answered, {READ_QUORUM} are needed"
            )
    old = max((tail.timeline for tail in tails), key=lambda timeline: timeline.epoch, default=EMPTY_TIMELINE)
    base = max((tail.known_vdl for tail in tails), default=LSN_ZERO)
    vcl = _complete_to(base, tails, old)
    cpls = [cpl for tail in tails for cpl in tail.cpls if base < cpl <= vcl and old.counts(cpl)]
    vdl = max(cpls, default=base)
    timeline = old.annul(epoch, vdl, Lsn(old.skip(vdl) + LSN_ALLOCATION_LIMIT))
    return Recovered(
        vcl=vcl,
        vdl=vdl,
        timeline=timeline,
        # Not the range's own end: an opening that was broken off may have annulled further.
        next_lsn=Lsn(timeline.skip(vdl) + 1),
        known_vdl=base,
        group_ends={group: _group_end(group, tails, vdl, old) for group in groups},
    )


def _complete_to(base: Lsn, tails: Sequence[SegmentTail], timeline: Timeline) -> Lsn:
    """The last LSN before the first gap in the union of all that counts above `base`."""
    complete = base
    for first, last in sorted(run for tail in tails for whole in tail.runs for run in timeline.kept(*whole)):
        if first > timeline.skip(complete) + 1:
            break
        complete = max(complete, last)
    return complete


def _group_end(group: GroupId, tails: Sequence[SegmentTail], vdl: Lsn, timeline: Timeline) -> Lsn:
    """The group's last record at or below the VDL; some segment of any read quorum has it."""
    own = [tail for tail in tails if tail.group == group]
    kept = [run for tail in own for whole in tail.runs for run in timeline.kept(*whole)]
    in_runs = [min(last, vdl) for first, last in kept if first <= vdl]
    return max([tail.chain_base for tail in own] + in_runs)
