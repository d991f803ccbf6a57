"""A record and its bytes, both ways, and what damaged ones meet."""

from itertools import pairwise

import lz4.block
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from volume.errors import CorruptPage, CorruptRecord
from volume.ids import Lsn, PageNumber
from volume.limits import PAGE_SIZE_BYTES
from volume.page import ZERO_PAGE, checksum, xor_pages
from volume.redo_record import (
    COMMIT_STAMP,
    FLAG_CPL,
    FLAG_WHOLE_PAGE,
    HEADER,
    PAYLOAD_BYTES_MAX,
    RedoRecord,
    apply_records,
    encode_record,
    iter_records,
    whole_page_record,
)

U32, U64 = 2**32 - 1, 2**64 - 1


@st.composite
def records(draw: st.DrawFn) -> RedoRecord:
    lsn = draw(st.integers(1, U64))
    return RedoRecord(
        Lsn(lsn),
        Lsn(draw(st.integers(0, lsn - 1))),
        Lsn(draw(st.integers(0, lsn - 1))),
        PageNumber(draw(st.integers(1, U32))),
        draw(st.integers(0, U32)),
        draw(st.sampled_from([0, FLAG_CPL, FLAG_WHOLE_PAGE, FLAG_CPL | FLAG_WHOLE_PAGE])),
        draw(st.binary(min_size=COMMIT_STAMP.size + 1, max_size=80)),
    )


@given(st.lists(records(), max_size=8))
def test_records_come_back_as_they_went(wanted: list[RedoRecord]) -> None:
    body = b"".join(encode_record(record) for record in wanted)
    assert list(iter_records(body)) == wanted


@given(records())
def test_a_record_cut_off_anywhere_is_refused(record: RedoRecord) -> None:
    body = encode_record(record)
    for size in range(1, len(body)):
        with pytest.raises(CorruptRecord):
            list(iter_records(body[:size]))


@settings(max_examples=300)
@given(st.binary(max_size=300))
def test_garbage_is_refused_and_never_anything_else(body: bytes) -> None:
    try:
        found = list(iter_records(body))
    except CorruptRecord:
        return
    assert b"".join(encode_record(record) for record in found) == _with_zero_padding(body)


def _with_zero_padding(body: bytes) -> bytes:
    # The three reserved bytes are not looked at when reading: the frame's checksum covers them.
    fixed, offset = bytearray(body), 0
    while offset < len(body):
        fixed[offset + 33 : offset + 36] = bytes(3)
        offset += HEADER.size + HEADER.unpack_from(body, offset)[6]
    return bytes(fixed)


def _header(
    lsn: int = 9, group_prev: int = 8, page_prev: int = 7, page: int = 1, flags: int = 0, size: int = 1
) -> bytes:
    return HEADER.pack(lsn, group_prev, page_prev, page, 0, flags, size) + bytes(size)


@pytest.mark.parametrize(
    ("why", "body"),
    [
        ("follows itself in the group", _header(group_prev=9)),
        ("follows itself on the page", _header(page_prev=9)),
        ("is of page zero", _header(page=0)),
        ("has an unknown flag", _header(flags=4)),
        ("has no payload", _header(size=0)),
        ("has too much payload", _header(size=PAYLOAD_BYTES_MAX + 1)),
        ("is a consistency point without a stamp", _header(flags=FLAG_CPL, size=COMMIT_STAMP.size)),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_record_is_refused_that(why: str, body: bytes) -> None:
    with pytest.raises(CorruptRecord):
        list(iter_records(body))


def _page(seed: int) -> bytes:
    return seed.to_bytes(4, "little") * (PAGE_SIZE_BYTES // 4)


def _change(before: bytes, after: bytes, flags: int = 0, stamp: bytes = b"") -> RedoRecord:
    change = after if flags & FLAG_WHOLE_PAGE else xor_pages(before, after)
    payload = stamp + lz4.block.compress(change, store_size=False)
    return RedoRecord(Lsn(5), Lsn(4), Lsn(3), PageNumber(2), checksum(after), flags, payload)


@given(st.integers(0, U32), st.integers(0, U32), st.booleans(), st.booleans())
def test_a_record_makes_the_page_that_the_writer_had(one: int, other: int, whole: bool, cpl: bool) -> None:
    before, after = _page(one), _page(other)
    flags = whole * FLAG_WHOLE_PAGE | cpl * FLAG_CPL
    record = _change(before, after, flags, COMMIT_STAMP.pack(123, 45) if cpl else b"")
    assert apply_records(before, [record]) == after
    if cpl:
        assert record.commit_stamp == (123, 45)


@given(st.lists(st.tuples(st.integers(0, U32), st.booleans(), st.booleans()), min_size=1, max_size=9))
def test_many_records_make_the_page_that_they_make_one_by_one(changes: list[tuple[int, bool, bool]]) -> None:
    page = ZERO_PAGE
    records = []
    for content, whole, cpl in changes:
        flags = whole * FLAG_WHOLE_PAGE | cpl * FLAG_CPL
        records.append(_change(page, _page(content), flags, COMMIT_STAMP.pack(123, 45) if cpl else b""))
        page = _page(content)
    assert apply_records(ZERO_PAGE, records) == page
    last = whole_page_record(records[-1], page)
    assert list(iter_records(encode_record(last))) == [last]
    assert apply_records(_page(7), [last]) == page
    assert last.is_cpl == records[-1].is_cpl
    assert not last.is_cpl or last.commit_stamp == (123, 45)


def test_of_no_records_the_page_stays() -> None:
    assert apply_records(_page(1), []) == _page(1)


@given(st.integers(0, 2), st.integers(1, U32))
def test_a_change_that_is_wrong_on_the_way_shows_at_the_end(at: int, other: int) -> None:
    pages = [ZERO_PAGE, *map(_page, (1, 2, 3, 4))]
    records = [_change(before, after) for before, after in pairwise(pages)]
    records[at] = _change(pages[at], bytes(a ^ b for a, b in zip(pages[at + 1], _page(other), strict=True)))
    with pytest.raises(CorruptPage):
        apply_records(ZERO_PAGE, records)


def test_a_change_is_its_own_undo() -> None:
    before, after = _page(1), _page(2)
    redo = _change(before, after)
    assert apply_records(after, [redo._replace(page_crc=checksum(before))]) == before


@given(st.integers(1, U32))
def test_a_change_of_another_version_is_refused(other: int) -> None:
    with pytest.raises(CorruptPage):
        apply_records(_page(other), [_change(ZERO_PAGE, _page(7))])


@settings(max_examples=300)
@given(st.binary(min_size=1, max_size=100), st.sampled_from([0, FLAG_CPL, FLAG_WHOLE_PAGE]))
def test_a_payload_of_garbage_is_refused(payload: bytes, flags: int) -> None:
    record = RedoRecord(Lsn(5), Lsn(4), Lsn(3), PageNumber(2), 0x12345678, flags, payload)
    with pytest.raises(CorruptPage):
        apply_records(ZERO_PAGE, [record])


@pytest.mark.parametrize("size", [0, 1, PAGE_SIZE_BYTES - 1, PAGE_SIZE_BYTES + 1])
def test_a_payload_of_another_size_is_refused(size: int) -> None:
    content = bytes(size)
    payload = lz4.block.compress(content, store_size=False)
    flags = FLAG_WHOLE_PAGE
    record = RedoRecord(Lsn(5), Lsn(4), Lsn(3), PageNumber(2), checksum(content), flags, payload)
    with pytest.raises(CorruptPage):
        apply_records(ZERO_PAGE, [record])
