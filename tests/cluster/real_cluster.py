"""A cluster of real processes on loopback, as a user has it: the command line starts, breaks and mends it."""

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import psycopg

from control_plane.local_cluster import ClusterFolder, ClusterSpec
from sixfold.layout import cluster_spec
from volume.limits import MIB

_DEADLINE_S: Final = 60.0
_ROOT: Final = Path(__file__).parents[2]
_SEGMENT_BYTES: Final = 10_240 * MIB
_PORTS: Final = range(42)
_FIRST_PORT, _LAST_PORT = 20_000, 31_000  # below the range that the system takes for clients


class Cluster:
    def __init__(self, folder: Path) -> None:
        self.folder = ClusterFolder(folder / ".sixfold")
        self._base_port = _free_ports()
        self.dsn = f"host=127.0.0.1 port={self._base_port} user=tester dbname=main connect_timeout=5"

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "sixfold", *arguments]
        environment = {**os.environ, "PYTHONPATH": str(_ROOT)}
        return subprocess.run(
            command,
            cwd=self.folder.path.parent,
            env=environment,
            capture_output=True,
            text=True,
            timeout=_DEADLINE_S,
        )

    def _must(self, *arguments: str) -> str:
        result = self.run(*arguments)
        assert result.returncode == 0, result.stdout + result.stderr
        return result.stdout

    def configure(self, *options: str, control: tuple[str, ...] = ()) -> None:
        """Before the first `up`: more words for the command lines of the db instance and the control plane."""
        spec = cluster_spec(_SEGMENT_BYTES, self._base_port, None)
        by_role = {"instance": options, "control": control}
        processes = (replace(each, options=by_role.get(each.role, ())) for each in spec.processes)
        self.folder.make()
        self.folder.save(replace(spec, processes=tuple(processes)))

    def up(self) -> None:
        self._must("up", "--detach", "--base-port", str(self._base_port))

    def down(self) -> None:
        self.run("down")

    def kill(self, target: str) -> None:
        self._must("kill", target)

    def pause(self, target: str) -> None:
        self._must("pause", target)

    def resume(self, target: str) -> None:
        self._must("resume", target)

    def start(self, target: str) -> None:
        self._must("start", target)

    def kill_everything(self, pids: dict[str, int] | None = None) -> None:
        """kill -9, all at once. `pids`: as they were found before, when there is no time to ask."""
        for pid in (pids or self.pids()).values():
            os.kill(pid, signal.SIGKILL)

    # Looking

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self._must("status", "--json"))
        return found

    def pids(self) -> dict[str, int]:
        return {each["id"]: each["pid"] for each in self.status()["processes"] if each["pid"]}

    def spec(self) -> ClusterSpec:
        return self.folder.load()

    def logs(self) -> dict[str, str]:
        """What each process has written, by its name: its events, and what it printed besides."""
        found = {}
        for process in self.spec().processes:
            files = (self.folder.log_file(process.id), self.folder.stderr_file(process.id))
            found[process.id] = "".join(file.read_text(errors="replace") for file in files if file.exists())
        return found

    def all_copies_are_alike(self) -> bool:
        """Six segments of each group, and all of a group are complete to the same LSN."""
        scls: dict[int, list[int]] = {}
        for segment in self.status()["segments"]:
            scls.setdefault(segment["group"], []).append(segment["scl"])
        return bool(scls) and all(len(each) == 6 and len(set(each)) == 1 for each in scls.values())

    def all_copies_are_close(self) -> bool:
        """Six segments that answer, none far behind: under load they are never all alike."""
        segments = self.status()["segments"]
        return len(segments) >= 6 and all(
            each["state"] in ("ok", "behind") and each["lag"] is not None and each["lag"] < 1000
            for each in segments
        )

    def connect(self) -> psycopg.Connection[Any]:
        return psycopg.connect(self.dsn, autocommit=True)

    def until(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + _DEADLINE_S
        while not condition():
            assert time.monotonic() < deadline, f"the condition did not come true in time: {self.status()}"
            time.sleep(0.05)


def _free_ports() -> int:
    """The first of a row of ports in which nobody listens."""
    while True:
        base = random.randrange(_FIRST_PORT, _LAST_PORT, len(_PORTS))
        if all(_is_free(base + offset) for offset in _PORTS):
            return base


def _is_free(port: int) -> bool:
    with socket.socket() as taker:
        taker.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            taker.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True
