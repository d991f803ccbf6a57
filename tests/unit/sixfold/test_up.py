"""The decisions of `sixfold up` that need no process."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from control_plane import pids
from control_plane.cluster.model import Wanted
from control_plane.local_cluster import ClusterFolder
from sixfold.errors import CommandFailed
from sixfold.layout import BASE_PORT, cluster_spec, moved, next_storage
from sixfold.up import Settings, last_lines, prepare, readiness_problem, what_next
from volume.limits import SEGMENT_SIZE_BYTES


def test_a_new_cluster_has_the_defaults(tmp_path: Path) -> None:
    folder = ClusterFolder(tmp_path / "new" / "cluster")
    assert prepare(folder, Settings()) == cluster_spec(SEGMENT_SIZE_BYTES, BASE_PORT, None) == folder.load()


def test_an_old_one_keeps_its_own_and_wants_everything_again(tmp_path: Path) -> None:
    folder = ClusterFolder(tmp_path)
    made = prepare(folder, Settings(1 << 20, 64 << 20, 7000))
    folder.change(lambda spec: spec.with_wanted({"s1", "w1"}, Wanted.KILLED))
    assert prepare(folder, Settings()) == made


def test_ports_and_cache_may_change_between_two_starts(tmp_path: Path) -> None:
    folder = ClusterFolder(tmp_path)
    prepare(folder, Settings(1 << 20, 64 << 20, 7000))
    assert prepare(folder, Settings(None, None, 8000)) == cluster_spec(1 << 20, 8000, 64 << 20)
    assert prepare(folder, Settings(None, 32 << 20, None)) == cluster_spec(1 << 20, 8000, 32 << 20)


def test_ports_do_not_change_under_what_still_runs(tmp_path: Path) -> None:
    """The control plane has crashed, and the rest of the cluster serves on."""
    folder = ClusterFolder(tmp_path)
    made = prepare(folder, Settings(1 << 20, None, 7000))
    waiting = [sys.executable, "-S", "-E", "-c", "input()", "--id", "s1", "--dir", str(folder.data_dir("s1"))]
    with subprocess.Popen(waiting, stdin=subprocess.PIPE) as node:
        pids.write_pid(folder, "s1", node.pid)
        with pytest.raises(
            CommandFailed, match="s1 still runs, on the ports from 7000 on: `sixfold down` first"
        ):
            prepare(folder, Settings(None, None, 8000))
        assert prepare(folder, Settings(None, None, 7000)) == made
    assert prepare(folder, Settings(None, None, 8000)).base_port == 8000


def test_a_node_that_was_added_stays_and_so_do_options(tmp_path: Path) -> None:
    folder = ClusterFolder(tmp_path)
    made = prepare(folder, Settings(1 << 20, 64 << 20, 7000))
    seventh = next_storage(made, "az1", lambda port: True)
    patient = ("--replace-after", "4")
    processes = [
        replace(each, options=patient if each.role == "control" else each.options) for each in made.processes
    ]
    folder.save(replace(made, processes=(*processes, seventh)))
    again = prepare(folder, Settings(None, 32 << 20, 8000))
    assert again.process("s7") == moved(seventh, 1000)
    assert again.control.options == patient
    assert again.process("w1").options == ("--cache-mib", "32")


@pytest.mark.parametrize(
    ("role", "state", "own_state", "expected"),
    [
        ("storage", "running", None, ""),
        ("storage", "crashed", None, "crashed"),
        ("instance", "running", "ok", ""),
        ("instance", "running", "read-only: 3 of 6", "read-only: 3 of 6"),
        ("instance", "running", "opening: 2 of 6", "opening: 2 of 6"),
        ("instance", "running", None, "unknown"),
        ("instance", "starting", "ok", "starting"),
    ],
)
def test_when_a_process_can_be_used(role: str, state: str, own_state: str | None, expected: str) -> None:
    instances = [] if own_state is None else [{"id": "p", "state": own_state}]
    process: dict[str, Any] = {"id": "p", "role": role, "state": state}
    assert readiness_problem(process, {"instances": instances}) == expected


def test_the_last_lines_of_a_failed_process_are_found(tmp_path: Path) -> None:
    folder = ClusterFolder(tmp_path)
    folder.log_file("s1").parent.mkdir(parents=True)
    folder.log_file("s1").write_text("".join(f"event {number}\n" for number in range(100)))
    folder.stderr_file("s1").write_text("it broke\n")
    lines = last_lines(folder, "s1")
    assert lines[-1].strip() == "it broke"
    assert "  event 99" in lines
    assert "  event 9" not in lines
    assert last_lines(folder, "s2") == []


def test_what_to_type_next_names_the_folder_unless_it_is_the_usual_one(tmp_path: Path) -> None:
    spec = cluster_spec(1 << 20, 7000, None)
    folder = ClusterFolder(tmp_path)
    assert any(line.endswith("sixfold down") for line in what_next(spec, folder, tmp_path))
    elsewhere = what_next(spec, folder, tmp_path / "other")
    assert elsewhere[0] == "  psql -h 127.0.0.1 -p 7000 -U sixfold main"
    assert f"  sixfold down --dir {tmp_path}" in elsewhere
