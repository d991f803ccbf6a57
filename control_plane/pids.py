"""Which process runs under a name, told from pid files and /proc, and signals to it.

A pid alone proves nothing, since the system uses pids again: a process counts as ours only while its
command line carries the same `--id` and `--dir` that we would start it with.
"""

import os
import signal
import subprocess
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Final

from control_plane.local_cluster import ClusterFolder

PROC: Final = Path("/proc")
SOURCE_ROOT: Final = Path(__file__).resolve().parent.parent
STDERR_BYTES_MAX: Final = 1024 * 1024
"""A longer one begins anew at the next start. It holds tracebacks; events go to the log."""

DEAD_STATES: Final = "ZX"
STOPPED_STATES: Final = "Tt"


@dataclass(frozen=True, slots=True)
class Alive:
    pid: int
    paused: bool


def find(folder: ClusterFolder, id: str) -> Alive | None:
    """The process that the pid file names, if it is still the one that was started."""
    try:
        pid = int(folder.pid_file(id).read_text())
    except (OSError, ValueError):
        return None
    return look_at(folder, id, pid)


def search(folder: ClusterFolder, id: str) -> Alive | None:
    """Like `find`, and where the pid file is of no help looks at all processes.

    A pid file is missing when whoever started the process died before writing it.
    """
    found = find(folder, id)
    if found is not None:
        return found
    for entry in PROC.iterdir():
        if entry.name.isdigit() and (found := look_at(folder, id, int(entry.name))) is not None:
            with suppress(OSError):  # the disk is full, say: then it is looked for again
                write_pid(folder, id, found.pid)
            return found
    return None


def look_at(folder: ClusterFolder, id: str, pid: int) -> Alive | None:
    state = _state(pid)
    if state in DEAD_STATES or not _names(pid, folder, id):
        return None
    return Alive(pid, state in STOPPED_STATES)


def look_at_child(child: "subprocess.Popen[bytes]") -> Alive | None:
    """As `look_at`, of one that we started: it is ours from its first moment, before it shows its name."""
    if child.poll() is not None:
        return None
    return Alive(child.pid, _state(child.pid) in STOPPED_STATES)


def _state(pid: int) -> str:
    """The system's letter for what it does; X for a process that is gone."""
    try:
        # The state follows the program's name, which is in parentheses and may hold anything.
        return (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return "X"


def _names(pid: int, folder: ClusterFolder, id: str) -> bool:
    try:
        words = (PROC / str(pid) / "cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    pairs = set(pairwise(words))
    return {(b"--id", os.fsencode(id)), (b"--dir", os.fsencode(folder.data_dir(id)))} <= pairs


def write_pid(folder: ClusterFolder, id: str, pid: int) -> None:
    path = folder.pid_file(id)
    temporary = path.with_suffix(".new")
    temporary.write_text(f"{pid}\n")
    temporary.replace(path)


def start(folder: ClusterFolder, id: str, words: list[str]) -> "subprocess.Popen[bytes]":
    """Start a process that outlives us: a session of its own, nothing shared but its stderr file."""
    folder.make()
    path = folder.stderr_file(id)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb" if path.exists() and path.stat().st_size > STDERR_BYTES_MAX else "ab") as stderr:
        process = subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=stderr,
            stderr=stderr,
            cwd=folder.path,
            env=_environment(),
            start_new_session=True,
        )
    try:
        write_pid(folder, id, process.pid)
    except BaseException:
        process.kill()  # nobody would know of it
        process.wait()
        raise
    return process


def _environment() -> dict[str, str]:
    """Ours, and in a source tree that is not installed, the way to it."""
    if SOURCE_ROOT.name in ("site-packages", "dist-packages"):
        return dict(os.environ)
    before = os.environ.get("PYTHONPATH")
    return {**os.environ, "PYTHONPATH": f"{SOURCE_ROOT}{os.pathsep}{before}" if before else str(SOURCE_ROOT)}


def send(pid: int, what: signal.Signals) -> None:
    """Signal a process; one that is gone already needs none."""
    try:
        os.kill(pid, what)
    except ProcessLookupError:
        return


def ask_to_end(alive: Alive) -> None:
    """SIGTERM, to a paused process too: it has to run to hear it."""
    send(alive.pid, signal.SIGTERM)
    if alive.paused:
        send(alive.pid, signal.SIGCONT)
