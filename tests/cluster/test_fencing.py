"""A writer that was stopped and goes on after another one has taken over: it serves nobody any more."""

import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.cluster.real_cluster import Cluster

_ENDED = ("57P01", "57P02", "57P03", "08006", None)
"""The server ends, another writer has opened the volume, it cannot tell, the connection is gone."""


def _free_port() -> int:
    with socket.socket() as taker:
        taker.bind(("127.0.0.1", 0))
        return int(taker.getsockname()[1])


@contextmanager
def _another_writer(cluster: Cluster, folder: Path) -> Iterator[str]:
    """A second db instance, started by hand. Yields how to connect to it."""
    sql = _free_port()
    command = [sys.executable, "-m", "db_instance", "--id", "w2", "--az", "az2", "--dir", str(folder / "w2")]
    command += ["--control", cluster.spec().control.address, "--sql", f"127.0.0.1:{sql}"]
    command += ["--listen", f"127.0.0.1:{_free_port()}", "--metrics", f"127.0.0.1:{_free_port()}"]
    process = subprocess.Popen(command, cwd=Path(__file__).parents[2])
    try:
        yield f"host=127.0.0.1 port={sql} user=tester dbname=main connect_timeout=5"
    finally:
        process.kill()
        process.wait()


def _connect(cluster: Cluster, dsn: str) -> psycopg.Connection[Any]:
    found: list[psycopg.Connection[Any]] = []

    def answers() -> bool:
        try:
            connection = psycopg.connect(dsn, autocommit=True)
            connection.execute("SELECT 1")
        except psycopg.Error:
            return False
        found.append(connection)
        return True

    cluster.until(answers)
    return found[0]


def test_a_paused_writer_that_goes_on_reads_nothing_outdated_and_commits_nothing(
    cluster: Cluster, tmp_path: Path
) -> None:
    with cluster.connect() as setup:
        setup.execute("CREATE TABLE t (id int PRIMARY KEY)")
    reading, writing = cluster.connect(), psycopg.connect(cluster.dsn)
    reading.execute("SELECT count(*) FROM t")
    writing.execute("INSERT INTO t VALUES (1)")  # its COMMIT comes too late
    cluster.pause("w1")
    try:
        with _another_writer(cluster, tmp_path) as dsn:
            newer = _connect(cluster, dsn)
            newer.execute("INSERT INTO t VALUES (2)")
            # The question lies before it when it goes on, before anybody has told it of the other one.
            with ThreadPoolExecutor() as pool:
                answer = pool.submit(reading.execute, "SELECT count(*) FROM t WHERE id = 2")
                cluster.resume("w1")
                with pytest.raises(psycopg.Error) as on_read:
                    assert answer.result(30.0).fetchone() == (1,), "it answers what is outdated"
                    pytest.fail("it answers what it cannot know")
            assert on_read.value.sqlstate in _ENDED, on_read.value
            with pytest.raises(psycopg.Error) as on_commit:
                writing.commit()
            assert on_commit.value.sqlstate in (*_ENDED, "08007"), on_commit.value
            newer.close()
    finally:
        cluster.resume("w1")
    # Whoever is started next sees what was acknowledged, and nothing else.
    again = _connect(cluster, cluster.dsn)
    assert again.execute("SELECT id FROM t").fetchall() == [(2,)]
    again.close()
