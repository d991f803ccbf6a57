from typing import Any

import pytest

from control_plane.cluster.health import (
    SUSPECT_AFTER_S,
    Health,
    NodeFacts,
    NodeHealth,
    node_facts,
    node_health,
    process_detail,
    process_state,
)
from control_plane.cluster.model import (
    Group,
    InstanceReport,
    Member,
    Node,
    NodeId,
    NodeReport,
    NodeSeen,
    ProcessFacts,
    SegmentReport,
    Volume,
    Wanted,
)
from volume.ids import LSN_ZERO, Epoch, GroupId, Lsn, SegmentId, VolumeId

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


# Storage nodes

_IO = "failed: hot log: [Errno 5] Input/output error"
_FULL = "failed: write layer: [Errno 28] No space left on device"


def _facts(silent_s: float = 0.1, answered: bool = True, **more: Any) -> NodeFacts:
    return NodeFacts(silent_s, answered, **more)


@pytest.mark.parametrize(
    ("why", "facts", "expected", "told"),
    [
        ("all is well",                   _facts(),                                      Health.OK,          ""),
        ("asked a moment ago",            _facts(0.1, answered=False),                   Health.UNKNOWN,     ""),
        ("never answered",                _facts(LONG, answered=False),                  Health.UNREACHABLE, "no answer for 4 s"),
        ("stopped answering",             _facts(LONG),                                  Health.UNREACHABLE, "no answer for 4 s"),
        ("silent for too long",           _facts(30.0),                                  Health.GONE,        "no answer for 30 s"),
        ("gone while it was drained",     _facts(31.0, draining=True, segments=1),       Health.GONE,        "no answer for 31 s"),
        ("its disk fails",                _facts(failures=(_IO,)),                       Health.FAILED_DISK, "hot log: [Errno 5] Input/output error"),
        ("its disk is full",              _facts(failures=(_FULL,)),                     Health.FAILED_DISK, "write layer: [Errno 28] No space left on device"),
        ("a disk that fails is told first", _facts(failures=(_IO,), draining=True),      Health.FAILED_DISK, "hot log: [Errno 5] Input/output error"),
        ("damage is mended, not a disk's end", _facts(failures=("failed: read page 3",)), Health.OK,         ""),
        ("another error is no disk's",    _facts(failures=("failed: [Errno 13] denied",)), Health.OK,        ""),
        ("its disk forgets",              _facts(lost_log=True),                         Health.FAILED_DISK, "it does not keep what it syncs: log that was acknowledged is lost"),
        ("on its way out",                _facts(draining=True, segments=2),             Health.DRAINING,    "2 segments left"),
        ("out",                           _facts(draining=True),                         Health.DRAINED,     ""),
        ("its syncs take long",           _facts(sync_us=60_000),                        Health.SLOW,        "syncs take 60 ms, elsewhere 4"),
        ("long, as a busy machine's do",  _facts(sync_us=19_000),                        Health.OK,          ""),
        ("the writer waits for it",       _facts(sync_us=4_000, read_us=90_000),         Health.SLOW,        "reads take 90 ms, elsewhere 2"),
        ("nobody knows how long",         _facts(sync_us=0, read_us=0),                  Health.OK,          ""),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_health_of_a_node_among_five_that_are_well(
    why: str, facts: NodeFacts, expected: Health, told: str
) -> None:
    others = {NodeId(f"s{number}"): _facts(sync_us=4_000, read_us=2_000) for number in range(2, 7)}
    found = node_health({NodeId("s1"): facts, **others}, gone_after_s=30.0)
    assert found[NodeId("s1")] == NodeHealth(expected, told)
    assert {each.health for node, each in found.items() if node != "s1"} == {Health.OK}


def test_where_all_are_slow_nobody_is() -> None:
    facts = {NodeId(f"s{number}"): _facts(sync_us=100_000 + number) for number in range(6)}
    assert {each.health for each in node_health(facts, 30.0).values()} == {Health.OK}


def test_the_silent_are_no_measure_for_the_others() -> None:
    silent = {NodeId(f"s{number}"): _facts(LONG, sync_us=1_000) for number in range(2, 7)}
    assert (
        node_health({NodeId("s1"): _facts(sync_us=90_000), **silent}, 30.0)[NodeId("s1")].health is Health.OK
    )


def test_what_is_known_of_nodes_comes_from_reports_metadata_and_the_writer() -> None:
    nodes = [Node(NodeId("s1"), "az1", "h:1", draining=True), Node(NodeId("s2"), "az1", "h:2")]
    group = Group(
        GroupId(0), Epoch(1), LSN_ZERO, (Member(0, NodeId("s1"), True), Member(1, NodeId("s9"), True))
    )
    volume = Volume(VolumeId(1), "main", 1 << 20, Epoch(1), "w1", (group, group))
    segment = SegmentReport(
        VolumeId(1), SegmentId(GroupId(0), 0), Lsn(1), Lsn(1), Epoch(1), Epoch(1), Epoch(1), _IO, 0, 0, 0, 0
    )
    writer = InstanceReport(
        "writer", "ok", Epoch(1), Lsn(1), Lsn(1), Lsn(1), 0, 0, "", (NodeSeen(NodeId("s1"), True, 700, 0),)
    )
    reports = {NodeId("s1"): NodeReport((segment,), 1, 400)}
    assert node_facts(nodes, [volume], reports, {NodeId("s1"): 0.5, NodeId("s2"): 9.0}, [writer]) == {
        "s1": NodeFacts(0.5, True, True, 2, (_IO,), 400, 700),
        "s2": NodeFacts(9.0, False),
    }
