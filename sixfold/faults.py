"""kill, pause, resume, start: faults on purpose.

The control plane does them, since it would otherwise undo them. When it does not answer, or is the
target itself, they are done here: what is wanted goes into cluster.json, where the control plane
finds it when it is back, and the signals go to the processes that the pid files name.
"""

import time
from collections.abc import Callable, Sequence
from signal import SIGCONT, SIGKILL, SIGSTOP
from typing import Final

from control_plane import pids
from control_plane.cluster.model import Wanted
from control_plane.local_cluster import ClusterFolder, ClusterSpec, ProcessSpec, command_line
from sixfold.control_client import ControlClient
from sixfold.errors import CommandFailed
from volume.errors import DeadlineExceeded, PeerUnavailable, VolumeError

SETTLE_S_MAX: Final = 3.0
LOOK_EVERY_S: Final = 0.01


def set_wanted(folder: ClusterFolder, target: str, wanted: Wanted, say: Callable[[str], None]) -> list[str]:
    """Make it so; the processes it was done to. `say` is told when it was done without the control plane."""
    spec = folder.load()
    processes = spec.matching(target)
    if not processes:
        names = [process.id for process in spec.processes] + sorted(
            {each.az for each in spec.processes if each.az}
        )
        raise CommandFailed(f"no process or AZ is called {target!r}; there are {', '.join(names)}")
    if target == spec.control.id:
        return _directly(folder, processes, wanted)
    try:
        with ControlClient(spec.control.address) as control:
            return control.set_wanted(target, wanted)
    except (PeerUnavailable, DeadlineExceeded):
        say("the control plane does not answer: done directly")
        return _directly(folder, processes, wanted)
    except VolumeError as error:
        raise CommandFailed(str(error)) from error


def _directly(folder: ClusterFolder, processes: Sequence[ProcessSpec], wanted: Wanted) -> list[str]:
    ids = [process.id for process in processes]
    if wanted is Wanted.PAUSED:
        ids = [id for id in ids if pids.search(folder, id) is not None]
        if not ids:
            raise CommandFailed("nothing to pause: it is not running")
    spec = folder.change(lambda spec: spec.with_wanted(set(ids), wanted))
    for id in ids:
        _act(folder, spec, id, wanted)
    _wait_until(lambda: all(_is_so(folder, id, wanted) for id in ids))
    return ids


def _act(folder: ClusterFolder, spec: ClusterSpec, id: str, wanted: Wanted) -> None:
    alive = pids.search(folder, id)
    match wanted:
        case Wanted.RUNNING if alive is None:
            pids.start(folder, id, command_line(folder, spec, spec.process(id)))
        case Wanted.RUNNING if alive is not None:
            pids.send(alive.pid, SIGCONT)
        case Wanted.PAUSED if alive is not None:
            pids.send(alive.pid, SIGSTOP)
        case Wanted.KILLED if alive is not None:
            pids.send(alive.pid, SIGKILL)


def _is_so(folder: ClusterFolder, id: str, wanted: Wanted) -> bool:
    alive = pids.find(folder, id)
    if wanted is Wanted.KILLED:
        return alive is None
    return alive is not None and alive.paused is (wanted is Wanted.PAUSED)


def _wait_until(done: Callable[[], bool]) -> None:
    give_up_at = time.monotonic() + SETTLE_S_MAX
    while not done() and time.monotonic() < give_up_at:
        time.sleep(LOOK_EVERY_S)
