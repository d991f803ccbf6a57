"""Statements that are transactions of their own, many in one commit.

While a round is on its way to storage, nothing that commits now can be durable before the round after it. Writes
that come meanwhile wait for its end, and are then run one after the other in one transaction of SQLite's: what
a commit costs is paid once, and a page that all of them change is logged once. It is group commit, a step earlier
(DeWitt et al., Implementation techniques for main memory database systems, 1984).

Each is as it would be alone: it sees those before it, and if it fails only its own changes are undone. What cannot
be had so (a statement that takes long, one that ends the transaction, a constraint that is looked at only at the
commit) ends the attempt before anything is committed, and each runs alone after all.
"""

import asyncio
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

import apsw

from db_instance.dialect.statement import Catalog
from db_instance.engine.lease import Lease
from db_instance.engine.write_lock import LockTimeout
from volume.ids import Lsn

if TYPE_CHECKING:
    from db_instance.engine.engine import Engine

_TOGETHER_MAX: Final = 100
_GATHER_S: Final = 0.001
"""How long writes wait at most for those of the clients that were answered just now."""

_LOOKS_MAX: Final = 1
"""SQLite's progress handler is called once in so many steps, counted over all runs of a statement: the first
call says nothing, the second that this run is a long one."""

_OWN_ERRORS: Final = (apsw.ConstraintError,)
"""What is wrong with one statement, and not with the others, and of which SQLite is sure to undo the statement only: it
keeps no journal for statements that it takes for ones that cannot fail, and some of them can (the sum of integers)."""


class RunAlone(Exception):
    """Nothing has happened: the statement is to be run by itself."""


class LoneWrite:
    """One statement without rows, and what becomes of it."""

    def __init__(
        self,
        sql: str,
        params: Sequence[Any],
        lock_timeout_s: float | None,
        user: str,
        catalog: Catalog | None,
    ) -> None:
        self.sql = sql
        self.params = params
        self.user = user
        self.catalog = catalog
        """The schema that it was translated for; None: it is for any."""
        self.started = False
        """From now on it cannot be taken back, until the attempt has failed."""
        self.unwanted: Exception | None = None
        """Why it is not to be run again if the attempt fails."""
        self.changed = 0
        self.error: Exception | None = None
        self.done: asyncio.Future[tuple[int, Lsn]] = asyncio.get_running_loop().create_future()
        """How many rows it changed, and the LSN to wait for. Raises RunAlone, LockTimeout, what the statement raises."""
        if lock_timeout_s is not None:
            timer = asyncio.get_running_loop().call_later(lock_timeout_s, self._give_up, lock_timeout_s)
            self.done.add_done_callback(lambda _: timer.cancel())

    def _give_up(self, lock_timeout_s: float) -> None:
        if not self.started and not self.done.done():
            self.done.set_exception(
                LockTimeout(f"wait for the write lock: not free within {lock_timeout_s} s")
            )


class LoneWrites:
    def __init__(self, engine: "Engine") -> None:
        self._engine = engine
        self._waiting: deque[LoneWrite] = deque()
        self._task: asyncio.Task[None] | None = None
        self._sizes = (0, 0)
        """How many were run together the last time, and the time before that."""
        self._expected = 0
        self._complete = asyncio.Event()

    @property
    def gathering(self) -> bool:
        """Is there a round on its way, or are others likely to come?"""
        return bool(self._waiting) or self._engine.pages.driver.has_round or self._sizes[0] > 1

    def add(
        self,
        sql: str,
        params: Sequence[Any],
        lock_timeout_s: float | None,
        user: str = "",
        catalog: Catalog | None = None,
    ) -> LoneWrite:
        write = LoneWrite(sql, params, lock_timeout_s, user, catalog)
        self._waiting.append(write)
        write.done.add_done_callback(lambda _: self._forget(write))
        if len(self._waiting) >= self._expected:
            self._complete.set()
        if self._task is None:
            self._task = asyncio.create_task(self._serve())
        return write

    def _forget(self, write: LoneWrite) -> None:
        """One that was given up holds no place, and no memory, until the others' turn comes."""
        if not write.started and write in self._waiting:  # one that has run has left already
            self._waiting.remove(write)

    def close(self) -> None:
        if self._task is not None:
            self._task.cancel()

    async def _serve(self) -> None:
        try:
            while self._waiting:
                await self._engine.pages.driver.until_round_is_over()
                await self._gather()
                count = min(len(self._waiting), _TOGETHER_MAX)
                taken = [self._waiting.popleft() for _ in range(count)]
                if writes := [write for write in taken if not write.done.done()]:
                    await self._run(writes)
        finally:
            self._task = None

    async def _gather(self) -> None:
        """Wait a moment for as many as came the last two times: two halves that take turns become one."""
        self._expected = min(sum(self._sizes), _TOGETHER_MAX)
        if len(self._waiting) < self._expected:
            self._complete.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(_GATHER_S):
                    await self._complete.wait()
        self._sizes = (len(self._waiting), self._sizes[0])

    async def _run(self, writes: list[LoneWrite]) -> None:
        try:
            lease = await self._engine.lease_to_write()
        except Exception as error:
            _tell(writes, error)
            return
        catalog = self._engine.catalog
        _tell([each for each in writes if each.catalog not in (None, catalog)], RunAlone())
        try:
            lsn = await self._engine.run_all_and_commit(lease, writes)
        except BaseException as error:
            # What storage made of a commit that was begun concerns all of them.
            told = error if lease.file.committing and isinstance(error, Exception) else RunAlone()
            await self._engine.undo(lease)
            _tell(writes, told)
            if not isinstance(error, Exception):
                raise
            return
        self._engine.give_back(lease)
        for write in writes:
            if write.done.done():
                continue
            if write.error is not None:
                write.done.set_exception(write.error)
            else:
                write.done.set_result((write.changed, lsn))


def change_all(lease: Lease, writes: list[LoneWrite]) -> None:
    """All of them in one transaction; called inside a greenlet. Raises before the commit, or what that raises."""
    connection = lease.connection
    connection.execute("BEGIN IMMEDIATE")
    try:
        for write in writes:
            if not write.done.done():
                _change(lease, write)
    finally:
        lease.looks = None
    connection.execute("COMMIT")


def _change(lease: Lease, write: LoneWrite) -> None:
    connection = lease.connection
    write.started = True
    lease.looks = 0
    lease.began = None
    lease.user = write.user
    try:
        connection.execute(write.sql, write.params)
        write.changed = connection.changes()
    except _OWN_ERRORS as error:
        if not connection.in_transaction:
            raise
        write.error = error
    if connection.status(apsw.SQLITE_DBSTATUS_DEFERRED_FKS)[0]:
        raise RunAlone  # it may fail at its own commit, and another one's change must not make up for it


def takes_long(lease: Lease) -> bool:
    """The progress handler while writes run together: True ends the statement, and with it the attempt."""
    assert lease.looks is not None
    lease.looks += 1
    return lease.looks > _LOOKS_MAX


def _tell(writes: list[LoneWrite], error: Exception) -> None:
    for write in writes:
        if not write.done.done():
            write.done.set_exception(error)
