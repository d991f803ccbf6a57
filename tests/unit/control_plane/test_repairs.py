"""Membership changes carried out: stories of a small cluster, and any story at all."""

import random
from collections.abc import Awaitable, Callable
from typing import Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from control_plane.cluster.model import NodeId
from tests.simulation.virtual_loop import run
from tests.unit.control_plane.cluster_model import PATIENCE, Cluster
from volume.ids import GroupId
from volume.limits import LEASE_S

_SIX: Final = {"a": "az1", "b": "az1", "c": "az2", "d": "az2", "e": "az3", "f": "az3"}
_NINE: Final = _SIX | {"g": "az1", "h": "az2", "i": "az3"}
_MORE: Final = {"j": "az1", "k": "az2", "l": "az3"}
_GROUP: Final = GroupId(0)


def _with_cluster(
    work: Callable[[Cluster], Awaitable[None]], zones: dict[str, str], groups: int = 1, seed: int = 1
) -> None:
    async def main() -> None:
        cluster = Cluster(zones, groups, random.Random(seed))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("control_plane.repairs.plan_membership", cluster.planned)
            await cluster.start()
            await work(cluster)
        await cluster.metadata.close()

    run(main())


async def _pass(cluster: Cluster, seconds: float) -> None:
    """The supervisor goes its rounds, the writer writes, nobody gossips."""
    for _ in range(int(seconds / 0.5)):
        await cluster.round()
        cluster.write(cluster.logs[_GROUP].writers[-1])
        await cluster.check()


def _down(cluster: Cluster, *nodes: str) -> None:
    for node in nodes:
        cluster.machines[NodeId(node)].up = False


def _up(cluster: Cluster, *nodes: str) -> None:
    for node in nodes:
        cluster.machines[NodeId(node)].up = True


def _wipe(cluster: Cluster, *nodes: str) -> None:
    for node in nodes:
        cluster.machines[NodeId(node)].segments.clear()


def test_a_node_that_is_gone_is_replaced_and_commits_go_on_all_the_time() -> None:
    async def story(cluster: Cluster) -> None:
        _down(cluster, "f")
        await _pass(cluster, PATIENCE.unreachable_s + 1)
        assert await cluster.describe() == ["a b c d e f+i"]
        before = cluster.logs[_GROUP].acknowledged
        await _pass(cluster, 1)
        assert cluster.logs[_GROUP].acknowledged > before, "five slots are enough"
        cluster.gossip()
        await _pass(cluster, LEASE_S + 2)
        assert await cluster.describe() == ["a b c d e i"]
        await cluster.until_well()
        assert await cluster.describe() == ["a b c d e i"]

    _with_cluster(story, _NINE)


def test_a_suspect_that_returns_keeps_its_place_and_the_replacement_goes() -> None:
    async def story(cluster: Cluster) -> None:
        _down(cluster, "f")
        await _pass(cluster, PATIENCE.unreachable_s + 1)
        assert await cluster.describe() == ["a b c d e f+i"]
        _up(cluster, "f")
        await _pass(cluster, 1)
        assert await cluster.describe() == ["a b c d e f"]
        await cluster.until_well()
        assert cluster.segment("i", _GROUP) is None, "it has forgotten its segment"

    _with_cluster(story, _NINE)


def test_a_node_that_comes_back_empty_is_filled_again_in_its_own_place() -> None:
    async def story(cluster: Cluster) -> None:
        _wipe(cluster, "f")
        await _pass(cluster, PATIENCE.failed_s + 1.5)
        assert await cluster.describe() == ["a b c d e +f"]
        await cluster.until_well()
        assert await cluster.describe() == ["a b c d e f"]

    _with_cluster(story, _SIX)


def test_a_zone_that_is_gone_is_spread_over_the_others_and_comes_back() -> None:
    async def story(cluster: Cluster) -> None:
        _down(cluster, "e", "f", "i")
        for _ in range(4):
            await _pass(cluster, PATIENCE.unreachable_s)
            cluster.gossip()
            cluster.gossip()
        assert await cluster.zones() == [{"az1": 3, "az2": 3}]
        _up(cluster, "e", "f", "i")
        await cluster.until_well()
        assert await cluster.zones() == [{"az1": 2, "az2": 2, "az3": 2}]

    _with_cluster(story, _NINE)


def test_a_drained_node_is_left_by_all_groups() -> None:
    async def story(cluster: Cluster) -> None:
        await cluster.metadata.set_draining(NodeId("f"), True)
        await cluster.until_well()
        for _ in range(60):
            await cluster.round()
            cluster.gossip()
        assert cluster.machines[NodeId("f")].segments == {}
        assert await cluster.zones() == [{"az1": 2, "az2": 2, "az3": 2}] * 3
        await cluster.until_well()

    _with_cluster(story, _NINE, groups=3)


def test_a_control_plane_that_starts_anew_goes_on_where_the_last_one_was() -> None:
    async def story(cluster: Cluster) -> None:
        _down(cluster, "f")
        await _pass(cluster, PATIENCE.unreachable_s + 1)
        cluster.restart_control()
        for _ in range(5):
            cluster.gossip()
        await _pass(cluster, LEASE_S)
        assert await cluster.describe() == ["a b c d e f+i"], "it does not know yet when the fence was made"
        await _pass(cluster, LEASE_S + 1)
        assert await cluster.describe() == ["a b c d e i"]

    _with_cluster(story, _NINE)


def test_a_writer_that_hears_of_nothing_is_not_acknowledged_by_those_that_know() -> None:
    async def story(cluster: Cluster) -> None:
        log = cluster.logs[_GROUP]
        old = log.writers[-1]
        _down(cluster, "f")
        for _ in range(9):
            await cluster.round()  # nobody writes: the old one does not learn of it
        assert await cluster.describe() == ["a b c d e f+i"]
        before = old.frontier.vdl
        old.learn = lambda _members: None  # type: ignore[method-assign]
        cluster.write(old)
        assert old.frontier.vdl == before

    _with_cluster(story, _NINE)


def test_without_three_that_vote_nothing_is_changed_unless_the_loss_is_accepted() -> None:
    async def story(cluster: Cluster) -> None:
        _down(cluster, "c", "d", "e", "f")
        for _ in range(20):
            await cluster.round()
        assert await cluster.describe() == ["a b c d e f"]
        await cluster.metadata.accept_loss("main", _GROUP)
        for _ in range(60):
            await cluster.round()
            cluster.gossip()
        (group,) = await cluster.groups()
        assert len(group.voters) == 6 and not group.loss_accepted
        assert {voter.node for voter in group.voters} == set("abhijk")

    _with_cluster(story, _SIX | {"h": "az2", "i": "az3", "j": "az2", "k": "az3"})


# Any story

_NODES: Final = sorted(_NINE)
node = st.sampled_from(_NODES)
actions = st.one_of(
    st.tuples(st.just("rounds"), st.integers(1, 10)),
    st.tuples(st.just("rounds"), st.integers(1, 3)),
    st.tuples(st.just("write"), st.integers(1, 4)),
    st.tuples(st.just("gossip"), st.integers(1, 3)),
    st.tuples(st.sampled_from(["down", "up", "wipe", "break", "drain", "undrain"]), node),
    st.tuples(st.sampled_from(["down", "up"]), node),
    st.tuples(st.sampled_from(["open", "begin opening", "go on opening", "late", "restart"]), st.just(0)),
    st.tuples(st.sampled_from(["unreliable", "skipped"]), st.sampled_from([0, 20, 50])),
)


async def _do(cluster: Cluster, action: tuple[str, int | str]) -> None:
    match action:
        case ("rounds", int(count)):
            for _ in range(count):
                await cluster.round()
                await cluster.check()
        case ("write", int(count)):
            for log in cluster.logs.values():
                for writer in log.writers:
                    for _ in range(count):
                        cluster.write(writer)
        case ("gossip", int(count)):
            for _ in range(count):
                cluster.gossip()
        case ("down", str(name)):
            _down(cluster, name)
        case ("up", str(name)):
            _up(cluster, name)
        case ("wipe", str(name)) if await cluster.can_spare(NodeId(name)):
            _wipe(cluster, name)
        case ("break", str(name)) if await cluster.can_spare(NodeId(name)):
            for segment in cluster.machines[NodeId(name)].segments.values():
                segment.failed = True
        case ("drain" | "undrain" as what, str(name)):
            await cluster.metadata.set_draining(NodeId(name), what == "drain")
        case ("open", _):
            await cluster.open(cluster.dice.choice(sorted(cluster.logs)))
        case ("begin opening", _):
            opening = await cluster.begin_opening(cluster.dice.choice(sorted(cluster.logs)))
            cluster.openings += [opening] if opening is not None else []
        case ("go on opening", _) if cluster.openings:
            cluster.go_on_opening(cluster.openings.pop(cluster.dice.randrange(len(cluster.openings))))
        case ("late", _):
            cluster.deliver_a_late_one()
        case ("restart", _):
            cluster.restart_control()
        case ("unreliable", int(percent)):
            cluster.unreliable = percent / 100
        case ("skipped", int(percent)):
            cluster.skipped = percent / 100


@settings(max_examples=150, deadline=None)
@given(st.lists(actions, min_size=5, max_size=60), st.integers(0, 999))
def test_whatever_happens_nothing_is_lost_and_in_the_end_all_is_well(
    played: list[tuple[str, int | str]], seed: int
) -> None:
    async def story(cluster: Cluster) -> None:
        for action in played:
            await _do(cluster, action)
            await cluster.check()
        for machine in cluster.machines.values():
            machine.up = True
            await cluster.metadata.set_draining(machine.node.id, False)
        for name, az in _MORE.items():
            await cluster.add(name, az)  # nodes whose segments have failed may wait for each other
        await cluster.until_well()
        assert await cluster.zones() == [{"az1": 2, "az2": 2, "az3": 2}] * 2

    _with_cluster(story, _NINE, groups=2, seed=seed)
