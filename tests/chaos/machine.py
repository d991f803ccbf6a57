"""One machine of the cluster: a namespace, a disk, and a process that is started again when it ends."""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_ROOT: Final = Path(__file__).parents[2]
_RESTART_S: Final = 0.5
_FILLER: Final = "filler"
_CHUNK: Final = bytes(1 << 20)
_END_S_MAX: Final = 10.0


@dataclass(frozen=True, slots=True)
class Exit:
    """A process ended by itself."""

    at: float
    name: str
    status: int
    last_words: str


class Machine:
    def __init__(self, name: str, zone: str, namespace: str, folder: Path, words: list[str]) -> None:
        self.name = name
        self.zone = zone
        self.folder = folder
        self.stderr = folder.parent / f"{name}.stderr"
        self.exits: list[Exit] = []
        self.expected_exits: tuple[int, ...] = ()
        self.is_retired = False
        """Not started again once it ends."""
        self._command = ["ip", "netns", "exec", namespace, sys.executable, "-P", "-m", *words]
        self._process: subprocess.Popen[bytes] | None = None
        self._kept_down = 0
        self._ended_at = 0.0
        self._lock = threading.RLock()

    @property
    def runs(self) -> bool:
        with self._lock:
            return self._process is not None and self._process.poll() is None

    def look_after(self) -> None:
        """Start it if it should run and does not; note how it ended."""
        with self._lock:
            if self._process is not None and (status := self._process.poll()) is not None:
                self.exits.append(Exit(time.monotonic(), self.name, status, self._last_words()))
                self._process, self._ended_at = None, time.monotonic()
            if (
                self._process is None
                and not self._kept_down
                and time.monotonic() > self._ended_at + _RESTART_S
            ):
                self._start()

    def _start(self) -> None:
        environment = {**os.environ, "PYTHONPATH": str(_ROOT)}
        with self.stderr.open("ab") as stderr:
            # A session of its own: Ctrl-C is for us, and we end it.
            self._process = subprocess.Popen(
                self._command, stdout=stderr, stderr=stderr, env=environment, start_new_session=True
            )

    def _last_words(self) -> str:
        lines = self.stderr.read_text(errors="replace").strip().splitlines()
        return lines[-1] if lines else ""

    # Faults

    def keep_down(self) -> None:
        """kill -9, and not started again before as many `let_up`."""
        with self._lock:
            self._kept_down += 1
            self._kill()

    def let_up(self) -> None:
        with self._lock:
            self._kept_down -= 1
            assert self._kept_down >= 0

    def _kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait(_END_S_MAX)
            self._process = None

    def send(self, number: signal.Signals) -> None:
        with self._lock:
            if self.runs:
                assert self._process is not None
                self._process.send_signal(number)

    def fill_disk(self) -> None:
        with (self.folder / _FILLER).open("wb", buffering=0) as file:
            try:
                while True:
                    file.write(_CHUNK)
            except OSError:
                return  # full

    def free_disk(self) -> None:
        (self.folder / _FILLER).unlink(missing_ok=True)

    def empty_disk(self) -> None:
        """What the process left behind is gone. It must be down."""
        assert not self.runs
        for each in self.folder.iterdir():
            if each.is_dir():
                shutil.rmtree(each)
            else:
                each.unlink()

    def data_files(self) -> list[list[Path]]:
        """Layers and hot logs that hold something, those kinds that there are."""
        layers, logs = self.folder.glob("segments/*/*.layer"), self.folder.glob("hot/*.log")
        kinds = ([each for each in sorted(files) if _size(each)] for files in (layers, logs))
        return [files for files in kinds if files]

    def stop(self) -> None:
        with self._lock:
            self._kept_down += 1
            self._kill()


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except FileNotFoundError:
        return 0
