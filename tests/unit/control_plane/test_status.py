from dataclasses import replace
from typing import Any

import pytest

from control_plane.cluster.health import SUSPECT_AFTER_S
from control_plane.cluster.model import (
    Fill,
    Group,
    Instance,
    InstanceReport,
    Member,
    Node,
    NodeId,
    NodeReport,
    ProcessFacts,
    Reason,
    SegmentReport,
    Volume,
    Wanted,
)
from control_plane.cluster.status import Seen, View, describe
from volume.ids import LSN_ZERO, Epoch, GroupId, Lsn, SegmentId, VolumeId

NODES = [Node(NodeId(f"s{i + 1}"), f"az{i // 2 + 1}", f"h:{i}") for i in range(6)]
SILENT = SUSPECT_AFTER_S + 1


def volume(created: int = 6) -> Volume:
    members = tuple(Member(slot, node.id, slot < created) for slot, node in enumerate(NODES))
    group = Group(GroupId(0), Epoch(1), LSN_ZERO, members)
    return Volume(VolumeId(1), "main", 1 << 20, Epoch(3), "w1", (group,))


def node_report(slot: int, scl: int, state: str = "ok") -> NodeReport:
    report = SegmentReport(
        volume=VolumeId(1),
        id=SegmentId(GroupId(0), slot),
        scl=Lsn(scl),
        known_vdl=Lsn(scl - 1),
        promised_epoch=Epoch(3),
        timeline_epoch=Epoch(3),
        membership_epoch=Epoch(1),
        state=state,
        hot_bytes=10,
        delta_layers=1,
        image_layers=1,
        layer_bytes=100,
    )
    return NodeReport((report,), 1 << 30)


def instance_report(state: str = "ok") -> InstanceReport:
    return InstanceReport("writer", state, Epoch(3), Lsn(95), Lsn(96), Lsn(99), 2, 4096, "h:5440")


def view(instance_ago_s: float = 0.1, state: str = "ok") -> View:
    own = ProcessFacts("control", "control", "", "h:5450", Wanted.RUNNING, pid=1)
    paused = ProcessFacts("s5", "storage", "az3", "h:4", Wanted.PAUSED, pid=2, paused=True)
    dead = ProcessFacts("s6", "storage", "az3", "h:5", Wanted.KILLED)
    return View(
        "main",
        [volume(created=5)],
        NODES,
        [Instance("w1", "az1", "h:5460")],
        [own, paused, dead],
        {
            NodeId("s1"): Seen(node_report(0, 99), 0.1),
            NodeId("s2"): Seen(node_report(1, 90, "behind"), 0.1),
            NodeId("s3"): Seen(node_report(2, 99), SILENT),
            NodeId("s4"): Seen(NodeReport((), 0), 0.1),
            NodeId("s5"): Seen(node_report(4, 99), 0.1),
        },
        {"w1": Seen(instance_report(state), instance_ago_s)},
    )


def test_the_writer_tells_the_vdl_while_it_answers_and_the_segments_after() -> None:
    found = describe(view())
    assert (found["cluster"], found["writer"], found["epoch"], found["vdl"]) == ("main", "w1", 3, 95)
    assert describe(view(instance_ago_s=SILENT))["vdl"] == 98


def test_each_segment_says_how_it_is_and_how_far_behind() -> None:
    segments = describe(view())["segments"]
    assert [(each["node"], each["az"], each["scl"], each["lag"], each["state"]) for each in segments] == [
        ("s1", "az1", 99, 0, "ok"),
        ("s2", "az1", 90, 9, "behind"),
        ("s3", "az2", 99, 0, "unreachable"),
        ("s4", "az2", None, None, "missing"),
        ("s5", "az3", 99, 0, "unreachable"),
        ("s6", "az3", None, None, "not created"),
    ]


def test_every_process_is_listed_once_local_or_not() -> None:
    states = {each["id"]: each["state"] for each in describe(view())["processes"]}
    assert states == {
        "control": "running",
        "s1": "running",
        "s2": "running",
        "s3": "down",
        "s4": "running",
        "s5": "paused",
        "s6": "killed",
        "w1": "running",
    }


def test_an_instance_says_why_it_is_not_well() -> None:
    processes = {each["id"]: each for each in describe(view(state="read-only: 3 of 6"))["processes"]}
    assert processes["w1"]["detail"] == "read-only: 3 of 6"


def test_a_cluster_without_a_volume_has_a_status_too() -> None:
    found = describe(View("main", [], NODES, [], []))
    assert (found["writer"], found["epoch"], found["vdl"], found["segments"]) == (None, 0, 0, [])


# While segments are replaced

SPARES = [Node(NodeId("s7"), "az1", "h:7"), Node(NodeId("s8"), "az2", "h:8")]


def wide_view(*replacements: Member, silent: tuple[str, ...] = (), **more: Any) -> View:
    """Six nodes that are well, two that have nothing yet; `silent` do not answer for so long that they are gone."""
    (group,) = volume().groups
    changed = replace(group, members=(*group.members, *replacements))
    reports = {
        member.node: node_report(member.slot, 99, "filling" if member.filling else "ok")
        for member in changed.members
    }
    seen = {
        node.id: Seen(reports.get(node.id, NodeReport((), 1)), 99.0 if node.id in silent else 0.1)
        for node in [*NODES, *SPARES]
    }
    view = View("main", [replace(volume(), groups=(changed,))], [*NODES, *SPARES], [], [], seen)
    return replace(view, **more)


def test_a_slot_may_have_a_second_member_that_is_being_filled() -> None:
    found = describe(wide_view(Member(1, NodeId("s7"), True, Reason.REPAIR)))
    rows = [each for each in found["segments"] if each["slot"] == 1]
    assert [(each["node"], each["state"], each["reason"]) for each in rows] == [
        ("s2", "ok", None),
        ("s7", "filling", "repair"),
    ]
    assert len(found["segments"]) == 7


def test_a_change_says_from_where_to_where_why_and_how_far() -> None:
    view = wide_view(Member(2, NodeId("s8"), True, Reason.MOVE))
    (report,) = view.node_reports[NodeId("s8")].report.segments
    filling = NodeReport((replace(report, fill=Fill("s4", 300, 1_000, 70)),), 1)
    (change,) = describe(replace(view, node_reports={**view.node_reports, NodeId("s8"): Seen(filling, 0.1)}))[
        "changes"
    ]
    assert change == {
        "group": 0,
        "slot": 2,
        "from": "s3",
        "to": "s8",
        "reason": "move",
        "state": "filling",
        "source": "s4",
        "bytes_done": 300,
        "bytes_total": 1_000,
        "bytes_per_s": 70,
        "seconds_left": 10,
    }


def test_a_change_that_copies_nothing_has_no_figures() -> None:
    (change,) = describe(wide_view(Member(2, NodeId("s8"), True, Reason.MOVE)))["changes"]
    assert (change["state"], change["bytes_total"], change["seconds_left"]) == ("filling", None, None)


@pytest.mark.parametrize(("gone", "copies"), [(3, None), (4, 2), (6, 0)])
def test_a_group_without_its_read_quorum_is_named(gone: int, copies: int | None) -> None:
    silent = tuple(node.id for node in NODES[:gone])
    found = describe(wide_view(silent=silent))["without_read_quorum"]
    if copies is None:
        assert found == []
    else:
        assert found == [{"group": 0, "copies": copies, "needed": 3, "loss_accepted": False}]


def test_each_node_says_how_well_it_is() -> None:
    found = {each["id"]: each for each in describe(view())["nodes"]}
    assert {id: each["health"] for id, each in found.items()} == {
        "s1": "ok",
        "s2": "ok",
        "s3": "unreachable",
        "s4": "ok",
        "s5": "unreachable",  # it answered, and was paused since
        "s6": "unknown",
    }
    assert (found["s3"]["why"], found["s1"]["segments"]) == ("no answer for 4 s", 1)


@pytest.mark.parametrize(
    ("why", "node", "spares", "silent", "stuck"),
    [
        ("its zone has a spare",              "s1", 2, (),               []),
        ("no node of its zone has room",      "s5", 2, (),               [{"group": 0, "slot": 4}]),
        ("there is no spare at all",          "s1", 0, (),               [{"group": 0, "slot": 0}]),
        ("the spare of its zone is gone",     "s1", 2, ("s7",),          [{"group": 0, "slot": 0}]),
        ("all of its zone is gone",           "s5", 2, ("s6",),          []),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_a_drain_tells_which_segments_have_nowhere_to_go(
    why: str, node: str, spares: int, silent: tuple[str, ...], stuck: list[dict[str, int]]
) -> None:
    nodes = [replace(each, draining=each.id == node) for each in [*NODES, *SPARES[:spares]]]
    found = {each["id"]: each for each in describe(wide_view(silent=silent, nodes=nodes))["nodes"]}
    assert found[node]["stuck"] == stuck
    assert found[node]["health"] == "draining"


def test_what_a_lost_node_held_is_told_if_it_cannot_be_made_anew_anywhere() -> None:
    found = {each["id"]: each for each in describe(wide_view(silent=("s1", "s5")))["nodes"]}
    assert (found["s1"]["health"], found["s1"]["stuck"]) == ("gone", [])
    assert (found["s5"]["health"], found["s5"]["stuck"]) == ("gone", [{"group": 0, "slot": 4}])


def test_a_segment_that_is_on_its_way_is_not_stuck() -> None:
    nodes = [replace(each, draining=each.id == "s5") for each in NODES]
    found = describe(wide_view(Member(4, NodeId("s7"), True, Reason.MOVE), nodes=[*nodes, *SPARES]))
    assert {each["id"]: each["stuck"] for each in found["nodes"]}["s5"] == []
