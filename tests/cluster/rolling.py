"""`python -m tests.cluster.rolling --from REVISION`: nodes of an older release give way to this one's, zone by zone.

The cluster begins with the older release in every process. Under a load that must not fail once, the control
plane is restarted with this release, and then the storage nodes, one zone at a time; the writer comes last.
"""

import argparse
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

from tests.cluster.ledger import Ledger, run_clients
from tests.cluster.real_cluster import Cluster

_ROOT: Final = Path(__file__).parents[2]
_CLIENTS: Final = 4
_PAUSE_S: Final = 3.0
_MORE: Final = 200
"""Transactions between two steps, at least."""


class OlderCluster(Cluster):
    """Its command line, and all that it starts, is that of `source`; None: this release's."""

    source: Path | None = None

    def run(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        if self.source is None:
            return super().run(*arguments)
        return subprocess.run(
            [sys.executable, "-P", "-m", "sixfold", *arguments],
            cwd=self.folder.path.parent,
            env={**os.environ, "PYTHONPATH": str(self.source)},
            capture_output=True,
            text=True,
            timeout=120,
        )


def roll(cluster: OlderCluster, dice: random.Random) -> int:
    """Returns how many transactions were acknowledged meanwhile. Raises AssertionError when one failed."""
    ledger = Ledger(cluster.connect)
    ledger.set_up()
    clients = run_clients(ledger, dice, _CLIENTS)

    def more(what: str) -> None:
        """Commits go on, and no client has lost its connection."""
        wanted = len(ledger.acknowledged) + _MORE
        cluster.until(lambda: len(ledger.acknowledged) >= wanted)
        for client in clients:
            client.check()
            assert client.is_alive(), f"a client lost its connection: {what}"
        print(
            f"{what}: {len(ledger.acknowledged)} acknowledged, {len(ledger.in_doubt)} under way", flush=True
        )

    more("the older release")
    cluster.kill("control")
    cluster.source = None
    cluster.start("control")
    more("control plane of this release")
    for zone in ("az1", "az2", "az3"):
        nodes = [each.id for each in cluster.spec().processes if each.role == "storage" and each.az == zone]
        for node in nodes:
            cluster.kill(node)
        time.sleep(_PAUSE_S)
        for node in nodes:
            cluster.start(node)
        cluster.until(cluster.all_copies_are_close)
        more(f"{zone} of this release")
    for client in clients:
        client.stop()
    cluster.kill("w1")
    cluster.start("w1")
    cluster.until(lambda: _answers(cluster))
    verdict = ledger.judge()
    print(
        f"writer of this release: {verdict.rows} rows, lost={len(verdict.lost)} half={len(verdict.half)} ghosts={len(verdict.ghosts)}"
    )
    assert verdict, str(verdict)
    assert not ledger.doubts, f"{ledger.doubts} commits were not answered"
    return len(ledger.acknowledged)


def _answers(cluster: Cluster) -> bool:
    try:
        with cluster.connect() as connection:
            connection.execute("SELECT 1")
    except Exception:
        return False
    return True


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.cluster.rolling", description=__doc__)
    parser.add_argument("--from", dest="revision", required=True, help="the older release, as git names it")
    found = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="sixfold-rolling-") as folder:
        source = Path(folder) / "source"
        subprocess.run(
            ["git", "worktree", "add", "--detach", str(source), found.revision],
            cwd=_ROOT,
            check=True,
            capture_output=True,
        )
        cluster = OlderCluster(Path(folder))
        cluster.source = source
        try:
            cluster.up()
            count = roll(cluster, random.Random(1))
            print(f"{count} transactions, none failed")
        finally:
            cluster.source = None
            cluster.down()
            subprocess.run(["git", "worktree", "remove", "--force", str(source)], cwd=_ROOT, check=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
