"""The report says what was done, what came of it, and how to do it again."""

from tests.chaos.cluster import describes_whole
from tests.chaos.faults import FAULTS, Story
from tests.chaos.history import Sample
from tests.chaos.judgement import Finding
from tests.chaos.machine import Exit
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
    exits = [Exit(102.0, "s1", 1, "no space | left")]
    return Run(7, 100.0, 160.0, 165.0, SAMPLES, STORIES, findings, exits)


def test_a_report_of_a_run_that_passed() -> None:
    text = markdown(_run(), "chaos.png")
    assert "1 faults in 60 s" in text
    assert "--seed 7" in text
    assert "**passed**" in text
    assert "| node_dies | 1 | 1 |" in text
    assert "| bank | 2 | 0 | 0 | 500 |" in text
    assert "| 2.0 | s1 | 1 | no space / left |" in text
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


def _status(**changed: object) -> dict[str, object]:
    segments = [{"group": 0, "state": "ok", "scl": 7} for _ in range(6)]
    return {"segments": segments, "changes": [], "nodes": [{"health": "ok"}], **changed}


def test_whole_is_six_copies_alike_and_no_change() -> None:
    assert describes_whole(_status())
    assert not describes_whole(_status(segments=[]))
    assert not describes_whole(_status(segments=[{"group": 0, "state": "ok", "scl": 7}] * 5))
    behind = [{"group": 0, "state": "ok", "scl": 7}] * 5 + [{"group": 0, "state": "ok", "scl": 6}]
    assert not describes_whole(_status(segments=behind))
    assert not describes_whole(_status(changes=[{"group": 0}]))
    assert not describes_whole(_status(nodes=[{"health": "gone"}]))
