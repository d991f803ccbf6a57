"""Runs the processes of a local cluster: starts what is missing, does what is wanted to the rest.

They live in sessions of their own and outlive the control plane; after its restart they are taken
over again through their pid files. `step` looks at all of them, asks the plan, and carries it out.
"""

import asyncio
import random
import shutil
import subprocess
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from signal import SIGCONT, SIGKILL, SIGSTOP, Signals
from typing import Final, assert_never

from control_plane import pids
from control_plane.cluster.model import ProcessFacts, Wanted
from control_plane.cluster.reconcile import (
    KillProcess,
    PauseProcess,
    ProcessAction,
    ResumeProcess,
    StartProcess,
    crashes_after_exit,
    plan_processes,
    restart_delay_s,
)
from control_plane.local_cluster import (
    ClusterFolder,
    ClusterSpec,
    LocalClusterError,
    ProcessSpec,
    command_line,
)
from runtime.clock import Clock
from runtime.events import get_logger
from volume.errors import InvalidRequest, VolumeBusy

events = get_logger("control.processes")

SETTLE_S_MAX: Final = 3.0
"""How long a change of what is wanted may take to show: signals work in milliseconds."""

END_S_MAX: Final = 10.0
"""How long a process may take to end after SIGTERM before SIGKILL."""

LOOK_EVERY_S: Final = 0.01

CommandLine = Callable[[ClusterFolder, ClusterSpec, ProcessSpec], list[str]]


@dataclass(slots=True)
class _Watched:
    """What we remember of a process between two looks."""

    pid: int | None = None
    child: "subprocess.Popen[bytes] | None" = None
    """Set if we started it ourselves; then it has to be reaped."""
    since: float = 0.0
    crashes: int = 0
    start_at: float = 0.0
    last_exit: str = ""
    searched: bool = False


class LocalProcesses:
    def __init__(
        self, folder: ClusterFolder, clock: Clock, dice: random.Random, command: CommandLine = command_line
    ) -> None:
        self._folder = folder
        self._clock = clock
        self._dice = dice
        self._command = command
        self._watched: dict[str, _Watched] = {}
        self._spec = folder.load()
        self._spec_version: tuple[int, int] | None = None
        self._ending = False

    def spec(self) -> ClusterSpec:
        """The wanted processes, read again when the file was replaced."""
        stat = self._folder.spec_file.stat()
        version = (stat.st_ino, stat.st_mtime_ns)
        if version != self._spec_version:
            self._spec, self._spec_version = self._folder.load(), version
        return self._spec

    def facts(self) -> list[ProcessFacts]:
        """How each process is now; notices those that ended since the last look."""
        return [self._look_at(process) for process in self._ours()]

    def step(self) -> None:
        if self._ending:
            return
        for action in plan_processes(self.facts()):
            self._do(action)

    async def set_wanted(self, target: str, wanted: Wanted) -> list[str]:
        """Change what is wanted of a process, or of all in a zone, and wait until it shows. Raises VolumeBusy
        while all are being ended."""
        if self._ending:
            raise VolumeBusy(f"{target}: the cluster is being stopped")
        ids = {process.id for process in self.spec().matching(target)} & {each.id for each in self._ours()}
        if not ids:
            raise InvalidRequest(f"no process or AZ of this cluster is called {target!r}")
        if wanted is Wanted.PAUSED:
            ids = {facts.id for facts in self._facts_of(ids) if facts.pid is not None}
            if not ids:
                raise InvalidRequest(f"pause {target}: it is not running")
        self._change(lambda spec: spec.with_wanted(ids, wanted))
        for id in ids:
            self._watch(id).crashes = 0
            self._watch(id).start_at = 0.0
        self.step()
        await self._until(lambda: not plan_processes(self._facts_of(ids)), SETTLE_S_MAX)
        return sorted(ids)

    def has_storage(self, id: str) -> bool:
        return any(process.id == id and process.role == "storage" for process in self._ours())

    async def remove_storage(self, id: str) -> None:
        """End the storage node's process for good, and delete what it has written. Raises VolumeBusy if it does
        not end, and may be asked again."""
        if not self.has_storage(id):
            return
        await self.set_wanted(id, Wanted.KILLED)
        if not self._all_dead([id]):
            raise VolumeBusy(f"remove {id}: its process has not ended yet; ask again")
        self._change(lambda spec: spec.without(id))
        del self._watched[id]
        self._folder.pid_file(id).unlink(missing_ok=True)
        try:
            await asyncio.to_thread(shutil.rmtree, self._folder.data_dir(id))
        except OSError as error:
            events.warning("process.folder_left", id=id, reason=str(error))
        events.info("process.removed", id=id)

    async def end_all(self) -> None:
        """End every process in order: instances first, then what they stand on. Starts none again."""
        ours = self._ours()
        self._ending = True
        await self._end([process for process in ours if process.role == "instance"])
        await self._end(ours)

    def _change(self, edit: Callable[[ClusterSpec], ClusterSpec]) -> None:
        try:
            self._folder.change(edit)
        except (OSError, LocalClusterError) as error:
            raise VolumeBusy(f"write down what is wanted: {error}") from error

    def _ours(self) -> list[ProcessSpec]:
        return [process for process in self.spec().processes if process.role != "control"]

    def _facts_of(self, ids: Iterable[str]) -> list[ProcessFacts]:
        wanted = set(ids)
        return [facts for facts in self.facts() if facts.id in wanted]

    def _watch(self, id: str) -> _Watched:
        return self._watched.setdefault(id, _Watched())

    def _look_at(self, process: ProcessSpec) -> ProcessFacts:
        now = self._clock.monotonic()
        watched = self._watch(process.id)
        alive = self._find(process.id, watched)
        if watched.pid is not None and (alive is None or alive.pid != watched.pid):
            self._note_exit(process, watched, now)
        if alive is not None and alive.pid != watched.pid:
            watched.pid, watched.since = alive.pid, now
            events.info("process.adopted", id=process.id, pid=alive.pid)
        return ProcessFacts(
            id=process.id,
            role=process.role,
            az=process.az,
            address=process.address,
            wanted=process.wanted,
            pid=alive.pid if alive is not None else None,
            paused=alive is not None and alive.paused,
            age_s=now - watched.since if alive is not None else 0.0,
            crashes=watched.crashes,
            restart_in_s=max(0.0, watched.start_at - now),
            last_exit=watched.last_exit,
        )

    def _find(self, id: str, watched: _Watched) -> pids.Alive | None:
        if watched.child is not None and (alive := pids.look_at_child(watched.child)) is not None:
            return alive
        alive = pids.find(self._folder, id)
        if alive is None and watched.pid is not None:
            alive = pids.look_at(self._folder, id, watched.pid)
        if alive is None and (watched.pid is not None or not watched.searched):
            # One ends at once where another of its name runs already: that one is the one to watch.
            alive = pids.search(self._folder, id)
        watched.searched = True
        return alive

    def _note_exit(self, process: ProcessSpec, watched: _Watched, now: float) -> None:
        watched.last_exit = _exit_of(watched.child)
        pid, lived_s = watched.pid, now - watched.since
        watched.pid = watched.child = None
        if self._ending or process.wanted is not Wanted.RUNNING:
            events.info("process.ended", id=process.id, pid=pid, how=watched.last_exit)
            return
        delay = self._put_off(watched, lived_s, now)
        events.warning(
            "process.crashed", id=process.id, pid=pid, how=watched.last_exit, restart_in_s=round(delay, 2)
        )

    def _put_off(self, watched: _Watched, lived_s: float, now: float) -> float:
        """How long it is until the next start."""
        watched.crashes = crashes_after_exit(watched.crashes, lived_s)
        delay = restart_delay_s(watched.crashes, self._dice.random())
        watched.start_at = now + delay
        return delay

    def _do(self, action: ProcessAction) -> None:
        match action:
            case StartProcess(id):
                self._start(id)
            case PauseProcess(id):
                self._signal(id, SIGSTOP)
            case ResumeProcess(id):
                self._signal(id, SIGCONT)
            case KillProcess(id):
                self._signal(id, SIGKILL)
            case _:
                assert_never(action)

    def _start(self, id: str) -> None:
        watched, spec = self._watch(id), self.spec()
        try:
            watched.child = pids.start(self._folder, id, self._command(self._folder, spec, spec.process(id)))
        except OSError as error:
            # Its disk, as a rule: no reason to leave the others alone.
            watched.last_exit = f"not started: {error}"
            delay = self._put_off(watched, 0.0, self._clock.monotonic())
            events.warning(
                "process.not_started", id=id, reason=watched.last_exit, restart_in_s=round(delay, 2)
            )
            return
        watched.pid, watched.since = watched.child.pid, self._clock.monotonic()
        events.info("process.started", id=id, pid=watched.pid)

    def _signal(self, id: str, what: Signals) -> None:
        alive = self._find(id, self._watch(id))
        if alive is not None:
            pids.send(alive.pid, what)
            events.info("process.signalled", id=id, pid=alive.pid, signal=what.name)

    async def _end(self, processes: list[ProcessSpec]) -> None:
        ids = [process.id for process in processes]
        for id in ids:
            if (alive := self._find(id, self._watch(id))) is not None:
                pids.ask_to_end(alive)
        if await self._until(lambda: self._all_dead(ids), END_S_MAX):
            return
        for facts in self._facts_of(ids):
            if facts.pid is not None:
                events.warning("process.killed", id=facts.id, pid=facts.pid, reason="did not end in time")
                pids.send(facts.pid, SIGKILL)
        await self._until(lambda: self._all_dead(ids), SETTLE_S_MAX)

    def _all_dead(self, ids: list[str]) -> bool:
        return all(facts.pid is None for facts in self._facts_of(ids))

    async def _until(self, done: Callable[[], bool], deadline_s: float) -> bool:
        give_up_at = self._clock.monotonic() + deadline_s
        while not done():
            if self._clock.monotonic() >= give_up_at:
                return False
            await self._clock.sleep(LOOK_EVERY_S)
        return True


def _exit_of(child: "subprocess.Popen[bytes] | None") -> str:
    if child is None or child.returncode is None:
        return "ended"
    if child.returncode < 0:
        return f"ended by signal {-child.returncode}"
    return f"ended with status {child.returncode}"
