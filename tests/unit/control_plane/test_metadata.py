"""The contract of a metadata store, held by the embedded one; any other store runs the same tests."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from control_plane.cluster.model import Instance, Member, Node, NodeId
from control_plane.metadata.embedded import EmbeddedMetadata
from volume.errors import InvalidRequest, PeerUnavailable, StaleEpoch
from volume.ids import Epoch, GroupId, Lsn

NODES = [Node(NodeId(f"s{i + 1}"), f"az{i // 2 + 1}", f"127.0.0.1:{5451 + i}") for i in range(6)]
SIX = tuple(Member(slot, node.id) for slot, node in enumerate(NODES))


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
    with pytest.raises(sqlite3.IntegrityError):
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
    with pytest.raises((PeerUnavailable, sqlite3.OperationalError), match="locked"):
        EmbeddedMetadata(tmp_path / "metadata.db")
