from dataclasses import replace

import pytest

from control_plane.local_cluster import ProcessSpec
from sixfold.errors import CommandFailed
from sixfold.layout import BASE_PORT, BASE_PORT_MAX, cluster_spec, moved, next_storage, parse_size, ports


def test_the_default_ports_are_the_documented_ones() -> None:
    spec = cluster_spec(1 << 20, BASE_PORT, None)
    assert {process.id: process.address.rpartition(":")[2] for process in spec.processes} == {
        "control": "5450",
        "s1": "5451",
        "s2": "5452",
        "s3": "5453",
        "s4": "5454",
        "s5": "5455",
        "s6": "5456",
        "w1": "5460",
    }
    assert [process.sql for process in spec.instances] == ["127.0.0.1:5440"]
    assert {process.id: process.metrics.rpartition(":")[2] for process in spec.processes} == {
        "control": "5470",
        "s1": "5471",
        "s2": "5472",
        "s3": "5473",
        "s4": "5474",
        "s5": "5475",
        "s6": "5476",
        "w1": "5480",
    }


def test_two_storage_nodes_in_each_zone_and_the_writer_in_the_first() -> None:
    zones = {process.id: process.az for process in cluster_spec(1 << 20, 7000, None).processes}
    assert zones == {
        "control": "",
        "s1": "az1",
        "s2": "az1",
        "s3": "az2",
        "s4": "az2",
        "s5": "az3",
        "s6": "az3",
        "w1": "az1",
    }


@pytest.mark.parametrize("base", [1024, BASE_PORT, BASE_PORT_MAX])
def test_every_port_is_one_of_its_own(base: int) -> None:
    found = [port for port, _, _ in ports(cluster_spec(1 << 20, base, None))]
    assert len(found) == len(set(found)) == 17
    assert base <= min(found) <= max(found) <= 65535


def test_a_cache_size_goes_to_the_instance_in_mebibytes() -> None:
    assert cluster_spec(1 << 20, 7000, 64 << 20).process("w1").options == ("--cache-mib", "64")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("4096", 4096),
        ("4096B", 4096),
        ("64k", 65536),
        ("1 MiB", 1 << 20),
        ("10GiB", 10 << 30),
        ("2tb", 2 << 40),
    ],
)
def test_sizes(text: str, expected: int) -> None:
    assert parse_size(text) == expected


@pytest.mark.parametrize("text", ["", "big", "-1", "1.5G", "10 Gi", "1PB"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(ValueError, match="is not a size"):
        parse_size(text)


def test_the_next_storage_node_is_on_free_ports_after_all_others() -> None:
    spec = cluster_spec(1 << 20, BASE_PORT, None)
    taken = {5481, 5483}
    seventh = next_storage(spec, "az2", lambda port: port not in taken)
    assert seventh == ProcessSpec("s7", "storage", "az2", "127.0.0.1:5482", "127.0.0.1:5484")
    eighth = next_storage(replace(spec, processes=(*spec.processes, seventh)), "az3", lambda port: True)
    assert (eighth.id, eighth.address, eighth.metrics) == ("s8", "127.0.0.1:5485", "127.0.0.1:5486")


def test_without_free_ports_there_is_no_next_node() -> None:
    with pytest.raises(CommandFailed, match="no two ports above 5480 are free"):
        next_storage(cluster_spec(1 << 20, BASE_PORT, None), "az1", lambda port: port == 5481)


def test_a_process_that_moves_takes_all_its_ports_along() -> None:
    before, after = (cluster_spec(1 << 20, base, None) for base in (7000, 8000))
    assert tuple(moved(process, 1000) for process in before.processes) == after.processes
    with pytest.raises(CommandFailed, match="there are 65535"):
        moved(before.process("s1"), 60_000)
