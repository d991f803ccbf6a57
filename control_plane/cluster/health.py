"""What state a process is in, and how well a storage node is, decided from what was seen of them.

A process is

starting      alive, has not answered since its start
running       alive and answers
unresponsive  alive, but has not answered for a while
paused        stopped by SIGSTOP
killed        dead, and wanted so
crashed       dead, and about to be started again
down          does not answer, and is not ours to look at more closely

A storage node is, the first that applies,

unknown       has not answered yet, and was asked only a moment ago
gone          silent for so long that its segments are made anew elsewhere
unreachable   silent
failed disk   segments of it have failed on an I/O error, or for want of space; or it came back without log that
              it had acknowledged
draining      its segments are on their way elsewhere
drained       it has none any more, and gets none
slow          syncs, or takes longer to read from, far more slowly than the others do
ok
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from statistics import median
from typing import Final

from control_plane.cluster.membership import Patience
from control_plane.cluster.model import (
    InstanceReport,
    Node,
    NodeId,
    NodeReport,
    ProcessFacts,
    Volume,
    Wanted,
    is_of_the_disk,
)

SUSPECT_AFTER_S: Final = 3.0
"""Five polls missed: longer than a slow fdatasync, shorter than a human's second look."""

STARTING_S_MAX: Final = 30.0
"""A process that has not answered for so long after its start will hardly do so on its own."""


def answers(answered_ago_s: float | None) -> bool:
    """Whether the last answer is recent enough to count on another one."""
    return answered_ago_s is not None and answered_ago_s <= SUSPECT_AFTER_S


def process_state(facts: ProcessFacts, answered_ago_s: float | None) -> str:
    if facts.pid is None:
        return _state_of_dead(facts)
    if facts.paused:
        return "paused"
    if answered_ago_s is not None and answered_ago_s > facts.age_s:
        answered_ago_s = None  # that was the process before this one
    if answers(answered_ago_s):
        return "running"
    if answered_ago_s is None and facts.age_s < STARTING_S_MAX:
        return "starting"
    return "unresponsive"


def _state_of_dead(facts: ProcessFacts) -> str:
    if facts.wanted is Wanted.RUNNING:
        return "crashed" if facts.crashes else "starting"
    return "killed"


def process_detail(facts: ProcessFacts, own_state: str) -> str:
    """The rest of the story, for a human: why it is as it is."""
    if facts.pid is None and facts.wanted is Wanted.RUNNING and facts.crashes:
        return f"{facts.last_exit}, again in {facts.restart_in_s:.1f} s"
    return own_state


# Storage nodes


class Health(StrEnum):
    UNKNOWN = "unknown"
    GONE = "gone"
    UNREACHABLE = "unreachable"
    FAILED_DISK = "failed disk"
    DRAINING = "draining"
    DRAINED = "drained"
    SLOW = "slow"
    OK = "ok"


GONE_AFTER_S: Final = Patience().unreachable_s
SLOW_FACTOR: Final = 5
SLOW_US_MIN: Final = 20_000
"""Below that a node is not slow, however quick the others are: a busy machine is late by so much."""


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """What tells how well a storage node is."""

    silent_s: float
    """How long ago it answered last, or was asked first."""
    answered: bool = True
    """At least once."""
    draining: bool = False
    segments: int = 0
    """How many it should hold."""
    failures: tuple[str, ...] = ()
    """What its failed segments say."""
    sync_us: int = 0
    read_us: int = 0
    """How long the writer waits for its pages; 0 if nobody knows."""
    lost_log: bool = False
    """A writer has seen it come back without log that it had acknowledged."""


@dataclass(frozen=True, slots=True)
class NodeHealth:
    health: Health
    why: str = ""


def node_facts(
    nodes: Iterable[Node],
    volumes: Iterable[Volume],
    reports: Mapping[NodeId, NodeReport],
    silent_s: Mapping[NodeId, float],
    writers: Iterable[InstanceReport],
) -> dict[NodeId, NodeFacts]:
    """`reports`: the last ones, however old; `writers`: those that answer now."""
    held: dict[NodeId, int] = {}
    for member in (member for volume in volumes for group in volume.groups for member in group.members):
        held[member.node] = held.get(member.node, 0) + 1
    seen = [each for writer in writers for each in writer.nodes]
    read_us = {each.node: each.read_us for each in seen}
    lost_log = {each.node for each in seen if each.lost_log}
    facts = {}
    for node in nodes:
        report = reports.get(node.id)
        failures = (
            [each.state for each in report.segments if each.state.startswith("failed")] if report else []
        )
        if report is not None and report.failed:
            failures.append(f"failed: {report.failed}")
        facts[node.id] = NodeFacts(
            silent_s.get(node.id, 0.0),
            report is not None,
            node.draining,
            held.get(node.id, 0),
            tuple(failures),
            report.sync_us if report is not None else 0,
            read_us.get(node.id, 0),
            node.id in lost_log,
        )
    return facts


def node_health(facts: Mapping[NodeId, NodeFacts], gone_after_s: float) -> dict[NodeId, NodeHealth]:
    answering = {
        node: each for node, each in facts.items() if each.answered and each.silent_s <= SUSPECT_AFTER_S
    }
    return {
        node: _silence_of(each, gone_after_s) if node not in answering else _health_of(node, answering)
        for node, each in facts.items()
    }


def _silence_of(facts: NodeFacts, gone_after_s: float) -> NodeHealth:
    why = f"no answer for {facts.silent_s:.0f} s"
    if facts.silent_s >= gone_after_s:
        return NodeHealth(Health.GONE, why)
    if facts.silent_s > SUSPECT_AFTER_S:
        return NodeHealth(Health.UNREACHABLE, why)
    return NodeHealth(Health.UNKNOWN)


def _health_of(node: NodeId, answering: Mapping[NodeId, NodeFacts]) -> NodeHealth:
    facts = answering[node]
    if (failure := next(filter(is_of_the_disk, facts.failures), "")) != "":
        return NodeHealth(Health.FAILED_DISK, failure.removeprefix("failed: "))
    if facts.lost_log:
        return NodeHealth(
            Health.FAILED_DISK, "it does not keep what it syncs: log that was acknowledged is lost"
        )
    if facts.draining:
        left = f"{facts.segments} segment{'' if facts.segments == 1 else 's'} left"
        return NodeHealth(Health.DRAINING, left) if facts.segments else NodeHealth(Health.DRAINED)
    others = [each for other, each in answering.items() if other != node]
    for doing, own, theirs in (
        ("syncs take", facts.sync_us, [each.sync_us for each in others]),
        ("reads take", facts.read_us, [each.read_us for each in others]),
    ):
        if (usual := _far_above(own, theirs)) is not None:
            return NodeHealth(Health.SLOW, f"{doing} {own / 1000:.0f} ms, elsewhere {usual / 1000:.0f}")
    return NodeHealth(Health.OK)


def _far_above(own: int, theirs: Collection[int]) -> float | None:
    """The median of the others, if this one is far above it."""
    known = [each for each in theirs if each]
    if not known or own < SLOW_US_MIN or own < SLOW_FACTOR * median(known):
        return None
    return median(known)
