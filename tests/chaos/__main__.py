"""`python -m tests.chaos --minutes 2 --seed 7`: real processes on real interfaces, tormented under load.

Then all is mended, and everything is compared with what the clients were told. Needs root, `ip` and `tc`.
"""

import argparse
import os
import random
import secrets
import shutil
import signal
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Final, NoReturn

from tests.chaos.clients import Client, Gate, Guard
from tests.chaos.cluster import ZONES, Cluster
from tests.chaos.faults import DAMAGE, FAULTS
from tests.chaos.history import History, figures
from tests.chaos.judgement import Finding, judge, scrub_all, wait_until_served, wait_until_whole
from tests.chaos.mischief import Mischief, Story
from tests.chaos.network import CommandFailed
from tests.chaos.plot import plot
from tests.chaos.report import WORKLOADS, Run, exits_by_reason, markdown
from tests.chaos.workloads import (
    CLIENTS_EACH,
    BankClient,
    ChurnClient,
    ListClient,
    RegisterClient,
    RegisterReader,
    set_up,
)
from tests.cluster.ledger import Ledger

_ROOT: Final = Path(__file__).parents[2]
_UP_S_MAX: Final = 60.0
_AFTERWARDS_S: Final = 3.0
_CLIENT_END_S_MAX: Final = 30.0
_TOOLS: Final = ("ip", "tc", "mount", "umount")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--minutes", type=float, default=2.0, help="of faults (default %(default)s)")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 32))
    parser.add_argument("--output", type=Path, default=_ROOT / "bench" / "chaos", help="folder of the report")
    parser.add_argument(
        "--keep-logs",
        type=Path,
        metavar="DIR",
        help="copy all processes' logs there; "
        "those of a run that fails are kept in any case, beside its report",
    )
    found = parser.parse_args()
    if missing := _missing():
        print(f"chaos: {missing}", file=sys.stderr)
        return 2
    print(f"seed {found.seed}", flush=True)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _stop)
    try:
        run = _run(found.minutes, found.seed, found.keep_logs, found.output / "logs")
    except KeyboardInterrupt:
        print("chaos: stopped", file=sys.stderr)
        return 130
    except CommandFailed as error:
        print(f"chaos: {error}", file=sys.stderr)
        return 2
    return _report(run, found.output)


def _missing() -> str:
    if os.geteuid() != 0:
        return "needs root, for network namespaces and mounts"
    missing = [tool for tool in _TOOLS if shutil.which(tool) is None]
    return f"needs {', '.join(missing)} (Debian: iproute2, mount)" if missing else ""


def _stop(number: int, frame: object) -> NoReturn:
    """Once: what was made is taken down, whatever else is asked meanwhile."""
    _ignore_signals()
    raise KeyboardInterrupt


def _ignore_signals() -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def _run(minutes: float, seed: int, logs: Path | None, logs_of_failure: Path) -> Run:
    with ExitStack() as undoing:
        try:
            cluster = Cluster(f"chs{secrets.token_hex(2)}", undoing)
            undoing.callback(_keep_logs, cluster, logs)
            run = _play(cluster, minutes, random.Random(seed), seed)
            if not run.passed:
                undoing.callback(_keep_logs, cluster, logs_of_failure)
            return run
        finally:
            _ignore_signals()


def _play(cluster: Cluster, minutes: float, dice: random.Random, seed: int) -> Run:
    history, gate = History(), Gate()
    ledger = _start(cluster)
    clients = _clients(cluster, history, gate, ledger, dice)
    for client in clients:
        client.start()
    begin = time.monotonic()
    mischief = Mischief(cluster, gate, dice)
    mischief.run(FAULTS, DAMAGE, 60 * minutes, lambda story: _tell(story, begin))
    faults_end = time.monotonic()
    mischief.mend_all()
    print(f"{time.monotonic() - begin:6.1f}  all is mended", flush=True)
    serves = wait_until_served(cluster)
    time.sleep(_AFTERWARDS_S)
    _end(clients)
    end = time.monotonic()
    findings = [serves]
    if not serves.violations:
        findings += [wait_until_whole(cluster), scrub_all(cluster)]
        findings += judge(cluster, ledger, history, clients)
    return Run(
        seed, begin, faults_end, end, history.samples, mischief.stories, findings, cluster.exits(), gate.rests
    )


def _start(cluster: Cluster) -> Ledger:
    cluster.start()
    served = cluster.until(lambda: _answers(cluster), _UP_S_MAX)
    if not served or not cluster.until(lambda: _has_all_nodes(cluster), _UP_S_MAX):
        raise CommandFailed(f"the cluster does not come up: {cluster.exits() or cluster.status()}")
    ledger = Ledger(cluster.connect)
    ledger.set_up()
    with cluster.connect() as connection:
        set_up(connection)
    return ledger


def _answers(cluster: Cluster) -> bool:
    try:
        cluster.connect().close()
    except Exception:
        return False
    return True


def _has_all_nodes(cluster: Cluster) -> bool:
    status = cluster.status()
    return status is not None and sum(node["health"] == "ok" for node in status["nodes"]) == len(ZONES)


def _clients(
    cluster: Cluster, history: History, gate: Gate, ledger: Ledger, dice: random.Random
) -> list[Client]:
    guard = Guard()
    BankClient.ledger = ledger
    kinds = [
        kind for kind in (BankClient, ListClient, RegisterClient, RegisterReader) for _ in range(CLIENTS_EACH)
    ]
    return [
        kind(cluster, history, gate, guard, random.Random(dice.random())) for kind in (*kinds, ChurnClient)
    ]


def _end(clients: list[Client]) -> None:
    for client in clients:
        client.end()
    deadline = time.monotonic() + _CLIENT_END_S_MAX
    for client in clients:
        client.join(max(0.0, deadline - time.monotonic()))


def _tell(story: Story, begin: float) -> None:
    times = f"{story.begin - begin:6.1f} {story.end - begin:6.1f}"
    print(f"{times}  {story.kind} {'' if story.happened else 'was not possible: '}{story.about}", flush=True)


def _keep_logs(cluster: Cluster, logs: Path | None) -> None:
    if logs is None:
        return
    for name, machine in cluster.machines.items():
        for file in (machine.stderr, machine.folder / "log" / f"{name}.log"):
            if file.exists():
                logs.mkdir(parents=True, exist_ok=True)
                shutil.copy(file, logs / file.name)


def _report(run: Run, output: Path) -> int:
    output.mkdir(parents=True, exist_ok=True)
    picture = "chaos.png" if plot(run, output / "chaos.png") else None
    (output / "chaos.md").write_text(markdown(run, picture))
    for workload in WORKLOADS:
        found = figures(each for each in run.samples if each.workload == workload)
        print(
            f"{workload}: ok={found.ok} failed={found.failed} unknown={found.unknown}"
            f" p50={1000 * found.p50_s:.0f} ms p99={1000 * found.p99_s:.0f} ms"
        )
    print(f"longest time without a commit: {run.silence_s:.1f} s")
    for first, times in exits_by_reason(run.exits):
        print(
            f"ended by itself at {first.at - run.begin:.1f}, {times} times: "
            f"{first.name} {first.status} {first.last_words}"
        )
    for finding in run.findings:
        _print_finding(finding)
    if not run.passed:
        print(f"VIOLATED, seed {run.seed}")
    return 0 if run.passed else 1


def _print_finding(finding: Finding) -> None:
    print(f"{finding.checker}: {'ok' if not finding.violations else 'VIOLATED'} {finding.note}")
    for violation in finding.violations:
        print(f"  {violation}")


if __name__ == "__main__":
    sys.exit(main())
