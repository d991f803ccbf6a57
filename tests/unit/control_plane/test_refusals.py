"""A node that had no room is left alone for a while, or until it has room again."""

from control_plane.cluster.model import NodeId, NodeReport, SegmentReport
from control_plane.cluster.refusals import REFUSED_S, Refusals
from storage_node.segment_store import FILLING_WITHOUT_ROOM
from volume.ids import Epoch, GroupId, Lsn, SegmentId, VolumeId

_NODE = NodeId("s2")


def _report(free_bytes: int, state: str = "ok") -> NodeReport:
    segment = SegmentReport(
        volume=VolumeId(1),
        id=SegmentId(GroupId(0), 1),
        scl=Lsn(5),
        known_vdl=Lsn(5),
        promised_epoch=Epoch(1),
        timeline_epoch=Epoch(1),
        membership_epoch=Epoch(1),
        state=state,
        hot_bytes=0,
        delta_layers=0,
        image_layers=0,
        layer_bytes=0,
    )
    return NodeReport((segment,), free_bytes)


def test_a_node_that_could_make_no_segment_is_left_alone_until_it_makes_one() -> None:
    refusals = Refusals()
    refusals.note(_NODE, 10.0)
    refusals.look(_NODE, _report(1000), 11.0)
    assert refusals.current(9.9 + REFUSED_S) == {_NODE}
    assert refusals.current(10.0 + REFUSED_S) == set()
    refusals.forget(_NODE)
    assert refusals.current(12.0) == set()


def test_a_node_that_was_full_and_is_not_any_more_is_asked_again() -> None:
    for refused in (True, False):
        refusals = Refusals()
        if refused:
            refusals.note(_NODE, 10.0)
            refusals.look(_NODE, _report(1000), 10.5)
        else:
            refusals.look(_NODE, _report(1000, FILLING_WITHOUT_ROOM), 10.5)
        for free_bytes in (900, 1800, 1000):
            refusals.look(_NODE, _report(free_bytes), 11.0)
            assert refusals.current(11.0) == {_NODE}
        refusals.look(_NODE, _report(1801), 12.0)
        assert refusals.current(12.0) == set()


def test_more_room_that_is_not_enough_is_no_room() -> None:
    refusals = Refusals()
    for free_bytes in (10, 1000, 100_000):
        refusals.look(_NODE, _report(free_bytes, FILLING_WITHOUT_ROOM), 10.0)
    assert refusals.current(10.0) == {_NODE}
