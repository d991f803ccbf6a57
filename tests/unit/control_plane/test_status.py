from control_plane.cluster.health import SUSPECT_AFTER_S
from control_plane.cluster.model import (
    Group,
    Instance,
    InstanceReport,
    Member,
    Node,
    NodeId,
    NodeReport,
    ProcessFacts,
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
    id = SegmentId(GroupId(0), slot)
    return NodeReport(
        (SegmentReport(VolumeId(1), id, Lsn(scl), Lsn(scl - 1), Epoch(3), state, 10, 1, 1, 100),), 1 << 30
    )


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
