"""What a user is promised, with real processes killed for real."""

from typing import Any


def test_a_row_survives_the_death_of_every_process(cluster: Any) -> None:
    with cluster.connect() as connection:
        connection.execute("CREATE TABLE t (id bigint PRIMARY KEY, v text)")
        connection.execute("INSERT INTO t VALUES (1, 'one'), (2, NULL)")
    cluster.kill_everything()
    cluster.up()
    with cluster.connect() as connection:
        rows = connection.execute("SELECT id, v FROM t ORDER BY id").fetchall()
    assert rows == [(1, "one"), (2, None)]


def test_a_zone_dies_and_comes_back(cluster: Any) -> None:
    with cluster.connect() as connection:
        connection.execute("CREATE TABLE t (id bigint PRIMARY KEY)")
        assert cluster.run("kill", "az3").returncode == 0
        for number in range(50):
            connection.execute("INSERT INTO t VALUES (%s)", (number,))
        assert cluster.run("start", "az3").returncode == 0
        assert connection.execute("SELECT count(*) FROM t").fetchone() == (50,)

    def all_alike() -> bool:
        segments = cluster.status()["segments"]
        return len(segments) == 6 and len({segment["scl"] for segment in segments}) == 1

    cluster.until(all_alike)
