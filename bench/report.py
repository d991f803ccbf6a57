"""The comparison as a table, and as results.md. Pure."""

from collections.abc import Callable, Sequence
from typing import Final

from bench.figures import Comparison, Figures, Outcome, failures_of, tps
from bench.tables import TextTable, bullets

MIB: Final = 1 << 20
NOTHING: Final = "–"

COLUMNS: Final = (
    "workload",
    "Sixfold tps",
    "PostgreSQL tps",
    "ratio",
    "latency ms",
    "(PG)",
    "CPU s/1000",
    "(PG)",
    "MiB",
    "(PG)",
    "batches",
    "bytes",
)

LEGEND: Final = """\
Sixfold on six storage nodes (a commit waits for four) and PostgreSQL with six streaming standbys
(`synchronous_standby_names = 'ANY 4 (s1, ..., s6)'`, fsync on), all on this one machine. The same pgbench
runs on one and then the other, in turn; rounds: {rounds}, of {seconds} s each. Shown is the median (lowest..highest).
Made by `make bench`.

- **workload**: kind, pgbench's scale, protocol, clients. `simple` is pgbench's `-N`, `select` its `-S`, `insert` one
  row into a table with a `bigserial` key
- **ratio**: Sixfold's throughput in terms of PostgreSQL's; above 1 Sixfold is faster
- **latency**: pgbench's average
- **CPU s/1000**: CPU seconds of all processes of the database, without pgbench, for 1,000 transactions
- **MiB**: memory of all its processes in mid-run (PSS: what they share counts once; RSS in parentheses)
- **batches**, **bytes**: messages and bytes of redo that Sixfold sends to each copy for a commit
"""


def table(comparisons: Sequence[Comparison]) -> TextTable:
    found = TextTable(COLUMNS)
    for each in comparisons:
        found.add(*_row(each))
    return found


def markdown(
    comparisons: Sequence[Comparison], environment: Sequence[tuple[str, str]], rounds: int, seconds: int
) -> str:
    parts = ["# Sixfold beside PostgreSQL\n", LEGEND.format(rounds=rounds, seconds=seconds)]
    parts += [table(comparisons).markdown(), bullets(environment)]
    if failures := failures_of(comparisons):
        parts.append("Failed rounds:\n\n" + "".join(f"- {line}\n" for line in failures))
    return "\n".join(parts)


def _row(comparison: Comparison) -> list[str]:
    ours, theirs, ratio = comparison.ours, comparison.theirs, comparison.ratio
    return [
        comparison.workload.name,
        _throughput(ours),
        _throughput(theirs),
        NOTHING if ratio is None else f"{ratio:.2f}",
        _median(ours, lambda each: each.latency_ms, "{:,.2f}"),
        _median(theirs, lambda each: each.latency_ms, "{:,.2f}"),
        _median(ours, lambda each: each.cpu_s_per_1000, "{:,.2f}"),
        _median(theirs, lambda each: each.cpu_s_per_1000, "{:,.2f}"),
        _memory(ours),
        _memory(theirs),
        _median(ours, lambda each: each.batches_per_commit, "{:,.2f}"),
        _median(ours, lambda each: each.bytes_per_commit, "{:,.0f}"),
    ]


def _throughput(outcome: Outcome) -> str:
    spread = outcome.spread(tps)
    if spread is None:
        return "failed" if outcome.failures else NOTHING
    range_ = f" ({spread.low:,.0f}..{spread.high:,.0f})" if len(outcome.rounds) > 1 else ""
    return f"{spread.median:,.0f}{range_}"


def _memory(outcome: Outcome) -> str:
    pss = _median(outcome, lambda each: each.pss_bytes / MIB, "{:,.0f}")
    return (
        pss if pss == NOTHING else f"{pss} ({_median(outcome, lambda each: each.rss_bytes / MIB, '{:,.0f}')})"
    )


def _median(outcome: Outcome, of: Callable[[Figures], float | None], how: str) -> str:
    spread = outcome.spread(of)
    return NOTHING if spread is None else how.format(spread.median)
