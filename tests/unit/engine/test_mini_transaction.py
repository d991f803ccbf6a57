"""A commit's changes, numbered and applied by storage, give the pages that SQLite wrote."""

from hypothesis import given, settings
from hypothesis import strategies as st

from db_instance.engine.mini_transaction import before_creation, change_of, header_change, page_count
from db_instance.engine.page_cache import Version
from db_instance.volume_driver.batcher import Change
from volume.ids import Lsn, PageNumber
from volume.limits import PAGE_SIZE_BYTES
from volume.redo_record import FLAG_CPL, RedoRecord, apply_records, encode_record, iter_records

edits = st.lists(
    st.tuples(st.integers(0, PAGE_SIZE_BYTES - 40), st.binary(min_size=1, max_size=40)), max_size=6
)


def _edited(page: bytes, edits: list[tuple[int, bytes]]) -> bytes:
    content = bytearray(page)
    for at, data in edits:
        content[at : at + len(data)] = data
    return bytes(content)


def _record(change: Change) -> RedoRecord:
    return RedoRecord(
        Lsn(9), Lsn(0), change.page_prev_lsn, change.page, change.page_crc, change.flags, change.payload
    )


@settings(max_examples=100, deadline=None)
@given(edits, edits)
def test_redo_turns_the_page_before_into_the_page_after(
    first: list[tuple[int, bytes]], then: list[tuple[int, bytes]]
) -> None:
    before = Version(Lsn(4), _edited(bytes(PAGE_SIZE_BYTES), first))
    after = _edited(before.data, then)
    change = change_of(PageNumber(5), before, after)
    if after == before.data:
        assert change is None
        return
    assert change is not None
    assert (change.page, change.page_prev_lsn, change.flags) == (5, 4, 0)
    (record,) = iter_records(encode_record(_record(change)))
    assert apply_records(before.data, [record]) == after
    assert len(change.payload) < 80 + 60 * len(then), "small changes are small records"


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**63), st.integers(0, 2**32 - 1), edits)
def test_the_header_carries_the_commit_even_if_nothing_else_changed(
    time_us: int, pages: int, edits: list[tuple[int, bytes]]
) -> None:
    before = Version(Lsn(4), _edited(bytes(PAGE_SIZE_BYTES), edits))
    after = before.data[:28] + pages.to_bytes(4, "big") + before.data[32:]
    assert page_count(after) == pages
    record = _record(header_change(before, after, time_us))
    assert (record.page_number, record.flags, record.is_cpl) == (1, FLAG_CPL, True)
    assert record.commit_stamp == (time_us, pages)
    (decoded,) = iter_records(encode_record(record))
    assert apply_records(before.data, [decoded]) == after
    unchanged = header_change(before, before.data, time_us)
    assert apply_records(before.data, [_record(unchanged)]) == before.data


def test_a_page_begins_as_zeros_that_no_record_made() -> None:
    assert before_creation() == (0, bytes(PAGE_SIZE_BYTES))
