"""Starts statements: those of SQL in SQLite, those about the session itself in commands.py and copy.py."""

from collections.abc import Sequence
from typing import Any, Final

from db_instance.dialect import Catalog, Statement, split_statements
from db_instance.engine.lease import BATCH_ROWS
from db_instance.session.channel import Channel
from db_instance.session.commands import Commands
from db_instance.session.copy import copy_from, copy_to
from db_instance.session.errors import SessionError
from db_instance.session.results import Columns, Writer, is_complete, merge, settle, static_columns, writer
from db_instance.session.rows import Rows
from db_instance.session.settings import Settings
from db_instance.session.statement_cache import StatementCache
from db_instance.session.statements import Prepared, Running
from db_instance.session.transaction import Transaction
from db_instance.wire.postgres import backend

_ALLOWED_IN_FAILED_BLOCK: Final = {"commit", "rollback", "rollback_to"}
_COUNTED: Final = {"select", "insert", "update", "delete"}
_SQL: Final = _COUNTED | {"ddl", "explain"}
_COPIES: Final = {"copy_from", "copy_to"}
ABORTED: Final = "current transaction is aborted, commands ignored until end of transaction block"


class Execution:
    def __init__(
        self,
        channel: Channel,
        transaction: Transaction,
        settings: Settings,
        cache: StatementCache,
    ) -> None:
        self.transaction = transaction
        self.prepared: dict[str, Prepared] = {}
        self.channel = channel
        self._cache = cache
        self._commands = Commands(channel, transaction, settings, self.prepared)

    # Before a statement runs

    async def translate(self, sql: str, declared: tuple[int, ...]) -> Statement:
        """Raises the dialect's SqlError; SessionError in a failed block, unless it ends the block."""
        statement = self._cache.translate(sql, await self.transaction.catalog(), declared)
        self.check_status(statement)
        return statement

    async def translate_text(self, sql: str) -> tuple[Statement, list[Any]]:
        """The same of a text with values in it, and the values."""
        statement, values = self._cache.translate_text(sql, await self.transaction.catalog())
        self.check_status(statement)
        return statement, values

    def check_status(self, statement: Statement) -> None:
        if self.transaction.status == b"E" and statement.kind not in _ALLOWED_IN_FAILED_BLOCK:
            raise SessionError("25P02", ABORTED)

    async def hold_schema(self, statement: Statement) -> None:
        """Before a statement is translated for good: what it means depends on the schema, and while it stands in line
        for the write lock, or until its snapshot is pinned, another one's commit may change that."""
        if statement.kind not in _SQL | _COPIES:
            return
        if not self.transaction.in_block:
            self.transaction.begin_implicit()
        if statement.reads_only:
            await self.transaction.pin_snapshot()
        else:
            await self.transaction.begin_writing()

    async def prepare(self, name: str, sql: str, declared_types: tuple[int, ...]) -> Prepared:
        texts = split_statements(sql)
        if len(texts) > 1:
            raise SessionError("42601", "cannot insert multiple commands into a prepared statement")
        text = texts[0] if texts else ""
        statement = await self.translate(text, declared_types)
        return Prepared(name, text, declared_types, statement, await self.transaction.catalog())

    def check_name_is_free(self, name: str) -> None:
        if name in self.prepared:
            raise SessionError("42P05", f'prepared statement "{name}" already exists')

    def is_outdated(self, prepared: Prepared) -> bool:
        """The schema may have changed since it was translated."""
        return prepared.catalog is not self.transaction.known_catalog

    async def refresh(self, prepared: Prepared) -> None:
        """Translate again what was prepared for a schema that has changed since."""
        catalog = await self.transaction.catalog()
        if prepared.catalog is catalog:
            return
        await self._retranslate(prepared, catalog)

    async def _retranslate(self, prepared: Prepared, catalog: Catalog) -> None:
        statement = self._cache.translate(prepared.sql, catalog, prepared.declared_types)
        before = prepared.promised
        if before is not None and statement.returns_rows:
            now = static_columns(statement)
            if now is None or not is_complete(now):
                described = await self.transaction.describe(statement.sql, len(statement.param_types))
                now = settle(merge(now, described), None)
            if [column.oid for column in now] != [column.oid for column in before]:
                raise SessionError("0A000", "cached plan must not change result type")
        prepared.retranslated(statement, catalog)

    def command_columns(self, statement: Statement) -> Columns | None:
        """The columns of a statement that SQLite never sees; None for any other."""
        return self._commands.columns(statement)

    # Running

    async def start(
        self, statement: Statement, params: Sequence[Any], columns: Columns | None = None
    ) -> Running:
        """Run a statement as far as its first rows. `columns`: those of its result, where they are known."""
        self.check_status(statement)
        kind = statement.kind
        if not self.transaction.in_block:
            self.transaction.begin_implicit()
        if self._commands.knows(kind):
            return await self._commands.run(statement)
        if kind == "copy_from":
            count = await copy_from(self.channel, self.transaction, statement)
            return Running(statement.tag, counts=True, returned=count)
        if kind == "copy_to":
            count = await copy_to(self.channel, self.transaction, statement)
            return Running(statement.tag, counts=True, returned=count)
        if kind not in _SQL:
            raise SessionError("0A000", f"{kind.upper()} is not supported")
        return await self._start_sql(statement, params, columns)

    async def _start_sql(
        self, statement: Statement, params: Sequence[Any], columns: Columns | None
    ) -> Running:
        if not statement.returns_rows:
            columns = ()
        describe = columns is None
        if statement.reads_only:
            rows = await self.transaction.read(statement.sql, params, describe=describe)
        else:
            ddl = statement.kind == "ddl"
            rows = await self.transaction.write(statement.sql, params, describe=describe, changes_schema=ddl)
        if columns is None:
            columns = await self._result_columns(statement, rows, len(params))
        return Running(statement.tag, rows, columns, counts=statement.kind in _COUNTED)

    async def _result_columns(self, statement: Statement, rows: Rows, params: int) -> Columns:
        static = static_columns(statement)
        if rows.columns:
            return merge(static, rows.columns)
        # A cursor that has come to its end without a row no longer knows its columns.
        if static is not None:
            return static
        return merge(None, await self.transaction.describe(statement.sql, params))

    # Results

    async def writer(self, running: Running, formats: tuple[int, ...]) -> Writer:
        """How the statement's rows are written, by what is known of them now."""
        columns = running.columns
        if not is_complete(columns):
            assert running.rows is not None
            columns = running.columns = settle(columns, await running.rows.peek())
        return writer(columns, formats)

    async def send_rows(self, running: Running, encoders: tuple[backend.Encode, ...], max_rows: int) -> bool:
        """Write the rows, at most `max_rows` if that is not 0. True if that limit ended it."""
        rows = running.rows
        assert rows is not None
        left = max_rows
        while True:
            wanted = min(left, BATCH_ROWS) if max_rows else BATCH_ROWS
            batch = await rows.fetch(wanted)
            if batch:
                if len(batch[0]) != len(encoders):
                    raise SessionError("0A000", "cached plan must not change result type")
                self.channel.write(backend.data_rows(batch, encoders))
                running.returned += len(batch)
            if len(batch) < wanted:
                return False
            if max_rows:
                left -= len(batch)
                if not left:
                    return True
            if self.channel.full:
                await self.channel.flush()
