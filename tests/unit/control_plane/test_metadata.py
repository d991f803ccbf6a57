"""The contract of a metadata store, held by the embedded one; any other store runs the same tests."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from control_plane.cluster.model import Group, Instance, Member, Node, NodeId, Reason
from control_plane.metadata.embedded import FORMAT, FROM_1, EmbeddedMetadata
from volume.errors import InvalidRequest, StaleEpoch, StaleMembership, UnknownFormat, VolumeBusy
from volume.ids import Epoch, GroupId, Lsn

NODES = [Node(NodeId(f"s{i + 1}"), f"az{i // 2 + 1}", f"127.0.0.1:{5451 + i}") for i in range(6)]
SPARE = [Node(NodeId(f"s{i}"), f"az{i - 6}", f"127.0.0.1:{5450 + i}") for i in (7, 8)]
SIX = tuple(Member(slot, node.id) for slot, node in enumerate(NODES))
GROUP = GroupId(0)
S6, S7, S8 = NodeId("s6"), NodeId("s7"), NodeId("s8")


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[EmbeddedMetadata]:
    store = EmbeddedMetadata(tmp_path / "metadata.db")
    await store.put_nodes(NODES, [Instance("w1", "az1", "127.0.0.1:5460")])
    await store.create_volume("main", 1 << 20)
    yield store
    await store.close()


async def test_an_epoch_is_granted_only_on_top_of_the_expected_one(store: EmbeddedMetadata) -> None:
    assert (await store.grant_epoch("main", Epoch(0), "w1")).epoch == 1
    assert (await store.grant_epoch("main", Epoch(1), "w2")).epoch == 2
    with pytest.raises(StaleEpoch):
        await store.grant_epoch("main", Epoch(1), "w3")
    volume = await store.volume("main")
    assert (volume.epoch, volume.writer) == (2, "w2")


async def test_of_two_opens_expecting_the_same_epoch_one_wins(store: EmbeddedMetadata) -> None:
    await store.grant_epoch("main", Epoch(0), "w1")
    both = await asyncio.gather(
        store.grant_epoch("main", Epoch(1), "w2"),
        store.grant_epoch("main", Epoch(1), "w3"),
        return_exceptions=True,
    )
    assert sorted(type(each).__name__ for each in both) == ["StaleEpoch", "Volume"]
    assert (await store.volume("main")).epoch == 2


async def test_two_opens_that_expect_nothing_get_epochs_of_their_own(store: EmbeddedMetadata) -> None:
    both = await asyncio.gather(
        store.grant_epoch("main", Epoch(0), "w1"), store.grant_epoch("main", Epoch(0), "w2")
    )
    assert sorted(volume.epoch for volume in both) == [1, 2]


async def test_everything_is_there_again_after_a_restart(tmp_path: Path) -> None:
    store = EmbeddedMetadata(tmp_path / "metadata.db")
    await store.put_nodes(NODES, [])
    await store.create_volume("main", 1 << 20)
    await store.add_group("main", GroupId(0), Lsn(0), SIX)
    await store.mark_created("main", GroupId(0), 3, NodeId("s4"))
    before = await store.grant_epoch("main", Epoch(0), "w1")
    await store.close()

    again = EmbeddedMetadata(tmp_path / "metadata.db")
    assert await again.volume("main") == before
    assert await again.nodes() == tuple(NODES)
    assert [member.created for member in before.groups[0].members] == [
        False,
        False,
        False,
        True,
        False,
        False,
    ]
    assert (await again.grant_epoch("main", Epoch(0), "w1")).epoch == before.epoch + 1
    await again.close()


async def test_a_group_is_added_once_and_in_order(store: EmbeddedMetadata) -> None:
    first = await store.add_group("main", GroupId(0), Lsn(0), SIX)
    other = tuple(Member(5 - member.slot, member.node) for member in SIX)
    assert await store.add_group("main", GroupId(0), Lsn(7), other) == first
    with pytest.raises(InvalidRequest):
        await store.add_group("main", GroupId(2), Lsn(0), SIX)
    assert len((await store.volume("main")).groups) == 1


async def test_a_group_that_cannot_be_stored_whole_is_not_stored_at_all(store: EmbeddedMetadata) -> None:
    with pytest.raises(InvalidRequest):
        await store.add_group("main", GroupId(0), Lsn(0), (*SIX[:5], Member(5, NodeId("s1"))))
    assert (await store.volume("main")).groups == ()


async def test_a_node_keeps_its_name_and_may_move(store: EmbeddedMetadata) -> None:
    await store.put_nodes([Node(NodeId("s1"), "az1", "127.0.0.1:9001")], [])
    moved = {node.id: node.address for node in await store.nodes()}
    assert len(moved) == 6
    assert moved[NodeId("s1")] == "127.0.0.1:9001"


async def test_a_volume_nobody_made_is_not_found(store: EmbeddedMetadata) -> None:
    with pytest.raises(InvalidRequest):
        await store.volume("other")


async def test_a_second_control_plane_is_kept_out(
    store: EmbeddedMetadata, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("control_plane.metadata.embedded.LOCK_TIMEOUT_S", 0.0)
    with pytest.raises((VolumeBusy, sqlite3.OperationalError), match="locked"):
        EmbeddedMetadata(tmp_path / "metadata.db")


async def test_a_full_disk_is_told_and_changes_nothing(store: EmbeddedMetadata) -> None:
    store._db.execute("PRAGMA max_page_count = 1")  # as many as there are: the disk is full
    more = [Node(NodeId(f"s{number}"), "az1", "h:1" * 99) for number in range(7, 99)]
    with pytest.raises(VolumeBusy, match="write the metadata: database or disk is full"):
        await store.put_nodes(more, [])
    assert await store.nodes() == tuple(NODES)
    store._db.execute("PRAGMA max_page_count = 4294967294")
    await store.put_nodes(more, [])
    assert len(await store.nodes()) == 98


# Members that change


@pytest.fixture
async def placed(store: EmbeddedMetadata) -> EmbeddedMetadata:
    """A store with a group in epoch 1, all of whose segments are there, and two nodes to spare."""
    await store.put_nodes(SPARE, [])
    await store.add_group("main", GROUP, Lsn(0), SIX)
    for member in SIX:
        await store.mark_created("main", GROUP, member.slot, member.node)
    return store


async def members(store: EmbeddedMetadata) -> str:
    """As in the tests of quorum_set; `*` after the epoch: a loss is accepted, `?`: not created yet."""
    group = (await store.volume("main")).groups[0]
    words = []
    for slot in range(6):
        vote = [named(each) for each in group.voters if each.slot == slot]
        fills = [named(each) for each in group.replacements if each.slot == slot]
        words.append("+".join(["".join(vote), *fills]))
    return f"{group.membership_epoch}{'*' * group.loss_accepted}: {' '.join(words)}"


def named(member: Member) -> str:
    return member.node + "?" * (not member.created) + (">" if member.reason is Reason.MOVE else "")


async def begin(store: EmbeddedMetadata, node: NodeId, epoch: int, reason: Reason = Reason.REPAIR) -> Group:
    volume = await store.begin_change("main", GROUP, Epoch(epoch), 5, node, reason)
    return volume.groups[0]


async def end(store: EmbeddedMetadata, epoch: int, *, keep_new: bool) -> Group:
    return (await store.end_change("main", GROUP, Epoch(epoch), 5, keep_new=keep_new)).groups[0]


async def test_a_replacement_is_begun_made_and_votes(placed: EmbeddedMetadata) -> None:
    begun = await begin(placed, S7, 1)
    assert begun == (await placed.volume("main")).groups[0]
    assert await members(placed) == "2: s1 s2 s3 s4 s5 s6+s7?"
    await placed.mark_created("main", GROUP, 5, S7)
    assert await members(placed) == "2: s1 s2 s3 s4 s5 s6+s7"
    ended = await end(placed, 2, keep_new=True)
    assert ended == (await placed.volume("main")).groups[0]
    assert await members(placed) == "3: s1 s2 s3 s4 s5 s7"


async def test_a_replacement_is_given_up(placed: EmbeddedMetadata) -> None:
    await begin(placed, S7, 1, Reason.MOVE)
    assert await members(placed) == "2: s1 s2 s3 s4 s5 s6+s7?>"
    await end(placed, 2, keep_new=False)
    assert await members(placed) == "3: s1 s2 s3 s4 s5 s6"


async def test_a_replacement_takes_the_place_of_another_one(placed: EmbeddedMetadata) -> None:
    await begin(placed, S7, 1)
    await begin(placed, S8, 2)
    assert await members(placed) == "3: s1 s2 s3 s4 s5 s6+s8?"


async def test_what_is_gone_from_its_node_has_no_vote_while_it_is_filled_there(
    placed: EmbeddedMetadata,
) -> None:
    await begin(placed, S6, 1)
    assert await members(placed) == "2: s1 s2 s3 s4 s5 +s6?"
    await begin(placed, S7, 2)
    assert await members(placed) == "3: s1 s2 s3 s4 s5 +s7?"
    await end(placed, 3, keep_new=True)
    assert await members(placed) == "4: s1 s2 s3 s4 s5 s7?"


async def test_two_slots_change_by_themselves(placed: EmbeddedMetadata) -> None:
    await begin(placed, S7, 1)
    await placed.begin_change("main", GROUP, Epoch(2), 0, S8, Reason.REPAIR)
    assert await members(placed) == "3: s1+s8? s2 s3 s4 s5 s6+s7?"
    await end(placed, 3, keep_new=True)
    assert await members(placed) == "4: s1+s8? s2 s3 s4 s5 s7?"
    await placed.end_change("main", GROUP, Epoch(4), 0, keep_new=False)
    assert await members(placed) == "5: s1 s2 s3 s4 s5 s7?"


@pytest.mark.parametrize("expected", [0, 1, 3])
async def test_a_change_planned_on_other_members_is_refused(placed: EmbeddedMetadata, expected: int) -> None:
    await begin(placed, S7, 1)
    with pytest.raises(StaleMembership):
        await begin(placed, S8, expected)
    for keep_new in (False, True):
        with pytest.raises(StaleMembership):
            await end(placed, expected, keep_new=keep_new)
    assert await members(placed) == "2: s1 s2 s3 s4 s5 s6+s7?"


async def test_of_two_changes_that_expect_the_same_epoch_one_is_made(placed: EmbeddedMetadata) -> None:
    both = await asyncio.gather(begin(placed, S7, 1), begin(placed, S8, 1), return_exceptions=True)
    assert sorted(type(each).__name__ for each in both) == ["Group", "StaleMembership"]
    assert await members(placed) == "2: s1 s2 s3 s4 s5 s6+s7?"


async def test_a_node_that_holds_another_slot_takes_no_second_one(placed: EmbeddedMetadata) -> None:
    with pytest.raises(InvalidRequest):
        await begin(placed, NodeId("s1"), 1)
    with pytest.raises(InvalidRequest):
        await begin(placed, NodeId("s99"), 1)
    assert await members(placed) == "1: s1 s2 s3 s4 s5 s6"


async def test_changes_of_a_group_that_is_not_there_are_refused(placed: EmbeddedMetadata) -> None:
    for group in (GroupId(1), GroupId(-1)):
        with pytest.raises(InvalidRequest):
            await placed.begin_change("main", group, Epoch(1), 5, S7, Reason.REPAIR)
        with pytest.raises(InvalidRequest):
            await placed.end_change("main", group, Epoch(1), 5, keep_new=True)
        with pytest.raises(InvalidRequest):
            await placed.accept_loss("main", group)
        with pytest.raises(InvalidRequest):
            await placed.end_loss("main", group)


async def test_a_change_of_one_group_leaves_the_others(placed: EmbeddedMetadata) -> None:
    before = (await placed.add_group("main", GroupId(1), Lsn(0), SIX)).groups[1]
    await begin(placed, S7, 1)
    await end(placed, 2, keep_new=True)
    await placed.accept_loss("main", GROUP)
    assert (await placed.volume("main")).groups[1] == before


async def test_a_loss_is_accepted_until_it_is_told_that_it_is_over(placed: EmbeddedMetadata) -> None:
    await placed.accept_loss("main", GROUP)
    assert await members(placed) == "1*: s1 s2 s3 s4 s5 s6"
    await begin(placed, S6, 1)
    await placed.begin_change("main", GROUP, Epoch(2), 0, S8, Reason.REPAIR)
    await placed.end_change("main", GROUP, Epoch(3), 0, keep_new=True)
    assert await members(placed) == "4*: s8? s2 s3 s4 s5 +s6?"
    await end(placed, 4, keep_new=True)
    assert await members(placed) == "5*: s8? s2 s3 s4 s5 s6?"
    await placed.end_loss("main", GROUP)
    assert await members(placed) == "5: s8? s2 s3 s4 s5 s6?"


async def test_a_node_is_drained_and_takes_segments_again(placed: EmbeddedMetadata) -> None:
    await placed.set_draining(S6, True)
    await placed.put_nodes(NODES, [])  # as at each start
    assert [node.id for node in await placed.nodes() if node.draining] == [S6]
    await placed.set_draining(S6, False)
    assert not any(node.draining for node in await placed.nodes())
    with pytest.raises(InvalidRequest):
        await placed.set_draining(NodeId("s99"), True)


async def test_a_node_is_forgotten_once_it_holds_nothing(placed: EmbeddedMetadata) -> None:
    with pytest.raises(InvalidRequest, match="remove s6: it holds segments, 1 of them; drain it first"):
        await placed.remove_node(S6)
    await placed.put_nodes([node for node in SPARE if node.id == S8], [])
    await placed.remove_node(S8)
    assert S8 not in {node.id for node in await placed.nodes()}
    with pytest.raises(InvalidRequest, match="no storage node of that name"):
        await placed.remove_node(S8)
    await placed.put_nodes([node for node in SPARE if node.id == S8], [])
    await begin(placed, S8, 1)
    with pytest.raises(InvalidRequest, match="remove s8: it holds segments"):
        await placed.remove_node(S8)


async def test_six_nodes_are_the_least(tmp_path: Path) -> None:
    store = EmbeddedMetadata(tmp_path / "metadata.db")
    await store.put_nodes(NODES, [])
    with pytest.raises(InvalidRequest, match="a volume needs 6 storage nodes"):
        await store.remove_node(S6)
    assert len(await store.nodes()) == 6
    await store.close()


async def test_members_that_change_are_there_again_after_a_restart(tmp_path: Path) -> None:
    store = EmbeddedMetadata(tmp_path / "metadata.db")
    await store.put_nodes([*NODES, *SPARE], [])
    await store.create_volume("main", 1 << 20)
    await store.add_group("main", GROUP, Lsn(0), SIX)
    await begin(store, S7, 1)
    await store.accept_loss("main", GROUP)
    await store.set_draining(S8, True)
    before, nodes = await store.volume("main"), await store.nodes()
    await store.close()
    again = EmbeddedMetadata(tmp_path / "metadata.db")
    assert (await again.volume("main"), await again.nodes()) == (before, nodes)
    await again.close()


# Formats

FORMAT_1 = """
CREATE TABLE node (id TEXT PRIMARY KEY, az TEXT NOT NULL, address TEXT NOT NULL) STRICT;
CREATE TABLE instance (id TEXT PRIMARY KEY, az TEXT NOT NULL, address TEXT NOT NULL) STRICT;
CREATE TABLE volume (
    id           INTEGER PRIMARY KEY,
    name         TEXT NOT NULL UNIQUE,
    segment_size INTEGER NOT NULL CHECK (segment_size > 0),
    epoch        INTEGER NOT NULL DEFAULT 0,
    writer       TEXT NOT NULL DEFAULT ''
) STRICT;
CREATE TABLE volume_group (
    volume           INTEGER NOT NULL REFERENCES volume,
    id               INTEGER NOT NULL,
    membership_epoch INTEGER NOT NULL,
    born_lsn         INTEGER NOT NULL,
    PRIMARY KEY (volume, id)
) STRICT;
CREATE TABLE member (
    volume   INTEGER NOT NULL,
    group_id INTEGER NOT NULL,
    slot     INTEGER NOT NULL CHECK (slot BETWEEN 0 AND 5),
    node     TEXT NOT NULL REFERENCES node,
    created  INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (volume, group_id, slot),
    UNIQUE (volume, group_id, node),
    FOREIGN KEY (volume, group_id) REFERENCES volume_group
) STRICT;
INSERT INTO volume VALUES (1, 'main', 1048576, 3, 'w1');
INSERT INTO volume_group VALUES (1, 0, 1, 0), (1, 1, 1, 50);
INSERT INTO instance VALUES ('w1', 'az1', '127.0.0.1:5460');
PRAGMA user_version = 1;
"""
"""As the release before wrote it."""


def write_format_1(path: Path) -> None:
    db = sqlite3.connect(path)
    db.executescript(FORMAT_1)
    db.executemany("INSERT INTO node VALUES (?, ?, ?)", [(n.id, n.az, n.address) for n in NODES])
    for group in (0, 1):
        rows = [(1, group, each.slot, each.node, int(each.slot != 2)) for each in SIX]
        db.executemany("INSERT INTO member VALUES (?, ?, ?, ?, ?)", rows)
    db.commit()
    db.close()


async def test_the_file_of_the_release_before_is_taken_over(tmp_path: Path) -> None:
    write_format_1(tmp_path / "metadata.db")
    for _ in range(2):
        store = EmbeddedMetadata(tmp_path / "metadata.db")
        volume = await store.volume("main")
        assert (volume.epoch, volume.writer, volume.segment_size) == (3, "w1", 1 << 20)
        assert [group.born_lsn for group in volume.groups] == [0, 50]
        assert await members(store) == "1: s1 s2 s3? s4 s5 s6"
        assert await store.nodes() == tuple(NODES)
        assert await store.instances() == (Instance("w1", "az1", "127.0.0.1:5460"),)
        await store.close()
    store = EmbeddedMetadata(tmp_path / "metadata.db")
    await store.put_nodes(SPARE, [])
    await begin(store, S7, 1)
    await end(store, 2, keep_new=True)
    assert await members(store) == "3: s1 s2 s3? s4 s5 s7?"
    await store.close()


async def test_taking_over_is_done_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_format_1(tmp_path / "metadata.db")
    with monkeypatch.context() as patch:
        patch.setattr("control_plane.metadata.embedded.FROM_1", FROM_1 + "INSERT INTO nothing VALUES (1);")
        with pytest.raises((VolumeBusy, sqlite3.Error)):
            EmbeddedMetadata(tmp_path / "metadata.db")
    store = EmbeddedMetadata(tmp_path / "metadata.db")
    assert await members(store) == "1: s1 s2 s3? s4 s5 s6"
    await store.close()


async def test_a_file_of_a_later_release_is_refused(tmp_path: Path) -> None:
    db = sqlite3.connect(tmp_path / "metadata.db")
    db.execute(f"PRAGMA user_version = {FORMAT + 1}")
    db.close()
    with pytest.raises(UnknownFormat):
        EmbeddedMetadata(tmp_path / "metadata.db")
