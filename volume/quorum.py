"""Quorum arithmetic for one protection group. Numbers in, numbers out: no clock, no network.

The three figures are written out, not computed, because a formula hides a wrong one. What must hold
between them is asserted below and so is checked each time the module is imported.
"""

from collections.abc import Iterable, Mapping
from typing import Final

from volume.ids import Lsn

COPIES: Final = 6
COPIES_PER_ZONE: Final = 2
WRITE_QUORUM: Final = 4
READ_QUORUM: Final = 3

# Every read quorum meets every write quorum, so recovery sees each acknowledged record.
assert READ_QUORUM + WRITE_QUORUM > COPIES
# Two write quorums meet, so two writers cannot both succeed at one LSN.
assert WRITE_QUORUM + WRITE_QUORUM > COPIES
# Losing a zone leaves writes alive; losing a zone and one more copy leaves reads alive.
assert COPIES - COPIES_PER_ZONE >= WRITE_QUORUM
assert COPIES - COPIES_PER_ZONE - 1 >= READ_QUORUM


def group_complete_lsn(segment_complete_lsn: Iterable[Lsn]) -> Lsn:
    """Return the PGCL: the highest LSN that a write quorum of segments has reached.

    A segment's complete LSN means "I hold every record of this group up to here", so the fourth
    highest of the six is the highest that four of them share.
    """
    descending = sorted(segment_complete_lsn, reverse=True)
    assert len(descending) == COPIES
    return descending[WRITE_QUORUM - 1]


def describe(scl_by_slot: Mapping[int, Lsn]) -> str:
    """The six SCLs against their PGCL, for a failing test and for the log."""
    pgcl = group_complete_lsn(scl_by_slot.values())
    rows = [
        f"{'abcdef'[slot]}={scl}{'' if scl >= pgcl else ' behind'}"
        for slot, scl in sorted(scl_by_slot.items())
    ]
    return f"pgcl={pgcl} " + " ".join(rows)
