"""The difference between what is wanted and what is seen, as a plan of things to do.

A plan is data: it can be printed, compared and thrown away. Carrying it out twice does no harm.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Final

from control_plane.cluster.model import Group, Member, NodeId, ProcessFacts, Volume, Wanted

RESTART_DELAY_S: Final = 0.2
RESTART_DELAY_S_MAX: Final = 5.0
"""A local cluster has one user who waits for it: never longer than this between two tries."""

STEADY_AFTER_S: Final = 10.0
"""A process that lived this long and then ended starts again as if it never had before."""


@dataclass(frozen=True, slots=True)
class StartProcess:
    id: str


@dataclass(frozen=True, slots=True)
class PauseProcess:
    id: str


@dataclass(frozen=True, slots=True)
class ResumeProcess:
    id: str


@dataclass(frozen=True, slots=True)
class KillProcess:
    id: str


ProcessAction = StartProcess | PauseProcess | ResumeProcess | KillProcess


@dataclass(frozen=True, slots=True)
class CreateSegment:
    """Ask a node for a segment that the metadata lists and nobody has confirmed yet."""

    volume: Volume
    group: Group
    member: Member


def plan_processes(processes: Iterable[ProcessFacts]) -> list[ProcessAction]:
    actions = (_action_for(facts) for facts in processes)
    return [action for action in actions if action is not None]


def _action_for(facts: ProcessFacts) -> ProcessAction | None:
    alive = facts.pid is not None
    match facts.wanted:
        case Wanted.RUNNING if not alive:
            return StartProcess(facts.id) if facts.restart_in_s <= 0 else None
        case Wanted.RUNNING if facts.paused:
            return ResumeProcess(facts.id)
        case Wanted.PAUSED if alive and not facts.paused:
            return PauseProcess(facts.id)
        case Wanted.KILLED if alive:
            return KillProcess(facts.id)
        case _:
            return None


def restart_delay_s(crashes: int, dice: float) -> float:
    """How long to wait before the next start: not at all after one crash, since clients wait.

    `dice` in [0, 1) keeps processes from starting in step.
    """
    assert crashes >= 1
    if crashes == 1:
        return 0.0
    longest = min(RESTART_DELAY_S_MAX, RESTART_DELAY_S * float(1 << min(crashes - 2, 16)))
    return longest * (0.5 + dice / 2)


def crashes_after_exit(crashes: int, lived_s: float) -> int:
    return 1 if lived_s >= STEADY_AFTER_S else crashes + 1


def plan_segments(volumes: Iterable[Volume], answering: Collection[NodeId]) -> list[CreateSegment]:
    """Segments still to be made, on nodes that answer: of groups that cannot be written yet, and replacements."""
    return [
        CreateSegment(volume, group, member)
        for volume in volumes
        for group in volume.groups
        for member in group.members
        if group.may_be_made(member) and member.node in answering
    ]
