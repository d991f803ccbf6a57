"""The SQL engine's interface over SQLite in a local file: sessions and the wire are tested with it.

Honest where sessions can tell: statements wait in the middle and may be cancelled there, readers see
snapshots, there is one write lock, and a commit is durable only when the test lets it be.
"""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import apsw

from db_instance.dialect import Catalog, Column, TableInfo
from db_instance.dialect.functions import FUNCTIONS
from db_instance.dialect.types import oid_of_decltype
from db_instance.engine import parking
from db_instance.engine.engine import ReadOnlyVolume, SerializationFailure
from db_instance.engine.write_lock import WriteLock
from volume.errors import OutcomeUnknown

Row = tuple[Any, ...]


class PlainCatalog:
    """The tables of SQLite's own schema."""

    def __init__(self, connection: apsw.Connection) -> None:
        self.version: int = connection.pragma("schema_version")
        self._tables = {}
        names = connection.execute(
            "SELECT name FROM sqlite_schema WHERE type IN ('table', 'view')"
        ).fetchall()
        for (name,) in names:
            described = connection.execute(
                "SELECT name, type, pk FROM pragma_table_xinfo(?)", (name,)
            ).fetchall()
            columns = tuple(Column(column, oid_of_decltype(declared)) for column, declared, _ in described)
            keys = tuple(column for column, _, key in described if key)
            self._tables[name.lower()] = TableInfo(name, columns, keys)

    def table(self, name: str) -> TableInfo | None:
        return self._tables.get(name.lower())


class PlainLease:
    def __init__(self, connection: apsw.Connection) -> None:
        self.connection = connection
        self.holds_lock = False
        self.snapshot = 0


class PlainCursor:
    def __init__(self, cursor: apsw.Cursor) -> None:
        self._cursor = cursor
        self._before = cursor.connection.total_changes()
        self.columns: list[tuple[str, str | None]] = []

    def start(self, sql: str, params: Sequence[Any]) -> None:
        self._cursor.execute(sql, params)
        try:
            self.columns = [(name, decltype) for name, decltype in self._cursor.get_description()]
        except apsw.ExecutionCompleteError:
            self.columns = []

    @property
    def rows_affected(self) -> int:
        return self._cursor.connection.total_changes() - self._before

    async def fetch(self, count: int = 0) -> list[Row]:
        return await parking.run(self._take, count)

    def _take(self, count: int) -> list[Row]:
        if count <= 0:
            return self._cursor.fetchall()
        rows = []
        for row in self._cursor:
            rows.append(row)
            if len(rows) == count:
                break
        return rows

    def close(self) -> None:
        self._cursor.close(True)


class PlainEngine:
    def __init__(self, folder: Path) -> None:
        self.path = str(folder / "plain.db")
        self.lsn = 0
        self.leased = 0
        """Leases that are out: none may be left when all sessions are gone."""
        self.looks = 0
        """How often a long statement has let others run."""
        self.read_only = False
        self.durable: asyncio.Event = asyncio.Event()
        self.durable.set()
        self.outcome_unknown = False
        self._lock = WriteLock()
        self._idle: list[PlainLease] = []
        self._all: list[apsw.Connection] = []
        first = self._connect()
        self._idle.append(first)
        self.catalog: Catalog = PlainCatalog(first.connection)

    def _connect(self) -> PlainLease:
        connection = apsw.Connection(self.path)
        self._all.append(connection)
        for pragma, value in (
            ("journal_mode", "wal"),
            ("synchronous", "off"),
            ("foreign_keys", "on"),
            ("recursive_triggers", "on"),
        ):
            connection.pragma(pragma, value)
        connection.config(apsw.SQLITE_DBCONFIG_DQS_DML, 0)
        connection.config(apsw.SQLITE_DBCONFIG_DQS_DDL, 0)
        for name, arguments, function, deterministic in FUNCTIONS:
            connection.create_scalar_function(name, function, arguments, deterministic=deterministic)
        connection.set_progress_handler(self._look_up, 4000)
        return PlainLease(connection)

    def _look_up(self) -> bool:
        self.looks += 1
        parking.park(asyncio.sleep(0))
        return False

    async def lease(self) -> PlainLease:
        self.leased += 1
        return self._idle.pop() if self._idle else self._connect()

    def give_back(self, lease: PlainLease) -> None:
        assert not lease.connection.in_transaction
        assert not lease.holds_lock
        self.leased -= 1
        self._idle.append(lease)

    def discard(self, lease: PlainLease) -> None:
        self._release(lease)
        lease.connection.close(True)
        self.leased -= 1

    async def execute(self, lease: PlainLease, sql: str, params: Sequence[Any] = ()) -> PlainCursor:
        cursor = PlainCursor(lease.connection.cursor())
        await parking.run(cursor.start, sql, params)
        return cursor

    async def describe(self, lease: PlainLease, sql: str, params: int) -> list[tuple[str, str | None]]:
        return await parking.run(_describe, lease.connection, sql, params)

    async def load_catalog(self, lease: PlainLease) -> Catalog:
        return await parking.run(PlainCatalog, lease.connection)

    async def begin_write(self, lease: PlainLease, lock_timeout_s: float | None = None) -> None:
        if self.read_only:
            raise ReadOnlyVolume("the volume is open read-only")
        await self._lock.acquire(lock_timeout_s)
        lease.holds_lock = True
        await parking.run(lease.connection.execute, "BEGIN IMMEDIATE")

    async def begin_snapshot(self, lease: PlainLease) -> None:
        await parking.run(
            lambda: lease.connection.execute("BEGIN; SELECT 1 FROM sqlite_schema LIMIT 0").fetchall()
        )
        lease.snapshot = self.lsn

    async def upgrade(self, lease: PlainLease, lock_timeout_s: float | None = None) -> None:
        await self._lock.acquire(lock_timeout_s)
        lease.holds_lock = True
        if lease.snapshot != self.lsn:
            self._release(lease)
            raise SerializationFailure("could not serialize access due to concurrent update")

    def _release(self, lease: PlainLease) -> None:
        if lease.holds_lock:
            lease.holds_lock = False
            self._lock.release()

    async def commit(self, lease: PlainLease) -> int:
        await parking.run(lease.connection.execute, "COMMIT")
        if not lease.holds_lock:
            return 0
        self.lsn += 1
        self._release(lease)
        return self.lsn

    async def rollback(self, lease: PlainLease) -> None:
        try:
            if lease.connection.in_transaction:
                await parking.run(lease.connection.execute, "ROLLBACK")
        finally:
            self._release(lease)

    async def wait_durable(self, lsn: int) -> None:
        await self.durable.wait()
        if self.outcome_unknown:
            raise OutcomeUnknown(f"commit at lsn {lsn}: not acknowledged in time")

    def close(self) -> None:
        for connection in self._all:
            connection.close(True)


def _describe(connection: apsw.Connection, sql: str, params: int) -> list[tuple[str, str | None]]:
    """The columns of a statement, which is prepared and not run."""
    found: list[tuple[str, str | None]] = []

    def look(cursor: apsw.Cursor, _sql: str, _params: object) -> bool:
        found.extend((name, decltype) for name, decltype in cursor.get_description())
        return False

    # What only is prepared is not checked against the schema: a statement that runs is, and renews it.
    connection.execute("SELECT 1 FROM sqlite_schema LIMIT 0").fetchall()
    cursor = connection.cursor()
    cursor.exec_trace = look
    try:
        cursor.execute(sql, (None,) * params, can_cache=False)
    except apsw.ExecTraceAbort:
        pass
    finally:
        cursor.close(True)
    return found
