"""Which pages are fetched with a missed one: the children that follow, twice as many each time."""

import random

import apsw
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from db_instance.engine.read_ahead import AHEAD_MAX, ReadAhead, children, is_interior


def _interior(numbers: list[int]) -> bytes:
    """A table's interior page with these children."""
    page = bytearray(4096)
    page[0] = 5
    page[3:5] = (len(numbers) - 1).to_bytes(2, "big")
    page[8:12] = numbers[-1].to_bytes(4, "big")
    for index, number in enumerate(numbers[:-1]):
        at = 4096 - 5 * (index + 1)
        page[12 + 2 * index : 14 + 2 * index] = at.to_bytes(2, "big")
        page[at : at + 4] = number.to_bytes(4, "big")
    return bytes(page)


def test_children_of_a_page_that_sqlite_wrote() -> None:
    connection = apsw.Connection(":memory:")
    connection.execute("create table t (a integer primary key, b text)")
    connection.execute(
        "insert into t select value, hex(randomblob(900)) from"
        " (with recursive c(value) as (select 1 union all select value + 1 from c where value < 200) select * from c)"
    )
    data = connection.serialize("main")
    pages = [data[at : at + 4096] for at in range(0, len(data), 4096)]
    [root] = [page for page in pages[1:] if is_interior(page)]
    assert sorted(children(root)) == [n for n, page in enumerate(pages, 1) if n > 1 and page is not root]


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 1 << 32), st.sampled_from((2, 5)))
def test_whatever_the_bytes_nothing_breaks(seed: int, kind: int) -> None:
    ahead = ReadAhead()
    ahead.saw_interior(bytes([kind]) + random.Random(seed).randbytes(4095))
    assert len(ahead.on_miss(7)) <= AHEAD_MAX


def test_a_scan_of_scattered_children_is_read_ahead_and_each_page_missed_once() -> None:
    order = list(range(10, 310))
    random.Random(1).shuffle(order)
    ahead = ReadAhead()
    ahead.saw_interior(_interior(order))
    have: set[int] = set()
    misses = 0
    for page in order:
        if page not in have:
            misses += 1
            have |= {page, *ahead.on_miss(page)}
    assert misses < 15


def test_a_long_scan_asks_for_the_next_pages_before_it_needs_them() -> None:
    order = list(range(10, 460))
    random.Random(1).shuffle(order)
    ahead = ReadAhead()
    ahead.saw_interior(_interior(order))
    have: set[int] = set()
    in_time = late = 0
    for page in order:
        if page not in have:
            late += 1
            have |= {page, *ahead.on_miss(page)}
        elif page == ahead.mark:
            more = ahead.on_mark()
            assert have.isdisjoint(more)
            in_time += len(more)
            have |= set(more)
    assert have == set(order)
    assert late < 10
    assert in_time > 300
    assert ahead.mark == 0


def _marked() -> ReadAhead:
    """A scan of the children 10 to 459 that has come to ask for as many as may be."""
    ahead = ReadAhead()
    ahead.saw_interior(_interior(list(range(10, 460))))
    page = 10
    while not ahead.mark:
        page += 1 + len(ahead.on_miss(page))
    return ahead


def test_a_page_that_is_missed_while_it_is_on_its_way_goes_on_with_the_scan() -> None:
    ahead = _marked()
    more = ahead.on_mark()
    assert ahead.on_miss(more[0]) == [*more[1:], more[-1] + 1]
    assert ahead.mark == more[1]


def test_another_parent_takes_the_mark_away() -> None:
    ahead = _marked()
    ahead.saw_interior(_interior([700, 701]))
    assert ahead.mark == 0


def test_the_next_parents_first_child_goes_on_with_the_scan() -> None:
    ahead = ReadAhead()
    ahead.saw_interior(_interior([10, 11, 12, 13]))
    for page in (10, 11, 12, 13):
        ahead.on_miss(page)
    assert not ahead.on_miss(9)  # the next parent
    ahead.saw_interior(_interior([40, 30, 20, 50]))
    assert ahead.on_miss(40)[:3] == [30, 20, 50]


@pytest.mark.parametrize(
    ("why", "misses", "expected"),
    [
        ("one page", [17], []),
        ("here and there", [17, 90, 40, 41 + 400], []),
        ("backwards", [17, 16, 15], []),
        ("neighbours in the file", [17, 18], [19, 20, 21, 22]),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_without_a_parent_neighbours_in_the_file_count(
    why: str, misses: list[int], expected: list[int]
) -> None:
    ahead = ReadAhead()
    assert [ahead.on_miss(page) for page in misses][-1] == expected


def test_point_reads_below_one_parent_fetch_nothing_more() -> None:
    ahead = ReadAhead()
    ahead.saw_interior(_interior(list(range(10, 310))))
    assert [ahead.on_miss(page) for page in (200, 50, 120, 11)] == [[], [], [], []]
