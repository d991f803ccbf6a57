"""Ends a local cluster: through its control plane if that answers, else process by process."""

import time
from collections.abc import Iterable
from signal import SIGKILL
from typing import Final

from control_plane import pids
from control_plane.local_cluster import ClusterFolder, ClusterSpec
from sixfold.control_client import ControlClient
from sixfold.errors import CommandFailed
from volume.errors import VolumeError

END_S_MAX: Final = 10.0
"""How long processes may take to end after SIGTERM before SIGKILL."""

KILL_S_MAX: Final = 3.0
LOOK_EVERY_S: Final = 0.02


def running(folder: ClusterFolder, spec: ClusterSpec) -> list[str]:
    """The processes that are alive, in the order of the cluster's description."""
    return [process.id for process in spec.processes if pids.search(folder, process.id) is not None]


def stop(folder: ClusterFolder, spec: ClusterSpec) -> None:
    """Returns when every process is gone; raises CommandFailed when one will not go."""
    control = pids.search(folder, spec.control.id)
    if control is not None and not control.paused:
        _ask_control_plane(spec)
    # What the control plane did not end. Itself first, so that it starts nothing again.
    _end(folder, [spec.control.id])
    _end(folder, [process.id for process in spec.processes if process.role == "instance"])
    _end(folder, [process.id for process in spec.processes])
    left = running(folder, spec)
    if left:
        raise CommandFailed(f"still running after SIGKILL: {', '.join(left)}")


def _ask_control_plane(spec: ClusterSpec) -> None:
    try:
        with ControlClient(spec.control.address) as control:
            control.shutdown()
    except VolumeError:
        return  # it is on its way out, or hangs: the caller does what is left


def _end(folder: ClusterFolder, ids: Iterable[str]) -> None:
    left = [id for id in ids if (alive := pids.find(folder, id)) is not None and _asked(alive)]
    if wait_until_gone(folder, left, END_S_MAX):
        return
    for id in left:
        if (alive := pids.find(folder, id)) is not None:
            pids.send(alive.pid, SIGKILL)
    wait_until_gone(folder, left, KILL_S_MAX)


def _asked(alive: pids.Alive) -> bool:
    pids.ask_to_end(alive)
    return True


def wait_until_gone(folder: ClusterFolder, ids: Iterable[str], deadline_s: float) -> bool:
    give_up_at = time.monotonic() + deadline_s
    waiting = list(ids)
    while waiting := [id for id in waiting if pids.find(folder, id) is not None]:
        if time.monotonic() >= give_up_at:
            return False
        time.sleep(LOOK_EVERY_S)
    return True
