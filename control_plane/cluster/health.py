"""What state a process is in, decided from what was seen of it.

starting      alive, has not answered since its start
running       alive and answers
unresponsive  alive, but has not answered for a while
paused        stopped by SIGSTOP
killed        dead, and wanted so
crashed       dead, and about to be started again
down          does not answer, and is not ours to look at more closely
"""

from typing import Final

from control_plane.cluster.model import ProcessFacts, Wanted

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
