"""What a segment holds in memory, against the plain list of its records."""

from hypothesis import given, settings
from hypothesis import strategies as st

from storage_node.segment.memory_table import MemoryTable
from tests.unit.storage_node.log_model import GroupLog, cut, frame_of
from volume.ids import Lsn, PageNumber
from volume.log_batch import frame_records
from volume.redo_record import RedoRecord

writes = st.lists(st.tuples(st.integers(1, 4), st.integers(1, 3)), min_size=1, max_size=12)
places = st.lists(st.integers(0, 12), max_size=5)


def _table(
    writes: list[tuple[int, int]], places: list[int], *, reading: bool = False
) -> tuple[GroupLog, MemoryTable]:
    log, table = GroupLog(), MemoryTable()
    for page, gap in writes:
        log.write(page, gap)
    for run in cut(log.records, places):
        table.add(frame_of(run))
        if reading:
            table.records(PageNumber(1))
    return log, table


def _of(records: list[RedoRecord], page: int) -> list[RedoRecord]:
    return [record for record in records if record.page_number == page]


@settings(max_examples=100, deadline=None)
@given(writes, places, st.booleans())
def test_a_page_finds_its_records_also_when_it_was_read_before(
    writes: list[tuple[int, int]], places: list[int], reading: bool
) -> None:
    log, table = _table(writes, places, reading=reading)
    assert [each for frame in table.frames for each in frame_records(frame)] == log.records
    for page in range(1, 6):
        assert table.records(PageNumber(page)) == _of(log.records, page)
    assert table.size_bytes == sum(map(len, table.frames))
    assert table.last_lsn == log.lsn


@settings(max_examples=100, deadline=None)
@given(writes, places, st.integers(0, 40))
def test_frames_after_an_lsn_hold_all_that_is_above_and_no_frame_below(
    writes: list[tuple[int, int]], places: list[int], lsn: int
) -> None:
    log, table = _table(writes, places)
    found = [record for frame in table.frames_after(Lsn(lsn)) for record in frame_records(frame)]
    assert {r.lsn for r in log.records if r.lsn > lsn} <= {r.lsn for r in found}
    assert all(frame_records(frame)[-1].lsn > lsn for frame in table.frames_after(Lsn(lsn)))


@settings(max_examples=100, deadline=None)
@given(writes, places, st.integers(0, 40))
def test_clipping_leaves_just_what_counts(writes: list[tuple[int, int]], places: list[int], at: int) -> None:
    log, table = _table(writes, places)
    log.truncate(min(at, log.lsn))
    clipped = table.clipped(log.timeline)
    assert [each for frame in clipped.frames for each in frame_records(frame)] == log.chain
    assert clipped.last_lsn == log.end
    assert clipped.size_bytes == sum(map(len, clipped.frames))
    for page in range(1, 6):
        assert clipped.records(PageNumber(page)) == _of(log.chain, page)
