"""What a user is promised, with real processes killed for real."""

import random

from tests.cluster.kill_loop import play_round
from tests.cluster.ledger import Ledger
from tests.cluster.real_cluster import Cluster


def test_a_row_survives_the_death_of_every_process(cluster: Cluster) -> None:
    with cluster.connect() as connection:
        connection.execute("CREATE TABLE t (id bigint PRIMARY KEY, v text)")
        connection.execute("INSERT INTO t VALUES (1, 'one'), (2, NULL)")
    cluster.kill_everything()
    cluster.up()
    with cluster.connect() as connection:
        rows = connection.execute("SELECT id, v FROM t ORDER BY id").fetchall()
    assert rows == [(1, "one"), (2, None)]


def test_what_clients_were_told_is_there_after_everything_was_killed_in_mid_load(cluster: Cluster) -> None:
    """`make kill-loop` does the same fifty times."""
    seed = random.SystemRandom().randrange(1 << 32)
    dice = random.Random(seed)
    ledger = Ledger(cluster.connect)
    ledger.set_up()
    for _ in range(2):
        verdict = play_round(cluster, ledger, dice)
        assert verdict, f"seed {seed}: {verdict}"
        assert verdict.rows >= len(ledger.acknowledged) > 0
