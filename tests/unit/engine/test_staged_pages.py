"""What a transaction has staged, in memory or in its file, is what a dictionary would hold."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from db_instance.engine.staged_pages import StagedPages
from volume.ids import PageNumber
from volume.limits import PAGE_SIZE_BYTES

steps = st.lists(st.tuples(st.booleans(), st.integers(0, 12), st.integers(0, 255)), max_size=40)


@settings(max_examples=100, deadline=None)
@given(steps, st.sampled_from([0, 1, 3, 100]))
def test_memory_and_spill_equal_a_dictionary(steps: list[tuple[bool, int, int]], in_memory: int) -> None:
    staged = StagedPages(in_memory * PAGE_SIZE_BYTES)
    naive: dict[int, bytes] = {}
    page_max = 0
    for shrink, page, fill in steps:
        if shrink and fill < 60:
            staged.truncate(page)
            naive = {each: data for each, data in naive.items() if each <= page}
            page_max = min(page_max, page)
        else:
            data = bytes([fill]) * PAGE_SIZE_BYTES
            staged.put(PageNumber(page + 1), data)
            naive[page + 1] = data
            page_max = max(page_max, page + 1)
    assert {page: staged.get(PageNumber(page)) for page in range(1, 15)} == {
        p: naive.get(p) for p in range(1, 15)
    }
    assert list(staged.in_order()) == sorted(naive)
    assert (len(staged), staged.page_max) == (len(naive), page_max)
    assert not staged.spilled or len(naive) > 0
    if in_memory == 100:
        assert not staged.spilled
    staged.close()


def test_beyond_its_memory_pages_go_to_a_file_that_nobody_can_find(tmp_path: Path) -> None:
    staged = StagedPages(2 * PAGE_SIZE_BYTES, str(tmp_path))
    for page in range(1, 6):
        assert staged.spilled is (page > 3)
        staged.put(PageNumber(page), bytes([page]) * PAGE_SIZE_BYTES)
    assert list(tmp_path.iterdir()) == [], "unlinked: it goes with the process"
    assert staged.get(PageNumber(5)) == b"\5" * PAGE_SIZE_BYTES
    staged.close()


def test_a_local_disk_that_cannot_is_an_os_error() -> None:
    staged = StagedPages(0, "/nowhere/at/all")
    with pytest.raises(OSError, match="nowhere"):
        staged.put(PageNumber(1), bytes(PAGE_SIZE_BYTES))
