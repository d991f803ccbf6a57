"""Real child processes: tiny ones that only wait for a signal."""

import asyncio
import os
import random
import signal
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from control_plane import local_processes, pids
from control_plane.cluster.health import NodeHealth
from control_plane.cluster.model import NodeId, ProcessFacts, Wanted
from control_plane.gauges import Gauges
from control_plane.local_cluster import ClusterFolder, ClusterSpec, ProcessSpec
from control_plane.local_processes import LocalProcesses
from control_plane.metadata.embedded import EmbeddedMetadata
from control_plane.server import ControlServer, own_facts
from control_plane.supervisor import Supervisor
from proto import control_pb2 as pb
from runtime.clock import RealClock
from volume.errors import InvalidRequest, VolumeBusy

WAIT = "import signal; signal.pause()"
STUBBORN = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True)\nwhile 1: signal.pause()"
END_AT_ONCE = "raise SystemExit(3)"

DEADLINE_S = 10.0


def process(id: str, role: str = "storage", az: str = "az1") -> ProcessSpec:
    return ProcessSpec(id, role, az, "127.0.0.1:1", "127.0.0.1:2")


SPEC = ClusterSpec(
    "main",
    1 << 20,
    5440,
    (process("control", "control", ""), process("s1"), process("s2", az="az2"), process("w1", "instance")),
)


class World:
    """A cluster folder, and control planes over it that come and go."""

    def __init__(self, path: Path) -> None:
        self.folder = ClusterFolder(path)
        self.folder.make()
        self.folder.save(SPEC)
        self.programs = {each.id: WAIT for each in SPEC.processes}
        self.local = self.control_plane()

    def control_plane(self) -> LocalProcesses:
        return LocalProcesses(self.folder, RealClock(), random.Random(1), self._command)

    def _command(self, folder: ClusterFolder, spec: ClusterSpec, process: ProcessSpec) -> list[str]:
        words = [sys.executable, "-S", "-E", "-c", self.programs[process.id]]
        return [*words, "--id", process.id, "--dir", str(folder.data_dir(process.id))]

    def facts(self, id: str) -> ProcessFacts:
        return next(facts for facts in self.local.facts() if facts.id == id)

    def pid(self, id: str) -> int:
        pid = self.facts(id).pid
        assert pid is not None
        return pid

    async def until(self, done: Callable[[], bool]) -> None:
        async with asyncio.timeout(DEADLINE_S):
            while not done():
                await RealClock().sleep(0.005)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    world = World(tmp_path)
    yield world
    for each in SPEC.processes:
        if (alive := pids.search(world.folder, each.id)) is not None:
            os.kill(alive.pid, signal.SIGKILL)
    await world.until(lambda: all(facts.pid is None for facts in world.local.facts()))


async def test_what_is_wanted_and_missing_is_started_in_a_session_of_its_own(world: World) -> None:
    world.local.step()
    assert [facts.id for facts in world.local.facts() if facts.pid] == ["s1", "s2", "w1"]
    assert os.getsid(world.pid("s1")) == world.pid("s1")
    before = world.pid("s1")
    world.local.step()
    assert world.pid("s1") == before


async def test_after_a_restart_the_living_are_taken_over(world: World) -> None:
    world.local.step()
    before = {facts.id: facts.pid for facts in world.local.facts()}
    world.local = world.control_plane()
    world.local.step()
    assert {facts.id: facts.pid for facts in world.local.facts()} == before


async def test_a_process_whose_pid_file_was_never_written_is_found(world: World) -> None:
    world.local.step()
    before = world.pid("s1")
    await world.until(lambda: pids.find(world.folder, "s1") is not None)  # it shows its name
    world.folder.pid_file("s1").unlink()
    world.local = world.control_plane()
    world.local.step()
    assert world.pid("s1") == before


async def test_a_pid_that_another_process_got_is_not_ours(world: World) -> None:
    pids.write_pid(world.folder, "s1", os.getpid())
    assert pids.find(world.folder, "s1") is None
    world.local.step()
    assert world.pid("s1") != os.getpid()


@pytest.mark.parametrize("adopted", [False, True])
async def test_a_crashed_process_is_started_again_at_once(world: World, adopted: bool) -> None:
    world.local.step()
    if adopted:
        children = world.local  # they stay ours to reap, as no init does it for us here
        world.local = world.control_plane()
    before = world.pid("s1")
    os.kill(before, signal.SIGKILL)
    await world.until(lambda: world.facts("s1").pid is None)
    facts = world.facts("s1")
    assert facts.crashes == 1
    assert facts.restart_in_s == 0
    await world.until(lambda: world.local.step() or world.facts("s1").pid is not None)
    assert world.pid("s1") != before
    if adopted:
        children.facts()


async def test_a_process_that_cannot_start_is_counted_and_says_how_it_ended(world: World) -> None:
    world.programs["s1"] = END_AT_ONCE
    await world.until(lambda: world.local.step() or world.facts("s1").crashes >= 2)
    assert world.facts("s1").last_exit == "ended with status 3"


async def test_a_process_that_cannot_be_started_holds_up_no_other(world: World) -> None:
    world.folder.data_dir("s1").write_text("where its folder should be")
    await world.until(lambda: world.local.step() or world.facts("s1").crashes >= 2)
    assert [facts.id for facts in world.local.facts() if facts.pid] == ["s2", "w1"]
    assert world.facts("s1").last_exit.startswith("not started: [Errno 20]")
    assert world.facts("s1").restart_in_s > 0, "it is not tried ten times a second"
    world.folder.data_dir("s1").unlink()
    await world.until(lambda: world.local.step() or world.facts("s1").pid is not None)


async def test_a_process_whose_pid_file_cannot_be_written_is_none(world: World) -> None:
    in_its_way = world.folder.pid_file("s1").with_suffix(".new")
    in_its_way.mkdir()
    await world.until(lambda: world.local.step() or world.facts("s1").crashes >= 2)
    assert pids.search(world.folder, "s1") is None, "nothing runs that nobody knows of"
    in_its_way.rmdir()
    await world.until(lambda: world.local.step() or world.facts("s1").pid is not None)


async def test_a_process_is_found_whichever_way_the_folder_is_typed(world: World, tmp_path: Path) -> None:
    world.local.step()
    await world.until(lambda: pids.find(world.folder, "s1") is not None)  # it shows its name
    (tmp_path / "link").symlink_to(tmp_path)
    for typed in (tmp_path / "run" / "..", tmp_path / "link"):
        found = pids.find(ClusterFolder(typed), "s1")
        assert found is not None, f"`sixfold down --dir {typed}` says that nothing runs"


async def test_a_process_is_found_where_its_pid_file_cannot_be_written(world: World) -> None:
    world.local.step()
    await world.until(lambda: pids.find(world.folder, "s1") is not None)  # it shows its name
    world.folder.pid_file("s1").unlink()
    world.folder.pid_file("s1").with_suffix(".new").mkdir()
    found = pids.search(world.folder, "s1")
    assert found is not None and found.pid == world.pid("s1")


async def test_where_another_of_its_name_runs_already_that_one_is_watched(world: World) -> None:
    """`sixfold start` and the control plane have both started it; one of the two found its ports taken."""
    command = world._command(world.folder, SPEC, SPEC.process("s1"))
    other = pids.start(world.folder, "s1", command)
    await world.until(lambda: pids.find(world.folder, "s1") is not None)
    world.folder.pid_file("s1").unlink()
    world.local._watch("s1").searched = True  # it has not been there yet when we looked
    world.local.step()
    assert world.pid("s1") != other.pid
    os.kill(world.pid("s1"), signal.SIGKILL)
    await world.until(lambda: world.local.step() or world.facts("s1").pid == other.pid)
    os.kill(other.pid, signal.SIGKILL)
    other.wait()


async def test_a_killed_process_stays_dead_until_it_is_started(world: World) -> None:
    world.local.step()
    assert await world.local.set_wanted("s1", Wanted.KILLED) == ["s1"]
    assert world.facts("s1").pid is None
    world.local.step()
    assert world.facts("s1").pid is None
    world.local = world.control_plane()
    world.local.step()
    assert world.facts("s1").pid is None
    await world.local.set_wanted("s1", Wanted.RUNNING)
    assert world.facts("s1").pid is not None


async def test_a_zone_is_paused_and_goes_on(world: World) -> None:
    world.local.step()
    before = world.pid("s1")
    assert await world.local.set_wanted("az1", Wanted.PAUSED) == ["s1", "w1"]
    assert [facts.id for facts in world.local.facts() if facts.paused] == ["s1", "w1"]
    await world.local.set_wanted("az1", Wanted.RUNNING)
    assert not any(facts.paused for facts in world.local.facts())
    assert world.pid("s1") == before


async def test_what_is_not_there_cannot_be_paused(world: World) -> None:
    await world.local.set_wanted("s1", Wanted.KILLED)
    with pytest.raises(InvalidRequest):
        await world.local.set_wanted("s1", Wanted.PAUSED)
    for nobody in ("s9", "control", ""):
        with pytest.raises(InvalidRequest):
            await world.local.set_wanted(nobody, Wanted.KILLED)


async def test_a_wish_that_cannot_be_written_down_is_refused_with_the_reason(world: World) -> None:
    world.local.step()
    before = world.pid("s1")
    world.folder.spec_file.with_suffix(".new").mkdir()  # as good as a full disk
    with pytest.raises(VolumeBusy, match=r"write down what is wanted: .*cluster\.new"):
        await world.local.set_wanted("s1", Wanted.KILLED)
    assert world.pid("s1") == before


async def test_what_the_command_line_wrote_is_done_too(world: World) -> None:
    world.local.step()
    world.folder.change(lambda spec: spec.with_wanted({"s2"}, Wanted.KILLED))
    world.local.step()
    await world.until(lambda: world.facts("s2").pid is None)


async def test_all_end_instances_first_and_none_starts_again(world: World) -> None:
    world.local.step()
    await world.local.set_wanted("s2", Wanted.PAUSED)
    await world.local.end_all()
    assert all(facts.pid is None for facts in world.local.facts())
    world.local.step()
    assert all(facts.pid is None for facts in world.local.facts())


async def test_a_shutdown_whose_client_goes_away_goes_on_and_nothing_is_started_meanwhile(
    world: World,
) -> None:
    world.programs["w1"] = STUBBORN
    world.local.step()
    await world.until(lambda: world.folder.stderr_file("w1").read_text() == "deaf\n")
    nothing, ended = cast(Any, None), asyncio.Event()
    edge = ControlServer(
        own_facts("control", ""), "main", nothing, nothing, nothing, nothing, world.local, ended.set
    )
    asked = asyncio.create_task(edge.shutdown(pb.ShutdownRequest()))
    await world.until(lambda: world.local._ending)
    with pytest.raises(VolumeBusy, match="s1: the cluster is being stopped"):
        await world.local.set_wanted("s1", Wanted.RUNNING)
    asked.cancel()
    os.kill(world.pid("w1"), signal.SIGKILL)
    await world.until(ended.is_set)
    assert all(facts.pid is None for facts in world.local.facts())


async def test_a_process_deaf_to_sigterm_is_killed(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("control_plane.local_processes.END_S_MAX", 0.05)
    world.programs["s1"] = STUBBORN
    world.local.step()
    await world.until(lambda: world.folder.stderr_file("s1").read_text() == "deaf\n")
    await world.local.end_all()
    assert all(facts.pid is None for facts in world.local.facts())


async def test_a_cluster_file_that_vanished_changes_nothing(world: World) -> None:
    world.local.step()
    before = world.pid("s1")
    world.folder.spec_file.unlink()
    with pytest.raises(FileNotFoundError):
        world.local.step()
    world.folder.save(replace(SPEC))
    assert world.pid("s1") == before


@pytest.mark.parametrize("damaged", [False, True], ids=["gone", "damaged"])
async def test_without_the_cluster_file_the_control_plane_goes_on(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damaged: bool
) -> None:
    monkeypatch.setattr("control_plane.supervisor.CLUSTER_EVERY_S", 0.01)
    metadata, nothing = EmbeddedMetadata(tmp_path / "metadata.db"), cast(Any, _Idle())
    gauges = Gauges(CollectorRegistry(), metadata)
    supervisor = Supervisor(
        nothing, nothing, nothing, world.local, gauges, 1 << 20, RealClock(), random.Random(1)
    )
    if damaged:
        world.folder.spec_file.write_bytes(b"\xff")
    else:
        world.folder.spec_file.unlink()
    with capture_logs() as told:
        running = asyncio.create_task(supervisor.run())
        await world.until(lambda: any(each["event"] == "supervisor.round_failed" for each in told))
        world.folder.save(replace(SPEC))
        await world.until(lambda: world.facts("w1").pid is not None)
    assert not running.done()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    await metadata.close()


class _Idle:
    """A cluster whose storage has nothing to do."""

    async def look(self, wait_s: float) -> None: ...

    async def node_health(self) -> dict[NodeId, NodeHealth]:
        return {}

    async def create_main(self, segment_size: int) -> None: ...

    async def create_missing(self) -> None: ...

    async def act(self) -> None: ...

    def answering(self) -> frozenset[NodeId]:
        return frozenset()


async def test_a_storage_node_is_removed_for_good(world: World) -> None:
    world.local.step()
    world.folder.data_dir("s1").mkdir(exist_ok=True)
    (world.folder.data_dir("s1") / "file").write_text("x")
    pid = world.pid("s1")
    assert (world.local.has_storage("s1"), world.local.has_storage("w1")) == (True, False)
    for id in ("w1", "s99", "s1", "s1"):
        await world.local.remove_storage(id)
    world.local.step()
    assert [facts.id for facts in world.local.facts()] == ["s2", "w1"]
    assert world.pid("w1")
    assert not world.folder.data_dir("s1").exists()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


async def test_a_storage_node_whose_process_does_not_end_stays(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.local.step()
    pid = world.pid("s1")
    with monkeypatch.context() as patched:
        patched.setattr(pids, "send", lambda _pid, _signal: None)
        patched.setattr(local_processes, "SETTLE_S_MAX", 0.1)
        with pytest.raises(VolumeBusy, match="remove s1: its process has not ended yet"):
            await world.local.remove_storage("s1")
    assert (world.local.has_storage("s1"), world.pid("s1")) == (True, pid)
    await world.local.remove_storage("s1")
    assert not world.local.has_storage("s1")
    assert not world.folder.pid_file("s1").exists()
