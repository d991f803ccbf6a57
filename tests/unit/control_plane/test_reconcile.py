import pytest
from hypothesis import given
from hypothesis import strategies as st

from control_plane.cluster.model import Group, Member, NodeId, ProcessFacts, Reason, Volume, Wanted
from control_plane.cluster.reconcile import (
    RESTART_DELAY_S_MAX,
    STEADY_AFTER_S,
    KillProcess,
    PauseProcess,
    ProcessAction,
    ResumeProcess,
    StartProcess,
    crashes_after_exit,
    plan_processes,
    plan_segments,
    restart_delay_s,
)
from volume.ids import LSN_ZERO, Epoch, GroupId, VolumeId

RUNNING, PAUSED, KILLED = Wanted.RUNNING, Wanted.PAUSED, Wanted.KILLED


@pytest.mark.parametrize(
    ("why", "wanted", "pid", "paused", "restart_in_s", "expected"),
    [
        ("a missing one is started",        RUNNING, None, False, 0.0, [StartProcess("s1")]),
        ("a crashed one waits its turn",    RUNNING, None, False, 0.1, []),
        ("a running one is left alone",     RUNNING, 7,    False, 0.0, []),
        ("a paused one goes on",            RUNNING, 7,    True,  0.0, [ResumeProcess("s1")]),
        ("a running one is paused",         PAUSED,  7,    False, 0.0, [PauseProcess("s1")]),
        ("once is enough",                  PAUSED,  7,    True,  0.0, []),
        ("a dead one cannot be paused",     PAUSED,  None, False, 0.0, []),
        ("a running one is killed",         KILLED,  7,    False, 0.0, [KillProcess("s1")]),
        ("a paused one is killed too",      KILLED,  7,    True,  0.0, [KillProcess("s1")]),
        ("a killed one stays dead",         KILLED,  None, False, 0.0, []),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_plan_of_processes(
    why: str,
    wanted: Wanted,
    pid: int | None,
    paused: bool,
    restart_in_s: float,
    expected: list[ProcessAction],
) -> None:
    facts = ProcessFacts("s1", "storage", "az1", "", wanted, pid, paused, restart_in_s=restart_in_s)
    assert plan_processes([facts]) == expected


@given(st.integers(1, 10_000), st.floats(0, 1, exclude_max=True))
def test_a_restart_is_at_once_after_one_crash_and_never_long_in_coming(crashes: int, dice: float) -> None:
    assert 0 <= restart_delay_s(crashes, dice) <= RESTART_DELAY_S_MAX
    assert (restart_delay_s(crashes, dice) == 0) is (crashes == 1)


def test_a_process_that_lived_long_starts_over() -> None:
    assert crashes_after_exit(5, lived_s=1.0) == 6
    assert crashes_after_exit(5, lived_s=STEADY_AFTER_S) == 1


def _asked(members: list[Member]) -> list[tuple[int, str]]:
    group = Group(GroupId(0), Epoch(1), LSN_ZERO, tuple(members))
    volume = Volume(VolumeId(1), "main", 1 << 20, Epoch(1), "w1", (group,))
    answering = {NodeId("s0"), NodeId("s3"), NodeId("s5"), NodeId("s6")}
    return [(wanted.member.slot, wanted.member.node) for wanted in plan_segments([volume], answering)]


def test_segments_are_asked_for_until_confirmed_and_only_where_somebody_answers() -> None:
    members = [Member(slot, NodeId(f"s{slot}"), created=slot < 3) for slot in range(6)]
    assert _asked(members) == [(3, "s3"), (5, "s5")]


def test_once_four_are_made_only_replacements_are_asked_for() -> None:
    members = [Member(slot, NodeId(f"s{slot}"), created=slot < 4) for slot in range(6)]
    filling = Member(4, NodeId("s6"), reason=Reason.REPAIR)
    assert _asked([*members, filling]) == [(4, "s6")]
