"""A segment's chain against a set of LSNs: whatever arrives, in whatever order, it ends at the first gap."""

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage_node.segment import chain as chain_module
from storage_node.segment.chain import NOTHING, Chain, key_runs, keys_in, report
from tests.unit.storage_node.log_model import GroupLog, cut, frame_of, framed
from volume.errors import StaleEpoch, StaleTimeline
from volume.ids import LSN_ZERO, Epoch, Lsn
from volume.log_batch import frame_records
from volume.redo_record import RedoRecord, key_of
from volume.timeline import Timeline

gaps = st.lists(st.integers(1, 4), max_size=8)
epochs = st.lists(st.tuples(gaps, st.integers(0, 12)), min_size=1, max_size=3)


def _log(epochs: list[tuple[list[int], int]]) -> tuple[GroupLog, list[Timeline]]:
    """A log written by one writer after the other; each later one annuls the last few LSNs."""
    log = GroupLog()
    timelines = []
    for index, (gaps, lost) in enumerate(epochs):
        if index:
            log.truncate(_counted_before(log, lost))
        timelines.append(log.timeline)
        for gap in gaps:
            log.write(1, gap, cpl=gap == 1)
    return log, timelines


def _counted_before(log: GroupLog, lost: int) -> int:
    """A VDL to cut at: VDLs never lie where nothing counts."""
    counted = [0, *(record.lsn for record in log.chain)]
    return counted[max(0, len(counted) - 1 - lost)]


def _scl_by_hand(received: list[RedoRecord], timeline: Timeline) -> Lsn:
    following = {each.group_prev_lsn: each.lsn for each in received if timeline.counts(each.lsn)}
    scl = LSN_ZERO
    while scl in following:
        scl = following[scl]
    return scl


@st.composite
def deliveries(draw: st.DrawFn) -> tuple[list[Timeline], list[Any]]:
    """Frames of several cuttings of one log, shuffled, some lost, some repeated; timelines between them."""
    log, timelines = _log(draw(epochs))
    frames: list[Any] = []
    for _ in range(draw(st.integers(1, 3))):
        for timeline in timelines:
            mine = [each for each in log.records if log.epoch_of[each.lsn] == timeline.epoch]
            for run in cut(mine, draw(st.lists(st.integers(0, 30), max_size=6))):
                frames.append((run, timeline.epoch))
        # A peer cuts by its layers, across epochs, and seals in the newest one.
        for run in cut(log.chain, draw(st.lists(st.integers(0, 30), max_size=6))):
            frames.append((run, log.timeline.epoch))
    arriving = draw(st.permutations([frame for frame in frames if draw(st.integers(0, 5))]))
    arriving = arriving + draw(st.lists(st.sampled_from(frames), max_size=6)) if frames else []
    for timeline in timelines[1:]:
        arriving.insert(draw(st.integers(0, len(arriving))), timeline)
    return timelines, arriving


@settings(max_examples=300, deadline=None)
@given(deliveries(), st.data())
def test_the_chain_ends_at_the_first_gap_whatever_the_order(given_: Any, data: st.DataObject) -> None:
    timelines, arriving = given_
    chain = Chain(timeline=timelines[0])
    received: list[RedoRecord] = []
    appended: set[Lsn] = set()
    for each in arriving:
        if isinstance(each, Timeline):
            if each.epoch > chain.timeline.epoch:
                chain.install(each, _scl_by_hand(received, each))
                received = [one for one in received if each.counts(one.lsn)]
        else:
            run, epoch = each
            header, frame = framed(run, epoch)
            if epoch > chain.timeline.epoch:
                with pytest.raises(StaleTimeline):
                    chain.offer(header, frame)
                continue
            before = chain.scl
            taken = chain.offer(header, frame)
            logged = [record.lsn for record in frame_records(taken.frame)] if taken.frame else []
            assert all(chain.timeline.counts(lsn) for lsn in logged), "nothing annulled is ever taken"
            appended.update(logged)
            chained = [record for one in taken.chained for record in frame_records(one)]
            assert [record.group_prev_lsn for record in chained] == [before, *(r.lsn for r in chained)][:-1]
            assert chain.scl == (chained[-1].lsn if chained else before)
            received += [record for record in run if chain.timeline.counts(record.lsn)]
        assert chain.scl == _scl_by_hand(received, chain.timeline)
        held = {record.lsn for one in chain.held_frames for record in frame_records(one)}
        assert held == {record.lsn for record in received if record.lsn > chain.scl}
        assert held | {r.lsn for r in received if r.lsn <= chain.scl} <= appended, (
            "in the log before it counts"
        )
        assert chain.has_gap is bool(held)
        if data.draw(st.booleans()):
            chain.on_synced(chain.scl)
            assert chain.durable_scl == chain.scl
        assert chain.durable_scl <= chain.scl


@given(st.integers(1, 400))
def test_what_is_held_for_a_gap_is_bounded(limit: int) -> None:
    log = GroupLog()
    for page in range(1, 12):
        log.write(page)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chain_module, "WAITING_BYTES_MAX", limit)
        chain = Chain(timeline=log.timeline)
        for record in reversed(log.records[1:]):
            chain.offer(*framed([record]))
            assert sum(map(len, chain.held_frames)) <= limit
        chain.offer(*framed(log.records[:1]))
        assert chain.scl >= log.records[0].lsn, "what closes the gap always gets in"
        chain.offer(*framed(log.records))
        assert (chain.scl, chain.held_frames) == (log.end, [])


class _Counting(int):
    """An LSN that counts how often it is compared."""

    comparisons = 0

    def __eq__(self, other: object) -> bool:
        _Counting.comparisons += 1
        return int(self) == other

    def __lt__(self, other: int) -> bool:
        _Counting.comparisons += 1
        return int(self) < other

    __hash__ = int.__hash__


@pytest.mark.parametrize("comes_twice", [False, True])
def test_the_next_frame_behind_a_gap_is_not_compared_with_all_that_wait(comes_twice: bool) -> None:
    log = GroupLog()
    log.write(1)
    header, frame = framed([log.write(1)])
    chain = Chain(timeline=log.timeline)
    _Counting.comparisons = 0
    for at in range(1000):
        lsn = Lsn(_Counting(2 + at))
        for _ in range(1 + comes_twice):
            before = Lsn(_Counting(1 + at))
            chain.offer(header._replace(prev_lsn=before, first_lsn=lsn, last_lsn=lsn), frame)
    assert len(chain.held_frames) == 1000
    assert _Counting.comparisons < 1000 * 100


def test_room_that_held_frames_took_is_given_back() -> None:
    log = GroupLog()
    for page in range(1, 41):
        log.write(page)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chain_module, "WAITING_BYTES_MAX", len(frame_of(log.records[:1])) * 2)
        chain = Chain(timeline=log.timeline)
        for at in range(0, 40, 2):
            chain.offer(*framed([log.records[at + 1]]))
            assert chain.has_gap
            chain.offer(*framed([log.records[at]]))
            assert chain.scl == log.records[at + 1].lsn


@pytest.mark.parametrize(
    ("why", "promised", "timeline", "epoch", "refused"),
    [
        ("the writer of the promised epoch", 3, 3, 3, None),
        ("an older writer", 3, 3, 2, StaleEpoch),
        ("an older writer, its timeline still here", 3, 2, 2, StaleEpoch),
        ("promised, and its timeline not here yet", 3, 2, 3, StaleTimeline),
        ("a newer writer that was never promised", 3, 3, 4, StaleTimeline),
        ("nobody, before the first promise", 0, 0, 0, None),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_writer_is_let_in(
    why: str, promised: int, timeline: int, epoch: int, refused: type[Exception] | None
) -> None:
    chain = Chain(promised=Epoch(promised), timeline=Timeline(Epoch(timeline)))
    if refused is None:
        chain.check_writer(Epoch(epoch))
        return
    with pytest.raises(refused):
        chain.check_writer(Epoch(epoch))


@given(st.lists(st.integers(0, 9), max_size=12))
def test_a_promise_is_kept(asked: list[int]) -> None:
    chain = Chain()
    for epoch in asked:
        highest = chain.promised
        if epoch < highest:
            with pytest.raises(StaleEpoch):
                chain.promise(Epoch(epoch))
        else:
            assert chain.promise(Epoch(epoch)) is (epoch > highest)
        assert chain.promised == max(highest, epoch)


def test_a_vdl_of_an_epoch_that_is_not_installed_is_not_believed() -> None:
    log = GroupLog()
    chain = Chain(timeline=log.timeline)
    with pytest.raises(StaleTimeline):
        chain.offer(*framed([log.write(1)], epoch=2, vdl=40))
    assert chain.known_vdl == 0
    chain.offer(*framed(log.records, epoch=1, vdl=1))
    chain.offer(*framed(log.records, epoch=1, vdl=0))
    assert chain.known_vdl == 1


def test_a_timeline_promises_its_epoch_and_takes_acknowledged_log_back() -> None:
    log = GroupLog()
    chain = Chain(timeline=log.timeline)
    chain.offer(*framed([log.write(1), log.write(1), log.write(1)]))
    chain.on_synced(chain.scl)
    log.truncate(1)
    chain.install(log.timeline, log.end)
    assert (chain.promised, chain.scl, chain.durable_scl) == (2, 1, 1)
    assert chain.offer(*framed(log.records[1:])) == NOTHING
    with pytest.raises(AssertionError):
        chain.install(log.timeline, log.end)


def test_a_sync_that_began_before_the_cut_promises_nothing_written_since() -> None:
    log = GroupLog()
    chain = Chain(timeline=log.timeline)
    chain.offer(*framed([log.write(1), log.write(1)]))
    began_at = chain.scl
    log.truncate(1)
    chain.install(log.timeline, log.end)
    new = log.write(1)
    chain.offer(*framed([new], epoch=2))
    chain.on_synced(began_at)
    assert chain.durable_scl < new.lsn


def test_layers_of_a_peer_jump_over_the_gap() -> None:
    log = GroupLog()
    for page in range(1, 7):
        log.write(page)
    chain = Chain(timeline=log.timeline)
    chain.offer(*framed(log.records[2:4]))
    chain.offer(*framed(log.records[4:5]))
    chained = chain.jump(log.records[2].lsn)
    assert [record.lsn for one in chained for record in frame_records(one)] == [4, 5]
    assert (chain.scl, chain.durable_scl, chain.has_gap) == (5, 3, False)


@settings(max_examples=200, deadline=None)
@given(epochs, st.integers(0, 30), st.integers(0, 30), st.data())
def test_a_report_agrees_with_sets(
    epochs: list[tuple[list[int], int]], reach: int, vdl_at: int, data: st.DataObject
) -> None:
    log, _ = _log(epochs)
    counted = [LSN_ZERO, *(record.lsn for record in log.chain)]
    scl = counted[min(reach, len(counted) - 1)]
    # Known VDLs are LSNs that count, of any group.
    places = [lsn for lsn in range(log.lsn + 3) if log.timeline.counts(Lsn(lsn))]
    vdl = Lsn(places[vdl_at % len(places)])
    # Layers keep what was annulled later; above the gap some frames are held.
    held = [each for each in log.records if each.lsn <= scl or data.draw(st.booleans())]
    twice = sorted([*map(key_of, held), *(key_of(each) for each in held if data.draw(st.booleans()))])
    found = report([run for key in twice for run in key_runs([key])], scl, vdl)
    assert found == report(key_runs(twice), scl, vdl)
    above = {each.lsn for each in held if each.lsn > vdl}
    assert {lsn for first, last in found.runs for lsn in range(first, last + 1)} == above
    assert all(last + 1 < first for (_, last), (first, _) in pairwise(found.runs))
    assert found.cpls == sorted(each.lsn for each in held if each.is_cpl and each.lsn > vdl)
    assert found.chain_base == max(lsn for lsn in counted if lsn <= min(scl, vdl))


def test_keys_come_ascending_and_once() -> None:
    log = GroupLog()
    for gap in (1, 3, 1):
        log.write(1, gap, cpl=True)
    frames = [frame_of(log.records[1:]), frame_of(log.records[:2])]
    assert keys_in(frames) == [key_of(record) for record in log.records]
