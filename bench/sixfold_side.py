"""A Sixfold cluster of our own: started, stopped and hurt through its command line, as a user would."""

import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import psycopg
from prometheus_client.parser import text_string_to_metric_families

from bench.commands import run, uninterrupted
from bench.errors import BenchFailed
from bench.side import Endpoint, Shipped
from control_plane import pids
from control_plane.local_cluster import ClusterFolder
from sixfold.sql import DATABASE, USER

REPOSITORY: Final = Path(__file__).resolve().parent.parent
BASE_PORT: Final = 26440
"""Away from a cluster that somebody uses, and from the ones of the tests."""

COPIES: Final = 6
METRICS_S_MAX: Final = 10.0
ANSWER_S_MAX: Final = 120.0
LOOK_EVERY_S: Final = 0.02


class SixfoldSide:
    name = "Sixfold"

    def __init__(self, folder: Path, base_port: int, cache_mib: int) -> None:
        self.endpoint = Endpoint(base_port, USER, DATABASE)
        self._folder = ClusterFolder(folder)
        self._cache_mib = cache_mib

    def command(self, *words: str) -> None:
        """One `sixfold` command on this cluster."""
        # From the source tree, wherever we were called: what is measured is the code beside us.
        run([sys.executable, "-m", "sixfold", *words, "--dir", str(self._folder.path)], cwd=REPOSITORY)

    def up(self) -> None:
        port, cache = str(self.endpoint.port), f"{self._cache_mib}MiB"
        self.command("up", "--detach", "--base-port", port, "--cache-size", cache)

    def down(self) -> None:
        if self._folder.exists():
            self.command("down")

    def connect(self) -> "psycopg.Connection[tuple[object, ...]]":
        """A connection, as soon as the database accepts one and runs a statement on it."""
        give_up_at = time.monotonic() + ANSWER_S_MAX
        while True:
            try:
                connection = psycopg.connect(self.endpoint.dsn, autocommit=True)
                connection.execute("SELECT 1")
                return connection
            except psycopg.Error as error:
                if time.monotonic() >= give_up_at:
                    raise BenchFailed(f"Sixfold does not answer: {error}") from error
                time.sleep(LOOK_EVERY_S)

    def processes(self) -> dict[str, int]:
        """The pid of each process that runs, by its name in the cluster."""
        ids = [process.id for process in self._folder.load().processes]
        return {id: alive.pid for id in ids if (alive := pids.find(self._folder, id)) is not None}

    def pids(self) -> list[int]:
        return list(self.processes().values())

    def writer(self) -> str:
        return self._folder.load().instances[0].id

    def data_dirs(self) -> list[Path]:
        """Where the six copies lie."""
        processes = self._folder.load().processes
        return [self._folder.data_dir(each.id) for each in processes if each.role == "storage"]

    def metrics(self) -> dict[str, float]:
        """The writer's metrics, summed over their labels."""
        url = f"http://{self._folder.load().instances[0].metrics}/metrics"
        try:
            with urllib.request.urlopen(url, timeout=METRICS_S_MAX) as answer:
                text = answer.read().decode()
        except OSError as error:
            raise BenchFailed(f"read {url}: {error}") from error
        sums: dict[str, float] = {}
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                sums[sample.name] = sums.get(sample.name, 0.0) + sample.value
        return sums

    def shipped(self) -> Shipped | None:
        found = self.metrics()
        batches, sent = found["sixfold_sent_batches_total"], found["sixfold_sent_bytes_total"]
        return Shipped(found["sixfold_commits_total"], batches / COPIES, sent / COPIES)


@contextmanager
def sixfold_side(folder: Path, base_port: int, cache_mib: int) -> Iterator[SixfoldSide]:
    """A new cluster in `folder`; stopped when the block is left, however."""
    side = SixfoldSide(folder, base_port, cache_mib)
    try:
        side.up()
        yield side
    finally:
        with uninterrupted():
            side.down()
