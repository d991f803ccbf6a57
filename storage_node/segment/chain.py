"""A segment's chain of log: what to take, what to hold for a gap to close, what is complete. Pure.

It is told that frames arrived, from the writer or from a peer, in any order and any number of times; it
answers which bytes to append to the log. What is appended counts (`durable_scl`) once the node says
that it is synced.

Invariants:  durable_scl <= scl;  each held frame begins above scl;  nothing taken is annulled.
"""

from bisect import bisect_left, insort
from collections.abc import Iterable
from typing import Final, NamedTuple

from volume.errors import StaleEpoch, StaleTimeline
from volume.ids import LSN_ZERO, Epoch, Lsn
from volume.limits import WAITING_BYTES_MAX
from volume.log_batch import FrameHeader, clip_frame, frame_records, read_header
from volume.redo_record import RecordKey, key_of
from volume.timeline import EMPTY_TIMELINE, Timeline


class Taken(NamedTuple):
    """Append `frame` to the hot log. `chained`: the frames, this one perhaps among them, that now follow
    the chain and belong in the page index, in order."""

    frame: bytes
    last_lsn: Lsn
    chained: list[bytes]


class _Held(NamedTuple):
    prev_lsn: Lsn
    last_lsn: Lsn
    frame: bytes


NOTHING: Final = Taken(b"", LSN_ZERO, [])


_NO_EPOCH: Final = Epoch(0)
"""Before the first promise."""


class Chain:
    def __init__(
        self,
        scl: Lsn = LSN_ZERO,
        promised: Epoch = _NO_EPOCH,
        timeline: Timeline = EMPTY_TIMELINE,
        known_vdl: Lsn = LSN_ZERO,
    ) -> None:
        self.scl = scl
        self.durable_scl = scl
        self.promised = promised
        self.timeline = timeline
        self.known_vdl = known_vdl
        self._held: list[_Held] = []
        self._held_bytes = 0

    @property
    def has_gap(self) -> bool:
        return bool(self._held)

    @property
    def held_frames(self) -> list[bytes]:
        """Frames above a gap, ascending; they are in the hot log too."""
        return [held.frame for held in self._held]

    def check_writer(self, epoch: Epoch) -> None:
        """Is this writer the one we promised? Raises StaleEpoch, StaleTimeline."""
        self.check_promised(epoch, "append")
        if epoch != self.promised or epoch != self.timeline.epoch:
            raise StaleTimeline(
                f"append in epoch {epoch}: the timeline here is of epoch {self.timeline.epoch}"
            )

    def check_promised(self, epoch: Epoch, doing: str) -> None:
        """Is no newer epoch promised? Raises StaleEpoch."""
        if epoch < self.promised:
            raise StaleEpoch(f"{doing} in epoch {epoch}: epoch {self.promised} is promised")

    def offer(self, header: FrameHeader, frame: bytes) -> Taken:
        """A frame that was checked. Nothing to append if it is known, annulled, or of no use yet."""
        if header.epoch > self.timeline.epoch:
            raise StaleTimeline(
                f"take frame of epoch {header.epoch}: the timeline is of {self.timeline.epoch}"
            )
        # Only now: a VDL of an epoch whose timeline is not here would cover log that no longer counts.
        self.known_vdl = max(self.known_vdl, header.vdl)
        if header.last_lsn <= self.scl:
            return NOTHING
        if not self.timeline.counts_all(header.first_lsn, header.last_lsn) or header.prev_lsn < self.scl:
            clipped = clip_frame(frame, lambda lsn: lsn > self.scl and self.timeline.counts(lsn))
            if clipped is None:
                return NOTHING
            frame = clipped
            header = read_header(frame)
        if header.prev_lsn != self.scl:
            return self._hold(header, frame)
        self.scl = header.last_lsn
        chained = [frame, *self._take_held()] if self._held else [frame]
        return Taken(frame, header.last_lsn, chained)

    def _hold(self, header: FrameHeader, frame: bytes) -> Taken:
        if self._held_bytes + len(frame) > WAITING_BYTES_MAX:
            return NOTHING  # it comes back by gossip
        # Of those that begin there, the first that reaches as far: there may be thousands, and as many to come.
        at = bisect_left(self._held, (header.prev_lsn, header.last_lsn))
        if at < len(self._held) and self._held[at].prev_lsn == header.prev_lsn:
            return NOTHING
        self._held.insert(at, _Held(header.prev_lsn, header.last_lsn, frame))
        self._held_bytes += len(frame)
        return Taken(frame, header.last_lsn, [])

    def _take_held(self) -> list[bytes]:
        """The held frames that follow the chain now."""
        chained = []
        while self._held and self._held[0].prev_lsn <= self.scl:
            held = self._held.pop(0)
            self._held_bytes -= len(held.frame)
            if held.last_lsn <= self.scl:
                continue
            frame: bytes | None = held.frame
            if held.prev_lsn < self.scl:
                frame = clip_frame(held.frame, lambda lsn: lsn > self.scl)
            if frame is not None:
                chained.append(frame)
                self.scl = held.last_lsn
        return chained

    def on_synced(self, scl: Lsn) -> None:
        """Everything taken up to `scl` is on disk."""
        self.durable_scl = max(self.durable_scl, min(scl, self.scl))

    def promise(self, epoch: Epoch) -> bool:
        """Shut out older epochs. True if that is new, and must be made durable before it is told."""
        self.check_promised(epoch, "promise")
        new = epoch > self.promised
        self.promised = epoch
        return new

    def install(self, timeline: Timeline, counted_scl: Lsn) -> None:
        """A newer timeline. `counted_scl`: the last LSN of the chain that counts in it."""
        assert timeline.epoch > self.timeline.epoch
        self.timeline = timeline
        self.promised = max(self.promised, timeline.epoch)
        self.scl = counted_scl
        self.durable_scl = min(self.durable_scl, counted_scl)
        held, self._held, self._held_bytes = self._held, [], 0
        for old in held:
            frame = clip_frame(old.frame, lambda lsn: lsn > self.scl and timeline.counts(lsn))
            if frame is not None:
                header = read_header(frame)
                insort(self._held, _Held(header.prev_lsn, header.last_lsn, frame))
                self._held_bytes += len(frame)

    def jump(self, scl: Lsn) -> list[bytes]:
        """Layers copied from a peer hold everything up to `scl`; the held frames that follow now."""
        assert scl > self.scl
        self.scl = self.durable_scl = scl
        return self._take_held()


class Report(NamedTuple):
    """The tail that a promise answers with."""

    runs: list[tuple[Lsn, Lsn]]
    cpls: list[Lsn]
    chain_base: Lsn


class KeyRun(NamedTuple):
    """Records of one group whose LSNs follow each other: each one's previous is the one before."""

    first: Lsn
    last: Lsn
    previous: Lsn
    """Of the first."""
    cpls: tuple[Lsn, ...]


def key_runs(keys: Iterable[RecordKey]) -> list[KeyRun]:
    """The same in short, of keys that ascend (a record may come twice)."""
    runs: list[KeyRun] = []
    cpls: list[Lsn] = []
    first = last = before = LSN_ZERO
    for lsn, previous, is_cpl in keys:
        if lsn <= last:
            continue
        if lsn != last + 1 or previous != last or not last:
            if last:
                runs.append(KeyRun(first, last, before, tuple(cpls)))
            first, before, cpls = lsn, previous, []
        last = lsn
        if is_cpl:
            cpls.append(lsn)
    return [*runs, KeyRun(first, last, before, tuple(cpls))] if last else runs


def report(held: Iterable[KeyRun], scl: Lsn, known_vdl: Lsn) -> Report:
    """From what is held, ascending (a record may come twice), to runs and CPLs above known_vdl."""
    runs: list[tuple[Lsn, Lsn]] = []
    cpls: list[Lsn] = []
    chain_base = scl
    told = known_vdl
    for first, last, previous, own_cpls in held:
        if last <= known_vdl:
            continue
        if first <= known_vdl:
            first, previous = Lsn(known_vdl + 1), known_vdl
        if first <= scl and chain_base >= first:
            chain_base = previous
        if last <= told:
            continue
        if runs and runs[-1][1] >= first - 1:
            runs[-1] = (runs[-1][0], last)
        else:
            runs.append((first, last))
        cpls += [cpl for cpl in own_cpls if cpl > told]
        told = last
    return Report(runs, cpls, chain_base)


def keys_in(frames: Iterable[bytes]) -> list[RecordKey]:
    """Of every record in the frames, ascending and without repeats."""
    return sorted({key_of(record) for frame in frames for record in frame_records(frame)})
