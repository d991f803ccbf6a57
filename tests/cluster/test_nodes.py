"""Storage nodes join, are lost and leave, while clients write; and bits rot while everything runs."""

import random
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.cluster.ledger import Ledger, run_clients
from tests.cluster.real_cluster import Cluster

_CLIENTS = 3
_ROWS = 20_000
_ROW_BYTES = 1_000
"""Enough for a layer, which is written at 16 MiB."""


@pytest.fixture
def control_options() -> tuple[str, ...]:
    return ("--replace-after", "4")


def test_what_a_lost_node_held_is_made_anew_on_a_spare_that_joined(cluster: Cluster) -> None:
    ledger = Ledger(cluster.connect)
    with _under_load(cluster, ledger):
        joined = cluster.run("add-node", "--az", "az1")
        assert (joined.returncode, "s7 runs in az1" in joined.stdout) == (0, True), joined.stderr
        cluster.kill("s1")
        cluster.until(lambda: "s7" in _holders(cluster) and not cluster.status()["changes"])
        assert _health(cluster)["s1"] == "gone"
        assert _holders(cluster) == {"s2", "s3", "s4", "s5", "s6", "s7"}

        # A copy like any other: with two more away nothing is written without it.
        cluster.kill("s3")
        cluster.kill("s5")
        acknowledged = len(ledger.acknowledged)
        cluster.until(lambda: len(ledger.acknowledged) > acknowledged + 20)
        for node in ("s1", "s3", "s5"):
            cluster.start(node)
    verdict = ledger.judge()
    assert verdict, verdict
    cluster.until(cluster.all_copies_are_alike)
    cluster.until(lambda: set(_health(cluster).values()) == {"ok"})
    cluster.until(lambda: not list(cluster.folder.data_dir("s1").glob("segments/*/manifest")))


def test_a_node_is_drained_and_damage_on_another_is_mended(cluster: Cluster) -> None:
    ledger = Ledger(cluster.connect)
    with _under_load(cluster, ledger):
        stuck = cluster.run("drain", "s4")
        assert (stuck.returncode, "nothing can move" in stuck.stderr) == (1, True), stuck.stdout
        assert cluster.run("add-node", "--az", "az2").returncode == 0
        drained = cluster.run("drain", "s4")
        assert drained.returncode == 0, drained.stdout + drained.stderr
        assert "s4 holds no segment" in drained.stdout
        assert _holders(cluster) == {"s1", "s2", "s3", "s5", "s6", "s7"}
        refused = cluster.run("remove-node", "s5")
        assert (refused.returncode, "drain it first" in refused.stderr) == (1, True), refused.stdout
        removed = cluster.run("remove-node", "s4")
        assert (removed.returncode, removed.stdout) == (0, "s4 is no part of the cluster any more.\n")
        assert "s4" not in {
            each["id"] for each in [*cluster.status()["nodes"], *cluster.status()["processes"]]
        }
        assert not cluster.folder.data_dir("s4").exists()
        cluster.until(lambda: 'node="s4"' not in _metrics(cluster))
        assert 'sixfold_node_answering{node="s5"} 1.0' in _metrics(cluster)

        layer = next(iter(cluster.folder.data_dir("s7").glob("segments/*/*.layer")))
        with layer.open("r+b") as file:
            file.seek(5_000)
            (byte,) = file.read(1)
            file.seek(5_000)
            file.write(bytes([byte ^ 4]))
        scrubbed = cluster.run("scrub", "--node", "s7")
        assert scrubbed.returncode == 0, scrubbed.stdout + scrubbed.stderr
        assert f"layer {layer.name}: checksum differs" in scrubbed.stdout
        assert "on 1 node: 1 damaged, 1 mended" in scrubbed.stdout
    verdict = ledger.judge()
    assert verdict, verdict
    cluster.until(cluster.all_copies_are_alike)


@contextmanager
def _under_load(cluster: Cluster, ledger: Ledger) -> Iterator[None]:
    """Clients transfer money the whole time, on a volume that is large enough to have layers."""
    dice = random.Random(1)
    with cluster.connect() as connection:
        connection.execute("CREATE TABLE t (id bigint PRIMARY KEY, v text)")
        with connection.cursor().copy("COPY t FROM STDIN") as copy:
            for number in range(_ROWS):
                copy.write(f"{number}\t{dice.randbytes(_ROW_BYTES // 2).hex()}\n")
    ledger.set_up()
    clients = run_clients(ledger, dice, _CLIENTS)
    cluster.until(lambda: len(ledger.acknowledged) > 0)
    yield
    for client in clients:
        assert client.is_alive(), "its connection was to last"
        client.stop()


def _holders(cluster: Cluster) -> set[str]:
    return {each["node"] for each in cluster.status()["segments"] if each["reason"] is None}


def _metrics(cluster: Cluster) -> str:
    """What the control plane tells Prometheus."""
    with urllib.request.urlopen(
        f"http://{cluster.folder.load().control.metrics}/metrics", timeout=5
    ) as answer:
        text: str = answer.read().decode()
    return text


def _health(cluster: Cluster) -> dict[str, str]:
    return {each["id"]: each["health"] for each in cluster.status()["nodes"]}
