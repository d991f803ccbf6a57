"""A real cluster for each test: the command line starts it, on ports of its own."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

_DEADLINE_S = 60.0


class Cluster:
    def __init__(self, folder: Path, base_port: int) -> None:
        self._folder = folder
        self._base_port = base_port
        self.dsn = f"host=127.0.0.1 port={base_port} user=tester dbname=main connect_timeout=5"

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "sixfold", *arguments]
        environment = {**os.environ, "PYTHONPATH": os.getcwd()}
        return subprocess.run(
            command, cwd=self._folder, env=environment, capture_output=True, text=True, timeout=_DEADLINE_S
        )

    def up(self) -> None:
        result = self.run("up", "--detach", "--base-port", str(self._base_port))
        assert result.returncode == 0, result.stdout + result.stderr

    def status(self) -> dict[str, Any]:
        result = self.run("status", "--json")
        assert result.returncode == 0, result.stderr
        found: dict[str, Any] = json.loads(result.stdout)
        return found

    def kill_everything(self) -> None:
        for process in self.status()["processes"]:
            if process["pid"]:
                os.kill(process["pid"], signal.SIGKILL)

    def connect(self) -> psycopg.Connection[Any]:
        return psycopg.connect(self.dsn, autocommit=True)

    def until(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + _DEADLINE_S
        while not condition():
            assert time.monotonic() < deadline, "the condition did not come true in time"
            time.sleep(0.05)


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    made = Cluster(tmp_path, base_port=25440)
    try:
        made.up()
        yield made
    finally:
        made.run("down")
