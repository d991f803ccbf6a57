import sys
from pathlib import Path

import pytest

from control_plane.cluster.model import Wanted
from control_plane.local_cluster import ClusterFolder, ClusterSpec, LocalClusterError, command_line
from sixfold.layout import cluster_spec

SPEC = cluster_spec(1 << 20, 7000, None)


def test_a_description_survives_its_file(tmp_path: Path) -> None:
    folder = ClusterFolder(tmp_path)
    folder.save(SPEC)
    folder.change(lambda spec: spec.with_wanted({"s1", "s2"}, Wanted.PAUSED))
    assert folder.load() == SPEC.with_wanted({"s1", "s2"}, Wanted.PAUSED)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}",
        "[]",
        SPEC.to_json()[:-20],
        SPEC.to_json().replace('"format": 1', '"format": 2'),
        SPEC.to_json().replace('"running"', '"flying"'),
        SPEC.to_json().replace('"metrics"', '"extra"'),
        SPEC.to_json().replace('"role": "storage"', '"role": "storagf"'),
        SPEC.to_json().replace('"role": "control"', '"role": "storage"'),
    ],
)
def test_a_damaged_description_is_refused(text: str) -> None:
    with pytest.raises(LocalClusterError):
        ClusterSpec.from_json(text)


def test_a_byte_of_it_that_is_no_text_is_damage(tmp_path: Path) -> None:
    folder = ClusterFolder(tmp_path)
    folder.spec_file.write_bytes(SPEC.to_json().encode().replace(b"az1", b"az\xb1"))
    with pytest.raises(LocalClusterError, match=r"cluster\.json is damaged"):
        folder.load()


def test_one_that_cannot_be_read_is_not_said_to_be_missing(tmp_path: Path) -> None:
    folder = ClusterFolder(tmp_path)
    folder.spec_file.mkdir()
    with pytest.raises(LocalClusterError, match=r"read .*cluster.json: Is a directory"):
        folder.load()


def test_a_folder_without_a_cluster_says_so(tmp_path: Path) -> None:
    with pytest.raises(LocalClusterError, match="no cluster in"):
        ClusterFolder(tmp_path).load()


@pytest.mark.parametrize(
    ("target", "expected"),
    [("s3", ["s3"]), ("az1", ["s1", "s2", "w1"]), ("control", ["control"]), ("az9", []), ("", [])],
)
def test_a_target_is_a_process_or_a_zone(target: str, expected: list[str]) -> None:
    assert [process.id for process in SPEC.matching(target)] == expected


def test_command_lines(tmp_path: Path) -> None:
    folder = ClusterFolder(tmp_path)
    lines = {each.id: command_line(folder, SPEC, each)[1:] for each in SPEC.processes}
    assert lines["s3"] == (
        f"-P -m storage_node --id s3 --dir {tmp_path}/s3 --listen 127.0.0.1:7013"
        " --metrics 127.0.0.1:7033 --az az2"
    ).split(" ")
    assert lines["w1"] == (
        f"-P -m db_instance --id w1 --dir {tmp_path}/w1 --listen 127.0.0.1:7020 --metrics 127.0.0.1:7040"
        " --az az1 --control 127.0.0.1:7010 --sql 127.0.0.1:7000"
    ).split(" ")
    assert lines["control"] == (
        f"-P -m control_plane --id control --dir {tmp_path}/control --listen 127.0.0.1:7010"
        f" --metrics 127.0.0.1:7030 --local-cluster {tmp_path}"
    ).split(" ")
    assert command_line(folder, SPEC, SPEC.control)[0] == sys.executable
