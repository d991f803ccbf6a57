"""One storage node, as the writer keeps it busy: one stream that carries frames for all its segments.

Connecting means: promise and timeline at each segment of ours there, then the stream, then every frame
that no write quorum has yet. While connected, frames go out in the order they were sealed, within a
window of unacknowledged bytes. What a quorum has may be dropped from a queue that grows too long: the
segment then fetches it from its peers.
"""

import asyncio
import random
from collections import deque
from collections.abc import Collection, Iterator, Sequence
from typing import Final, Protocol

from db_instance.volume_driver.batcher import Frame
from db_instance.volume_driver.segment_calls import SegmentCalls
from proto import storage_pb2
from runtime.events import get_logger
from runtime.transport import Stream, Transport
from volume.errors import InvalidRequest, StaleEpoch, StaleMembership, VolumeError
from volume.ids import Epoch, GroupId, Lsn, SegmentId, VolumeId
from volume.limits import APPEND_MESSAGE_BYTES_MAX, BEAT_S, KIB, MIB
from volume.quorum_set import Member, QuorumSet, problem_with
from volume.timeline import Timeline

events = get_logger("volume_driver.node_client")

_APPEND_LOG: Final = "/sixfold.storage.Storage/AppendLog"
_WINDOW_BYTES: Final = 4 * MIB
_QUEUE_BYTES_MAX: Final = 16 * MIB
_SHARED_BYTES_MAX: Final = 64 * KIB
"""Larger messages are made anew for each node: copying them is cheap, keeping them is not."""

_RECONNECT_S: Final = (0.05, 1.0)
_FAILED_SEGMENT_RETRY_S: Final = 2.0


class Owner(Protocol):
    """What a node client needs of the driver."""

    volume: VolumeId
    epoch: Epoch
    timeline: Timeline

    @property
    def vdl(self) -> Lsn: ...
    @property
    def read_floor(self) -> Lsn: ...
    @property
    def membership_version(self) -> int: ...
    def now_us(self) -> int: ...
    def members(self, group: GroupId) -> QuorumSet: ...
    def retained(self, group: GroupId) -> list[Frame]: ...
    def pgcl(self, group: GroupId) -> Lsn: ...
    def on_acknowledged(self, group: GroupId, node: str, scl: Lsn) -> None: ...
    def on_joined(self, group: GroupId, node: str, scl: Lsn) -> None: ...
    def on_confirmed(self, node: str, sent_us: int) -> None: ...
    def on_members(self, group: GroupId, members: QuorumSet) -> None: ...
    def on_stale_members(self) -> None: ...
    def on_fenced(self, reason: StaleEpoch) -> None: ...


class Parcel:
    """Frames that were sealed together. All nodes that host all of them are sent the same bytes."""

    def __init__(self, frames: Sequence[Frame]) -> None:
        self.frames = frames
        self.groups = frozenset(frame.group for frame in frames)
        self.size_bytes = sum(len(frame.data) for frame in frames)
        self._message: bytes | None = None

    def message(self, owner: Owner) -> bytes:
        if self._message is not None:
            return self._message
        message = _append_request(owner, [frame.data for frame in self.frames])
        if self.size_bytes <= _SHARED_BYTES_MAX:
            self._message = message
        return message


def parcels_of(frames: Sequence[Frame]) -> Iterator[Parcel]:
    """The frames in portions that fit a message each."""
    start = size = 0
    for index, frame in enumerate(frames):
        if size and size + len(frame.data) > APPEND_MESSAGE_BYTES_MAX:
            yield Parcel(frames[start:index])
            start, size = index, 0
        size += len(frame.data)
    yield Parcel(frames[start:])


def _append_request(owner: Owner, frames: list[bytes]) -> bytes:
    """An AppendRequest's bytes. Its field `frames` is put there by us: protobuf would copy it twice."""
    head = storage_pb2.AppendRequest(
        volume=owner.volume, epoch=owner.epoch, vdl=owner.vdl, read_floor=owner.read_floor
    ).SerializeToString()
    return b"".join([head, _FRAMES_KEY, _varint(sum(map(len, frames))), *frames])


_FRAMES_KEY: Final = bytes([storage_pb2.AppendRequest.FRAMES_FIELD_NUMBER << 3 | 2])
"""Field number and wire type, as in https://protobuf.dev/programming-guides/encoding."""


def _varint(value: int) -> bytes:
    found = bytearray()
    while value > 0x7F:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    found.append(value)
    return bytes(found)


class NodeClient:
    def __init__(
        self,
        node: str,
        address: str,
        transport: Transport,
        calls: SegmentCalls,
        owner: Owner,
        dice: random.Random,
    ) -> None:
        self.node = node
        self.address = address
        self.connected = False
        self.lost_log = False
        """It has come back without log that it had acknowledged."""
        self.bytes_sent = 0
        self.messages_sent = 0
        self.acks: dict[SegmentId, int] = {}
        """Acknowledgements received, by segment."""
        self._transport = transport
        self._calls = calls
        self._owner = owner
        self._dice = dice
        self.task: asyncio.Task[None] | None = None
        self._slots: dict[GroupId, int] = {}
        self._joined: set[GroupId] = set()
        """Groups whose segment here takes our log; one that has failed is asked again after a while."""
        self._told = -1
        """The version of the memberships that this stream was told."""
        self._queue: deque[Parcel] = deque()
        self._queue_bytes = 0
        self._in_flight: dict[GroupId, deque[Frame]] = {}
        self._in_flight_bytes = 0
        self._wake = asyncio.Event()
        self._rejoin = False
        self._beat_due = False

    @property
    def groups(self) -> Collection[GroupId]:
        return self._slots.keys()

    @property
    def queued_bytes(self) -> int:
        """Not sent yet."""
        return self._queue_bytes

    def add_group(self, group: GroupId, slot: int) -> None:
        """The node hosts a segment of this group, perhaps another than before. A running stream is begun anew,
        to join it."""
        self._leave(group)
        self._slots[group] = slot
        self.acks.setdefault(SegmentId(group, slot), 0)
        self.rejoin()

    def remove_group(self, group: GroupId) -> None:
        """The node hosts no segment of this group any more."""
        self._slots.pop(group, None)
        self._leave(group)

    def _leave(self, group: GroupId) -> None:
        """Nothing of this group is sent, or waited for, on this stream."""
        self._joined.discard(group)
        for frame in self._in_flight.pop(group, ()):
            self._in_flight_bytes -= len(frame.data)
        self._wake.set()

    def rejoin(self) -> None:
        self._rejoin = True
        self._wake.set()

    def wake(self, *, beat: bool = False) -> None:
        """There is something new to tell; or a confirmation is wanted at once."""
        self._beat_due |= beat
        self._wake.set()

    def offer(self, parcel: Parcel) -> None:
        """Send this, in order. Frames of groups that the node does not host are passed over."""
        if not self.connected:
            return  # connecting takes what is retained, this among it
        if not self._joined >= parcel.groups:
            parcel = Parcel([frame for frame in parcel.frames if frame.group in self._joined])
        if not parcel.frames:
            return
        self._queue.append(parcel)
        self._queue_bytes += parcel.size_bytes
        if self._queue_bytes > _QUEUE_BYTES_MAX:
            self._drop_what_a_quorum_has()
        self._wake.set()

    def _drop_what_a_quorum_has(self) -> None:
        kept = deque(parcel for parcel in self._queue if self._is_wanted(parcel))
        dropped = len(self._queue) - len(kept)
        self._queue = kept
        self._queue_bytes = sum(parcel.size_bytes for parcel in kept)
        if dropped:
            events.info("node.skipped_parcels", node=self.node, parcels=dropped)

    def _is_wanted(self, parcel: Parcel) -> bool:
        return any(frame.last_lsn > self._owner.pgcl(frame.group) for frame in parcel.frames)

    async def run(self) -> None:
        """Stay connected until cancelled or fenced."""
        delay, longest = _RECONNECT_S
        reachable = True
        while True:
            try:
                await self._converse()
                delay, reachable = _RECONNECT_S[0], True
            except StaleEpoch as error:
                self._owner.on_fenced(error)
                return
            except VolumeError as error:
                if self.connected or reachable:
                    events.warning(
                        "node.disconnected", node=self.node, kind=type(error).__name__, reason=str(error)
                    )
                    delay = _RECONNECT_S[0]
                reachable = False
            finally:
                self.connected = False
            if not reachable:
                await asyncio.sleep(delay * self._dice.uniform(0.5, 1.0))
                delay = min(longest, delay * 2)

    async def _converse(self) -> None:
        self._rejoin = False
        await self._join()
        stream = self._transport.open_stream(self.address, _APPEND_LOG)
        self._reset_queue()
        self.connected = True
        events.info("node.connected", node=self.node, segments=len(self._slots))
        sender = asyncio.create_task(self._send(stream))
        receiver = asyncio.create_task(self._receive(stream))
        try:
            await asyncio.wait((sender, receiver), return_when=asyncio.FIRST_COMPLETED)
        finally:
            await _end(sender, receiver)
            stream.cancel()
        # The receiver knows why a stream ended; the sender may only see that it did.
        for task in (receiver, sender):
            if not task.cancelled() and (error := task.exception()) is not None:
                raise error

    async def _join(self) -> None:
        """Promise and timeline at each of the node's segments; a segment that refuses is left out."""
        owner = self._owner
        self._joined.clear()
        reason: VolumeError | None = None
        for group in list(self._slots):
            membership = owner.members(group)
            member = membership.of(self.node)
            if member is None:
                continue
            try:
                await self._calls.promise(member, group, membership.epoch)
                installed = await self._calls.install_timeline(
                    member, group, membership.epoch, owner.timeline, owner.vdl
                )
            except StaleEpoch:
                raise
            except VolumeError as error:
                if isinstance(error, StaleMembership):
                    owner.on_stale_members()
                reason = error
                continue
            if owner.members(group) is not membership:
                # What a segment has answered need not be true of the one that is a member now, if there is one.
                self._rejoin = True
                continue
            self._joined.add(group)
            owner.on_joined(group, self.node, installed.scl)
        if not self._joined and reason is not None:
            raise reason
        if reason is not None:
            self._ask_again_later(reason)

    def _ask_again_later(self, reason: VolumeError) -> None:
        """Some segments here do not take log; the others must not wait for them."""
        missing = sorted(self._slots.keys() - self._joined)
        events.warning("node.segments_refuse", node=self.node, groups=missing, reason=str(reason))
        asyncio.get_running_loop().call_later(
            _FAILED_SEGMENT_RETRY_S * self._dice.uniform(0.5, 1.5), self.rejoin
        )

    def _reset_queue(self) -> None:
        self._told = -1
        self._beat_due = True
        frames = [frame for group in self._joined for frame in self._owner.retained(group)]
        frames.sort(key=lambda frame: frame.last_lsn)
        self._queue = deque(Parcel([frame]) for frame in frames)
        self._queue_bytes = sum(len(frame.data) for frame in frames)
        self._in_flight = {group: deque() for group in self._joined}
        self._in_flight_bytes = 0
        self._wake.set()

    async def _send(self, stream: Stream) -> None:
        heart = asyncio.create_task(self._beat())
        try:
            while not self._rejoin:
                message = self._next_message()
                if message is not None:
                    await stream.send(message)
                    continue
                self._wake.clear()
                await self._wake.wait()
        finally:
            heart.cancel()

    async def _beat(self) -> None:
        """Each answer prolongs our lease; and a node that gets no log still learns the VDL and the read floor."""
        while True:
            await asyncio.sleep(BEAT_S)
            self.wake(beat=True)

    def _next_message(self) -> bytes | None:
        """The next parcels of the queue, as many as fit a message and the window."""
        queue = self._queue
        if self._beat_due or self._told != self._owner.membership_version:
            self.messages_sent += 1
            return self._news()
        if not queue or self._in_flight_bytes >= _WINDOW_BYTES:
            return None
        taken: list[Parcel] = []
        size = 0
        while queue and (not taken or size + queue[0].size_bytes <= APPEND_MESSAGE_BYTES_MAX):
            parcel = queue.popleft()
            taken.append(parcel)
            size += parcel.size_bytes
            for frame in parcel.frames:
                if frame.group in self._in_flight:
                    self._in_flight[frame.group].append(frame)
                    self._in_flight_bytes += len(frame.data)
        self._queue_bytes -= size
        self.bytes_sent += size
        self.messages_sent += 1
        if len(taken) == 1:
            return taken[0].message(self._owner)
        return _append_request(self._owner, [frame.data for parcel in taken for frame in parcel.frames])

    def _news(self) -> bytes:
        """A message without frames: our beat, and who we think the members are if that is new."""
        owner = self._owner
        self._beat_due = False
        request = storage_pb2.AppendRequest(
            volume=owner.volume,
            epoch=owner.epoch,
            vdl=owner.vdl,
            read_floor=owner.read_floor,
            beat=owner.now_us(),
        )
        if self._told != owner.membership_version:
            self._told = owner.membership_version
            for group in self._slots:
                request.membership.add(group=group, epoch=owner.members(group).epoch)
        return request.SerializeToString()

    async def _receive(self, stream: Stream) -> None:
        while (data := await stream.receive()) is not None:
            reply = storage_pb2.AppendReply.FromString(data)
            if reply.beat and GroupId(0) in self._joined:
                self._owner.on_confirmed(self.node, reply.beat)
            for told in reply.newer:
                self._on_newer(told)
            if self._joined.intersection(reply.failed_group):
                for group in reply.failed_group:
                    self._leave(GroupId(group))
                self._ask_again_later(InvalidRequest("they have failed, or are not there any more"))
            if len(reply.group) != len(reply.scl):
                raise InvalidRequest(f"read acknowledgement of {self.node}: groups and SCLs do not pair up")
            for group, scl in zip(reply.group, reply.scl, strict=True):
                self._on_ack(GroupId(group), Lsn(scl))

    def _on_newer(self, told: storage_pb2.Membership) -> None:
        members = tuple(
            Member(each.slot, each.node, each.address, each.az, each.filling) for each in told.member
        )
        if problem := problem_with(members):
            raise InvalidRequest(f"read members of pg{told.group} from {self.node}: {problem}")
        self._owner.on_members(GroupId(told.group), QuorumSet(told.epoch, members))

    def _on_ack(self, group: GroupId, scl: Lsn) -> None:
        if group not in self._joined:
            return  # of a segment that it hosted a moment ago
        in_flight = self._in_flight[group]
        was_full = self._in_flight_bytes >= _WINDOW_BYTES
        while in_flight and in_flight[0].last_lsn <= scl:
            self._in_flight_bytes -= len(in_flight.popleft().data)
        if was_full:
            self._wake.set()
        self.acks[SegmentId(group, self._slots[group])] += 1
        self._owner.on_acknowledged(group, self.node, scl)


async def _end(*tasks: asyncio.Task[None]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
