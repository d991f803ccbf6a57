"""Bits rot on a real disk: the node notices, tells, and takes what it lost from a peer."""

import random

from tests.cluster.real_cluster import Cluster

_ROWS = 24_000
_ROW_BYTES = 1_000
"""Enough for the first layer, which is written at 16 MiB."""


def test_a_damaged_layer_is_refetched_from_a_peer(cluster: Cluster) -> None:
    dice = random.Random(1)
    folder = cluster.folder.data_dir("s1") / "segments"
    with cluster.connect() as connection:
        connection.execute("CREATE TABLE t (id bigint PRIMARY KEY, v text)")
        with connection.cursor().copy("COPY t FROM STDIN") as copy:
            for number in range(_ROWS):
                copy.write(f"{number}\t{dice.randbytes(_ROW_BYTES // 2).hex()}\n")
        cluster.until(lambda: any(folder.glob("*/*.layer")))
        cluster.kill("s1")
        for layer in folder.glob("*/*.layer"):
            content = bytearray(layer.read_bytes())
            content[-1] ^= 1
            layer.write_bytes(content)
        cluster.start("s1")
        cluster.until(lambda: "segment.mended" in cluster.folder.log_file("s1").read_text())
        assert "damaged" in cluster.folder.log_file("s1").read_text()
        connection.execute("INSERT INTO t VALUES (-1, 'after')")
        assert connection.execute("SELECT count(*) FROM t").fetchone() == (_ROWS + 1,)
    cluster.until(cluster.all_copies_are_alike)
    assert {segment["state"] for segment in cluster.status()["segments"]} == {"ok"}
