"""Membership changes carried out: stories of a small cluster, and any story at all."""

import random
from collections.abc import Awaitable, Callable, Collection
from typing import Final

import pytest

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
    work: Callable[[Cluster], Awaitable[None]],
    zones: dict[str, str],
    groups: int = 1,
    seed: int = 1,
    unheard: Collection[str] = (),
) -> None:
    async def main() -> None:
        cluster = Cluster(zones, groups, random.Random(seed))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("control_plane.repairs.plan_membership", cluster.planned)
            await cluster.start(unheard)
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
        cluster.machines[NodeId(node)].wipe()


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


def test_what_a_control_plane_that_was_paused_did_not_hear_makes_no_suspect() -> None:
    async def story(cluster: Cluster) -> None:
        await cluster.round()
        cluster.hidden_from_control = {NodeId("f")}  # its one answer since then is late
        await cluster.round(60.0)
        assert await cluster.describe() == ["a b c d e f"]
        cluster.hidden_from_control = set()
        await cluster.round()
        _down(cluster, "e")
        await cluster.round(60.0)
        assert await cluster.describe() == ["a b c d e f"]
        await _pass(cluster, PATIENCE.unreachable_s + 1)
        assert await cluster.describe() == ["a b c d e+i f"], "who stays away is"

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


def test_a_segment_whose_making_nobody_heard_of_is_filled_when_it_is_lost() -> None:
    async def story(cluster: Cluster) -> None:
        _down(cluster, "a", "b")  # so it is e and f that make four acknowledge
        cluster.write(cluster.logs[_GROUP].writers[-1])
        assert cluster.logs[_GROUP].acknowledged > 0
        _wipe(cluster, "e", "f")
        _up(cluster, "a", "b")
        await _pass(cluster, PATIENCE.failed_s + 2.5)
        assert "+e" in (await cluster.describe())[0]
        await cluster.until_well()
        assert await cluster.describe() == ["a b c d e f"]

    _with_cluster(story, _SIX, unheard="ef")


def test_a_segment_that_its_node_tells_of_is_made() -> None:
    async def story(cluster: Cluster) -> None:
        assert [group.created_count for group in await cluster.groups()] == [4]
        await cluster.round()
        assert [group.created_count for group in await cluster.groups()] == [6]
        await _pass(cluster, PATIENCE.failed_s + 2.5)
        assert await cluster.describe() == ["a b c d e f"]

    _with_cluster(story, _SIX, unheard="ef")


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
        for _ in range(80):
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


def test_a_replacement_that_fails_before_it_is_confirmed_does_not_block_its_slot() -> None:
    async def story(cluster: Cluster) -> None:
        _down(cluster, "f")
        await _pass(cluster, PATIENCE.unreachable_s + 1)
        assert await cluster.describe() == ["a b c d e f+i"]
        # The answer to its creation was lost, and so was its disk.
        cluster.metadata._db.execute("UPDATE member SET created = 0 WHERE node = 'i'")
        replacement = cluster.segment("i", _GROUP)
        assert replacement is not None
        replacement.failed = True
        await _pass(cluster, PATIENCE.failed_s + 1)
        assert await cluster.describe() == ["a b c d e f"]

    _with_cluster(story, _NINE)


@pytest.mark.parametrize("wiped", [False, True])
def test_a_node_that_cannot_make_a_segment_is_passed_over(wiped: bool) -> None:
    async def story(cluster: Cluster) -> None:
        await cluster.add("j", "az3")
        cluster.machines[NodeId("i")].full = True
        cluster.machines[NodeId("f")].full = wiped
        (_wipe if wiped else _down)(cluster, "f")
        for _ in range(40):
            await cluster.round()
            cluster.gossip()
        assert await cluster.describe() == ["a b c d e j"]
        epochs = [group.membership_epoch for group in await cluster.groups()]
        for _ in range(40):
            await cluster.round()
            cluster.gossip()
        assert [group.membership_epoch for group in await cluster.groups()] == epochs, (
            "and that is the end of it"
        )

    _with_cluster(story, _NINE)


def test_a_repair_that_can_go_nowhere_else_waits_for_its_node() -> None:
    async def story(cluster: Cluster) -> None:
        cluster.machines[NodeId("i")].full = True
        _down(cluster, "f")
        for _ in range(20):
            await cluster.round()
        assert await cluster.describe() == ["a b c d e f+i"]
        (group,) = await cluster.groups()
        assert group.membership_epoch == 2
        cluster.machines[NodeId("i")].full = False
        for _ in range(10):
            await cluster.round()
            cluster.gossip()
        assert await cluster.describe() == ["a b c d e i"]

    _with_cluster(story, _NINE)


@pytest.mark.parametrize("drained", [False, True])
def test_a_node_without_room_for_a_copy_is_passed_over(drained: bool) -> None:
    async def story(cluster: Cluster) -> None:
        await cluster.add("j", "az3")
        cluster.machines[NodeId("i")].cramped = True
        if drained:
            await cluster.metadata.set_draining(NodeId("f"), True)
        else:
            _down(cluster, "f")
        for _ in range(40):
            await cluster.round()
            cluster.gossip()
        assert await cluster.describe() == ["a b c d e j"]

    _with_cluster(story, _NINE)


def test_a_copy_that_can_go_nowhere_else_waits_for_room() -> None:
    async def story(cluster: Cluster) -> None:
        cluster.machines[NodeId("i")].cramped = True
        _down(cluster, "f")
        for _ in range(40):
            await cluster.round()
            cluster.gossip()
        assert await cluster.describe() == ["a b c d e f+i"]
        (group,) = await cluster.groups()
        assert group.membership_epoch == 2
        cluster.machines[NodeId("i")].cramped = False
        for _ in range(10):
            await cluster.round()
            cluster.gossip()
        assert await cluster.describe() == ["a b c d e i"]

    _with_cluster(story, _NINE)


def test_a_move_to_a_node_that_cannot_make_it_is_given_up() -> None:
    async def story(cluster: Cluster) -> None:
        cluster.machines[NodeId("i")].full = True
        await cluster.metadata.set_draining(NodeId("f"), True)
        for _ in range(20):
            await cluster.round()
        assert await cluster.describe() == ["a b c d e f"]
        await cluster.add("j", "az3")
        for _ in range(20):
            await cluster.round()
            cluster.gossip()
        assert await cluster.describe() == ["a b c d e j"]

    _with_cluster(story, _NINE)


def test_after_a_start_nothing_is_placed_on_a_node_that_has_not_answered_yet() -> None:
    async def story(cluster: Cluster) -> None:
        _down(cluster, "i")
        await _pass(cluster, PATIENCE.unreachable_s + 1)
        await cluster.metadata.set_draining(NodeId("f"), True)
        for restarted in (False, True):
            if restarted:
                cluster.restart_control()
            for _ in range(20):
                await cluster.round()
                assert await cluster.describe() == ["a b c d e f"]
        _up(cluster, "i")
        await cluster.until_well()
        for _ in range(20):
            await cluster.round()
            cluster.gossip()
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


def test_a_replacement_has_made_the_promises_of_its_group_before_it_votes() -> None:
    async def story(cluster: Cluster) -> None:
        _down(cluster, "f")
        opening = await cluster.begin_opening(_GROUP)
        assert opening is not None and opening.epoch == 2  # it has three promises, and is heard of no more
        for _ in range(20):
            await cluster.round()
            cluster.gossip()
            replacement = cluster.segment("i", _GROUP)
            if await cluster.describe() == ["a b c d e i"]:
                break
        assert replacement is not None
        assert (replacement.state, replacement.promised) == ("ok", 2)

    _with_cluster(story, _NINE)


def test_without_three_that_vote_nothing_is_changed_unless_the_loss_is_accepted() -> None:
    async def story(cluster: Cluster) -> None:
        _down(cluster, "c", "d", "e", "f")
        for _ in range(20):
            await cluster.round()
        assert await cluster.describe() == ["a b c d e f"]
        await cluster.metadata.accept_loss("main", _GROUP)
        for _ in range(80):
            await cluster.round()
            cluster.gossip()
        (group,) = await cluster.groups()
        assert len(group.voters) == 6 and not group.loss_accepted
        assert {voter.node for voter in group.voters} == set("abhijk")

    _with_cluster(story, _SIX | {"h": "az2", "i": "az3", "j": "az2", "k": "az3"})


def test_one_copy_that_is_left_is_enough_when_the_loss_is_accepted() -> None:
    async def story(cluster: Cluster) -> None:
        _down(cluster, "b", "c", "d", "e", "f")
        for _ in range(20):
            await cluster.round()
        await cluster.metadata.accept_loss("main", _GROUP)
        for _ in range(200):
            await cluster.round()
            cluster.gossip()
        (group,) = await cluster.groups()
        assert {voter.node for voter in group.voters} == set("aghijk")
        assert not group.loss_accepted

    _with_cluster(story, _SIX | {"g": "az1", "h": "az2", "i": "az3", "j": "az2", "k": "az3"})


def test_what_one_of_two_copies_alone_holds_is_not_lost_while_it_is_away_for_a_moment() -> None:
    async def story(cluster: Cluster) -> None:
        _down(cluster, "a")
        cluster.write(cluster.logs[_GROUP].writers[-1])
        assert cluster.logs[_GROUP].acknowledged == 1
        _up(cluster, "a")
        _down(cluster, "c", "d", "e", "f")
        for _ in range(10):
            await cluster.round()
        await cluster.metadata.accept_loss("main", _GROUP)  # a and b are left, and b alone has it
        while "+" not in (await cluster.describe())[0].split()[-1]:
            await cluster.round()
        _down(cluster, "b")  # it is started again
        for _ in range(6):
            await cluster.round()
            cluster.gossip()
            await cluster.open(_GROUP)  # finds what was acknowledged, or nothing at all
        _up(cluster, "b")
        await cluster.until_well()
        await cluster.open(_GROUP)
        assert cluster.logs[_GROUP].acknowledged >= 1

    _with_cluster(story, _SIX | {"h": "az2", "i": "az3", "j": "az2", "k": "az3"})


def test_an_accepted_loss_is_over_once_the_copies_are_back() -> None:
    async def story(cluster: Cluster) -> None:
        _down(cluster, "c", "d", "e", "f")
        for _ in range(20):
            await cluster.round()
        await cluster.metadata.accept_loss("main", _GROUP)
        _up(cluster, "c", "d", "e", "f")
        await _pass(cluster, 30)
        cluster.gossip()
        assert await cluster.is_well()
        for name in "ghij":
            await cluster.add(name, "az1")
        await _pass(cluster, 5)
        # One zone is cut off, with the control plane; the writer and four copies go on without it.
        cluster.hidden_from_control = {NodeId(name) for name in "cdef"}
        writer = cluster.logs[_GROUP].writers[-1]
        cluster.hidden_from[writer.epoch] = {NodeId(name) for name in "abghij"}
        before = cluster.logs[_GROUP].acknowledged
        for _ in range(60):
            await cluster.round()
            cluster.write(writer)
            await cluster.check()
        assert cluster.logs[_GROUP].acknowledged > before
        assert await cluster.describe() == ["a b c d e f"]

    _with_cluster(story, _SIX)


def test_a_segment_that_nobody_heard_of_is_not_made_anew_while_lost_ones_are_filled_in_their_place() -> None:
    async def story(cluster: Cluster) -> None:
        _down(cluster, "d", "e")  # so a b c f acknowledge
        cluster.write(cluster.logs[_GROUP].writers[-1])
        assert cluster.logs[_GROUP].acknowledged > 0
        _wipe(cluster, "a", "b", "f")
        _up(cluster, "d", "e")
        _down(cluster, "f")
        for _ in range(6):
            await cluster.round()
        _up(cluster, "f")
        for _ in range(20):
            await cluster.round()
            await cluster.check()

    _with_cluster(story, _SIX, unheard="f")


# Any story


class Story:
    """Everything that may happen, by dice; what is likely is different in each story."""

    def __init__(self, cluster: Cluster, dice: random.Random) -> None:
        self._cluster = cluster
        self._dice = dice
        likely = {
            "round": 20,
            "write": 20,
            "gossip": 5,
            "up": 5,
            "down": 2,
            "wipe": 1,
            "break": 1,
            "drain": 2,
            "undrain": 2,
            "begin_opening": 2,
            "go_on_opening": 2,
            "late": 2,
            "restart": 1,
            "two_at_once": 3,
            "hide_some": 8,
            "hide_from_control": 2,
        }
        self._weights = {what: weight * dice.choice([0, 1, 1, 3]) for what, weight in likely.items()}
        self._weights["round"] = max(5, self._weights["round"])
        cluster.unreliable = dice.choice([0.0, 0.0, 0.1, 0.3])
        cluster.skipped = dice.choice([0.0, 0.0, 0.5])

    async def go_on(self) -> None:
        (what,) = self._dice.choices(list(self._weights), list(self._weights.values()))
        await getattr(self, f"_{what}")(self._dice.choice(sorted(self._cluster.machines)))
        await self._cluster.check()

    async def _round(self, _: NodeId) -> None:
        await self._cluster.round(self._dice.choice([0.5, 0.5, 2.0]))

    async def _write(self, _: NodeId) -> None:
        for log in self._cluster.logs.values():
            for writer in log.writers[-3:]:
                self._cluster.write(writer)

    async def _gossip(self, _: NodeId) -> None:
        self._cluster.gossip(self._dice.choice([0.1, 0.5, 1.0]))

    async def _up(self, node: NodeId) -> None:
        self._cluster.machines[node].up = True

    async def _down(self, node: NodeId) -> None:
        self._cluster.machines[node].up = False

    async def _wipe(self, node: NodeId) -> None:
        if await self._cluster.can_spare(node):
            self._cluster.machines[node].wipe()

    async def _break(self, node: NodeId) -> None:
        if await self._cluster.can_spare(node):
            for segment in self._cluster.machines[node].segments.values():
                segment.failed = True

    async def _drain(self, node: NodeId) -> None:
        await self._cluster.metadata.set_draining(node, True)

    async def _undrain(self, node: NodeId) -> None:
        await self._cluster.metadata.set_draining(node, False)

    async def _begin_opening(self, _: NodeId) -> None:
        group = self._dice.choice(sorted(self._cluster.logs))
        self._hide(self._cluster.logs[group].granted + 1)
        opening = await self._cluster.begin_opening(group)
        self._cluster.openings += [opening] if opening is not None else []

    async def _go_on_opening(self, _: NodeId) -> None:
        openings = self._cluster.openings
        if openings:
            self._cluster.go_on_opening(openings.pop(self._dice.randrange(len(openings))))

    async def _late(self, _: NodeId) -> None:
        self._cluster.deliver_a_late_one()

    async def _restart(self, _: NodeId) -> None:
        self._cluster.restart_control()

    async def _two_at_once(self, _: NodeId) -> None:
        await self._cluster.two_at_once()

    async def _hide_some(self, _: NodeId) -> None:
        for log in self._cluster.logs.values():
            for writer in log.writers[-3:]:
                self._hide(writer.epoch)

    def _hide(self, epoch: int) -> None:
        """The writer of that epoch does not reach some of the nodes."""
        nodes = sorted(self._cluster.machines)
        self._cluster.hidden_from[epoch] = set(self._dice.sample(nodes, self._dice.choice([0, 1, 2, 3, 4])))

    async def _hide_from_control(self, node: NodeId) -> None:
        self._cluster.hidden_from_control = set() if self._dice.random() < 0.5 else {node}


@pytest.mark.parametrize("seed", range(80))
def test_whatever_happens_nothing_is_lost_and_in_the_end_all_is_well(seed: int) -> None:
    dice = random.Random(seed)
    groups = dice.choice([1, 1, 2])

    async def work(cluster: Cluster) -> None:
        story = Story(cluster, dice)
        for _ in range(150):
            await story.go_on()
        for machine in cluster.machines.values():
            machine.up = True
            await cluster.metadata.set_draining(machine.node.id, False)
        for name, az in _MORE.items():
            await cluster.add(name, az)  # nodes whose segments have failed may wait for each other
        await cluster.until_well()
        assert await cluster.zones() == [{"az1": 2, "az2": 2, "az3": 2}] * groups

    unheard = dice.sample(sorted(_NINE), dice.choice([0, 0, 1, 2]))
    _with_cluster(work, _NINE, groups, seed, unheard)
