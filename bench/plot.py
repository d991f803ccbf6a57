"""results.png: throughput of both databases, workload by workload, with the range of the rounds."""

from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from bench.figures import Comparison, Spread, tps

BAR_WIDTH: Final = 0.4
PLOT_LIBRARY: Final = "matplotlib"


def plot(comparisons: Sequence[Comparison], path: Path) -> bool:
    """Draw those that both databases answered. False when there are none, or nothing to draw with."""
    drawn = [each for each in comparisons if each.ratio is not None]
    if not drawn or find_spec(PLOT_LIBRARY) is None:
        return False
    # Not a library of ours: it comes with the optional group `bench`, and without types.
    import_module(PLOT_LIBRARY).use("Agg")
    pyplot: Any = import_module(f"{PLOT_LIBRARY}.pyplot")
    figure, axes = pyplot.subplots(figsize=(max(6.0, 0.8 * len(drawn)), 5.0), layout="constrained")
    _bars(axes, "Sixfold", -BAR_WIDTH / 2, [each.ours.spread(tps) for each in drawn])
    _bars(axes, "PostgreSQL, 6 standbys", BAR_WIDTH / 2, [each.theirs.spread(tps) for each in drawn])
    for place, each in enumerate(drawn):
        top = max(_high(each.ours.spread(tps)), _high(each.theirs.spread(tps)))
        axes.annotate(f"{each.ratio:.2f}", (place, top * 1.1), ha="center", fontsize=8)
    axes.set_yscale("log")
    axes.set_ylabel("transactions a second (log scale)")
    axes.set_title("Above the bars: Sixfold's throughput in terms of PostgreSQL's", fontsize=10)
    names = [each.workload.name.replace(" ", "\n", 1) for each in drawn]
    axes.set_xticks(range(len(drawn)), names, rotation=45, ha="right", fontsize=8)
    axes.legend()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
    return True


def _bars(axes: Any, label: str, shift: float, spreads: Sequence[Spread | None]) -> None:
    found = [spread for spread in spreads if spread is not None]
    below = [spread.median - spread.low for spread in found]
    above = [spread.high - spread.median for spread in found]
    places = [place + shift for place in range(len(found))]
    heights = [spread.median for spread in found]
    axes.bar(places, heights, BAR_WIDTH, yerr=(below, above), capsize=2, label=label)


def _high(spread: Spread | None) -> float:
    return 0.0 if spread is None else spread.high
