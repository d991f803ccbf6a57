"""The rows of one running statement: straight from its cursor, or held in memory.

Rows are held when the cursor must be closed before the client has asked for all of them: when its
transaction ends or begins to write while the portal is still open.
"""

from collections import deque
from collections.abc import Iterable
from typing import Final

from db_instance.engine.lease import BATCH_ROWS, Cursor, Row
from db_instance.session.errors import SessionError

_HELD_ROWS_MAX: Final = 1_000_000
_HELD_VALUES_BYTES_MAX: Final = 256 * 1024 * 1024


class Rows:
    def __init__(self, cursor: Cursor | None) -> None:
        self.columns = cursor.columns if cursor is not None else []
        self.rows_affected = 0
        self.at_end = False
        self._cursor = cursor
        self._held: deque[Row] = deque()

    @classmethod
    def of(cls, rows: Iterable[Row]) -> "Rows":
        """Rows that come from no cursor."""
        found = cls(None)
        found._held.extend(rows)
        return found

    async def fetch(self, count: int) -> list[Row]:
        """The next rows, at most `count`; fewer at the end only."""
        if not self._held and self._cursor is not None:
            rows = await self._cursor.fetch(count)
        else:
            rows = await self._held_and_more(count)
        if len(rows) < count and self._cursor is not None:
            self.close_cursor()
        self.at_end = self._cursor is None and not self._held
        return rows

    async def _held_and_more(self, count: int) -> list[Row]:
        rows: list[Row] = []
        while self._held and len(rows) < count:
            rows.append(self._held.popleft())
        if len(rows) < count and self._cursor is not None:
            rows += await self._cursor.fetch(count - len(rows))
        return rows

    async def peek(self) -> Row | None:
        """The next row, which stays; None at the end."""
        if not self._held and self._cursor is not None:
            batch = await self._cursor.fetch(BATCH_ROWS)
            self._held.extend(batch)
            if len(batch) < BATCH_ROWS:
                self.close_cursor()
        self.at_end = self._cursor is None and not self._held
        return self._held[0] if self._held else None

    async def hold(self) -> None:
        """Take all rows that are left and close the cursor."""
        size = 0
        while self._cursor is not None:
            batch = await self._cursor.fetch(BATCH_ROWS)
            for row in batch:
                size += sum(len(value) if isinstance(value, str | bytes) else 8 for value in row)
            self._held.extend(batch)
            if len(batch) < BATCH_ROWS:
                self.close_cursor()
            elif len(self._held) > _HELD_ROWS_MAX or size > _HELD_VALUES_BYTES_MAX:
                raise SessionError("53200", "result is too large to be held in memory")

    def close_cursor(self) -> None:
        if self._cursor is not None:
            cursor, self._cursor = self._cursor, None
            self.rows_affected = cursor.rows_affected
            cursor.close()

    def close(self) -> None:
        """Give up what has not been read."""
        self._held.clear()
        self.close_cursor()
        self.at_end = True
