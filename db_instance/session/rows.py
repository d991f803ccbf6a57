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


class Held:
    """What the open portals of one transaction hold in memory, all together."""

    def __init__(self) -> None:
        self.rows = 0
        self.bytes = 0

    def add(self, rows: int, size: int) -> None:
        """Raises SessionError if it is too much."""
        self.rows += rows
        self.bytes += size
        if self.rows > _HELD_ROWS_MAX or self.bytes > _HELD_VALUES_BYTES_MAX:
            raise SessionError("53200", "result is too large to be held in memory")


class Rows:
    def __init__(self, cursor: Cursor | None, together: Held | None = None) -> None:
        """`together`: with what else its rows are counted that are held in memory."""
        self.columns = cursor.columns if cursor is not None else []
        self.rows_affected = 0
        self.at_end = False
        self._cursor = cursor
        self._held: deque[Row] = deque()
        self._together = together or Held()
        self._counted = (0, 0)
        """How many rows, and bytes of values, it has counted there."""

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
        if self.at_end:
            self._count_no_more()
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
        while self._cursor is not None:
            batch = await self._cursor.fetch(BATCH_ROWS)
            size = sum(len(value) if isinstance(value, str | bytes) else 8 for row in batch for value in row)
            self._held.extend(batch)
            if len(batch) < BATCH_ROWS:
                self.close_cursor()
            rows, bytes_ = self._counted
            self._counted = rows + len(batch), bytes_ + size
            self._together.add(len(batch), size)

    def _count_no_more(self) -> None:
        rows, size = self._counted
        self._counted = (0, 0)
        self._together.rows -= rows
        self._together.bytes -= size

    def close_cursor(self) -> None:
        if self._cursor is not None:
            cursor, self._cursor = self._cursor, None
            self.rows_affected = cursor.rows_affected
            cursor.close()

    def close(self) -> None:
        """Give up what has not been read."""
        self._held.clear()
        self._count_no_more()
        self.close_cursor()
        self.at_end = True
