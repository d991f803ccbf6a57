"""Storage nodes die one after the other, and come back."""

import threading
import time
from typing import Any

import psycopg
import pytest

from tests.cluster.real_cluster import Cluster

_COMMIT_TIMEOUT_S = 2.0


@pytest.fixture
def instance_options() -> tuple[str, ...]:
    return ("--commit-timeout", str(_COMMIT_TIMEOUT_S))


def test_writes_outlive_two_nodes_wait_for_a_third_and_go_on_by_themselves(cluster: Cluster) -> None:
    """Four of six are enough, three are not; reads of what is cached do not mind."""
    with cluster.connect() as writing, cluster.connect() as reading:
        writing.execute("CREATE TABLE t (id bigint PRIMARY KEY)")
        cluster.kill("s1")
        cluster.kill("s2")
        writing.execute("INSERT INTO t VALUES (1)")
        assert reading.execute("SELECT id FROM t").fetchall() == [(1,)]

        cluster.kill("s3")
        reads = _Reads(reading)
        started = time.monotonic()
        with pytest.raises(psycopg.OperationalError) as failed:
            writing.execute("INSERT INTO t VALUES (2)")
        waited_s = time.monotonic() - started
        assert failed.value.sqlstate == "08007"
        assert _COMMIT_TIMEOUT_S <= waited_s < _COMMIT_TIMEOUT_S + 3
        assert reads.stop() > 50, "reads stood still while the commit waited"

    # The outcome was unknown; with a fourth copy it is decided, and nobody has to ask for it.
    cluster.start("s3")
    cluster.until(lambda: _row_two_is_there(cluster))
    with cluster.connect() as connection:
        connection.execute("INSERT INTO t VALUES (3)")
        assert connection.execute("SELECT id FROM t ORDER BY id").fetchall() == [(1,), (2,), (3,)]


def test_a_node_that_was_away_catches_up_from_its_peers_alone(cluster: Cluster) -> None:
    with cluster.connect() as connection:
        connection.execute("CREATE TABLE t (id bigint PRIMARY KEY)")
        cluster.kill("s1")
        for number in range(100):
            connection.execute("INSERT INTO t VALUES (%s)", (number,))
    assert not cluster.all_copies_are_alike()
    cluster.kill("w1")
    cluster.start("s1")
    cluster.until(cluster.all_copies_are_alike)


def test_a_zone_dies_and_comes_back(cluster: Cluster) -> None:
    with cluster.connect() as connection:
        connection.execute("CREATE TABLE t (id bigint PRIMARY KEY)")
        cluster.kill("az3")
        for number in range(50):
            connection.execute("INSERT INTO t VALUES (%s)", (number,))
        cluster.start("az3")
        assert connection.execute("SELECT count(*) FROM t").fetchone() == (50,)
    cluster.until(cluster.all_copies_are_alike)


class _Reads(threading.Thread):
    """Somebody who reads all the time, and sees the same."""

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        super().__init__(daemon=True)
        self._connection = connection
        self._stopping = False
        self._count = 0
        self._wrong: object = None
        self.start()

    def run(self) -> None:
        try:
            while not self._stopping:
                rows = self._connection.execute("SELECT id FROM t").fetchall()
                assert rows == [(1,)], rows
                self._count += 1
        except (psycopg.Error, AssertionError) as error:
            self._wrong = error

    def stop(self) -> int:
        """How often it has read."""
        self._stopping = True
        self.join(10)
        assert not self.is_alive()
        assert self._wrong is None, self._wrong
        return self._count


def _row_two_is_there(cluster: Cluster) -> bool:
    with cluster.connect() as connection:
        return connection.execute("SELECT id FROM t WHERE id = 2").fetchone() == (2,)
