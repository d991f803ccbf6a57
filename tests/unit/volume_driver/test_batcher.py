"""The batcher's frames, decoded again, are the changes it was given: numbered without a gap, chained a group."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from db_instance.volume_driver import batcher as batcher_module
from db_instance.volume_driver.batcher import Batcher, Change, Frame
from db_instance.volume_driver.durable_frontier import Round
from volume.errors import TransactionTooLarge
from volume.geometry import Geometry
from volume.ids import Epoch, GroupId, Lsn, PageNumber, VolumeId
from volume.limits import LSN_ALLOCATION_LIMIT
from volume.log_batch import check_frame, frame_records
from volume.redo_record import FLAG_CPL, RedoRecord

_GEOMETRY = Geometry(pages_per_group=4)
_GROUPS = 3
_FIRST = 101
_ENDS = (90, 80, 0)

mtrs = st.lists(
    st.tuples(st.lists(st.integers(1, 4 * _GROUPS), max_size=5), st.booleans()), min_size=1, max_size=8
)


def _batcher(next_lsn: int = _FIRST, vdl: int = 95) -> Batcher:
    batcher = Batcher(VolumeId(7), Epoch(3), _GEOMETRY, Lsn(next_lsn), Lsn(vdl))
    for group, end in enumerate(_ENDS):
        batcher.add_group(GroupId(group), Lsn(end))
    return batcher


def _mtr(pages: list[int]) -> list[Change]:
    changes = [Change(PageNumber(page), Lsn(0), page * 3, 0, b"p" * (20 + page)) for page in pages]
    return [*changes, Change(PageNumber(1), Lsn(0), 7, FLAG_CPL, b"commit stamp and more")]


def _given_out(
    mtrs: list[tuple[list[int], bool]],
) -> tuple[Batcher, list[Change], list[tuple[Round, list[Frame]]]]:
    """Every change in order, and the rounds that were sealed where the second of each pair says so."""
    batcher, changes, rounds = _batcher(), [], []
    for pages, seal in mtrs:
        mtr = _mtr(pages)
        changes += mtr
        assert batcher.add(mtr, Lsn(95)) == _FIRST + len(changes) - 1 == batcher.last_lsn
        if seal and (sealed := batcher.seal(Lsn(95))) is not None:
            rounds.append(sealed)
    if (sealed := batcher.seal(Lsn(95))) is not None:
        rounds.append(sealed)
    return batcher, changes, rounds


def _records(rounds: list[tuple[Round, list[Frame]]]) -> list[RedoRecord]:
    return [record for _, frames in rounds for frame in frames for record in frame_records(frame.data)]


@settings(max_examples=100, deadline=None)
@given(mtrs, st.sampled_from([64, 200, 1 << 18]))
def test_frames_hold_the_changes_numbered_without_a_gap(
    mtrs: list[tuple[list[int], bool]], frame_bytes: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batcher_module, "FRAME_BYTES_MAX", frame_bytes)
        _, changes, rounds = _given_out(mtrs)
    by_lsn = sorted(_records(rounds))
    assert [record.lsn for record in by_lsn] == list(range(_FIRST, _FIRST + len(changes)))
    for record, change in zip(by_lsn, changes, strict=True):
        assert (
            record.page_number,
            record.page_prev_lsn,
            record.page_crc,
            record.flags,
            record.payload,
        ) == change


@settings(max_examples=100, deadline=None)
@given(mtrs, st.sampled_from([64, 200, 1 << 18]))
def test_each_group_has_its_own_unbroken_chain(mtrs: list[tuple[list[int], bool]], frame_bytes: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batcher_module, "FRAME_BYTES_MAX", frame_bytes)
        _, _, rounds = _given_out(mtrs)
    for group, end in enumerate(_ENDS):
        previous = end
        for frame in (frame for _, frames in rounds for frame in frames if frame.group == group):
            header = check_frame(frame.data)
            assert (header.volume, header.group, header.epoch, header.vdl) == (7, group, 3, 95)
            assert header.prev_lsn == previous, "frames follow each other"
            for record in frame_records(frame.data):
                assert record.group_prev_lsn == previous
                assert _GEOMETRY.group_of(record.page_number) == group
                previous = record.lsn
            assert frame.last_lsn == header.last_lsn == previous
            # A frame is closed by the record that fills it.
            assert len(frame.data) < frame_bytes + 72 + 40 + 64 or header.record_count == 1


@settings(max_examples=100, deadline=None)
@given(mtrs)
def test_a_round_tells_its_ends_and_its_last_commit(mtrs: list[tuple[list[int], bool]]) -> None:
    batcher, _, rounds = _given_out(mtrs)
    for round_, frames in rounds:
        records = sorted(record for frame in frames for record in frame_records(frame.data))
        assert round_.last_lsn == records[-1].lsn
        assert round_.last_cpl == max(record.lsn for record in records if record.is_cpl)
        ends = {_GEOMETRY.group_of(record.page_number): record.lsn for record in records}
        assert dict(round_.ends) == ends
        assert round_.size_bytes == sum(len(frame.data) for frame in frames)
    assert batcher.pending_bytes == 0
    assert batcher.seal(Lsn(95)) is None, "nothing gathered, nothing to seal"
    assert batcher.retained_bytes == sum(round_.size_bytes for round_, _ in rounds)


@settings(max_examples=60, deadline=None)
@given(mtrs, st.lists(st.tuples(st.integers(0, _GROUPS - 1), st.integers(80, 160)), max_size=6))
def test_frames_are_kept_until_a_quorum_has_them(
    mtrs: list[tuple[list[int], bool]], released: list[tuple[int, int]]
) -> None:
    batcher, _, rounds = _given_out(mtrs)
    pgcl = dict.fromkeys(range(_GROUPS), 0)
    for group, lsn in released:
        batcher.release(GroupId(group), Lsn(lsn))
        pgcl[group] = max(pgcl[group], lsn)
    frames = [frame for _, frames in rounds for frame in frames]
    for group in range(_GROUPS):
        left = [frame for frame in frames if frame.group == group and frame.last_lsn > pgcl[group]]
        assert batcher.retained(GroupId(group)) == left
    assert batcher.retained_bytes == sum(
        len(frame.data) for group in range(_GROUPS) for frame in batcher.retained(GroupId(group))
    )


def test_a_giant_transaction_spans_rounds_and_only_the_last_has_its_commit() -> None:
    batcher = _batcher()
    batcher.add(_mtr([5, 6])[:-1], Lsn(95))
    first = batcher.seal(Lsn(95))
    batcher.add(_mtr([7]), Lsn(95))
    second = batcher.seal(Lsn(95))
    assert first is not None and second is not None
    assert (first[0].last_lsn, first[0].last_cpl) == (102, 0)
    assert (second[0].last_lsn, second[0].last_cpl) == (104, 104)


@pytest.mark.parametrize(
    ("why", "vdl", "given_out", "room"),
    [
        ("all of it after opening, though the first LSN lies far above", 95, 0, LSN_ALLOCATION_LIMIT),
        ("less by what was given out", 95, 3, LSN_ALLOCATION_LIMIT - 3),
        ("a VDL below the first LSN changes nothing", 99, 3, LSN_ALLOCATION_LIMIT - 3),
        ("as much as became durable comes back", 102, 3, LSN_ALLOCATION_LIMIT - 1),
        ("all of it once everything is durable", 103, 3, LSN_ALLOCATION_LIMIT),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_room(why: str, vdl: int, given_out: int, room: int) -> None:
    batcher = _batcher()
    if given_out:
        batcher.add(_mtr([5] * (given_out - 1)), Lsn(95))
    assert batcher.room(Lsn(vdl)) == room


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 4)), max_size=12), st.integers(1, 9))
def test_no_lsn_lies_further_above_the_vdl_than_the_limit(asked: list[tuple[int, int]], limit: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batcher_module, "LSN_ALLOCATION_LIMIT", limit)
        batcher, vdl = _batcher(vdl=100), 100
        for size, durable in asked:
            before = batcher.last_lsn
            changes = _mtr([5] * size)
            if before + len(changes) - vdl <= limit:
                batcher.add(changes, Lsn(vdl))
            else:
                with pytest.raises(TransactionTooLarge, match=f"allocate {len(changes)} LSNs"):
                    batcher.add(changes, Lsn(vdl))
                assert batcher.last_lsn == before, "a transaction that is refused leaves nothing behind"
            vdl = min(batcher.last_lsn, vdl + durable)
            assert batcher.last_lsn - vdl <= limit


def test_a_group_is_added_once() -> None:
    batcher = _batcher()
    assert batcher.has_group(GroupId(2)) and not batcher.has_group(GroupId(3))
    with pytest.raises(AssertionError):
        batcher.add_group(GroupId(2), Lsn(0))
