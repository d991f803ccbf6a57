"""What a storage node answers on the network: who is acknowledged, who is confirmed, who is refused."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Any, Final

import pytest

from proto import storage_pb2 as pb
from runtime.transport import Stream
from storage_node import gossip
from storage_node.node import StorageNode
from storage_node.segment_store import SegmentStore
from storage_node.server import StorageService
from tests.simulation.process import Process
from tests.simulation.sim_clock import SimClock
from tests.simulation.sim_disk import SimDisk
from tests.simulation.sim_transport import Host, Network
from tests.simulation.virtual_loop import run
from tests.unit.storage_node.log_model import GROUP, VOLUME, GroupLog, frame_of, framed
from tests.unit.volume.quorum_model import quorum_set
from volume.errors import (
    InvalidRequest,
    SegmentFailed,
    StaleEpoch,
    StaleMembership,
    UnknownSegment,
    VolumeError,
)
from volume.ids import LSN_ZERO, Epoch, GroupId, Lsn, SegmentId
from volume.limits import LEASE_S
from volume.log_batch import read_header, seal_frame, split_frames
from volume.quorum_set import QuorumSet
from volume.redo_record import encode_record

_SERVICE: Final = "/sixfold.storage.Storage/"
_SIX: Final = "n b c d e f"
_SECOND: Final = GroupId(1)
_NONE: Final = Epoch(0)
_ONE: Final = Epoch(1)


class Wired:
    """A node that hosts slot 0 of two groups, and a host that asks it."""

    def __init__(self) -> None:
        dice = random.Random(1)
        self.network = Network(dice)
        self.log = GroupLog()
        self.disk = SimDisk(dice)
        self._server = self.network.host("n", Process("n"))
        self._client = self.network.host("w", Process("w"))
        self.node = StorageNode("n", "az1", self.disk, self._server, SimClock(), dice)
        self._epoch = 1

    async def start(self) -> None:
        await self.node.open()
        for group in (GROUP, _SECOND):
            await self.node.create_segment(VOLUME, SegmentId(group, 0), quorum_set(_SIX))
            await self.node.segment(VOLUME, group).promise(_ONE)
            await self.node.segment(VOLUME, group).install(self.log.timeline, LSN_ZERO)
        await self._server.serve("n:1", StorageService(self.node).handlers())
        await asyncio.sleep(2 * LEASE_S)  # what was confirmed before the start is over

    @property
    def segment(self) -> SegmentStore:
        return self.node.segment(VOLUME, GROUP)

    @property
    def client(self) -> Host:
        return self._client

    async def ask(self, method: str, request: Any) -> bytes:
        return await self._client.call("n:1", _SERVICE + method, request.SerializeToString(), timeout_s=5.0)

    async def join(self, words: str, group: GroupId = GROUP) -> QuorumSet:
        """The next membership of the group."""
        segment = self.node.segment(VOLUME, group)
        members = quorum_set(words, segment.membership.epoch + 1)
        await self.node.join(segment, members, _NONE)
        return members


class Writer:
    """One end of AppendLog."""

    def __init__(self, wired: Wired, epoch: int = 1) -> None:
        self._log = wired.log
        self._epoch = epoch
        self._stream: Stream = wired.client.open_stream("n:1", _SERVICE + "AppendLog")

    async def tell(
        self,
        *,
        pages: tuple[int, ...] = (),
        beat: int = 0,
        knows: dict[GroupId, int] | None = None,
        more: bytes = b"",
    ) -> None:
        frames = b"".join(frame_of([self._log.write(page)], self._epoch) for page in pages)
        told = [pb.GroupEpoch(group=group, epoch=epoch) for group, epoch in (knows or {}).items()]
        request = pb.AppendRequest(
            volume=VOLUME, epoch=self._epoch, frames=frames + more, beat=beat, membership=told
        )
        await self._stream.send(request.SerializeToString())

    async def hear(self) -> pb.AppendReply:
        async with asyncio.timeout(5):
            data = await self._stream.receive()
        assert data is not None
        return pb.AppendReply.FromString(data)

    async def hear_nothing(self) -> None:
        with pytest.raises(TimeoutError):
            await self.hear()


def _wired(work: Callable[[Wired, Writer], Awaitable[None]]) -> None:
    async def main() -> None:
        wired = Wired()
        await wired.start()
        writer = Writer(wired)
        await writer.tell()
        await asyncio.sleep(0.1)  # now the node knows whose stream it is
        await work(wired, writer)
        await wired.node.stop()
        assert not wired.network.bugs, wired.network.bugs

    run(main())


def _acknowledged(reply: pb.AppendReply) -> dict[int, int]:
    return dict(zip(reply.group, reply.scl, strict=True))


def _in_group(group: GroupId) -> bytes:
    """The first frame of another group."""
    record = GroupLog().write(1)
    return seal_frame(
        VOLUME, group, _ONE, LSN_ZERO, [encode_record(record)], record.lsn, record.lsn, LSN_ZERO
    )


def _told(newer: pb.Membership) -> tuple[int, list[tuple[int, str, str, str, bool]]]:
    return newer.epoch, [(m.slot, m.node, m.address, m.az, m.filling) for m in newer.member]


def _as_told(members: QuorumSet) -> tuple[int, list[tuple[int, str, str, str, bool]]]:
    return members.epoch, [(m.slot, m.node, m.address, m.az, m.filling) for m in members.members]


# Acknowledgements


def test_log_is_acknowledged_to_a_writer_that_tells_nothing_of_members() -> None:
    async def work(wired: Wired, writer: Writer) -> None:
        await writer.tell(pages=(1, 2))
        reply = await writer.hear()
        assert _acknowledged(reply) == {0: 2}
        assert (reply.beat, list(reply.newer), list(reply.failed_group)) == (0, [], [])

    _wired(work)


def test_a_writer_that_does_not_know_the_members_is_told_them_and_not_acknowledged() -> None:
    async def work(wired: Wired, writer: Writer) -> None:
        members = await wired.join("n b c d e f+g")
        await writer.hear()
        await writer.tell(pages=(1,))
        reply = await writer.hear()
        assert _acknowledged(reply) == {}
        assert [_told(newer) for newer in reply.newer] == [_as_told(members)]
        assert wired.segment.chain.durable_scl == 1, "it has the log all the same"
        await writer.tell(knows={GROUP: 2})
        assert _acknowledged(await writer.hear()) == {0: 1}, "that is acknowledged once the writer knows"

    _wired(work)


def test_a_writer_that_knows_newer_members_than_the_segment_is_acknowledged() -> None:
    async def work(wired: Wired, writer: Writer) -> None:
        await writer.tell(pages=(1,), knows={GROUP: 9, _SECOND: 1})
        assert [_acknowledged(await writer.hear()) for _ in range(2)] == [{0: 0, 1: 0}, {0: 1}]

    _wired(work)


def test_members_of_one_group_say_nothing_of_another() -> None:
    async def work(wired: Wired, writer: Writer) -> None:
        await wired.join("n b c d e f+g", _SECOND)
        await writer.hear()
        await writer.tell(pages=(1,))
        assert _acknowledged(await writer.hear()) == {0: 1}
        await writer.tell(more=_in_group(_SECOND))
        reply = await writer.hear()
        assert (_acknowledged(reply), [newer.group for newer in reply.newer]) == ({}, [1])

    _wired(work)


def test_a_writer_that_is_connected_hears_of_new_members_at_once() -> None:
    async def work(wired: Wired, writer: Writer) -> None:
        await writer.tell(pages=(1,))
        await writer.hear()
        members = await wired.join("n b c d e f+g")
        reply = await writer.hear()
        assert [_told(newer) for newer in reply.newer] == [_as_told(members)]
        await wired.node.join(wired.segment, members, _NONE)
        await writer.hear_nothing()

    _wired(work)


def test_log_that_comes_after_the_members_changed_is_not_acknowledged_by_what_was_known_before() -> None:
    async def work(wired: Wired, writer: Writer) -> None:
        wired.disk.faults.sync_s = (1.0, 1.0)
        await writer.tell(pages=(1,), knows={GROUP: 1})
        assert [_acknowledged(await writer.hear()) for _ in range(2)] == [{0: 0}, {0: 1}]
        await writer.tell(pages=(1,))
        await asyncio.sleep(0.5)  # it is being synced
        wired.segment.membership = quorum_set("n b c d e f+g", 2)
        reply = await writer.hear()
        assert (_acknowledged(reply), [newer.epoch for newer in reply.newer]) == ({}, [2])

    _wired(work)


def test_of_a_segment_that_is_not_there_the_writer_hears_that_it_has_failed() -> None:
    async def work(wired: Wired, writer: Writer) -> None:
        await writer.tell(pages=(1,), more=_in_group(GroupId(5)))
        reply = await writer.hear()
        assert (_acknowledged(reply), list(reply.failed_group)) == ({}, [5])
        reply = await writer.hear()
        assert (_acknowledged(reply), list(reply.failed_group)) == ({0: 1}, [])

    _wired(work)


def test_of_a_segment_that_is_removed_or_has_failed_as_well() -> None:
    async def work(wired: Wired, writer: Writer) -> None:
        await wired.join("g b c d e f")
        await writer.hear()
        wired.node.segment(VOLUME, _SECOND).fail("its disk")
        await writer.tell(pages=(1,), more=_in_group(_SECOND), knows={GROUP: 2})
        reply = await writer.hear()
        assert (_acknowledged(reply), sorted(reply.failed_group), list(reply.newer)) == ({}, [0, 1], [])
        assert wired.segment.chain.scl == 0

    _wired(work)


def test_a_writer_that_a_newer_one_has_fenced_hears_it() -> None:
    async def work(wired: Wired, writer: Writer) -> None:
        await wired.segment.promise(Epoch(2))
        await writer.tell(pages=(1,))
        with pytest.raises(StaleEpoch):
            await writer.hear()

    _wired(work)


def test_a_promise_during_the_sync_takes_the_acknowledgement_back() -> None:
    async def work(wired: Wired, writer: Writer) -> None:
        wired.disk.faults.sync_s = (1.0, 1.0)
        await writer.tell(pages=(1,))
        await asyncio.sleep(0.5)
        await wired.segment.promise(Epoch(2))
        with pytest.raises(StaleEpoch):
            await writer.hear()

    _wired(work)


def test_what_comes_during_a_sync_is_taken_and_shares_the_next_one() -> None:
    async def work(wired: Wired, writer: Writer) -> None:
        wired.disk.faults.sync_s = (1.0, 1.0)
        await writer.tell(pages=(1,))
        await asyncio.sleep(0.5)
        before = wired.node.log.syncs
        for page in range(2, 7):
            await writer.tell(pages=(page,))
        await asyncio.sleep(0.1)
        assert (wired.segment.chain.scl, wired.segment.chain.durable_scl) == (6, 0)
        assert [_acknowledged(await writer.hear()) for _ in range(2)] == [{0: 1}, {0: 6}]
        assert wired.node.log.syncs == before + 2

    _wired(work)


# Beats


def test_a_beat_is_answered_and_gives_a_lease() -> None:
    async def work(wired: Wired, writer: Writer) -> None:
        assert wired.node.lease_left_s(VOLUME, Epoch(2)) == 0
        await writer.tell(beat=77)
        assert (await writer.hear()).beat == 77
        assert wired.node.lease_left_s(VOLUME, Epoch(2)) > 0.9 * LEASE_S
        await writer.tell(beat=78, pages=(1,))
        assert (await writer.hear()).beat == 78
        assert _acknowledged(await writer.hear()) == {0: 1}

    _wired(work)


def test_a_beat_of_a_writer_that_a_newer_one_has_fenced_ends_its_stream() -> None:
    async def work(wired: Wired, writer: Writer) -> None:
        await wired.node.segment(VOLUME, _SECOND).promise(Epoch(2))
        await writer.tell(beat=77)
        with pytest.raises(StaleEpoch):
            await writer.hear()
        assert wired.node.lease_left_s(VOLUME, Epoch(2)) == 0

    _wired(work)


def test_a_beat_of_a_writer_that_does_not_know_the_members_is_not_confirmed() -> None:
    async def work(wired: Wired, writer: Writer) -> None:
        await wired.join("n b c d e f+g", _SECOND)
        await writer.hear()
        await writer.tell(beat=76)
        assert (await writer.hear()).beat == 76, "a lease depends on the members of group 0 alone"
        await wired.join("n b c d e f+g")
        await writer.hear()
        await writer.tell(beat=77)
        reply = await writer.hear()
        assert (reply.beat, [newer.epoch for newer in reply.newer]) == (0, [2])
        await writer.tell(beat=78, knows={GROUP: 2, _SECOND: 2})
        assert (await writer.hear()).beat == 78

    _wired(work)


@pytest.mark.parametrize("lost", ["failed", "gone"])
def test_without_its_segment_of_group_0_a_node_confirms_nothing(lost: str) -> None:
    async def work(wired: Wired, writer: Writer) -> None:
        if lost == "failed":
            wired.segment.fail("its disk")
        else:
            await wired.node.drop_segment(VOLUME, GROUP, 2)
        await writer.tell(beat=77)
        await writer.hear_nothing()

    _wired(work)


# Promises and timelines

_promise = pb.PromiseRequest(volume=VOLUME, group=GROUP, epoch=2)
_install = pb.InstallTimelineRequest(volume=VOLUME, group=GROUP, epoch=2)


@pytest.mark.parametrize(("knows", "refused"), [(0, True), (1, True), (2, False), (3, False)])
@pytest.mark.parametrize("method", ["Promise", "InstallTimeline"])
def test_whoever_opens_the_volume_must_know_the_members(method: str, knows: int, refused: bool) -> None:
    async def work(wired: Wired, writer: Writer) -> None:
        await wired.join("n b c d e f+g")
        wired.log.truncate(0)
        request = _promise if method == "Promise" else _install
        asked = type(request)()
        asked.CopyFrom(request)
        asked.membership_epoch = knows
        if method == "InstallTimeline":
            asked.timeline = wired.log.timeline.encode()
        if refused:
            with pytest.raises(StaleMembership):
                await wired.ask(method, asked)
            assert (wired.segment.chain.promised, wired.segment.chain.timeline.epoch) == (1, 1)
        else:
            await wired.ask(method, asked)
            assert wired.segment.chain.promised == 2

    _wired(work)


@pytest.mark.parametrize(
    ("place", "filling", "knows", "why"),
    [
        (0, False, 1, ""),
        (1, False, 1, ""),
        (1, False, 2, ""),
        (1, True, 1, ""),
        (1, True, 2, "use pg0/a in membership epoch 2: n knows 1 yet"),
        (2, False, 1, "use pg0/b: n has pg0/a"),
    ],
)
@pytest.mark.parametrize("method", ["Promise", "InstallTimeline"])
def test_a_segment_that_is_not_the_one_meant_says_so(
    method: str, place: int, filling: bool, knows: int, why: str
) -> None:
    async def work(wired: Wired, writer: Writer) -> None:
        wired.log.truncate(0)
        request = _promise if method == "Promise" else _install
        asked = type(request)()
        asked.CopyFrom(request)
        asked.membership_epoch, asked.place, asked.filling = knows, place, filling
        if method == "InstallTimeline":
            asked.timeline = wired.log.timeline.encode()
        if why:
            with pytest.raises(UnknownSegment, match=why):
                await wired.ask(method, asked)
        else:
            await wired.ask(method, asked)
        assert wired.segment.chain.promised == (1 if why else 2)

    _wired(work)


def test_who_tells_no_membership_knows_the_first_one() -> None:
    async def work(wired: Wired, writer: Writer) -> None:
        await wired.ask("Promise", _promise)
        assert wired.segment.chain.promised == 2

    _wired(work)


def test_a_replacement_promises_durably_and_tells_no_tail() -> None:
    async def work(wired: Wired, writer: Writer) -> None:
        await wired.node.take_from_peer(wired.segment, [framed([wired.log.write(1)])])
        await wired.join("a+n b c d e f")
        request = pb.PromiseRequest(volume=VOLUME, group=GROUP, epoch=2, membership_epoch=2)
        reply = pb.PromiseReply.FromString(await wired.ask("Promise", request))
        assert reply == pb.PromiseReply(filling=True)
        loaded = await SegmentStore.load(wired.disk.durable_copy(), "n", "segments/7-0")
        assert loaded.chain.promised == 2

    _wired(work)


def test_a_member_that_votes_tells_its_tail() -> None:
    async def work(wired: Wired, writer: Writer) -> None:
        await wired.node.take_from_peer(wired.segment, [framed([wired.log.write(1, cpl=True)])])
        reply = pb.PromiseReply.FromString(await wired.ask("Promise", _promise))
        assert (reply.filling, reply.scl, list(reply.run_first), list(reply.cpl)) == (False, 1, [1], [1])

    _wired(work)


def test_a_promise_is_not_told_when_the_members_changed_meanwhile() -> None:
    async def work(wired: Wired, writer: Writer) -> None:
        wired.disk.faults.sync_s = (1.0, 1.0)
        asking = asyncio.create_task(wired.ask("Promise", _promise))
        await asyncio.sleep(0.5)
        wired.segment.membership = quorum_set("n b c d e f+g", 2)
        with pytest.raises(StaleMembership):
            await asking

    _wired(work)


def test_whoever_installs_a_timeline_hears_how_long_the_older_writer_may_read() -> None:
    async def work(wired: Wired, writer: Writer) -> None:
        await writer.tell(beat=77)
        await writer.hear()
        wired.log.truncate(0)
        request = pb.InstallTimelineRequest(
            volume=VOLUME, group=GROUP, epoch=2, timeline=wired.log.timeline.encode()
        )
        reply = pb.InstallTimelineReply.FromString(await wired.ask("InstallTimeline", request))
        assert 900 * LEASE_S < reply.lease_left_ms <= 1000 * LEASE_S
        await asyncio.sleep(2 * LEASE_S)
        reply = pb.InstallTimelineReply.FromString(await wired.ask("InstallTimeline", request))
        assert reply.lease_left_ms == 0

    _wired(work)


def test_a_timeline_is_not_installed_behind_a_newer_promise() -> None:
    async def work(wired: Wired, writer: Writer) -> None:
        wired.log.truncate(0)
        install = pb.InstallTimelineRequest(
            volume=VOLUME, group=GROUP, epoch=2, timeline=wired.log.timeline.encode()
        )
        await wired.segment.promise(Epoch(2))
        async with wired.segment.lock:  # a flush, say
            promising = asyncio.create_task(
                wired.ask("Promise", pb.PromiseRequest(volume=VOLUME, group=GROUP, epoch=3))
            )
            await asyncio.sleep(0.1)
            installing = asyncio.create_task(wired.ask("InstallTimeline", install))
            await asyncio.sleep(0.1)
        await promising
        with pytest.raises(StaleEpoch, match="install in epoch 2: epoch 3 is promised"):
            await installing

    _wired(work)


def test_a_reader_of_a_newer_timeline_is_sent_elsewhere() -> None:
    async def work(wired: Wired, writer: Writer) -> None:
        await wired.node.take_from_peer(wired.segment, [framed([wired.log.write(1)])])
        stream = wired.client.open_stream("n:1", _SERVICE + "ReadPages")
        for timeline, error in ((0, ""), (1, ""), (2, "StaleTimeline: read in the timeline of epoch 2")):
            request = pb.ReadPagesRequest(
                volume=VOLUME,
                epoch=2,
                group=GROUP,
                read_lsn=1,
                required_scl=1,
                page=[1],
                timeline_epoch=timeline,
            )
            await stream.send(request.SerializeToString())
            data = await stream.receive()
            assert data is not None
            found = pb.ReadPagesReply.FromString(data)
            assert found.error.startswith(error) and bool(found.error) == bool(error)

    _wired(work)


# What the control plane asks


def _set_membership(words: str, epoch: int, promised: int = 0) -> pb.SetMembershipRequest:
    members = quorum_set(words, epoch)
    told = pb.Membership(volume=VOLUME, group=GROUP, epoch=epoch)
    for m in members.members:
        told.member.add(slot=m.slot, node=m.node, address=m.address, az=m.az, filling=m.filling)
    return pb.SetMembershipRequest(membership=told, promised=promised)


def test_a_segment_that_is_told_its_members_says_where_it_stands() -> None:
    async def work(wired: Wired, writer: Writer) -> None:
        await wired.node.take_from_peer(wired.segment, [framed([wired.log.write(1)])])
        for _ in range(2):
            data = await wired.ask("SetMembership", _set_membership("n b c d e f+g", 4, promised=3))
            reply = pb.SetMembershipReply.FromString(data)
            assert (reply.scl, reply.timeline_epoch, reply.promised, reply.membership_epoch) == (1, 1, 3, 4)
        loaded = await SegmentStore.load(wired.disk.durable_copy(), "n", "segments/7-0")
        assert (loaded.membership, loaded.chain.promised) == (quorum_set("n b c d e f+g", 4), 3)

    _wired(work)


@pytest.mark.parametrize(
    ("why", "request_", "refused"),
    [
        ("an older one", _set_membership(_SIX, 1), StaleMembership),
        ("no epoch", _set_membership(_SIX, 0), InvalidRequest),
        (
            "no members",
            pb.SetMembershipRequest(membership=pb.Membership(volume=VOLUME, epoch=3)),
            InvalidRequest,
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_membership_is_refused(
    why: str, request_: pb.SetMembershipRequest, refused: type[VolumeError]
) -> None:
    async def work(wired: Wired, writer: Writer) -> None:
        before = await wired.join("n b c d e f+g")
        with pytest.raises(refused):
            await wired.ask("SetMembership", request_)
        assert wired.segment.membership == before

    _wired(work)


def test_a_segment_that_has_failed_or_is_not_there_learns_nothing() -> None:
    async def work(wired: Wired, writer: Writer) -> None:
        wired.segment.fail("its disk")
        with pytest.raises(SegmentFailed):
            await wired.ask("SetMembership", _set_membership("n b c d e f+g", 2))
        await wired.node.drop_segment(VOLUME, GROUP, 2)
        with pytest.raises(UnknownSegment):
            await wired.ask("SetMembership", _set_membership("n b c d e f+g", 2))

    _wired(work)


def test_who_is_removed_is_told_so_and_then_drops_its_segment() -> None:
    async def work(wired: Wired, writer: Writer) -> None:
        with pytest.raises(InvalidRequest):
            await wired.ask(
                "DropSegment", pb.DropSegmentRequest(volume=VOLUME, group=GROUP, membership_epoch=1)
            )
        await wired.ask("SetMembership", _set_membership("g b c d e f", 2))
        assert wired.segment.removed
        with pytest.raises(UnknownSegment):
            await wired.ask(
                "Promise", pb.PromiseRequest(volume=VOLUME, group=GROUP, epoch=2, membership_epoch=2)
            )
        await wired.ask("DropSegment", pb.DropSegmentRequest(volume=VOLUME, group=GROUP, membership_epoch=2))
        assert list(wired.node.segments) == [(VOLUME, _SECOND)]

    _wired(work)


def test_only_a_member_is_created() -> None:
    async def work(wired: Wired, writer: Writer) -> None:
        members = _set_membership("a b c d e f+n", 3).membership.member
        request = pb.CreateSegmentRequest(volume=VOLUME, group=2, slot=5, membership_epoch=3, member=members)
        for slot, told in ((4, members), (5, members[:6]), (5, [])):
            wrong = pb.CreateSegmentRequest(
                volume=VOLUME, group=2, slot=slot, membership_epoch=3, member=told
            )
            with pytest.raises(InvalidRequest):
                await wired.ask("CreateSegment", wrong)
        await wired.ask("CreateSegment", request)
        created = wired.node.segment(VOLUME, GroupId(2))
        assert (created.id, created.state, created.membership.epoch) == (
            SegmentId(GroupId(2), 5),
            "filling",
            3,
        )

    _wired(work)


def test_the_status_tells_who_is_filled_and_by_which_members() -> None:
    async def work(wired: Wired, writer: Writer) -> None:
        await wired.join("a+n b c d e f")
        await wired.join("a b c d e f", _SECOND)
        reply = pb.NodeStatusReply.FromString(await wired.ask("NodeStatus", pb.NodeStatusRequest()))
        assert [(s.group, s.slot, s.state, s.membership_epoch) for s in reply.segment] == [
            (0, 0, "filling", 2),
            (1, 0, "removed", 2),
        ]

    _wired(work)


# Gossip


def _gossip_ask(membership: int) -> pb.GossipRequest:
    return pb.GossipRequest(
        ask=[pb.GossipAsk(volume=VOLUME, group=GROUP, timeline_epoch=1, membership_epoch=membership)]
    )


def test_a_peer_that_knows_older_members_is_told_them() -> None:
    async def work(wired: Wired, writer: Writer) -> None:
        members = await wired.join("n b c d e f+g")
        for knows, told in ((1, [_as_told(members)]), (2, []), (3, [])):
            reply = pb.GossipReply.FromString(await wired.ask("Gossip", _gossip_ask(knows)))
            found = [_told(answer.membership) for answer in reply.answer if answer.HasField("membership")]
            assert found == told

    _wired(work)


def test_a_segment_that_is_removed_tells_its_peers_nothing() -> None:
    async def work(wired: Wired, writer: Writer) -> None:
        await wired.join("g b c d e f")
        assert not pb.GossipReply.FromString(await wired.ask("Gossip", _gossip_ask(1))).answer

    _wired(work)


def test_a_segment_that_a_writer_sends_its_log_asks_no_peer_for_it() -> None:
    async def work(wired: Wired, writer: Writer) -> None:
        def comes() -> bool:
            return wired.node.comes_by_stream(wired.segment)

        assert not comes()
        await writer.tell(pages=(1,))
        await writer.hear()
        assert comes()
        await asyncio.sleep(1.1)
        assert not comes()
        skipped = wired.log.write(2)
        await writer.tell(pages=(3,))
        await asyncio.sleep(0.1)
        assert not comes()  # there is a gap now
        wired.segment.offer(*framed([skipped], 1))
        assert comes()
        wired.log.truncate(wired.log.end)
        await wired.segment.install(wired.log.timeline, LSN_ZERO)
        assert not comes()

    _wired(work)


def test_a_peer_that_wants_no_log_is_sent_none() -> None:
    async def work(wired: Wired, writer: Writer) -> None:
        await writer.tell(pages=(1, 2))
        await writer.hear()
        for no_frames in (False, True):
            ask = pb.GossipAsk(
                volume=VOLUME, group=GROUP, timeline_epoch=1, membership_epoch=1, no_frames=no_frames
            )
            reply = pb.GossipReply.FromString(await wired.ask("Gossip", pb.GossipRequest(ask=[ask])))
            (answer,) = reply.answer
            assert (bool(answer.frames), answer.scl) == (not no_frames, wired.log.end)

    _wired(work)


@pytest.mark.parametrize(("room", "frames"), [(1, [1, 0]), (10_000, [1, 1])])
def test_log_of_all_segments_together_must_fit_a_reply(
    room: int, frames: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gossip, "GOSSIP_REPLY_BYTES_MAX", room)

    async def work(wired: Wired, writer: Writer) -> None:
        await writer.tell(pages=(1,), more=_in_group(_SECOND))
        await writer.hear()
        asks = [
            pb.GossipAsk(volume=VOLUME, group=group, timeline_epoch=1, membership_epoch=1)
            for group in (_SECOND, GROUP)
        ]
        reply = pb.GossipReply.FromString(await wired.ask("Gossip", pb.GossipRequest(ask=asks)))
        assert [len(split_frames(answer.frames)) for answer in reply.answer] == frames
        assert [answer.scl for answer in reply.answer] == [1, 1], "what is left out is told of"

    _wired(work)


def test_a_node_that_was_away_catches_up_at_once_in_however_many_segments(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(gossip, "GOSSIP_REPLY_BYTES_MAX", 1)
    groups = [GroupId(group) for group in range(2, 22)]

    async def work(wired: Wired, writer: Writer) -> None:
        dice = random.Random(1)
        host = wired.network.host("b", Process("b"))
        away = StorageNode("b", "az1", SimDisk(dice), host, SimClock(), dice)
        await away.open()
        for slot, node in enumerate((wired.node, away)):
            for group in groups:
                await node.create_segment(VOLUME, SegmentId(group, slot), quorum_set(_SIX))
                await node.segment(VOLUME, group).promise(_ONE)
                await node.segment(VOLUME, group).install(wired.log.timeline, LSN_ZERO)
        frames = [(read_header(frame), frame) for frame in map(_in_group, groups)]
        await wired.node.settle(await wired.node.append(VOLUME, _ONE, frames, LSN_ZERO, LSN_ZERO))
        asking = asyncio.create_task(away.gossip._with("n", "n:1"))
        await asyncio.sleep(0.5)
        assert asking.done()
        assert {segment.chain.durable_scl for segment in away.segments.values()} == {Lsn(1)}
        await away.stop()

    _wired(work)


# Layers


def test_a_layer_that_a_peer_has_asked_for_is_written_though_the_peer_goes_away() -> None:
    async def work(wired: Wired, writer: Writer) -> None:
        await writer.tell(pages=(1, 2))
        await writer.hear()
        wired.disk.faults.slow_factor = 100.0
        request = pb.ListLayersRequest(volume=VOLUME, group=GROUP, up_to=1).SerializeToString()
        asking = asyncio.create_task(StorageService(wired.node).list_layers(request))
        await asyncio.sleep(0.001)
        asking.cancel()
        await asyncio.wait([asking])
        assert asking.cancelled()
        await asyncio.sleep(2)
        assert wired.segment.released_lsn == wired.log.end
        assert not wired.segment.memory.frames

    _wired(work)
