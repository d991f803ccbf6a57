"""The buffer pool against a dictionary of every version there ever was."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from db_instance.engine.page_cache import NEWEST, PageCache, Version
from volume.ids import Lsn, PageNumber

_SMALLEST = 16
"""Pages in the smallest pool there is."""
_PAGES = range(1, 25)

steps = st.lists(
    st.tuples(
        st.sampled_from(
            ["commit"] * 5 + ["supersede", "vdl", "vdl", "begin", "end", "end", "fetch", "fetch", "clear"]
        ),
        st.integers(1, 24),
        st.integers(0, 6),
    ),
    min_size=10,
    max_size=90,
)


class Driven:
    """The pool beside the truth: storage's versions of each page, and fetches that take their time."""

    def __init__(self) -> None:
        self.cache = PageCache(0)
        self.lsn = 0
        self.vdl = 0
        self.floor = 0
        self.truth: dict[int, list[Version]] = {page: [Version(Lsn(0), b"0")] for page in _PAGES}
        self.large: set[int] = set()
        """Pages whose newest version is of a commit too large for the pool."""
        self.in_flight: list[tuple[int, int]] = []

    def at(self, page: int, lsn: int) -> Version:
        return max(version for version in self.truth[page] if version.lsn <= lsn)

    def _write(self, page: int) -> Version:
        self.lsn += 1
        version = Version(Lsn(self.lsn), b"%d" % self.lsn)
        self.truth[page].append(version)
        return version

    def do(self, kind: str, page: int, by: int) -> None:
        number = PageNumber(page)
        match kind:
            case "commit":
                # Whoever commits a change of a page has it: a large commit is durable before the next one.
                if page not in self.large:
                    self.cache.commit(number, self._write(page))
            case "supersede":
                if page not in self.large:
                    self.cache.supersede(number, self._write(page).lsn)
                    self.large.add(page)
            case "vdl":
                self.vdl = min(self.lsn, self.vdl + by)
                self.floor = max(self.floor, self.vdl - by)
                self.cache.on_vdl(Lsn(self.vdl), Lsn(self.floor))
                self.large = {each for each in self.large if self.truth[each][-1].lsn > self.vdl}
            case "begin":
                self.cache.begin_fetch(number)
                self.in_flight.append((page, self.vdl))
            case "end":
                if self.in_flight:
                    self._end(by % len(self.in_flight), lost=by == 6)
            case "fetch":
                self.do("begin", page, 0)
                self._end(len(self.in_flight) - 1)
            case "clear":
                # The volume is opened anew: what was not durable is gone for good.
                if by == 0:
                    self.cache.clear()

    def _end(self, at: int, *, lost: bool = False) -> None:
        page, vdl = self.in_flight.pop(at)
        self.cache.end_fetch(PageNumber(page), None if lost else self.at(page, vdl))

    def check(self) -> None:
        durable = [page for page in _PAGES if self.truth[page][-1].lsn <= self.vdl]
        for page in _PAGES:
            for read_point in (*range(self.floor, self.vdl + 1), NEWEST):
                if read_point == NEWEST and page in self.large:
                    continue  # its writer reads what it has staged
                found = self.cache.get(PageNumber(page), Lsn(read_point))
                assert found is None or found == self.at(page, read_point), f"page {page} at {read_point}"
        undurable = len(_PAGES) - len(durable)
        newest = sum(self.cache.newest(PageNumber(page)) is not None for page in _PAGES)
        held = self.cache.size_bytes // (4096 + 200)
        assert held - undurable - self._not_yet_old() <= _SMALLEST, (
            "the budget, but for what only the pool has"
        )
        assert newest <= held

    def _not_yet_old(self) -> int:
        """Old versions that ended above the VDL: storage cannot give back what replaced them."""
        return sum(version.lsn > self.vdl for versions in self.truth.values() for version in versions)


@settings(max_examples=200, deadline=None)
@given(steps)
def test_readers_see_the_version_of_their_read_point_or_none(steps: list[tuple[str, int, int]]) -> None:
    driven = Driven()
    for kind, page, by in steps:
        if kind == "clear" and driven.lsn > driven.vdl:
            continue
        driven.do(kind, page, by)
        driven.check()


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(1, 60), min_size=1, max_size=120))
def test_what_is_not_durable_never_leaves(pages: list[int]) -> None:
    cache = PageCache(0)
    newest = {}
    for lsn, page in enumerate(pages, 1):
        newest[page] = Version(Lsn(lsn), b"%d" % lsn)
        cache.commit(PageNumber(page), newest[page])
        assert all(cache.get(PageNumber(each), NEWEST) == newest[each] for each in newest)
    cache.on_vdl(Lsn(len(pages)), Lsn(len(pages)))
    assert cache.size_bytes <= _SMALLEST * (4096 + 200), "and leaves once storage has it"


def test_the_pages_used_last_stay() -> None:
    cache = PageCache(0)
    for page in range(1, 17):
        cache.begin_fetch(PageNumber(page))
        cache.end_fetch(PageNumber(page), Version(Lsn(0), b"x"))
    assert cache.get(PageNumber(1), NEWEST) is not None
    for page in (17, 18, 19):
        cache.begin_fetch(PageNumber(page))
        cache.end_fetch(PageNumber(page), Version(Lsn(0), b"x"))
    here = [page for page in range(1, 20) if cache.newest(PageNumber(page)) is not None]
    assert here == [1, *range(5, 20)]


@pytest.mark.parametrize(
    ("why", "between", "kept"),
    [
        ("nothing happened meanwhile", "nothing", True),
        ("a commit changed it meanwhile, and was evicted", "commit", False),
        ("a large commit changed it meanwhile", "supersede", False),
        ("the pool was cleared meanwhile", "clear", False),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_page_that_arrives_is_kept_if(why: str, between: str, kept: bool) -> None:
    cache, page = PageCache(0), PageNumber(3)
    cache.begin_fetch(page)
    match between:
        case "commit":
            cache.commit(page, Version(Lsn(1), b"new"))
            cache.on_vdl(Lsn(1), Lsn(1))
            for other in range(100, 130):
                cache.begin_fetch(PageNumber(other))
                cache.end_fetch(PageNumber(other), Version(Lsn(0), b"x"))
            assert cache.newest(page) is None
        case "supersede":
            cache.supersede(page, Lsn(1))
        case "clear":
            cache.clear()
    cache.end_fetch(page, Version(Lsn(0), b"old"))
    assert (cache.newest(page) is not None) is kept
    cache.begin_fetch(page)
    cache.on_vdl(Lsn(1), Lsn(1))
    cache.end_fetch(page, None)
    assert cache.size_bytes >= 0


def test_hits_and_misses_are_counted() -> None:
    cache = PageCache(0)
    cache.get(PageNumber(1), NEWEST)
    cache.commit(PageNumber(1), Version(Lsn(5), b"x"))
    cache.get(PageNumber(1), NEWEST)
    cache.get(PageNumber(1), Lsn(4))
    assert (cache.hits, cache.misses) == (1, 2)
