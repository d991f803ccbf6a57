"""One session's transaction: what the client believes it is in, and what SQLite is in.

The two differ on purpose. A READ COMMITTED block that has only read holds nothing in SQLite, so each
of its statements reads the newest read point; the first statement that writes takes the write lock
and begins. REPEATABLE READ and SERIALIZABLE pin a read point at the first statement instead, and may
write only while it is still the newest. A COMMIT gives the lock away at once, and then waits until
the commit is durable: whoever is next need not wait for that.

    status    I no block        T in a block          E in a block that has failed
    hold      NOTHING           SNAPSHOT (pinned)     WRITE (has the lock)

A connection with an open cursor stays at its read point. So rows that are still to be read, of a
statement that held nothing, take the connection with them, and the next statement gets another one.
"""

import enum
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from db_instance.dialect import Catalog
from db_instance.engine.engine import Engine
from db_instance.engine.lease import Cursor, Lease
from db_instance.engine.lone_writes import LoneWrite, RunAlone
from db_instance.engine.parking import Outcome, Waiting
from db_instance.session.errors import SessionError
from db_instance.session.rows import Held, Rows
from db_instance.session.settings import Kept, Settings
from volume.ids import LSN_ZERO, Lsn

READ_COMMITTED: Final = "read committed"
_SAVEPOINTS_MAX: Final = 1000

_READING_MAX: Final = 16
"""Connections that open portals of one transaction may keep; with more, their rows go to memory."""


class Hold(enum.Enum):
    NOTHING = "nothing"
    SNAPSHOT = "snapshot"
    WRITE = "write"


@dataclass(frozen=True, slots=True)
class Characteristics:
    """How the current block reads and writes."""

    isolation: str = READ_COMMITTED
    read_only: bool = False
    deferrable: bool = False


class _Savepoint(NamedTuple):
    name: str
    settings: Kept
    characteristics: Characteristics


class Transaction:
    def __init__(self, engine: Engine, settings: Settings) -> None:
        self.status = b"I"
        self.characteristics = Characteristics()
        self.has_run = False
        """A statement of this block has run: its isolation level is fixed."""
        self._engine = engine
        self._settings = settings
        self._user = settings.get("session_authorization")
        self._hold = Hold.NOTHING
        self._lease: Any = None
        self._rows: dict[Rows, Lease | None] = {}
        """What is still to be read, and the connection that it keeps for itself."""
        self._held = Held()
        self._savepoints: list[_Savepoint] = []
        self._began: float | None = None
        """When the block began, Unix time; None outside of blocks."""
        self._changed_schema = False
        self._catalog: Catalog | None = None
        self._pinned: Catalog | None = None
        """The schema of the read point, which may have become another one since."""
        self._defaults = Characteristics()
        self._defaults_as_of = -1
        self._committing = False
        self._joined: LoneWrite | None = None
        """A statement that runs together with others."""

    @property
    def committing(self) -> bool:
        """A commit is under way: it can no longer be cancelled."""
        return self._committing or (self._lease is not None and self._lease.file.committing)

    def begrudge(self, reason: Exception) -> bool:
        """False if the statement does not run together with others. It cannot be cancelled then, but if they come to
        nothing it is not run again: this is raised."""
        if self._joined is None or not self._joined.started:
            return False
        self._joined.unwanted = reason
        return True

    @property
    def in_block(self) -> bool:
        return self.status != b"I"

    @property
    def begun(self) -> bool:
        """In a block, or in the middle of a transaction that is none."""
        return self.in_block or self.has_run or self._lease is not None

    @property
    def writes(self) -> bool:
        return self._hold is Hold.WRITE

    # Statements

    async def catalog(self) -> Catalog:
        """The schema as this transaction sees it."""
        found = self.known_catalog
        if found is None:
            found = self._catalog = await self._engine.load_catalog(self._lease)
        return found

    @property
    def known_catalog(self) -> Catalog | None:
        """The same if it need not be read first."""
        if self._changed_schema:
            return self._catalog
        if self._hold is Hold.NOTHING:
            return self._engine.catalog_of_readers
        return self._pinned or self._engine.catalog

    async def read(self, sql: str, params: Sequence[Any], *, describe: bool = True) -> Rows:
        """Start a statement that only reads. `describe`: its columns are wanted."""
        if len(self._rows) >= _READING_MAX and self._hold is Hold.NOTHING:
            await self._hold_rows()
        await self.pin_snapshot()
        lease = self._lease
        if lease is None:
            lease = self._take(await self._engine.lease())
        self.has_run = True
        cursor = await self._engine.execute(lease, sql, params, describe=describe)
        return Rows(cursor, self._held) if cursor.at_end else self.adopt(cursor)

    async def pin_snapshot(self) -> None:
        """Before the first statement that reads, if the isolation level wants it."""
        if self._hold is Hold.NOTHING and self.characteristics.isolation != READ_COMMITTED:
            lease = self._lease or self._take(await self._engine.lease())
            await self._engine.begin_snapshot(lease)
            self._hold = Hold.SNAPSHOT
            await self._establish_savepoints()
        if self._hold is Hold.SNAPSHOT and self._pinned is None:
            self._pinned = await self._engine.catalog_of(self._lease)

    async def write(
        self, sql: str, params: Sequence[Any], *, describe: bool = True, changes_schema: bool = False
    ) -> Rows:
        """Run a statement that writes; its rows are held in memory, so it has run to its end."""
        await self.begin_writing()
        await self._hold_rows()
        if changes_schema:
            self._changed_schema = True
            self._catalog = None
        cursor = await self._engine.execute(self._lease, sql, params, describe=describe)
        rows = Rows(cursor, self._held)
        await rows.hold()
        return rows

    async def begin_writing(self) -> None:
        """Take the write lock, if this transaction does not have it yet."""
        self._check_may_write()
        if self._hold is Hold.WRITE:
            return
        await self._hold_rows()
        self.has_run = True
        timeout_s = self._settings.seconds("lock_timeout")
        if self._hold is Hold.SNAPSHOT:
            await self._engine.upgrade(self._lease, timeout_s)
            self._hold = Hold.WRITE
            return
        if self._lease is None:
            self._take(await self._engine.lease_to_write(timeout_s))
        await self._engine.begin_write(self._lease, timeout_s)
        self._hold = Hold.WRITE
        await self._establish_savepoints()

    def _check_may_write(self) -> None:
        if self.characteristics.read_only:
            raise SessionError("25006", "cannot execute a statement that writes in a read-only transaction")

    def _take(self, lease: Lease) -> Lease:
        """The connection for what comes next."""
        lease.began = self._began
        lease.user = self._user
        self._lease = lease
        return lease

    # Statements by the shortest way (session/at_once.py)

    def runs_plainly(self, *, reads: bool) -> bool:
        """Is nothing to be done for a statement but to run it, with the write lock if it writes?

        False in the middle of a transaction that is no block, and for a snapshot that is yet to be pinned.
        """
        if not self.in_block:
            if self.has_run or self._lease is not None or self._settings.are_pending:
                return False
            self.begin_implicit()
        return not reads or self._hold is not Hold.NOTHING or self.characteristics.isolation == READ_COMMITTED

    def is_ready(self, *, reads: bool) -> bool:
        """Has it a connection, or gets one at once, and the write lock if that is needed?"""
        if not reads:
            return self._hold is Hold.WRITE and not self._rows and not self.characteristics.read_only
        if self._lease is None and (lease := self._engine.idle_lease()) is not None:
            self._take(lease)
        return self._lease is not None

    async def get_ready(self, *, reads: bool) -> None:
        """The same, however long it takes. Raises what `begin_writing` raises."""
        if not reads:
            await self.begin_writing()
            await self._hold_rows()
        elif self._lease is None:
            self._take(await self._engine.lease())

    def begin_now(self, sql: str, params: Sequence[Any], *, reads: bool) -> Outcome | Waiting:
        """Begin a statement once all is ready; see `Engine.begin`. Outside of a block `end_now` or `commit` follows."""
        self.has_run = True
        return self._engine.begin(self._lease, sql, params, reads=reads)

    def end_now(self) -> None:
        """Outside of a block a statement that has only read leaves nothing to commit."""
        if not self.in_block:
            self._give_back()
            self.has_run = False

    async def write_of_its_own(self, sql: str, params: Sequence[Any], catalog: Catalog | None) -> int | None:
        """A statement without rows as a whole transaction; how many rows it changed, once that is durable.

        None, and nothing has happened: `catalog`, for which it was translated, is no longer the schema when it
        has the write lock. Raises as `write` and `commit` do.
        """
        assert not self.begun
        self._check_may_write()
        found = await self._joined_with_others(sql, params, catalog)
        if found is None:
            found = await self._run_alone(sql, params, catalog)
        if found is None:
            return None
        changed, lsn = found
        if lsn:
            self._committing = True
            try:
                await self._engine.wait_durable(lsn)
            finally:
                self._committing = False
        return changed

    async def _joined_with_others(
        self, sql: str, params: Sequence[Any], catalog: Catalog | None
    ) -> tuple[int, Lsn] | None:
        """Run and committed with others that come at the same time; None: it is to run alone."""
        others = self._engine.lone_writes
        if not others.gathering:
            return None
        timeout_s = self._settings.seconds("lock_timeout")
        joined = self._joined = others.add(sql, params, timeout_s, self._user, catalog)
        try:
            return await joined.done
        except RunAlone:
            if joined.unwanted is not None:
                raise joined.unwanted from None
            return None
        finally:
            self._joined = None

    async def _run_alone(
        self, sql: str, params: Sequence[Any], catalog: Catalog | None
    ) -> tuple[int, Lsn] | None:
        self._take(await self._engine.lease_to_write(self._settings.seconds("lock_timeout")))
        self._hold = Hold.WRITE
        if self._engine.catalog is not catalog:
            await self._undo()
            return None
        found = await self._engine.run_and_commit(self._lease, sql, params)
        self._hold = Hold.NOTHING
        self._give_back()
        return found

    def adopt(self, cursor: Cursor) -> Rows:
        """The rows of a statement that only reads, where some are still to be read."""
        rows = Rows(cursor, self._held)
        if self._hold is Hold.NOTHING:
            self._rows[rows], self._lease = self._lease, None
        else:
            self._rows[rows] = None
        return rows

    async def describe(self, sql: str, params: int) -> list[tuple[str, str | None]]:
        """The columns of a statement without running it."""
        if self._lease is None:
            self._take(await self._engine.lease())
        return await self._engine.describe(self._lease, sql, params)

    async def _hold_rows(self) -> None:
        """Open portals read on from memory: a cursor would see, or hinder, what is written now."""
        for rows in list(self._rows):
            await rows.hold()
            self._let_go(rows)

    def forget(self, rows: Rows) -> None:
        """The statement is over, or its portal is closed."""
        rows.close()
        self._let_go(rows)

    def _let_go(self, rows: Rows) -> None:
        """Their cursor is closed."""
        lease = self._rows.pop(rows, None)
        if lease is not None:
            self._engine.give_back(lease)

    # Blocks

    def begin(self, characteristics: Characteristics) -> None:
        """BEGIN. Nothing happens in SQLite before the first statement."""
        self.status = b"T"
        self.characteristics = characteristics
        self._began = self._lease.moment() if self._lease is not None else time.time()

    def defaults(self) -> Characteristics:
        """What holds for a block that says nothing else, and outside of blocks."""
        settings = self._settings
        if self._defaults_as_of != settings.changes:
            self._defaults_as_of = settings.changes
            self._defaults = Characteristics(
                settings.get("default_transaction_isolation"),
                settings.get("default_transaction_read_only") == "on",
                settings.get("default_transaction_deferrable") == "on",
            )
        return self._defaults

    def begin_implicit(self) -> None:
        """A statement outside of a block: what the defaults say holds for it."""
        if not self.has_run:
            self.characteristics = self.defaults()

    async def commit(self) -> None:
        """End the transaction; returns once it is durable. Raises OutcomeUnknown.

        If it cannot be committed it has been undone when this raises.
        """
        lsn = LSN_ZERO
        self._committing = True
        try:
            if self._hold is Hold.WRITE:
                lsn = await self._commit_writes()
            elif self._hold is Hold.SNAPSHOT:
                await self._undo()
            self._end(committed=True)
            if lsn:
                await self._engine.wait_durable(lsn)
        finally:
            self._committing = False

    async def _commit_writes(self) -> Lsn:
        try:
            self._close_rows()
            catalog = await self._engine.load_catalog(self._lease) if self._changed_schema else None
            lsn = await self._engine.commit(self._lease)
        except BaseException:
            await self._undo()
            self._end(committed=False)
            raise
        if catalog is not None:
            self._engine.change_catalog(catalog, lsn)
        self._hold = Hold.NOTHING
        return lsn

    async def rollback(self) -> None:
        """Undo everything and leave the block, whatever state it is in."""
        await self._undo()
        self._end(committed=False)

    async def fail(self) -> None:
        """A statement failed: undo, and stay in the failed block until the client ends it."""
        self._close_rows()
        if not self.in_block:
            await self.rollback()
            return
        self.status = b"E"
        if self._hold is not Hold.NOTHING and not self._lease.connection.in_transaction:
            # SQLite has undone all of it (it was interrupted, or a page could not be had): no savepoint is left.
            self._savepoints.clear()
        if not self._savepoints:
            await self._undo()

    async def _undo(self) -> None:
        self._close_rows()
        self._changed_schema = False
        self._catalog = self._pinned = None
        if self._lease is None:
            return
        lease, self._lease = self._lease, None
        try:
            await self._engine.undo(lease)
        finally:
            self._hold = Hold.NOTHING

    def _close_rows(self) -> None:
        for rows in list(self._rows):
            self.forget(rows)

    def _give_back(self) -> None:
        if self._lease is not None:
            lease, self._lease = self._lease, None
            self._engine.give_back(lease)

    def _end(self, *, committed: bool) -> None:
        assert self._hold is Hold.NOTHING
        self._close_rows()
        self._give_back()
        self._savepoints.clear()
        self._changed_schema = False
        self._catalog = self._pinned = None
        self.status = b"I"
        self.has_run = False
        self._began = None
        self._settings.end(committed=committed)

    # Savepoints: named by their depth in SQLite, so that any name will do

    async def savepoint(self, name: str) -> None:
        if len(self._savepoints) >= _SAVEPOINTS_MAX:
            raise SessionError("54000", f"more than {_SAVEPOINTS_MAX} savepoints in one transaction")
        self._savepoints.append(_Savepoint(name, self._settings.kept(), self.characteristics))
        if self._hold is not Hold.NOTHING:
            await self._command(f"SAVEPOINT s{len(self._savepoints)}")

    async def release(self, name: str) -> None:
        depth = self._depth(name)
        if self._hold is not Hold.NOTHING:
            await self._command(f"RELEASE s{depth}")
        del self._savepoints[depth - 1 :]

    async def rollback_to(self, name: str) -> None:
        """Undo what came after the savepoint; a failed block goes on from there."""
        depth = self._depth(name)
        if self._hold is not Hold.NOTHING:
            if self.status == b"E":
                self._close_rows()
            else:
                await self._hold_rows()  # portals from before the savepoint are read on
            await self._command(f"ROLLBACK TO s{depth}")
            self._catalog = None
        del self._savepoints[depth:]
        self._settings.go_back_to(self._savepoints[-1].settings)
        self.characteristics = self._savepoints[-1].characteristics
        self.status = b"T"

    @property
    def depth(self) -> int:
        """How many savepoints there are."""
        return len(self._savepoints)

    def _depth(self, name: str) -> int:
        for depth in range(len(self._savepoints), 0, -1):
            if self._savepoints[depth - 1].name == name:
                return depth
        raise SessionError("3B001", f'savepoint "{name}" does not exist')

    async def _establish_savepoints(self) -> None:
        for depth in range(1, len(self._savepoints) + 1):
            await self._command(f"SAVEPOINT s{depth}")

    async def _command(self, sql: str) -> None:
        cursor = await self._engine.execute(self._lease, sql, ())
        cursor.close()
