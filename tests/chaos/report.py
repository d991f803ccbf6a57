"""chaos.md: what was asked of the cluster, what was done to it, and what came of it."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from tests.chaos.history import Sample, Span, figures, longest_silence_s
from tests.chaos.judgement import Finding
from tests.chaos.machine import Exit
from tests.chaos.mischief import Story
from tests.checkers.history import Outcome

WORKLOADS: Final = ("bank", "lists", "registers", "churn")
_ERRORS_SHOWN: Final = 12


@dataclass(frozen=True, slots=True)
class Run:
    seed: int
    begin: float
    """All times are of time.monotonic()."""
    faults_end: float
    end: float
    samples: Sequence[Sample]
    stories: Sequence[Story]
    findings: Sequence[Finding]
    exits: Sequence[Exit]
    rests: Sequence[Span] = ()
    """When the clients were kept from beginning anything."""

    @property
    def silence_s(self) -> float:
        return longest_silence_s(self.samples, self.begin, self.end, self.rests)

    @property
    def passed(self) -> bool:
        return not any(finding.violations for finding in self.findings)


def markdown(run: Run, plot: str | None) -> str:
    seconds = run.faults_end - run.begin
    parts = [
        "# Chaos",
        f"Seven storage nodes in three zones, a control plane and a writer, each in a network namespace of its own,"
        f" with {len(_happened(run.stories))} faults in {seconds:.0f} s. Seed {run.seed}:"
        f' `make chaos ARGS="--minutes {seconds / 60:.2g} --seed {run.seed}"`.',
        f"Verdict: **{'passed' if run.passed else 'VIOLATED'}**."
        f" Longest time without a commit: {run.silence_s:.1f} s.",
        *([f"![throughput and latency over time]({plot})"] if plot else []),
        "## Checkers",
        _checkers(run.findings),
        "## Workloads",
        _workloads(run.samples),
        "## Faults",
        _faults(run.stories),
        "## What clients were told",
        _errors(run.samples),
        "## Processes that ended by themselves",
        _exits(run),
    ]
    return "\n\n".join(parts) + "\n"


def _table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "/") for cell in line) + " |" for line in lines)


def _checkers(findings: Sequence[Finding]) -> str:
    rows = [
        (each.checker, "; ".join(each.violations) if each.violations else "ok", each.note)
        for each in findings
    ]
    return _table(("checker", "verdict", "seen"), rows)


def _workloads(samples: Sequence[Sample]) -> str:
    rows = []
    for workload in WORKLOADS:
        found = figures(each for each in samples if each.workload == workload)
        times = (f"{1000 * each:.0f}" for each in (found.p50_s, found.p99_s, found.longest_s))
        rows.append((workload, found.ok, found.failed, found.unknown, *times))
    head = ("workload", "ok", "failed", "unknown", "p50 ms", "p99 ms", "longest ms")
    return _table(head, rows)


def _happened(stories: Sequence[Story]) -> list[Story]:
    return [story for story in stories if story.happened]


def _faults(stories: Sequence[Story]) -> str:
    asked, happened = (
        Counter(each.kind for each in stories),
        Counter(each.kind for each in _happened(stories)),
    )
    rows = [(kind, happened[kind], count - happened[kind] or "") for kind, count in sorted(asked.items())]
    return _table(("fault", "times", "not possible"), rows)


def _errors(samples: Sequence[Sample]) -> str:
    errors = Counter((each.outcome.value, each.error[:90]) for each in samples if each.error)
    rows = [(count, outcome, text) for (outcome, text), count in errors.most_common(_ERRORS_SHOWN)]
    return _table(("times", "outcome", "error"), rows)


def _exits(run: Run) -> str:
    if not run.exits:
        return "None, but for writers that were fenced."
    rows = [
        (times, f"{first.at - run.begin:.1f}", first.name, first.status, first.last_words)
        for first, times in exits_by_reason(run.exits)
    ]
    return _table(("times", "first at second", "process", "status", "last words"), rows)


def exits_by_reason(exits: Sequence[Exit]) -> list[tuple[Exit, int]]:
    """The first of those that are alike, and how many there were."""
    counts = Counter((each.name, each.status, each.last_words) for each in exits)
    first = {(each.name, each.status, each.last_words): each for each in reversed(exits)}
    return [(first[reason], times) for reason, times in counts.items()]


def commits_by_second(samples: Sequence[Sample], workload: str, begin: float, end: float) -> list[int]:
    counts = [0] * (int(end - begin) + 1)
    for each in samples:
        if each.workload == workload and each.outcome is Outcome.OK and begin <= each.end <= end:
            counts[int(each.end - begin)] += 1
    return counts
