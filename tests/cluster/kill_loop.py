"""`python -m tests.cluster.kill_loop --rounds 50`: kill -9 of every process, in mid-load, again and again.

One cluster, a line a round. Each round: clients transfer money, every process is killed at once, `sixfold
up`, and everything is compared with what the clients were told.
"""

import argparse
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

from tests.cluster.ledger import Ledger, Verdict, run_clients
from tests.cluster.real_cluster import Cluster

_CLIENTS: Final = 4
_LOAD_S: Final = (0.3, 1.5)
_ACKNOWLEDGED_MIN: Final = 20


def play_round(cluster: Cluster, ledger: Ledger, dice: random.Random) -> Verdict:
    """Load, death, resurrection, judgement."""
    before = len(ledger.acknowledged)
    clients = run_clients(ledger, dice, _CLIENTS)

    def under_load() -> bool:
        for client in clients:
            client.check()
        return len(ledger.acknowledged) >= before + _ACKNOWLEDGED_MIN

    cluster.until(under_load)
    pids = cluster.pids()
    time.sleep(dice.uniform(*_LOAD_S))
    cluster.kill_everything(pids)
    for client in clients:
        client.stop()
    cluster.up()
    return ledger.judge()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.cluster.kill_loop", description=__doc__)
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 32))
    found = parser.parse_args()
    print(f"seed {found.seed}", flush=True)
    with tempfile.TemporaryDirectory(prefix="sixfold-kill-loop-") as folder:
        cluster = Cluster(Path(folder))
        cluster.configure()
        try:
            cluster.up()
            return _play(cluster, found.rounds, random.Random(found.seed))
        finally:
            cluster.down()


def _play(cluster: Cluster, rounds: int, dice: random.Random) -> int:
    ledger = Ledger(cluster.connect)
    ledger.set_up()
    started = time.monotonic()
    lost = half = ghosts = 0
    for number in range(1, rounds + 1):
        began = time.monotonic()
        verdict = play_round(cluster, ledger, dice)
        lost, half, ghosts = lost + len(verdict.lost), half + len(verdict.half), ghosts + len(verdict.ghosts)
        print(
            f"round {number}: {verdict.rows} rows, lost={len(verdict.lost)} half={len(verdict.half)}"
            f" ghosts={len(verdict.ghosts)} {time.monotonic() - began:.1f} s",
            flush=True,
        )
        if not verdict:
            print(f"  {verdict}")
    print(
        f"{rounds} rounds: acknowledged={len(ledger.acknowledged)} in doubt={ledger.doubts}"
        f" lost={lost} half={half} ghosts={ghosts} {time.monotonic() - started:.0f} s"
    )
    return 1 if lost or half or ghosts else 0


if __name__ == "__main__":
    sys.exit(main())
