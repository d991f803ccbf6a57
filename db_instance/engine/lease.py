"""A connection in the hands of one session, and the statements that it runs.

All of this but `Cursor.fetch` is called inside a greenlet (parking.py), where it may wait for pages.
"""

import time
from collections.abc import Sequence
from itertools import islice
from typing import Any, Final

import apsw

from db_instance.engine import parking
from db_instance.engine.vfs import VolumeFile

BATCH_ROWS: Final = 256
"""Rows taken from SQLite at a time, so that a large result never is in memory as a whole."""

Row = tuple[Any, ...]


class Lease:
    """One pooled connection in the hands of one session."""

    def __init__(self, connection: apsw.Connection, file: VolumeFile) -> None:
        self.connection = connection
        self.file = file
        self.holds_write_lock = False
        self.interrupted = False
        self.generation = 0
        self.looks: int | None = None
        """How often SQLite has asked whether to go on with a lone write; None while none is run (lone_writes.py)."""
        self.began: float | None = None
        """When its transaction began, Unix time; None until somebody asks."""
        self.user = ""
        """Whose transaction it is."""

    def moment(self) -> float:
        """When its transaction began, which is now if that has not been told."""
        if self.began is None:
            self.began = time.time()
        return self.began

    def interrupt(self) -> None:
        """End the running statement at its next step (cancel, statement_timeout)."""
        self.interrupted = True


class Cursor:
    """A running statement: its columns, and its rows as they are asked for.

    It holds its snapshot until it is closed or its rows are at an end; short results are at their end
    when the statement has started.
    """

    def __init__(
        self, lease: Lease, started: apsw.Cursor | None = None, taken: list[Row] | None = None
    ) -> None:
        """`started`: the statement, if it has been started already, and `taken`: its first rows."""
        self._connection = lease.connection
        self._cursor = started
        self._taken = taken or []
        self.columns: list[tuple[str, str | None]] = []
        """Name and declared type (None for an expression); empty if they were not asked for."""
        self.at_end = False
        """Nothing is left in SQLite; what was taken already may still be fetched."""
        self.rows_affected = 0

    def start(self, lease: Lease, sql: str, params: Sequence[Any], describe: bool) -> None:
        """Run the statement as far as its first rows. `describe`: its columns are wanted."""
        if lease.holds_write_lock:
            lease.file.confirm()
        self._cursor = cursor = self._connection.execute(sql, params)
        if describe:
            try:
                self.columns = [(name, decltype) for name, decltype in cursor.get_description()]
            except apsw.ExecutionCompleteError:
                pass  # no rows: the columns are not known any more
        self._taken = self._take(BATCH_ROWS)

    def _take(self, count: int) -> list[Row]:
        assert self._cursor is not None
        rows: list[Row] = list(islice(self._cursor, count))
        if len(rows) < count:
            self.at_end = True
            self.rows_affected = self._connection.changes()
        return rows

    async def fetch(self, count: int) -> list[Row]:
        """The next `count` rows; fewer at the end."""
        taken = self._taken
        if len(taken) > count:
            self._taken = taken[count:]
            return taken[:count]
        self._taken = []
        if len(taken) < count and not self.at_end:
            taken += await parking.run(self._take, count - len(taken))
        return taken

    def close(self) -> None:
        if self._cursor is not None:
            self._cursor.close(True)


def read_at_once(lease: Lease, sql: str, params: Sequence[Any]) -> list[Row] | Cursor:
    """The rows of a statement, or a cursor if they are many."""
    if lease.holds_write_lock:
        lease.file.confirm()
    cursor = lease.connection.execute(sql, params)
    rows: list[Row] = list(islice(cursor, BATCH_ROWS))
    return rows if len(rows) < BATCH_ROWS else Cursor(lease, cursor, rows)


def change(lease: Lease, sql: str, params: Sequence[Any]) -> int:
    """How many rows a statement without rows has changed."""
    lease.file.confirm()
    lease.connection.execute(sql, params)
    return lease.connection.changes()


def columns_of(connection: apsw.Connection, sql: str, params: int) -> list[tuple[str, str | None]]:
    """The statement's columns, [] if it returns no rows. It is prepared, bound to NULLs, and stopped before its
    first step."""
    described: list[tuple[str, str | None]] = []

    def stop(cursor: apsw.Cursor, _statement: str, _bindings: object) -> bool:
        described.extend((name, decltype) for name, decltype in cursor.get_description())
        return False

    # A statement that is only prepared is not checked against the schema; one that runs is, and renews it.
    connection.execute("SELECT 1 FROM sqlite_schema LIMIT 0").fetchall()
    cursor = connection.cursor()
    cursor.exec_trace = stop
    try:
        cursor.execute(sql, (None,) * params, can_cache=False)
    except (apsw.ExecTraceAbort, apsw.ExecutionCompleteError):
        pass  # that is how a trace ends the statement
    finally:
        cursor.close(True)
    return described
