"""Starts a local cluster and waits until a statement can be run on it."""

import errno
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from rich.console import Console

from control_plane import pids
from control_plane.cluster.model import Wanted
from control_plane.local_cluster import ClusterFolder, ClusterSpec, command_line
from runtime.addresses import host_and_port
from sixfold.control_client import ControlClient
from sixfold.errors import CommandFailed
from sixfold.layout import BASE_PORT, HOST, cache_options, cluster_spec, moved, ports
from sixfold.sql import DATABASE, USER, connect
from sixfold.stop import running, stop
from volume.errors import VolumeError
from volume.limits import SEGMENT_SIZE_BYTES

READY_S_MAX: Final = 60.0
LOOK_EVERY_S: Final = 0.15
CRASHES_MAX: Final = 3
"""Once may be chance, twice bad luck; a process that ends three times in a row will not come up."""

LOG_LINES_SHOWN: Final = 8
SQL_CONNECT_S_MAX: Final = 2


@dataclass(frozen=True, slots=True)
class Settings:
    """What the command line may ask of the cluster; None: as it is, or the default for a new one."""

    segment_size: int | None = None
    cache_size: int | None = None
    base_port: int | None = None


class _NotReady(Exception):
    """A process did not come up: which, and why."""

    def __init__(self, id: str, why: str) -> None:
        super().__init__(f"{id} did not start: {why}")
        self.id = id


def up(folder: ClusterFolder, settings: Settings, console: Console) -> bool:
    """Start what does not run. False if everything ran already."""
    try:
        with folder.lock("up.lock", wait=False):
            return _up(folder, settings, console)
    except BlockingIOError as error:
        raise CommandFailed(f"another `sixfold up` is starting the cluster in {folder.path}") from error
    except OSError as error:
        raise CommandFailed(f"start a cluster in {folder.path}: {error}") from error


def _up(folder: ClusterFolder, settings: Settings, console: Console) -> bool:
    if _already_runs(folder):
        return False
    spec = prepare(folder, settings)
    check_ports(folder, spec)
    ran_before = running(folder, spec)
    control = pids.start(folder, spec.control.id, command_line(folder, spec, spec.control))
    try:
        _wait_until_ready(folder, spec, control, console)
    except _NotReady as error:
        for line in last_lines(folder, error.id):
            console.print(f"  {line}", markup=False, highlight=False, soft_wrap=True)
        if not ran_before:
            stop(folder, spec)
        raise CommandFailed(str(error)) from error
    except KeyboardInterrupt:
        stop(folder, spec)
        raise CommandFailed("interrupted; the cluster is stopped") from None
    return True


def _already_runs(folder: ClusterFolder) -> bool:
    if not folder.exists():
        return False
    alive = pids.search(folder, folder.load().control.id)
    if alive is not None and alive.paused:
        raise CommandFailed("the control plane is paused: go on with `sixfold resume control`")
    return alive is not None


def prepare(folder: ClusterFolder, settings: Settings) -> ClusterSpec:
    """Write the cluster's description: a new one, or the old one with everything wanted again."""
    segment_size = settings.segment_size or SEGMENT_SIZE_BYTES
    if not folder.exists():
        folder.make()
        spec = cluster_spec(segment_size, settings.base_port or BASE_PORT, settings.cache_size)
        folder.save(spec)
        return spec
    found = folder.load()
    if settings.segment_size not in (None, found.segment_size):
        raise CommandFailed(
            f"the segment size of a volume never changes: here it is {found.segment_size} bytes"
        )
    if settings.base_port not in (None, found.base_port) and (alive := running(folder, found)):
        raise CommandFailed(
            f"{', '.join(alive)} still {'runs' if len(alive) == 1 else 'run'}, on the ports from {found.base_port} on:"
            " `sixfold down` first, then other ones may be chosen"
        )
    return folder.change(lambda before: _renewed(before, settings))


def _renewed(before: ClusterSpec, settings: Settings) -> ClusterSpec:
    """The same processes, all wanted, with the new ports and cache size if those were given."""
    base_port = settings.base_port or before.base_port
    processes = [
        replace(moved(process, base_port - before.base_port), wanted=Wanted.RUNNING)
        for process in before.processes
    ]
    if settings.cache_size is not None:
        options = cache_options(settings.cache_size)
        processes = [replace(each, options=options) if each.sql else each for each in processes]
    return replace(before, base_port=base_port, processes=tuple(processes))


def check_ports(folder: ClusterFolder, spec: ClusterSpec) -> None:
    """Raise CommandFailed if somebody else listens where a process that is still to start will."""
    alive = {process.id for process in spec.processes if pids.search(folder, process.id) is not None}
    for port, id, what in ports(spec):
        if id not in alive and is_taken(port):
            raise CommandFailed(
                f"port {port} ({what} of {id}) is in use by another program; choose others with --base-port"
            )


def is_taken(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                return True
            raise CommandFailed(f"listen on port {port}: {error.strerror}") from error
    return False


def _wait_until_ready(
    folder: ClusterFolder, spec: ClusterSpec, control: "subprocess.Popen[bytes]", console: Console
) -> None:
    give_up_at = time.monotonic() + READY_S_MAX
    progress = _Progress(spec, console)
    with ControlClient(spec.control.address) as client, progress.shown():
        while True:
            if control.poll() is not None:
                raise _NotReady(spec.control.id, f"ended with status {control.returncode}")
            found = _status(client)
            waits_for = progress.take(found) if found is not None else spec.control.id
            if not waits_for and (waits_for := _sql_problem(spec)) == "":
                return
            if time.monotonic() >= give_up_at:
                raise _NotReady(waits_for.split()[0], f"not ready after {READY_S_MAX:.0f} s ({waits_for})")
            time.sleep(LOOK_EVERY_S)


def _status(client: ControlClient) -> dict[str, Any] | None:
    try:
        return client.status()
    except VolumeError:
        return None


def _sql_problem(spec: ClusterSpec) -> str:
    """Why a statement cannot be run yet; empty if it can."""
    writer = spec.instances[0]
    try:
        with connect(writer.sql, SQL_CONNECT_S_MAX) as connection:
            connection.execute("SELECT 1")
    except Exception as error:
        return f"{writer.id} {str(error).splitlines()[0] if str(error) else type(error).__name__}"
    return ""


class _Progress:
    """Tells of each process once it answers, and which are still awaited."""

    def __init__(self, spec: ClusterSpec, console: Console) -> None:
        self._addresses = {process.id: process.sql or process.address for process in spec.processes}
        self._console = console
        self._told: set[str] = set()
        self._spinner = console.status("starting")

    @contextmanager
    def shown(self) -> Iterator[None]:
        # On anything but a terminal the spinner shows nothing, and the lines stand alone.
        with self._spinner if self._console.is_terminal else _nothing():
            yield

    def take(self, found: dict[str, Any]) -> str:
        """What is still awaited; empty if nothing. Raises _NotReady for a process that gave up."""
        waits_for = []
        for process in found["processes"]:
            id = process["id"]
            problem = readiness_problem(process, found)
            if not problem and id not in self._told:
                self._told.add(id)
                self._console.print(
                    f"  {id:8} {process['az'] or '-':4} {self._addresses[id]}", highlight=False
                )
            if problem and process["crashes"] >= CRASHES_MAX:
                raise _NotReady(id, process["last_exit"] or problem)
            if problem:
                waits_for.append(f"{id} {problem}")
        self._spinner.update(f"waiting for {', '.join(waits_for) or 'the first statement'}")
        return ", ".join(waits_for)


@contextmanager
def _nothing() -> Iterator[None]:
    yield


def readiness_problem(process: dict[str, Any], found: dict[str, Any]) -> str:
    """Why a process cannot be used yet; empty if it can."""
    if process["state"] != "running":
        return str(process["state"])
    if process["role"] == "instance":
        instance = next((each for each in found["instances"] if each["id"] == process["id"]), None)
        state = str(instance["state"]) if instance else "unknown"
        if state != "ok":
            return state
    return ""


def last_lines(folder: ClusterFolder, id: str) -> list[str]:
    """The end of what a process wrote: its events, then what it printed."""
    lines = []
    for path in (folder.log_file(id), folder.stderr_file(id)):
        found = _tail(path)
        lines += [f"{path}:", *(f"  {line}" for line in found)] if found else []
    return lines


def _tail(path: Path) -> list[str]:
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - 64 * 1024))
            return file.read().decode("utf-8", "replace").splitlines()[-LOG_LINES_SHOWN:]
    except OSError:
        return []


def what_next(spec: ClusterSpec, folder: ClusterFolder, default_dir: Path) -> list[str]:
    """What to type now, ready to copy."""
    host, port = host_and_port(spec.instances[0].sql)
    where = "" if folder.path == default_dir.resolve() else f" --dir {folder.path}"
    connection = f"psycopg.connect('host={host} port={port} user={USER} dbname={DATABASE}')"
    return [
        f"  psql -h {host} -p {port} -U {USER} {DATABASE}",
        f"  python -c \"import psycopg; print({connection}.execute('SELECT 1').fetchone())\"",
        f'  sixfold sql{where} "SELECT 1"',
        f"  sixfold status{where}",
        f"  sixfold down{where}",
    ]


def stay(folder: ClusterFolder, spec: ClusterSpec, console: Console, say: Callable[[str], None]) -> None:
    """Show that the cluster runs, and what changes, until it is stopped from elsewhere."""
    shown: dict[str, str] = {}
    with ControlClient(spec.control.address) as client, console.status("running") as spinner:
        while any(pids.find(folder, process.id) is not None for process in spec.processes):
            found = _status(client)
            states = (
                {each["id"]: each["state"] for each in found["processes"]} if found else {"control": "down"}
            )
            for id, state in states.items():
                if shown.get(id, "running") != state:
                    say(f"{id} {state}")
            shown.update(states)
            spinner.update(_summary(found))
            time.sleep(1.0)


def _summary(found: dict[str, Any] | None) -> str:
    if found is None:
        return "the control plane does not answer; start it with `sixfold start control`"
    count = sum(each["state"] == "running" for each in found["processes"])
    return f"running: {count} processes, epoch {found['epoch']}, vdl {found['vdl']}. Ctrl-C stops the cluster"
