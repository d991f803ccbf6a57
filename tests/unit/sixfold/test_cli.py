"""What is typed, what is printed where, and the exit status; with no cluster running."""

import json
import socket
import sys
from pathlib import Path

import pytest

from control_plane.cluster.model import Wanted
from control_plane.local_cluster import ClusterFolder
from sixfold.cli import main
from sixfold.layout import cluster_spec, ports


@pytest.fixture
def folder(tmp_path: Path) -> ClusterFolder:
    """A cluster that was made and does not run, on ports that nobody listens on."""
    folder = ClusterFolder(tmp_path / "cluster")
    folder.make()
    folder.save(cluster_spec(1 << 20, free_ports(), None))
    return folder


def free_ports() -> int:
    for base in range(21_000, 30_000, 50):
        if not any(taken(port) for port, _, _ in ports(cluster_spec(1 << 20, base, None))):
            return base
    raise AssertionError("no free ports")


def taken(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


class Ran:
    def __init__(self, status: int, out: str, err: str) -> None:
        self.status, self.out, self.err = status, out, err


@pytest.fixture
def sixfold(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> "Run":
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SIXFOLD_DIR", raising=False)
    return Run(monkeypatch, capsys)


class Run:
    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self._monkeypatch = monkeypatch
        self._capsys = capsys

    def __call__(self, *words: str) -> Ran:
        self._monkeypatch.setattr(sys, "argv", ["sixfold", *words])
        try:
            main()
            status = 0
        except SystemExit as end:
            status = int(end.code or 0)
        out, err = self._capsys.readouterr()
        return Ran(status, out, err)


@pytest.mark.parametrize(
    "words",
    [
        ["fly"],
        ["up", "--segment-size", "big"],
        ["up", "--segment-size", "5000"],
        ["up", "--cache-size", "1"],
        ["up", "--base-port", "65530"],
        ["up", "--readers", "-1"],
        ["up", "--readers", "16"],
        ["kill"],
        ["status", "--yaml"],
        ["sql", "SELECT 1", "SELECT 2"],
        ["add-node", "--id", "s7"],
        ["add-node", "--id", "s7", "--az", "az1", "--address", "h:1"],
        ["add-node", "--control", "h:1"],
        ["drain"],
        ["accept-loss"],
    ],
    ids=" ".join,
)
def test_wrong_usage_is_status_2(sixfold: Run, words: list[str]) -> None:
    ran = sixfold(*words)
    assert ran.status == 2
    assert ran.err


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["up", "--readers", "1"], "readers are not there yet"),
        (["sql", "--reader", "SELECT 1"], "readers are not there yet"),
        (["sql", "--at", "now", "SELECT 1"], "past time is not there yet"),
        (["down"], "no cluster in"),
        (["status"], "no cluster in"),
        (["kill", "s1"], "no cluster in"),
        (["sql", "--instance", "w1", "SELECT 1"], "no cluster in"),
        (["add-node"], "no cluster in"),
        (["drain", "s1"], "no cluster in"),
        (["scrub"], "no cluster in"),
        (["accept-loss", "pg0"], "no cluster in"),
        (["accept-loss", "s1"], "'s1' is not a protection group"),
        (["drain", "s1", "--control", "127.0.0.1:9"], "the control plane does not answer"),
        (["scrub", "--control", "127.0.0.1:9"], "the control plane does not answer"),
        (["accept-loss", "pg0", "--yes", "--control", "127.0.0.1:9"], "the control plane does not answer"),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value),
)
def test_a_command_that_fails_says_so_in_one_line(sixfold: Run, words: list[str], line: str) -> None:
    ran = sixfold(*words)
    assert (ran.status, ran.out) == (1, "")
    assert ran.err.startswith("sixfold: ")
    assert ran.err.count("\n") == 1
    assert line in ran.err


def test_help_names_the_commands(sixfold: Run) -> None:
    ran = sixfold("--help")
    assert ran.status == 0
    assert all(
        f" {name} " in ran.out
        for name in (
            *("up", "down", "status", "sql", "kill", "pause", "resume", "start"),
            *("add-node", "drain", "scrub", "accept-loss"),
        )
    )


def test_the_help_of_accept_loss_says_what_is_lost(sixfold: Run) -> None:
    told = " ".join(sixfold("accept-loss", "--help").out.split())
    assert "What is lost" in told
    assert "There is no way back" in told


def test_no_node_is_written_down_that_no_control_plane_would_start(
    sixfold: Run, folder: ClusterFolder
) -> None:
    before = folder.load()
    ran = sixfold("add-node", "--dir", str(folder.path))
    assert (ran.status, "the control plane does not answer" in ran.err) == (1, True)
    ran = sixfold("add-node", "--az", "az9", "--dir", str(folder.path))
    assert "no zone is called 'az9'; there are az1, az2, az3" in ran.err
    assert folder.load() == before


def test_down_of_a_cluster_that_does_not_run_is_done_already(sixfold: Run, folder: ClusterFolder) -> None:
    ran = sixfold("down", "--dir", str(folder.path))
    assert ran.status == 0
    assert "is not running" in ran.out


def test_status_tells_what_there_is_without_a_control_plane(sixfold: Run, folder: ClusterFolder) -> None:
    ran = sixfold("status", "--json", "--dir", str(folder.path))
    assert ran.status == 0
    found = json.loads(ran.out)
    assert (found["cluster"], found["writer"], found["epoch"], found["vdl"]) == ("main", None, None, None)
    assert found["control_plane"] == "down"
    assert [(each["id"], each["state"], each["pid"]) for each in found["processes"]][:2] == [
        ("control", "stopped", None),
        ("s1", "stopped", None),
    ]
    assert "nothing runs" in sixfold("status", "--dir", str(folder.path)).out


def test_a_fault_is_written_down_when_the_control_plane_is_not_there(
    sixfold: Run, folder: ClusterFolder
) -> None:
    ran = sixfold("kill", "az1", "--dir", str(folder.path))
    assert (ran.status, ran.out) == (0, "s1 killed\ns2 killed\nw1 killed\n")
    assert "done directly" in ran.err
    wanted = {each.id: each.wanted for each in folder.load().processes}
    assert wanted["w1"] is Wanted.KILLED
    assert wanted["s3"] is Wanted.RUNNING


@pytest.mark.parametrize("words", [["kill", "s1"], ["status"], ["up", "--detach"], ["down"], ["add-node"]])
def test_a_damaged_description_is_told_in_one_line(
    sixfold: Run, folder: ClusterFolder, words: list[str]
) -> None:
    folder.spec_file.write_bytes(folder.spec_file.read_bytes().replace(b"az1", b"az\xb1"))
    ran = sixfold(*words, "--dir", str(folder.path))
    assert (ran.status, ran.err.count("\n")) == (1, 1)
    assert ran.err.startswith("sixfold: cluster.json is damaged")


def test_a_disk_that_takes_no_change_is_told_in_one_line(sixfold: Run, folder: ClusterFolder) -> None:
    folder.spec_file.with_suffix(".new").mkdir()  # as good as a full disk
    ran = sixfold("kill", "control", "--dir", str(folder.path))
    assert (ran.status, ran.err.count("\n")) == (1, 1)
    assert ran.err.startswith("sixfold: ")
    assert "cluster.new" in ran.err


def test_an_unknown_target_is_named_with_the_known_ones(sixfold: Run, folder: ClusterFolder) -> None:
    ran = sixfold("pause", "s7", "--dir", str(folder.path))
    assert ran.status == 1
    assert "'s7'" in ran.err
    assert "s6" in ran.err
    assert "az3" in ran.err


def test_sql_without_a_server_fails_in_one_line(sixfold: Run, folder: ClusterFolder) -> None:
    ran = sixfold("sql", "--dir", str(folder.path), "SELECT 1")
    assert ran.status == 1
    assert ran.err.startswith("sixfold: connect to 127.0.0.1:")
    assert ran.err.count("\n") == 1


def test_up_says_which_port_is_taken(sixfold: Run, folder: ClusterFolder) -> None:
    port = int(folder.load().process("s2").address.rpartition(":")[2])
    with socket.create_server(("127.0.0.1", port)):
        ran = sixfold("up", "--detach", "--dir", str(folder.path))
    assert (ran.status, ran.out) == (1, "")
    assert f"port {port} (storage of s2) is in use" in ran.err


def test_a_volume_keeps_its_segment_size(sixfold: Run, folder: ClusterFolder) -> None:
    ran = sixfold("up", "--detach", "--segment-size", "2MiB", "--dir", str(folder.path))
    assert ran.status == 1
    assert "never changes" in ran.err
    assert folder.load().segment_size == 1 << 20
