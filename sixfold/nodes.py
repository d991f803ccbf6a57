"""add-node, drain and remove-node: storage nodes join the cluster and leave it, while it runs."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Final

from rich.console import Console

from control_plane.local_cluster import ClusterFolder, ClusterSpec, ProcessSpec
from sixfold.control_client import ControlClient
from sixfold.errors import CommandFailed
from sixfold.layout import next_storage
from sixfold.status import SLOTS, copied
from sixfold.up import CRASHES_MAX, is_taken, last_lines
from volume.errors import DeadlineExceeded, PeerUnavailable, VolumeError

JOIN_S_MAX: Final = 30.0
LOOK_EVERY_S: Final = 0.25
STUCK_S: Final = 3.0
"""For so long nothing must have been able to move before a drain is given up: plans are made twice a second."""

SILENCE_S_MAX: Final = 10.0
"""How long a control plane that has answered once may be silent: it may be started again."""


@contextmanager
def refused_plainly() -> Iterator[None]:
    """What the control plane answers to a command, as the command's failure."""
    try:
        yield
    except (PeerUnavailable, DeadlineExceeded) as error:
        raise CommandFailed("the control plane does not answer (`sixfold up` starts it)") from error
    except VolumeError as error:
        raise CommandFailed(str(error)) from error


def look(control: ControlClient) -> dict[str, Any]:
    """The status, of a control plane that may be away for a moment."""
    give_up_at = time.monotonic() + SILENCE_S_MAX
    while True:
        try:
            return control.status()
        except VolumeError:
            if time.monotonic() > give_up_at:
                raise CommandFailed("the control plane does not answer any more") from None
            time.sleep(LOOK_EVERY_S)


# add-node


def add_local(folder: ClusterFolder, az: str | None, console: Console) -> None:
    """One more process of the local cluster; returns once it answers."""
    spec = folder.load()
    zones = sorted({process.az for process in spec.processes if process.role == "storage"})
    if az is not None and az not in zones:
        raise CommandFailed(f"no zone is called {az!r}; there are {', '.join(zones)}")
    with ControlClient(spec.control.address) as control:
        with refused_plainly():
            control.status()
        added = _write_down(folder, az)
        with refused_plainly():
            control.add_node(added.id, added.az, added.address)
        with console.status(f"waiting for {added.id}") if console.is_terminal else nothing():
            _wait_until_it_answers(folder, added.id, control, console)
    console.print(
        f"{added.id} runs in {added.az} at {added.address}: segments may be placed on it.",
        highlight=False,
        soft_wrap=True,
    )


def _write_down(folder: ClusterFolder, az: str | None) -> ProcessSpec:
    added: list[ProcessSpec] = []

    def add(spec: ClusterSpec) -> ClusterSpec:
        process = next_storage(spec, az or emptiest_zone(spec), lambda port: not is_taken(port))
        added.append(process)
        storage = [each for each in spec.processes if each.role in ("control", "storage")]
        others = [each for each in spec.processes if each.role not in ("control", "storage")]
        return replace(spec, processes=(*storage, process, *others))

    folder.change(add)
    return added[-1]


def emptiest_zone(spec: ClusterSpec) -> str:
    zones = [process.az for process in spec.processes if process.role == "storage"]
    return min(zones, key=lambda az: (zones.count(az), az))


def _wait_until_it_answers(folder: ClusterFolder, id: str, control: ControlClient, console: Console) -> None:
    give_up_at = time.monotonic() + JOIN_S_MAX
    while True:
        process = next((each for each in look(control)["processes"] if each["id"] == id), None)
        state = process["state"] if process else "not started yet"
        if state == "running":
            return
        crashed = process is not None and process["crashes"] >= CRASHES_MAX
        if crashed or time.monotonic() > give_up_at:
            for line in last_lines(folder, id):
                console.print(f"  {line}", markup=False, highlight=False, soft_wrap=True)
            raise CommandFailed(f"{id} did not start: {(process or {}).get('last_exit') or state}")
        time.sleep(LOOK_EVERY_S)


def add_elsewhere(id: str, az: str, address: str, control_address: str, console: Console) -> None:
    """A node that somebody else has started joins a cluster that is not local."""
    with ControlClient(control_address) as control, refused_plainly():
        control.add_node(id, az, address)
    console.print(f"{id} has joined in {az}: segments may be placed on it.", highlight=False, soft_wrap=True)


# drain


def undo_drain(node: str, control_address: str, console: Console) -> None:
    with ControlClient(control_address) as control, refused_plainly():
        control.drain(node, undo=True)
    console.print(f"{node} takes segments again.", highlight=False)


def drain(node: str, control_address: str, console: Console) -> None:
    """Returns when the node holds no segment any more; raises CommandFailed when none of its can move."""
    with ControlClient(control_address) as control:
        with refused_plainly():
            left = control.drain(node)
        if left:
            moves = f"{_segments(left)} of {node} move{'s' if left == 1 else ''} elsewhere."
            console.print(f"{moves} Ctrl-C leaves that going on.", highlight=False, soft_wrap=True)
            with console.status(f"draining {node}") if console.is_terminal else nothing() as spinner:
                _watch_drain(node, control, console, spinner)
    console.print(f"{node} holds no segment.", highlight=False)


def remove(node: str, control_address: str, console: Console) -> None:
    with ControlClient(control_address) as control, refused_plainly():
        control.remove_node(node)
    console.print(f"{node} is no part of the cluster any more.", highlight=False)


def _watch_drain(node: str, control: ControlClient, console: Console, spinner: Any) -> None:
    told: dict[str, str] = {}
    stuck_since = time.monotonic()
    while True:
        found = look(control)
        own = next(each for each in found["nodes"] if each["id"] == node)
        for name, target in moving_from(node, found).items():
            if told.get(name) != target:
                told[name] = target
                console.print(f"  {name}  {node} -> {target}", highlight=False)
        if not own["segments"]:
            return
        if not own["draining"]:
            raise CommandFailed(f"the drain of {node} was undone; {_segments(own['segments'])} left there")
        if len(own["stuck"]) < own["segments"]:
            stuck_since = time.monotonic()
        elif time.monotonic() - stuck_since > STUCK_S:
            raise CommandFailed(nowhere_to_go(own))
        if spinner is not None:
            spinner.update(progress(own, found))
        time.sleep(LOOK_EVERY_S)


def moving_from(node: str, found: dict[str, Any]) -> dict[str, str]:
    """Which segments of the node are on their way, and where to."""
    return {_name(each): each["to"] for each in found["changes"] if each["from"] == node}


def progress(own: dict[str, Any], found: dict[str, Any]) -> str:
    changes = [each for each in found["changes"] if each["from"] == own["id"]]
    going = ", ".join(f"{_name(each)} -> {each['to']}: {copied(each)}" for each in changes)
    return f"{_segments(own['segments'])} left on {own['id']}. {going or waiting_for(own['id'], found)}"


def waiting_for(node: str, found: dict[str, Any]) -> str:
    """Why nothing moves just now."""
    groups = {each["group"] for each in found["segments"] if each["node"] == node}
    ill = [
        f"{_name(each)} on {each['node']} is {each['state']}"
        for each in found["segments"]
        if each["group"] in groups and each["state"] not in ("ok", "behind")
    ]
    return f"A copy moves when all of its group are well: {', '.join(ill[:3])}" if ill else ""


def nowhere_to_go(own: dict[str, Any]) -> str:
    return (
        f"nothing can move: for {_segments(own['segments'])} of {own['id']} no other node has room, since a node"
        f" holds one segment of a group and a zone two. `sixfold add-node --az {own['az']}` makes room, and the"
        f" drain then goes on; `sixfold drain {own['id']} --undo` ends it"
    )


def _name(segment: dict[str, Any]) -> str:
    return f"pg{segment['group']}/{SLOTS[segment['slot']]}"


def _segments(count: int) -> str:
    return f"{count} segment{'' if count == 1 else 's'}"


@contextmanager
def nothing() -> Iterator[None]:
    """Stands where a terminal would have a spinner."""
    yield
