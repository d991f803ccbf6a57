"""chaos.png: commits a second and latency over time, with the faults drawn in."""

from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from tests.chaos.report import WORKLOADS, Run, commits_by_second
from tests.checkers.history import Outcome

_LIBRARY: Final = "matplotlib"


def plot(run: Run, path: Path) -> bool:
    """False when there is nothing to draw with."""
    if find_spec(_LIBRARY) is None:
        return False
    import_module(_LIBRARY).use("Agg")
    pyplot: Any = import_module(f"{_LIBRARY}.pyplot")
    figure, (rates, latencies, faults) = pyplot.subplots(
        3, 1, sharex=True, figsize=(14, 10), layout="constrained", height_ratios=(2, 2, 3)
    )
    for workload in WORKLOADS:
        counts = commits_by_second(run.samples, workload, run.begin, run.end)
        rates.plot(range(len(counts)), counts, label=workload, linewidth=1)
    rates.set_ylabel("commits a second")
    rates.legend(loc="upper right")
    _draw_latencies(latencies, run)
    _draw_faults(faults, run)
    for axes in (rates, latencies):
        for story in run.stories:
            if story.happened:
                axes.axvspan(
                    story.begin - run.begin, story.end - run.begin, color="tab:red", alpha=0.06, lw=0
                )
        for begin, end in run.rests:
            axes.axvspan(begin - run.begin, end - run.begin, color="black", alpha=0.15, lw=0)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
    return True


def _draw_latencies(axes: Any, run: Run) -> None:
    for outcome, colour in (
        (Outcome.OK, "tab:green"),
        (Outcome.FAILED, "tab:orange"),
        (Outcome.UNKNOWN, "tab:red"),
    ):
        found = [each for each in run.samples if each.outcome is outcome and each.begin >= run.begin]
        times = [each.end - run.begin for each in found]
        took_ms = [1000 * (each.end - each.begin) for each in found]
        axes.scatter(times, took_ms, s=2, color=colour, label=outcome.value)
    axes.set_yscale("log")
    axes.set_ylabel("latency, ms (log scale)")
    axes.legend(loc="upper right")


def _draw_faults(axes: Any, run: Run) -> None:
    happened = [story for story in run.stories if story.happened]
    kinds = sorted({story.kind for story in happened}, reverse=True)
    for story in happened:
        width = max(0.3, story.end - story.begin)
        axes.barh(kinds.index(story.kind), width, left=story.begin - run.begin, height=0.6, color="tab:red")
    axes.axvline(run.faults_end - run.begin, color="black", linewidth=1)
    axes.set_yticks(range(len(kinds)), [kind.replace("_", " ") for kind in kinds])
    axes.set_xlabel("seconds; at the line all is mended; grey above: the clients rest")
