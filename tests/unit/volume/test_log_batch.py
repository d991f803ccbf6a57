"""Frames: sealed, checked, split and clipped; any damage is refused."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from volume.errors import CorruptRecord, UnknownFormat, VolumeError
from volume.ids import Epoch, GroupId, Lsn, PageNumber, VolumeId
from volume.log_batch import (
    BODY_BYTES_MAX,
    HEADER_SIZE,
    check_frame,
    clip_frame,
    frame_records,
    read_header,
    reseal,
    seal_frame,
    split_frames,
)
from volume.redo_record import RedoRecord, encode_record

gaps = st.lists(st.integers(1, 5), min_size=1, max_size=12)


def _records(gaps: list[int], base: int = 100) -> list[RedoRecord]:
    """Records of one group whose LSNs lie so far apart."""
    found, lsn = [], base
    for index, gap in enumerate(gaps):
        previous, lsn = lsn, lsn + gap
        payload = bytes([index]) * (13 + index)
        found.append(RedoRecord(Lsn(lsn), Lsn(previous), Lsn(0), PageNumber(1 + index), index, 0, payload))
    return found


def _frame(gaps: list[int], base: int = 100, vdl: int = 90) -> bytes:
    records = _records(gaps, base)
    return seal_frame(
        VolumeId(1),
        GroupId(2),
        Epoch(3),
        records[0].group_prev_lsn,
        [encode_record(record) for record in records],
        records[0].lsn,
        records[-1].lsn,
        Lsn(vdl),
    )


@given(gaps)
def test_a_frame_comes_back_as_it_was_sealed(gaps: list[int]) -> None:
    frame, records = _frame(gaps), _records(gaps)
    header = check_frame(frame)
    assert header == read_header(b"xyz" + frame, 3)
    assert header[:8] == (1, 2, len(gaps), 3, 100, records[0].lsn, records[-1].lsn, 90)
    assert header.size == len(frame) == HEADER_SIZE + header.body_size
    assert frame_records(frame) == records
    assert reseal(header, records) == frame


def test_any_flipped_bit_is_refused() -> None:
    frame = _frame([1, 2, 3])
    for at in range(len(frame)):
        for bit in range(8):
            damaged = bytearray(frame)
            damaged[at] ^= 1 << bit
            with pytest.raises((CorruptRecord, UnknownFormat)):
                check_frame(bytes(damaged))


@given(gaps, st.data())
def test_any_other_length_is_refused(gaps: list[int], data: st.DataObject) -> None:
    frame = _frame(gaps)
    cut = data.draw(st.integers(0, len(frame) - 1))
    for wrong in (frame[:cut], frame + b"\0", frame + frame):
        with pytest.raises(CorruptRecord):
            check_frame(wrong)
    if cut:
        with pytest.raises(CorruptRecord):
            split_frames(frame + frame[:cut])


@settings(max_examples=300)
@given(st.binary(max_size=200))
def test_garbage_is_refused_with_a_failure_of_ours(blob: bytes) -> None:
    for damaged in (blob, _frame([1]) + blob, b"SXFR" + blob):
        try:
            frames = split_frames(damaged)
        except VolumeError:
            continue
        assert b"".join(frame for _, frame in frames) == damaged


@given(st.lists(gaps, max_size=5))
def test_frames_one_after_the_other_are_split(many: list[list[int]]) -> None:
    frames = [_frame(gaps, base=1 + 100 * index) for index, gaps in enumerate(many)]
    assert [frame for _, frame in split_frames(b"".join(frames))] == frames


@given(gaps, st.sets(st.integers(0, 11)))
def test_clipping_keeps_just_what_it_is_told(gaps: list[int], dropped: set[int]) -> None:
    frame, records = _frame(gaps), _records(gaps)
    gone = {records[index].lsn for index in dropped if index < len(records)}
    kept = [record for record in records if record.lsn not in gone]
    clipped = clip_frame(frame, lambda lsn: lsn not in gone)
    if not kept:
        assert clipped is None
        return
    assert clipped is not None
    header = check_frame(clipped)
    assert frame_records(clipped) == kept
    assert header.prev_lsn == kept[0].group_prev_lsn
    assert (header.first_lsn, header.last_lsn) == (kept[0].lsn, kept[-1].lsn)
    assert (header.epoch, header.vdl, header.record_count) == (3, 90, len(kept))
    if not gone:
        assert clipped is frame


def test_an_unknown_format_says_so() -> None:
    frame = bytearray(_frame([1]))
    frame[4] = 99
    with pytest.raises(UnknownFormat, match="format 99"):
        read_header(bytes(frame))


@pytest.mark.parametrize(
    ("why", "prev", "first", "last"),
    [("follows itself", 7, 7, 8), ("ends before it begins", 1, 9, 8), ("begins at zero", 0, 0, 8)],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_frame_is_refused_that(why: str, prev: int, first: int, last: int) -> None:
    frame = bytearray(_frame([1]))
    for at, value in ((32, prev), (40, first), (48, last)):
        frame[at : at + 8] = value.to_bytes(8, "little")
    with pytest.raises(CorruptRecord):
        read_header(bytes(frame))


@pytest.mark.parametrize("size", [0, BODY_BYTES_MAX + 1, 2**32 - 1])
def test_a_body_size_out_of_range_is_refused_before_anything_is_read(size: int) -> None:
    frame = bytearray(_frame([1]))
    frame[64:68] = size.to_bytes(4, "little")
    with pytest.raises(CorruptRecord):
        read_header(bytes(frame))
