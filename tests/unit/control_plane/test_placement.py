import pytest
from hypothesis import given
from hypothesis import strategies as st

from control_plane.cluster.model import Node, NodeId
from control_plane.cluster.placement import place
from volume.errors import QuorumLost
from volume.quorum import COPIES


def nodes_of(*per_az: int) -> list[Node]:
    return [
        Node(NodeId(f"n{az}{i}"), f"az{az}", f"host{az}{i}:1")
        for az, count in enumerate(per_az)
        for i in range(count)
    ]


def names(nodes: list[Node], load: dict[str, int], answering: set[str]) -> list[str]:
    by_name = {NodeId(name): count for name, count in load.items()}
    return [str(member.node) for member in place(nodes, by_name, {NodeId(name) for name in answering})]


@pytest.mark.parametrize(
    ("why", "per_az", "load", "silent", "expected"),
    [
        ("two in each AZ", (2, 2, 2), {}, set(), ["n00", "n01", "n10", "n11", "n20", "n21"]),
        ("the emptier nodes", (3, 2, 2), {"n00": 4}, set(), ["n01", "n02", "n10", "n11", "n20", "n21"]),
        ("those that answer", (3, 2, 2), {"n02": 9}, {"n01"}, ["n00", "n02", "n10", "n11", "n20", "n21"]),
        ("silent ones in need", (2, 2, 2), {}, {"n00"}, ["n01", "n00", "n10", "n11", "n20", "n21"]),
        ("the emptier AZs", (2, 2, 2, 2), {"n10": 1}, set(), ["n00", "n01", "n20", "n21", "n30", "n31"]),
        ("AZs that answer", (2, 2, 2, 2), {}, {"n01"}, ["n10", "n11", "n20", "n21", "n30", "n31"]),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_placement(
    why: str, per_az: tuple[int, ...], load: dict[str, int], silent: set[str], expected: list[str]
) -> None:
    nodes = nodes_of(*per_az)
    assert names(nodes, load, {node.id for node in nodes} - silent) == expected


@pytest.mark.parametrize("per_az", [(2, 2, 1), (6,), (4, 4), ()])
def test_fewer_than_three_azs_of_two_nodes_are_refused(per_az: tuple[int, ...]) -> None:
    with pytest.raises(QuorumLost):
        place(nodes_of(*per_az), {}, set())


@given(st.lists(st.integers(2, 5), min_size=3, max_size=5), st.data())
def test_any_placement_survives_an_az_and_one_more_copy(per_az: list[int], data: st.DataObject) -> None:
    nodes = nodes_of(*per_az)
    load = {node.id: data.draw(st.integers(0, 9)) for node in nodes}
    answering = data.draw(st.sets(st.sampled_from([node.id for node in nodes])))
    members = place(nodes, load, answering)
    az_of = {node.id: node.az for node in nodes}
    assert [member.slot for member in members] == list(range(COPIES))
    assert len({member.node for member in members}) == COPIES
    assert all(az_of[members[slot].node] == az_of[members[slot + 1].node] for slot in (0, 2, 4))
    assert len({az_of[member.node] for member in members}) == 3
