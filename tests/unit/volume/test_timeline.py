"""The timeline against a set of numbers that is too simple to be wrong."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from volume.errors import CorruptRecord, UnknownFormat
from volume.ids import Epoch, Lsn
from volume.page import checksum
from volume.timeline import EMPTY_TIMELINE, Timeline

TOP = 60
ranges = st.tuples(st.integers(0, TOP - 1), st.integers(1, 20)).map(lambda r: (r[0], min(TOP, r[0] + r[1])))
histories = st.lists(ranges, max_size=6)


def _timeline(history: list[tuple[int, int]]) -> Timeline:
    timeline = EMPTY_TIMELINE
    for index, (after, up_to) in enumerate(history):
        timeline = timeline.annul(Epoch(index + 1), Lsn(after), Lsn(up_to))
    return timeline


def _annulled(history: list[tuple[int, int]]) -> set[int]:
    return {lsn for after, up_to in history for lsn in range(after + 1, up_to + 1)}


@given(histories)
def test_an_lsn_counts_unless_some_range_annulled_it(history: list[tuple[int, int]]) -> None:
    timeline, gone = _timeline(history), _annulled(history)
    assert [lsn for lsn in range(TOP + 5) if not timeline.counts(Lsn(lsn))] == sorted(gone)
    assert timeline.epoch == len(history)


@given(histories, st.integers(1, TOP + 5), st.integers(0, 30))
def test_a_run_is_cut_into_the_parts_that_count(
    history: list[tuple[int, int]], first: int, length: int
) -> None:
    timeline, gone = _timeline(history), _annulled(history)
    last = first + length
    parts = timeline.kept(Lsn(first), Lsn(last))
    counted = [lsn for lsn in range(first, last + 1) if lsn not in gone]
    assert [lsn for low, high in parts for lsn in range(low, high + 1)] == counted
    assert all(low <= high for low, high in parts)
    assert timeline.counts_all(Lsn(first), Lsn(last)) is (len(counted) == length + 1)


@given(histories, st.integers(0, TOP + 5))
def test_skipping_leads_right_before_the_next_lsn_that_counts(
    history: list[tuple[int, int]], lsn: int
) -> None:
    gone = _annulled(history)
    expected = lsn
    while expected + 1 in gone:
        expected += 1
    assert _timeline(history).skip(Lsn(lsn)) == expected


@given(histories)
def test_ranges_are_kept_ascending_and_apart(history: list[tuple[int, int]]) -> None:
    annulled = _timeline(history).annulled
    assert all(up_to < after for (_, up_to), (after, _) in pairwise(annulled))


@given(histories)
def test_bytes_come_back_as_they_went(history: list[tuple[int, int]]) -> None:
    timeline = _timeline(history)
    assert Timeline.decode(timeline.encode()) == timeline


@given(histories, st.data())
def test_damaged_bytes_are_refused(history: list[tuple[int, int]], data: st.DataObject) -> None:
    encoded = _timeline(history).encode()
    at = data.draw(st.integers(0, len(encoded) - 1))
    flipped = bytearray(encoded)
    flipped[at] ^= data.draw(st.integers(1, 255))
    for damaged in (bytes(flipped), encoded[:at], encoded + b"\0"):
        with pytest.raises(CorruptRecord):
            Timeline.decode(damaged)


def _sealed(body: bytes) -> bytes:
    return body + checksum(body).to_bytes(4, "little")


def _bytes(version: int, count: int, *numbers: int) -> bytes:
    head = version.to_bytes(2, "little") + bytes(2) + count.to_bytes(4, "little") + bytes(8)
    return _sealed(head + b"".join(number.to_bytes(8, "little") for number in numbers))


@pytest.mark.parametrize(
    ("why", "data", "kind"),
    [
        ("of another format", _bytes(2, 0), UnknownFormat),
        ("with fewer ranges than it says", _bytes(1, 2, 1, 5), CorruptRecord),
        ("with more ranges than it says", _bytes(1, 0, 1, 5), CorruptRecord),
        ("with half a range", _bytes(1, 1, 1), CorruptRecord),
        ("with an empty range", _bytes(1, 1, 5, 5), CorruptRecord),
        ("with a range backwards", _bytes(1, 1, 5, 4), CorruptRecord),
        ("with ranges out of order", _bytes(1, 2, 7, 9, 1, 5), CorruptRecord),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_timeline_is_refused(why: str, data: bytes, kind: type[Exception]) -> None:
    with pytest.raises(kind):
        Timeline.decode(data)


def test_the_epoch_grows() -> None:
    with pytest.raises(AssertionError):
        Timeline(Epoch(4)).annul(Epoch(4), Lsn(1), Lsn(2))
