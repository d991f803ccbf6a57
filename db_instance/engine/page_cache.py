"""The buffer pool: page versions in memory within a byte budget. Pure.

For each page the newest version, and older ones as long as someone may read them: a read at read
point R sees the version whose range [lsn, until) holds R. A newest version leaves the pool only if its
LSN <= VDL, since only then can storage give it back. An older one is dropped once no one reads below
its end, or earlier, under pressure, if storage has it.

A page being fetched may be changed by a commit before it arrives. `begin_fetch` and `end_fetch`
bracket a fetch, and a commit in between makes the arriving version an old one, not kept.
"""

from collections import OrderedDict, deque
from typing import Final, NamedTuple

from volume.ids import Lsn, PageNumber
from volume.limits import PAGE_SIZE_BYTES

NEWEST: Final = Lsn(2**63 - 1)
"""The read point of the one who holds the write lock: whatever was committed last."""

_BYTES_PER_PAGE: Final = PAGE_SIZE_BYTES + 200
"""A page with what Python adds: bytes object, tuple, dictionary entry."""

_EVICTION_TRIES: Final = 64


class Version(NamedTuple):
    lsn: Lsn
    data: bytes


class _Old(NamedTuple):
    lsn: Lsn
    until: Lsn
    data: bytes


class PageCache:
    def __init__(self, budget_bytes: int) -> None:
        self._pages_max = max(16, budget_bytes // _BYTES_PER_PAGE)
        self._newest: OrderedDict[PageNumber, Version] = OrderedDict()
        self._old: dict[PageNumber, list[_Old]] = {}
        self._old_order: deque[tuple[Lsn, PageNumber]] = deque()
        self._fetching: dict[PageNumber, int] = {}
        self._changed_while_fetched: set[PageNumber] = set()
        self._superseded: dict[PageNumber, Lsn] = {}
        self.vdl = Lsn(0)
        self.hits = 0
        self.misses = 0

    @property
    def size_bytes(self) -> int:
        return (len(self._newest) + len(self._old_order)) * _BYTES_PER_PAGE

    def get(self, page: PageNumber, read_point: Lsn) -> Version | None:
        """The version that a reader at `read_point` sees, if it is here."""
        newest = self._newest.get(page)
        if newest is not None and newest.lsn <= read_point:
            self._newest.move_to_end(page)
            self.hits += 1
            return newest
        for old in self._old.get(page, ()):
            if old.lsn <= read_point < old.until:
                self.hits += 1
                return Version(old.lsn, old.data)
        self.misses += 1
        return None

    def newest(self, page: PageNumber) -> Version | None:
        return self._newest.get(page)

    def begin_fetch(self, page: PageNumber) -> None:
        """The page will be read from storage as of the VDL."""
        if page in self._superseded:
            self._changed_while_fetched.add(page)
        self._fetching[page] = self._fetching.get(page, 0) + 1

    def end_fetch(self, page: PageNumber, fetched: Version | None) -> None:
        """The page came from storage (or did not: None). It is kept unless a commit changed it meanwhile."""
        changed = page in self._changed_while_fetched
        count = self._fetching.pop(page) - 1
        if count:
            self._fetching[page] = count
        else:
            self._changed_while_fetched.discard(page)
        if fetched is None or changed or page in self._newest:
            return
        assert fetched.lsn <= self.vdl, "storage answers only what is durable"
        self._newest[page] = fetched
        self._evict()

    def commit(self, page: PageNumber, version: Version) -> None:
        """A commit made this the newest version; the one before stays for those who read below it."""
        before = self._newest.get(page)
        if before is not None:
            assert before.lsn < version.lsn
            self._old.setdefault(page, []).append(_Old(before.lsn, version.lsn, before.data))
            self._old_order.append((version.lsn, page))
        if page in self._fetching:
            self._changed_while_fetched.add(page)
        self._newest[page] = version
        self._newest.move_to_end(page)
        self._evict()

    def supersede(self, page: PageNumber, lsn: Lsn) -> None:
        """A commit too large to be kept here changes the page at `lsn`, which is not durable yet."""
        if page in self._fetching:
            self._changed_while_fetched.add(page)
        self._superseded[page] = lsn
        before = self._newest.pop(page, None)
        if before is not None:
            assert before.lsn < lsn
            self._old.setdefault(page, []).append(_Old(before.lsn, lsn, before.data))
            self._old_order.append((lsn, page))

    def on_vdl(self, vdl: Lsn, floor: Lsn) -> None:
        """The VDL moved, and no one reads below `floor` (which is at most the VDL)."""
        assert self.vdl <= vdl
        assert floor <= vdl
        moved = vdl > self.vdl
        self.vdl = vdl
        if moved and self._superseded:
            self._superseded = {page: lsn for page, lsn in self._superseded.items() if lsn > vdl}
        order = self._old_order
        while order and order[0][0] <= floor:
            self._drop_oldest()
        if len(self._newest) + len(order) > self._pages_max:
            self._evict()

    def clear(self) -> None:
        self._newest.clear()
        self._old.clear()
        self._old_order.clear()
        self._superseded.clear()
        self._changed_while_fetched.update(self._fetching)

    def _drop_oldest(self) -> None:
        _, page = self._old_order.popleft()
        versions = self._old[page]
        versions.pop(0)
        if not versions:
            del self._old[page]

    def _evict(self) -> None:
        excess = len(self._newest) + len(self._old_order) - self._pages_max
        if excess <= 0:
            return
        while excess > 0 and self._old_order and self._old[self._old_order[0][1]][0].lsn <= self.vdl:
            self._drop_oldest()
            excess -= 1
        tries = _EVICTION_TRIES + excess
        newest = self._newest
        while excess > 0 and tries > 0 and newest:
            tries -= 1
            page, version = newest.popitem(last=False)
            if version.lsn <= self.vdl:
                excess -= 1
                if page in self._fetching:
                    # A fetch that began at an older VDL may bring what came before this version.
                    self._changed_while_fetched.add(page)
            else:
                newest[page] = version
