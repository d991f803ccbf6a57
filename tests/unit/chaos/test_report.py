"""The report says what was done, what came of it, and how to do it again."""

from typing import Any

from tests.chaos.cluster import ailments, copies_are_alike
from tests.chaos.faults import FAULTS
from tests.chaos.history import Sample
from tests.chaos.judgement import Finding
from tests.chaos.machine import Exit
from tests.chaos.mischief import Story
from tests.chaos.report import Run, commits_by_second, markdown
from tests.checkers.history import Outcome

SAMPLES = [
    Sample("bank", 100.0, 100.5, Outcome.OK),
    Sample("bank", 101.0, 101.5, Outcome.OK),
    Sample("lists", 101.0, 103.0, Outcome.UNKNOWN, "08007: in doubt"),
]
STORIES = [Story("node_dies", 101.0, 102.0, "s1", True), Story("node_dies", 103.0, 103.1)]


def _run(*violations: str) -> Run:
    findings = [Finding("ledger", list(violations), "2 rows")]
    exits = [Exit(at, "s1", 1, "no space | left") for at in (102.0, 103.0)]
    return Run(7, 100.0, 160.0, 165.0, SAMPLES, STORIES, findings, exits)


def test_a_report_of_a_run_that_passed() -> None:
    text = markdown(_run(), "chaos.png")
    assert "1 faults in 60 s" in text
    assert "--seed 7" in text
    assert "**passed**" in text
    assert "| node_dies | 1 | 1 |" in text
    assert "| bank | 2 | 0 | 0 | 500 |" in text
    assert "| 2 | 2.0 | s1 | 1 | no space / left |" in text
    assert "![throughput" in text


def test_a_violation_is_shown() -> None:
    run = _run("lost: [3]")
    assert not run.passed
    assert "**VIOLATED**" in markdown(run, None)
    assert "| ledger | lost: [3] | 2 rows |" in markdown(run, None)


def test_commits_are_counted_by_second() -> None:
    assert commits_by_second(SAMPLES, "bank", 100.0, 102.5) == [1, 1, 0]


def test_every_fault_is_in_the_table_once() -> None:
    assert len({fault for fault, _ in FAULTS}) == len(FAULTS)
    assert all(weight > 0 for _, weight in FAULTS)


def _status(**changed: Any) -> dict[str, Any]:
    nodes = [{"id": "s1", "health": "ok", "why": ""}]
    return {"segments": [_segment() for _ in range(6)], "changes": [], "nodes": nodes, **changed}


def _segment(**changed: Any) -> dict[str, Any]:
    return {"group": 0, "node": "s1", "state": "ok", "scl": 7, **changed}


def test_well_is_six_copies_and_no_change() -> None:
    assert not ailments(_status())
    assert ailments(_status(segments=[])) == ["there is no group"]
    assert ailments(_status(segments=[_segment()] * 5)) == ["pg0 has 5 copies"]
    failed = [*[_segment()] * 5, _segment(state="failed")]
    assert ailments(_status(segments=failed)) == ["pg0 at s1 is failed"]
    assert ailments(_status(changes=[{"group": 0, "from": "s1", "to": "s7"}])) == ["pg0: s1 to s7"]
    gone = [{"id": "s1", "health": "gone", "why": ""}]
    assert ailments(_status(nodes=gone)) == ["s1 is gone "]


def test_copies_are_alike_within_each_group() -> None:
    other_group = [_segment(group=1, scl=9)] * 6
    assert copies_are_alike(_status(segments=[*[_segment()] * 6, *other_group]))
    assert not copies_are_alike(_status(segments=[*[_segment()] * 5, _segment(scl=6)]))
