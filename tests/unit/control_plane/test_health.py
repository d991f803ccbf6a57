import pytest

from control_plane.cluster.health import SUSPECT_AFTER_S, process_detail, process_state
from control_plane.cluster.model import ProcessFacts, Wanted

RUNNING, PAUSED, KILLED = Wanted.RUNNING, Wanted.PAUSED, Wanted.KILLED
OLD, LONG = 1000.0, SUSPECT_AFTER_S + 1


@pytest.mark.parametrize(
    ("why", "wanted", "pid", "paused", "age_s", "crashes", "answered_ago_s", "expected"),
    [
        ("answers",                          RUNNING, 7,    False, OLD, 0, 0.1,  "running"),
        ("alive, has not answered yet",      RUNNING, 7,    False, 1.0, 0, None, "starting"),
        ("its predecessor answered",         RUNNING, 7,    False, 0.5, 1, 0.9,  "starting"),
        ("never answers",                    RUNNING, 7,    False, OLD, 0, None, "unresponsive"),
        ("stopped answering",                RUNNING, 7,    False, OLD, 0, LONG, "unresponsive"),
        ("stopped by a signal",              PAUSED,  7,    True,  OLD, 0, 0.1,  "paused"),
        ("dead as wanted",                   KILLED,  None, False, 0.0, 0, 0.1,  "killed"),
        ("was paused, then killed",          PAUSED,  None, False, 0.0, 0, 0.1,  "killed"),
        ("ended on its own",                 RUNNING, None, False, 0.0, 1, 0.1,  "crashed"),
        ("not started yet",                  RUNNING, None, False, 0.0, 0, None, "starting"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_state_of_a_process(
    why: str,
    wanted: Wanted,
    pid: int | None,
    paused: bool,
    age_s: float,
    crashes: int,
    answered_ago_s: float | None,
    expected: str,
) -> None:
    facts = ProcessFacts("s1", "storage", "az1", "", wanted, pid, paused, age_s, crashes)
    assert process_state(facts, answered_ago_s) == expected


def test_a_crashed_process_says_how_and_when_again() -> None:
    facts = ProcessFacts(
        "s1", "storage", "az1", "", RUNNING, crashes=2, restart_in_s=0.42, last_exit="ended with status 1"
    )
    assert process_detail(facts, "ok") == "ended with status 1, again in 0.4 s"
