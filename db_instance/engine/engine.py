"""SQL on the volume: pooled SQLite connections, snapshots, the write lock, commits.

A lease is one connection for as long as a statement or a transaction needs it. Statements run in
greenlets (parking.py) on the event loop's own thread; they wait inside SQLite without stalling others.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import apsw

from db_instance.dialect import Catalog
from db_instance.engine import parking
from db_instance.engine.lease import Cursor, Lease, change, columns_of, read_at_once
from db_instance.engine.lone_writes import LoneWrite, LoneWrites, change_all, takes_long
from db_instance.engine.pages import Pages
from db_instance.engine.schema import EMPTY_SCHEMA, read_schema
from db_instance.engine.vfs import VolumeVfs
from db_instance.engine.write_lock import WriteLock
from runtime.events import get_logger
from volume.ids import Lsn
from volume.limits import MIB

events = get_logger("engine")

_STEPS_BETWEEN_LOOKS: Final = 4000
"""SQLite VM steps between two turns of the event loop, so that a long query never stalls others."""

_IDLE_CONNECTIONS_MAX: Final = 64
_STATEMENTS_CACHED: Final = 200
_CONNECTION_CACHE_KIB: Final = 16_000
"""SQLite's own page cache, per pooled connection: a page in it costs no call into Python."""

_WARM_CONNECTIONS: Final = 4
"""Idle connections that keep what they have cached. The last one given back is the first one lent."""

_SQLITE_BYTES_MAX: Final = 256 * MIB
"""Beyond this all connections together use their caches' pages again instead of taking more memory."""

SqlFunction = tuple[str, int, Callable[..., Any], bool]
"""Name, number of arguments (-1: any), what to call, whether equal arguments give equal results."""


class SerializationFailure(Exception):
    """The snapshot that the transaction reads is no longer the newest one, and it wants to write."""


class ReadOnlyVolume(Exception):
    """The volume was opened read-only: fewer than four of six segments of some group answer."""


@dataclass(frozen=True, slots=True)
class EngineSettings:
    name: str
    spill_folder: str | None = None


class Engine:
    def __init__(
        self,
        pages: Pages,
        settings: EngineSettings,
        functions: Iterable[SqlFunction] = (),
        of_transactions: Iterable[tuple[str, Callable[[Lease], Any]]] = (),
    ) -> None:
        """`of_transactions`: functions without arguments of what the lease knows of its transaction."""
        self.pages = pages
        self.commits = 0
        self.statements = 0
        self.leased = 0
        """Connections in the hands of sessions."""
        self._settings = settings
        self._functions = list(functions)
        self._of_transactions = list(of_transactions)
        apsw.soft_heap_limit(_SQLITE_BYTES_MAX)
        self._vfs = VolumeVfs(settings.name, pages, settings.spill_folder)
        self._idle: list[Lease] = []
        self._last_writer: Lease | None = None
        """The connection of the last commit, if it is idle: what SQLite has cached in it is still true."""
        self._write_lock = WriteLock()
        self.lone_writes = LoneWrites(self)
        pages.more_to_come = self._commits_to_come
        self._generation = 0
        self._connections = 0
        self.catalog: Catalog = EMPTY_SCHEMA
        """The newest schema, which is that of whoever has the write lock."""
        self._earlier_catalogs: deque[tuple[Lsn, Catalog]] = deque()
        """Schemas whose successors are not durable yet, and the LSNs of these. Oldest first."""
        self._authorizer: Callable[..., int] = _authorize

    # Connections

    async def lease(self) -> Lease:
        """A connection with no transaction on it."""
        return self._lent(self._idle.pop() if self._idle else await parking.run(self._connect))

    def idle_lease(self) -> Lease | None:
        """The same if there is one at hand."""
        return self._lent(self._idle.pop()) if self._idle else None

    def _lent(self, lease: Lease) -> Lease:
        lease.generation = self._generation
        lease.began = None
        self.leased += 1
        return lease

    def give_back(self, lease: Lease) -> None:
        assert not lease.connection.in_transaction
        assert not lease.holds_write_lock
        self.leased -= 1
        lease.interrupted = False
        lease.file.committing = False
        if lease.generation == self._generation and lease.file.commit_lsn == self.pages.newest:
            before, self._last_writer = self._last_writer, lease
            if before is None:
                return
            lease = before
        if lease.generation != self._generation:
            lease.connection.close()
        elif len(self._idle) < _IDLE_CONNECTIONS_MAX:
            if len(self._idle) >= _WARM_CONNECTIONS:
                lease.connection.release_memory()
            self._idle.append(lease)
        else:
            lease.connection.close()

    def discard(self, lease: Lease) -> None:
        """Close a connection in whatever state it is, with its transaction undone."""
        lease.file.abandon()
        lease.connection.close(True)
        self.leased -= 1
        self._release(lease)

    def _connect(self) -> Lease:
        # A name of its own: opening reads the header, which may park, and another may open meanwhile.
        self._connections += 1
        name = f"volume-{self._connections}"
        connection = apsw.Connection(name, vfs=self._settings.name, statementcachesize=_STATEMENTS_CACHED)
        file = self._vfs.take_opened(name)
        lease = Lease(connection, file)
        for pragma, value in (
            ("page_size", 4096),
            ("journal_mode", "persist"),
            ("synchronous", "normal"),
            ("cache_size", -_CONNECTION_CACHE_KIB),
            ("foreign_keys", "on"),
            ("case_sensitive_like", "on"),
            ("recursive_triggers", "on"),
            ("trusted_schema", "off"),
        ):
            connection.pragma(pragma, value)
        connection.config(apsw.SQLITE_DBCONFIG_DEFENSIVE, 1)
        connection.config(apsw.SQLITE_DBCONFIG_DQS_DML, 0)
        connection.config(apsw.SQLITE_DBCONFIG_DQS_DDL, 0)
        for name, arguments, function, deterministic in self._functions:
            # Innocuous: the schema may call them, in defaults, checks and views.
            connection.create_scalar_function(
                name, function, arguments, deterministic=deterministic, flags=apsw.SQLITE_INNOCUOUS
            )
        for name, told in self._of_transactions:
            connection.create_scalar_function(name, partial(told, lease), 0, flags=apsw.SQLITE_INNOCUOUS)
        connection.set_progress_handler(lambda: _look_up(lease), _STEPS_BETWEEN_LOOKS)
        connection.set_commit_hook(file.begin_commit)
        connection.authorizer = self._authorizer
        return lease

    # Statements

    async def execute(
        self, lease: Lease, sql: str, params: Sequence[Any] = (), *, describe: bool = True
    ) -> Cursor:
        """Start one statement; a statement without rows has run when this returns."""
        self.statements += 1
        cursor = Cursor(lease)
        await parking.run(cursor.start, lease, sql, params, describe)
        return cursor

    def begin(
        self, lease: Lease, sql: str, params: Sequence[Any], *, reads: bool
    ) -> parking.Outcome | parking.Waiting:
        """A statement as far as it gets without waiting. `parking.finish` returns what it comes to: the rows

        of one that reads, or a cursor if they are many; how many rows one without rows has changed.
        """
        self.statements += 1
        return parking.begin(read_at_once if reads else change, lease, sql, params)

    async def rows(self, lease: Lease, sql: str, params: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """All rows of one statement."""
        return await parking.run(lambda: lease.connection.execute(sql, params).fetchall())

    async def describe(self, lease: Lease, sql: str, params: int) -> list[tuple[str, str | None]]:
        """The columns of a statement that is not run; [] if it returns no rows."""
        return await parking.run(columns_of, lease.connection, sql, params)

    async def load_catalog(self, lease: Lease) -> Catalog:
        """The schema as the lease's transaction sees it, read anew."""
        return await parking.run(lambda: read_schema(lease.connection))

    @property
    def catalog_of_readers(self) -> Catalog:
        """The schema of the newest durable commit."""
        earlier = self._earlier_catalogs
        while earlier and earlier[0][0] <= self.pages.driver.vdl:
            earlier.popleft()
        return earlier[0][1] if earlier else self.catalog

    def change_catalog(self, catalog: Catalog, lsn: Lsn) -> None:
        """The commit at this LSN has changed the schema."""
        self._earlier_catalogs.append((lsn, self.catalog))
        self.catalog = catalog

    async def catalog_of(self, lease: Lease) -> Catalog:
        """The schema as the lease's snapshot sees it, read only if it is not the one of most readers."""
        version = await parking.run(lambda: lease.connection.pragma("schema_version"))
        known = self.catalog_of_readers
        return known if known.version == version else await self.load_catalog(lease)

    # Transactions

    async def lease_to_write(self, lock_timeout_s: float | None = None) -> Lease:
        """A connection that holds the write lock. Raises LockTimeout, ReadOnlyVolume, VolumeBusy."""
        await self._acquire(lock_timeout_s)
        try:
            lease, self._last_writer = self._last_writer, None
            lease = self._lent(lease) if lease is not None else await self.lease()
        except BaseException:
            self._write_lock.release()
            raise
        self._let_write(lease)
        return lease

    async def begin_write(self, lease: Lease, lock_timeout_s: float | None = None) -> None:
        """Begin on the newest pages, with the write lock, which is taken if the lease does not have it.

        Raises LockTimeout, ReadOnlyVolume, VolumeBusy.
        """
        if not lease.holds_write_lock:
            await self._acquire(lock_timeout_s)
            self._let_write(lease)
        try:
            await parking.run(lease.connection.execute, "BEGIN IMMEDIATE")
        except BaseException:
            self._release(lease)
            raise

    async def run_and_commit(self, lease: Lease, sql: str, params: Sequence[Any]) -> tuple[int, Lsn]:
        """One statement without rows, by the holder of the write lock, as a transaction of its own.

        How many rows it changed, and the LSN to wait for, as for `commit`; the lock is free when this returns.
        """
        file = lease.file
        file.commit_lsn = None
        may_have_read = self.pages.newest
        changed: int = await parking.finish(self.begin(lease, sql, params, reads=False))
        self._release(lease)
        if file.commit_lsn is None:
            await self._confirm()
            return changed, may_have_read
        self.commits += 1
        return changed, file.commit_lsn

    async def run_all_and_commit(self, lease: Lease, writes: list[LoneWrite]) -> Lsn:
        """Statements without rows, by the holder of the write lock, in one transaction; the LSN to wait for.

        The lock is free when this returns. If it raises the transaction is still open.
        """
        file = lease.file
        file.commit_lsn = None
        may_have_read = self.pages.newest
        self.statements += len(writes)
        await parking.run(change_all, lease, writes)
        self._release(lease)
        if file.commit_lsn is None:
            await self._confirm()
            return may_have_read
        self.commits += sum(write.started and write.error is None for write in writes)
        return file.commit_lsn

    async def begin_snapshot(self, lease: Lease) -> None:
        """Pin the newest read point until the transaction ends."""
        try:
            await parking.run(
                lambda: lease.connection.execute("BEGIN; SELECT 1 FROM sqlite_schema LIMIT 0").fetchall()
            )
        except BaseException:
            await self.rollback(lease)
            raise
        assert lease.file.read_point is not None

    async def upgrade(self, lease: Lease, lock_timeout_s: float | None = None) -> None:
        """Let a snapshot transaction write. Raises SerializationFailure if its snapshot is outdated."""
        assert not lease.holds_write_lock
        await self._acquire(lock_timeout_s)
        if lease.file.read_point != self.pages.newest:
            self._write_lock.release()
            raise SerializationFailure("could not serialize access due to concurrent update")
        lease.holds_write_lock = True
        lease.file.become_writer()

    async def _acquire(self, lock_timeout_s: float | None) -> None:
        if not self.pages.driver.writable:
            raise ReadOnlyVolume("the volume is open read-only: too few storage nodes answer")
        while True:
            await self._confirm()  # now, and not one after the other when they have the lock
            await self._write_lock.acquire(lock_timeout_s)
            if self.pages.driver.lease.holds():
                break
            self._write_lock.release()  # it has ended while we stood in line
        try:
            await self.pages.driver.wait_for_room()
        except BaseException:
            self._write_lock.release()
            raise

    async def _confirm(self) -> None:
        """Wait while nobody confirms that this is still the newest writer: before one's turn to write, and after a
        commit that changed nothing, which storage has not confirmed. Raises LeaseExpired."""
        if not self.pages.driver.lease.holds():
            await self.pages.driver.lease.wait()

    def _let_write(self, lease: Lease) -> None:
        lease.holds_write_lock = True
        lease.file.write_mode = True

    def _commits_to_come(self) -> int:
        """How many sessions are about to commit: those that have the write lock, or wait for it."""
        return self._write_lock.waiting + self._write_lock.held

    def _release(self, lease: Lease) -> None:
        if lease.holds_write_lock:
            lease.holds_write_lock = False
            lease.file.write_mode = False
            self._write_lock.release()

    async def commit(self, lease: Lease) -> Lsn:
        """End the transaction; the lock is free when this returns.

        Returns the LSN to wait for: of the commit, or of the newest one that the holder of the write lock
        may have read; 0 for a transaction without the lock, which read only what is durable.
        If SQLite refuses (a deferred constraint, storage out of reach) the transaction is still open. Raises
        LeaseExpired if it changed nothing, and what it has read may be outdated.
        """
        lease.file.commit_lsn = None
        wrote = lease.holds_write_lock
        may_have_read = self.pages.newest if wrote else Lsn(0)
        await parking.run(lease.connection.execute, "COMMIT")
        self._release(lease)
        if lease.file.commit_lsn is None:
            if wrote:
                await self._confirm()
            return may_have_read
        self.commits += 1
        return lease.file.commit_lsn

    async def rollback(self, lease: Lease) -> None:
        """Undo the transaction, whatever state it is in."""
        lease.interrupted = False
        lease.file.committing = False
        try:
            if lease.connection.in_transaction:
                await parking.run(lease.connection.execute, "ROLLBACK")
        finally:
            lease.file.discard()
            self._release(lease)

    async def undo(self, lease: Lease) -> None:
        """Undo the transaction and give the connection back, or close it if it can no longer be used."""
        try:
            await self.rollback(lease)
        except BaseException as error:
            self.discard(lease)
            if not isinstance(error, Exception):
                raise
        else:
            self.give_back(lease)

    async def wait_durable(self, lsn: Lsn) -> None:
        """Return once the VDL covers the LSN. Raises OutcomeUnknown."""
        await self.pages.driver.wait_durable(lsn)

    # The volume

    async def prepare(self) -> None:
        """Make the volume ready for sessions: its header if it is empty, and its schema."""
        if not self.pages.newest and self.pages.driver.writable:
            await self._create_database()
        lease = await self.lease()
        self.catalog = await self.load_catalog(lease)
        self._earlier_catalogs.clear()
        self.give_back(lease)

    async def _create_database(self) -> None:
        """SQLite's header, as the first mini-transaction of the log."""
        lease = await self.lease()
        await self.begin_write(lease)
        try:
            await self.rows(lease, "PRAGMA user_version = 1")
            lsn = await self.commit(lease)
        except BaseException:
            await self.rollback(lease)
            raise
        self.give_back(lease)
        await self.wait_durable(lsn)
        self.reset_connections()

    def reset_connections(self) -> None:
        """The volume was opened anew: no connection keeps what it has cached."""
        self._generation += 1
        if self._last_writer is not None:
            self._idle.append(self._last_writer)
            self._last_writer = None
        for lease in self._idle:
            lease.connection.close()
        self._idle.clear()

    def close(self) -> None:
        self.lone_writes.close()
        self.reset_connections()
        self._vfs.unregister()


def _look_up(lease: Lease) -> bool:
    """Called by SQLite every so many steps: let others run. True ends the statement."""
    if lease.looks is not None:
        return takes_long(lease)
    parking.park(asyncio.sleep(0))
    return lease.interrupted


_ALLOWED_PRAGMAS: Final = {
    "user_version",
    "schema_version",
    "data_version",
    "table_xinfo",
    "foreign_key_list",
    "index_list",
    "index_info",
    "quick_check",
}
"""What the schema's reading asks for, and ALTER TABLE ... ADD COLUMN of SQLite's own (quick_check)."""


def _authorize(action: int, first: str | None, second: str | None, schema: str | None, by: str | None) -> int:
    """SQL from the network is hostile: it names no files and changes no setting of SQLite."""
    if action in (apsw.SQLITE_ATTACH, apsw.SQLITE_DETACH):
        return apsw.SQLITE_DENY
    if action == apsw.SQLITE_PRAGMA and first not in _ALLOWED_PRAGMAS:
        return apsw.SQLITE_DENY
    if action == apsw.SQLITE_FUNCTION and second == "load_extension":
        return apsw.SQLITE_DENY
    return apsw.SQLITE_OK
