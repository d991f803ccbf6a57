"""The volume's pages as SQLite's connections see them: read at a read point, committed as redo.

Reading: the buffer pool, else storage, with the statement's greenlet parked meanwhile. Writing: a
commit's staged pages become one mini-transaction. Read points: each snapshot in use is pinned, and the
lowest one is what storage must keep.
"""

import asyncio
import random
from collections.abc import Callable, Sequence
from itertools import islice
from typing import Final

from db_instance.engine.mini_transaction import (
    HEADER_PAGE,
    before_creation,
    change_of,
    header_change,
    page_count,
)
from db_instance.engine.page_cache import NEWEST, PageCache, Version
from db_instance.engine.parking import park
from db_instance.engine.staged_pages import StagedPages
from db_instance.volume_driver.batcher import Change
from db_instance.volume_driver.driver import VolumeDriver
from runtime.clock import Clock
from volume.errors import VolumeError
from volume.ids import Lsn, PageNumber
from volume.limits import LOCK_PAGE_OFFSET, PAGE_SIZE_BYTES, READ_PAGES_MAX

LOCK_PAGE: Final = PageNumber(LOCK_PAGE_OFFSET // PAGE_SIZE_BYTES + 1)
_BEFORE_AT_ONCE: Final = 64
_WHOLE_ONE_IN: Final = 256
"""So many changes in the mean are between two that are logged as a whole page: whoever needs a page that changes
with every commit begins at the last of these, and has not to go through all of its records."""

_CHUNK_PAGES: Final = 256
"""Pages of a large transaction that become redo between two looks at the back-pressure."""


class VolumeBroken(VolumeError):
    """A large commit stopped half way: only opening the volume anew can tell what became of it."""


class Pages:
    def __init__(self, driver: VolumeDriver, cache: PageCache, clock: Clock) -> None:
        self.cache = cache
        self.broken: asyncio.Future[VolumeBroken] = asyncio.get_running_loop().create_future()
        self.more_to_come: Callable[[], int] = lambda: 0
        """Set by the engine: how many commits are about to be made?"""
        self._clock = clock
        self._dice = random.Random(0)
        self._page_count = 0
        """Highest size of the volume seen so far, in pages: reading ahead ends there."""
        self._pinned: dict[Lsn, int] = {}
        self._flights: dict[PageNumber, asyncio.Future[None]] = {}
        """Of each page that is on its way."""
        self._unwaited: set[asyncio.Future[dict[PageNumber, Version]]] = set()
        self.attach(driver)

    def attach(self, driver: VolumeDriver) -> None:
        """Work on this driver's volume from now on; what was cached of an earlier one is forgotten."""
        self.driver = driver
        self.newest = driver.vdl
        self._page_count = 0
        self.cache.clear()
        self.cache.vdl = driver.vdl
        driver.lowest_read_point = self.lowest_read_point
        driver.on_vdl = self._on_vdl
        driver.more_to_come = lambda: self.more_to_come()

    def _on_vdl(self, vdl: Lsn) -> None:
        self.cache.on_vdl(vdl, min(self.lowest_read_point(), vdl))

    # Read points

    def pin(self) -> Lsn:
        """Take the newest read point: the VDL. It is kept readable until `unpin`.

        Raises LeaseExpired.
        """
        self.confirm()
        read_point = self.driver.vdl
        self._pinned[read_point] = self._pinned.get(read_point, 0) + 1
        return read_point

    def confirm(self) -> None:
        """Park while nobody confirms that this is still the newest writer. Raises LeaseExpired."""
        if not self.driver.lease.holds():
            park(self.driver.lease.wait())

    def unpin(self, read_point: Lsn) -> None:
        count = self._pinned[read_point] - 1
        if count:
            self._pinned[read_point] = count
        else:
            del self._pinned[read_point]

    def lowest_read_point(self) -> Lsn:
        # Read points are taken in ascending order, so the first one is the lowest.
        return next(iter(self._pinned), self.driver.vdl)

    # Reading

    def read(self, page: PageNumber, read_point: Lsn, ahead: Sequence[int] = ()) -> bytes:
        """The page as of the read point. Parks the greenlet if it is not in the pool.

        `ahead`: pages that are likely to be wanted next; what is missing of them is fetched with it.
        """
        version = self.cache.get(page, read_point)
        if version is None:
            version = park(self.fetch(page, read_point, ahead))
        return version.data

    def page_count(self, read_point: Lsn) -> int:
        if min(read_point, self.newest) == 0:
            return 0
        count = page_count(self.read(HEADER_PAGE, read_point))
        self._page_count = max(self._page_count, count)
        return count

    def begin_to_fetch(self, pages: Sequence[int]) -> None:
        """Ask storage for what is missing of these, and do not wait for it: an error is told to who needs them.

        Parks until the request is on its way: a statement may run for long before the event loop's next turn.
        """
        if self._fly_to(pages):
            park(_two_turns())

    def _fly_to(self, pages: Sequence[int]) -> bool:
        """Begin a flight for what is missing of these pages, if there is anything."""
        wanted = self._worth_fetching(pages[0], pages) if pages else []
        if not wanted:
            return False
        flying = asyncio.ensure_future(
            self._fly(self.driver, self.driver.vdl, wanted, self._begin_flight(wanted))
        )
        self._unwaited.add(flying)
        flying.add_done_callback(self._on_landed)
        return True

    def _on_landed(self, flying: asyncio.Future[dict[PageNumber, Version]]) -> None:
        self._unwaited.discard(flying)
        if not flying.cancelled():
            flying.exception()  # nobody waits for it: it counts as told

    async def fetch(self, page: PageNumber, read_point: Lsn, ahead: Sequence[int] = ()) -> Version:
        """Read the page from storage, and with it what is missing of `ahead`."""
        while (flight := self._flights.get(page)) is not None:
            self._fly_to(ahead)
            await asyncio.wait([flight])
            version = self.cache.get(page, read_point)
            if version is not None:
                return version
        driver = self.driver
        vdl = driver.vdl
        version = await self._fetch_at(vdl, page, ahead)
        if version.lsn <= read_point:
            return version
        # An old snapshot, and the page has changed since: its version then is read and not kept.
        lsn, data = (await driver.read_pages([page], read_point))[0]
        return Version(lsn, data)

    async def _fetch_at(self, vdl: Lsn, page: PageNumber, ahead: Sequence[int]) -> Version:
        wanted = [page, *(other for other in self._worth_fetching(page, ahead) if other != page)]
        wanted = wanted[:READ_PAGES_MAX]
        return (await self._fly(self.driver, vdl, wanted, self._begin_flight(wanted)))[page]

    def _begin_flight(self, wanted: Sequence[PageNumber]) -> asyncio.Future[None]:
        flight: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        for number in wanted:
            self.cache.begin_fetch(number)
            self._flights[number] = flight
        return flight

    async def _fly(
        self, driver: VolumeDriver, vdl: Lsn, wanted: list[PageNumber], flight: asyncio.Future[None]
    ) -> dict[PageNumber, Version]:
        found: dict[PageNumber, Version] = {}
        try:
            answers = await driver.read_pages(wanted, vdl)
            found = {number: Version(*answer) for number, answer in zip(wanted, answers, strict=True)}
        finally:
            for number in wanted:
                self.cache.end_fetch(number, found.get(number))
                del self._flights[number]
            flight.set_result(None)
        return found

    def _worth_fetching(self, page: int, ahead: Sequence[int]) -> list[PageNumber]:
        """What is missing of `ahead` and lies in the page's group; `page` itself is on its way or among them."""
        if not ahead:
            return []
        pages_per_group = self.driver.pages_per_group
        first = (page - 1) // pages_per_group * pages_per_group + 1
        last = min(self._page_count, first + pages_per_group - 1)
        found = (
            PageNumber(number)
            for number in dict.fromkeys(ahead)
            if first <= number <= last
            and number != LOCK_PAGE
            and number not in self._flights
            and self.cache.newest(PageNumber(number)) is None
        )
        return list(islice(found, READ_PAGES_MAX))

    # Committing

    def commit(self, staged: StagedPages) -> Lsn | None:
        """Turn the staged pages into one mini-transaction and send it on its way; its CPL's LSN.

        None if nothing changed (a rollback plays the old pages back). Called inside a statement's
        greenlet by the holder of the write lock, so `newest` stands still meanwhile. Raises VolumeBroken when
        a large commit has stopped half way: any record after its own would make them count.
        """
        if self.broken.done():
            raise VolumeBroken(str(self.broken.result()))
        header_before = self._before(HEADER_PAGE, 0)
        count_before = page_count(header_before.data)
        header_after = staged.get(HEADER_PAGE)
        if header_after is None:
            header_after = header_before.data
        # SQLite tells us of pages that a savepoint's rollback has taken back only once the commit is done.
        staged.truncate(page_count(header_after))
        self._grow_for(max(page_count(header_after), staged.page_max))
        if staged.spilled:
            return self._commit_large(staged, header_before, header_after, count_before)
        return self._commit_small(staged, header_before, header_after, count_before)

    def _grow_for(self, pages: int) -> None:
        if self.driver.needs_groups(pages):
            park(self.driver.ensure_groups(pages))

    def _before(self, page: PageNumber, count_before: int) -> Version:
        """The page's newest committed version."""
        version = self.cache.newest(page)
        if version is not None:
            return version
        if self.newest == 0 or (page > count_before and page != HEADER_PAGE):
            return before_creation()
        return park(self.fetch(page, NEWEST))

    def _fetch_before(self, pages: Sequence[PageNumber], count_before: int) -> None:
        """Bring the versions before the commit that are not in the pool, many at a time: SQLite writes pages
        of its free list without reading them first."""
        missing = [page for page in pages if page <= count_before and self.cache.newest(page) is None]
        if len(missing) > 1:
            park(self._fetch_all(missing))

    async def _fetch_all(self, pages: list[PageNumber]) -> None:
        for start in range(0, len(pages), _BEFORE_AT_ONCE):
            part = pages[start : start + _BEFORE_AT_ONCE]
            await self.fetch(part[0], NEWEST, part[1:])

    def _commit_small(
        self, staged: StagedPages, header_before: Version, header_after: bytes, count_before: int
    ) -> Lsn | None:
        changes: list[Change] = []
        written: list[bytes] = []
        pages = list(staged.in_order())
        self._fetch_before(pages, count_before)
        for page in pages:
            if page == HEADER_PAGE:
                continue
            after = staged.get(page)
            assert after is not None
            change = change_of(page, self._before(page, count_before), after, whole=self._is_whole())
            if change is not None:
                changes.append(change)
                written.append(after)
        if not changes and header_after == header_before.data:
            return None
        changes.append(self._header_change(header_before, header_after))
        written.append(header_after)
        last = self.driver.append(changes)
        lsn = last - len(changes) + 1
        for change, after in zip(changes, written, strict=True):
            self.cache.commit(change.page, Version(Lsn(lsn), after))
            lsn += 1
        self.newest = last
        return last

    def _commit_large(
        self, staged: StagedPages, header_before: Version, header_after: bytes, count_before: int
    ) -> Lsn | None:
        """As small, in chunks with back-pressure between them; returns once it is durable.

        Its pages are not kept in the pool: until they are durable nothing but `staged` holds them.
        """
        if header_after == header_before.data:
            return None
        self.driver.check_room(len(staged) + 1)  # before any of it is sent: half way it could not be refused
        started = False
        try:
            changes: list[Change] = []
            pages = [page for page in staged.in_order() if page != HEADER_PAGE]
            for start in range(0, len(pages), _CHUNK_PAGES):
                part = pages[start : start + _CHUNK_PAGES]
                self._fetch_before(part, count_before)
                changes = self._changes_of(part, staged, count_before)
                if changes and start + _CHUNK_PAGES < len(pages):
                    park(self.driver.wait_for_room())
                    park(self.driver.bulk_pace.give_way())
                    started = True
                    self._append_superseding(changes)
                    changes = []
            changes.append(self._header_change(header_before, header_after))
            started = True
            last = self._append_superseding(changes)
            park(self.driver.wait_durable(last))
        except BaseException as error:
            if started and not self.broken.done():
                self.broken.set_result(
                    VolumeBroken(f"commit of {len(staged)} pages stopped half way: {error}")
                )
            raise
        self.newest = last
        return last

    def _changes_of(
        self, pages: Sequence[PageNumber], staged: StagedPages, count_before: int
    ) -> list[Change]:
        changes = []
        for page in pages:
            after = staged.get(page)
            assert after is not None
            change = change_of(page, self._before(page, count_before), after, whole=self._is_whole())
            if change is not None:
                changes.append(change)
        return changes

    def _append_superseding(self, changes: list[Change]) -> Lsn:
        last = self.driver.append(changes)
        lsn = last - len(changes) + 1
        for change in changes:
            self.cache.supersede(change.page, Lsn(lsn))
            lsn += 1
        return last

    def _header_change(self, before: Version, after: bytes) -> Change:
        return header_change(before, after, int(self._clock.now() * 1_000_000), whole=self._is_whole())

    def _is_whole(self) -> bool:
        return self._dice.random() * _WHOLE_ONE_IN < 1.0


async def _two_turns() -> None:
    """Of the event loop: in the first a flight's task begins, in the second the one that asks a node."""
    await asyncio.sleep(0)
    await asyncio.sleep(0)
