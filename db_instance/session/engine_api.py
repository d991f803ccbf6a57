"""What a session needs of the SQL engine. db_instance/engine implements it; so does tests/fakes/plain_engine.py."""

from collections.abc import Sequence
from typing import Any, Protocol

from db_instance.dialect import Catalog

Row = tuple[Any, ...]


class SqlLease(Protocol):
    """One pooled connection in the hands of one session."""


class SqlCursor(Protocol):
    """A running statement. It holds its snapshot until it is closed or its rows are at an end."""

    columns: list[tuple[str, str | None]]
    """Name and declared type (None for an expression)."""

    @property
    def rows_affected(self) -> int: ...

    async def fetch(self, count: int = 0) -> list[Row]:
        """The next `count` rows, or all that are left; fewer at the end."""
        ...

    def close(self) -> None: ...


class SqlEngine(Protocol):
    """A cancelled call ends the statement, and leaves the lease fit for `rollback`."""

    catalog: Catalog
    """The schema as the newest commit left it. A session that commits a change of it puts the new one here."""

    async def lease(self) -> Any: ...

    def give_back(self, lease: Any) -> None:
        """The lease has no transaction and no open cursor."""
        ...

    def discard(self, lease: Any) -> None:
        """Close a lease in whatever state it is."""
        ...

    async def execute(self, lease: Any, sql: str, params: Sequence[Any] = ()) -> SqlCursor:
        """Start one statement; one without rows has run when this returns."""
        ...

    async def describe(self, lease: Any, sql: str, params: int) -> list[tuple[str, str | None]]:
        """The columns of a statement that is not run; [] if it returns no rows."""
        ...

    async def load_catalog(self, lease: Any) -> Catalog:
        """The schema as the lease's transaction sees it, read anew."""
        ...

    async def begin_write(self, lease: Any, lock_timeout_s: float | None = None) -> None:
        """Take the write lock, and begin on the newest pages. Raises LockTimeout, ReadOnlyVolume."""
        ...

    async def begin_snapshot(self, lease: Any) -> None:
        """Pin the newest read point until the transaction ends."""
        ...

    async def upgrade(self, lease: Any, lock_timeout_s: float | None = None) -> None:
        """Let a snapshot transaction write. Raises SerializationFailure if it reads an outdated one."""
        ...

    async def commit(self, lease: Any) -> int:
        """End the transaction, release the write lock. The LSN to wait for: of the newest commit that this

        transaction made or, having held the write lock, may have read; 0 if it had no lock.
        """
        ...

    async def rollback(self, lease: Any) -> None:
        """Undo the transaction, whatever state it is in; nothing happens if there is none."""
        ...

    async def wait_durable(self, lsn: Any) -> None:
        """Return once the LSN is durable. Raises OutcomeUnknown."""
        ...
