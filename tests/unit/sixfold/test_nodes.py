import asyncio
import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from control_plane.cluster.model import Node, NodeId
from control_plane.local_cluster import ClusterFolder
from control_plane.metadata.embedded import EmbeddedMetadata
from sixfold import loss, nodes
from sixfold.errors import CommandFailed
from sixfold.layout import cluster_spec
from sixfold.loss import group_of
from sixfold.nodes import emptiest_zone, progress, refused_plainly, waiting_for
from tests.unit.sixfold.fake_control import FakeControl
from volume.errors import InvalidRequest, PeerUnavailable


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nodes, "LOOK_EVERY_S", 0.001)
    monkeypatch.setattr(nodes, "STUCK_S", 0.01)
    monkeypatch.setattr(nodes, "SILENCE_S_MAX", 0.02)


@pytest.fixture
def control(monkeypatch: pytest.MonkeyPatch) -> FakeControl:
    fake = FakeControl()
    monkeypatch.setattr(nodes, "ControlClient", fake)
    monkeypatch.setattr(loss, "ControlClient", fake)
    return fake


def console() -> Console:
    return Console(file=io.StringIO(), width=160)


def text(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_a_control_plane_that_cannot_write_is_not_said_to_be_away(
    control: FakeControl, tmp_path: Path
) -> None:
    store = EmbeddedMetadata(tmp_path / "metadata.db")
    store._db.execute("PRAGMA max_page_count = 1")  # as many as there are: the disk is full
    with (
        pytest.raises(CommandFailed, match="write the metadata: database or disk is full"),
        refused_plainly(),
    ):
        asyncio.run(store.put_nodes([Node(NodeId("s" * 9999), "az1", "h:1")], []))
    asyncio.run(store.close())


# add-node


def process(id: str, state: str, crashes: int = 0) -> dict[str, Any]:
    return {
        "id": id,
        "state": state,
        "crashes": crashes,
        "last_exit": "ended with status 1" if crashes else "",
    }


def test_a_node_is_written_down_told_and_waited_for(control: FakeControl, tmp_path: Path) -> None:
    folder, out = ClusterFolder(tmp_path), console()
    folder.make()
    folder.save(cluster_spec(1 << 20, 60_000, None))
    starting = {"processes": [process("s7", "starting")]}
    control.statuses = [{}, {"processes": []}, starting, {"processes": [process("s7", "running")]}]
    nodes.add_local(folder, "az2", out)
    added = folder.load().process("s7")
    assert control.told == [("add_node", "s7", "az2", added.address)]
    assert text(out) == f"s7 runs in az2 at {added.address}: segments may be placed on it.\n"
    order = [each.id for each in folder.load().processes]
    assert order == ["control", "s1", "s2", "s3", "s4", "s5", "s6", "s7", "w1"]


def test_a_node_that_does_not_start_fails_the_command(control: FakeControl, tmp_path: Path) -> None:
    folder, out = ClusterFolder(tmp_path), console()
    folder.make()
    folder.save(cluster_spec(1 << 20, 60_000, None))
    folder.stderr_file("s7").parent.mkdir(parents=True)
    folder.stderr_file("s7").write_text("no such disk\n")
    control.statuses = [{"processes": [process("s7", "crashed", crashes=3)]}]
    with pytest.raises(CommandFailed, match="s7 did not start: ended with status 1"):
        nodes.add_local(folder, None, out)
    assert "no such disk" in text(out)


def test_the_zone_with_fewest_nodes_gets_the_next() -> None:
    spec = cluster_spec(1 << 20, 7000, None)
    assert emptiest_zone(spec) == "az1"
    without = replace(spec, processes=tuple(each for each in spec.processes if each.id != "s5"))
    assert emptiest_zone(without) == "az3"


def test_a_node_elsewhere_is_only_told(control: FakeControl) -> None:
    out = console()
    nodes.add_elsewhere("s7", "az1", "host:1", "control:1", out)
    assert control.told == [("add_node", "s7", "az1", "host:1")]
    assert "s7 has joined" in text(out)


# drain


def found(left: int, to: str | None = None, stuck: int = 0, draining: bool = True) -> dict[str, Any]:
    change = {
        **{"group": 0, "slot": 2, "from": "s3", "to": to, "state": "filling"},
        **{"bytes_done": 1 << 20, "bytes_total": 4 << 20},
    }
    own = {"id": "s3", "az": "az2", "segments": left, "draining": draining}
    return {
        "nodes": [{**own, "stuck": [{"group": 0, "slot": 2}] * stuck}],
        "segments": [{"group": 0, "slot": 2, "node": "s3", "state": "ok"}] * left,
        "changes": [change] if to else [],
    }


def test_a_drain_is_over_when_no_segment_is_left(control: FakeControl) -> None:
    out = console()
    control.statuses = [found(1), found(1, to="s7"), found(1, to="s7"), found(0)]
    nodes.drain("s3", "h:1", out)
    assert control.told == [("drain", "s3", False)]
    assert text(out).splitlines() == [
        "1 segment of s3 moves elsewhere. Ctrl-C leaves that going on.",
        "  pg0/c  s3 -> s7",
        "s3 holds no segment.",
    ]


def test_a_node_is_removed(control: FakeControl) -> None:
    out = console()
    nodes.remove("s7", "h:1", out)
    assert control.told == [("remove_node", "s7")]
    assert text(out) == "s7 is no part of the cluster any more.\n"


def test_a_drain_that_can_move_nothing_says_so(control: FakeControl) -> None:
    control.statuses = [found(1, stuck=1)]
    with pytest.raises(CommandFailed, match=r"nothing can move: for 1 segment of s3 .*add-node --az az2"):
        nodes.drain("s3", "h:1", console())


def test_a_drain_waits_while_something_else_can_move(control: FakeControl) -> None:
    control.statuses = [*[found(2, stuck=1)] * 100, found(1, to="s7"), found(0)]
    nodes.drain("s3", "h:1", console())


def test_a_drain_that_somebody_undid_ends(control: FakeControl) -> None:
    control.statuses = [found(1), found(1, draining=False)]
    with pytest.raises(CommandFailed, match="was undone; 1 segment left"):
        nodes.drain("s3", "h:1", console())


def test_a_drain_forgives_a_control_plane_that_is_away_for_a_moment(control: FakeControl) -> None:
    control.statuses = [found(1), PeerUnavailable("away"), PeerUnavailable("away"), found(0)]
    nodes.drain("s3", "h:1", console())
    control.statuses = [PeerUnavailable("away")]
    with pytest.raises(CommandFailed, match="does not answer any more"):
        nodes.drain("s3", "h:1", console())


def test_a_drain_that_is_refused_says_why(control: FakeControl, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> int:
        raise InvalidRequest("drain s9: there is no storage node of that name")

    monkeypatch.setattr(control, "drain", refuse)
    with pytest.raises(CommandFailed, match="drain s9: there is no"):
        nodes.drain("s9", "h:1", console())


def test_a_drain_is_undone(control: FakeControl) -> None:
    nodes.undo_drain("s3", "h:1", console())
    assert control.told == [("drain", "s3", True)]


def test_what_a_drain_is_doing_or_waiting_for() -> None:
    moving = found(1, to="s7")
    assert progress(moving["nodes"][0], moving) == "1 segment left on s3. pg0/c -> s7: 1.0 MiB of 4.0 MiB"
    waiting = found(1)
    waiting["segments"].append({"group": 0, "slot": 5, "node": "s6", "state": "unreachable"})
    assert (
        waiting_for("s3", waiting)
        == "A copy moves when all of its group are well: pg0/f on s6 is unreachable"
    )
    assert waiting_for("s3", found(1)) == ""


# accept-loss

LOST = {"group": 3, "copies": 2, "needed": 3, "loss_accepted": False}


@pytest.mark.parametrize(("text", "group"), [("pg3", 3), ("3", 3), ("pg12", 12)])
def test_a_group_is_named(text: str, group: int) -> None:
    assert group_of(text) == group


@pytest.mark.parametrize("text", ["", "pg", "s3", "pg-1", "pg3/a"])
def test_what_is_no_group(text: str) -> None:
    with pytest.raises(CommandFailed, match="is not a protection group"):
        group_of(text)


def test_the_groups_name_has_to_be_typed(control: FakeControl) -> None:
    control.statuses, told = [{"without_read_quorum": [LOST]}], []
    with pytest.raises(CommandFailed, match="nothing was done"):
        loss.accept_loss(3, "h:1", told.append, lambda question: "yes")
    assert control.told == []
    loss.accept_loss(3, "h:1", told.append, lambda question: "pg3" if "pg3" in question else "")
    assert control.told == [("accept_loss", 3)]
    assert "pg3 has no read quorum: 2 of its 6 copies are there, 3 are needed." in told[0]
    assert "is lost" in told[1]


def test_it_is_not_asked_for_with_yes(control: FakeControl) -> None:
    control.statuses = [{"without_read_quorum": [LOST]}]
    loss.accept_loss(3, "h:1", lambda line: None, None)
    assert control.told == [("accept_loss", 3)]


@pytest.mark.parametrize(
    ("lost", "why"),
    [([], "pg3 has its read quorum"), ([{**LOST, "copies": 0}], "no copy of pg3 is there")],
    ids=["nothing is lost", "all is lost"],
)
def test_a_loss_is_accepted_only_where_there_is_one(control: FakeControl, lost: list[Any], why: str) -> None:
    control.statuses = [{"without_read_quorum": lost}]
    with pytest.raises(CommandFailed, match=why):
        loss.accept_loss(3, "h:1", lambda line: None, None)
    assert control.told == []
