"""Statements about the session itself: its transaction, its settings, its prepared statements."""

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

from db_instance.dialect import Statement, types
from db_instance.session.channel import Channel
from db_instance.session.errors import Report, SessionError
from db_instance.session.results import Columns, OutputColumn
from db_instance.session.rows import Rows
from db_instance.session.settings import Settings, isolation_level, spelling
from db_instance.session.statements import Prepared, Running
from db_instance.session.transaction import Characteristics, Transaction
from db_instance.wire.postgres import backend

_OF_TRANSACTION = {"transaction_isolation", "transaction_read_only", "transaction_deferrable"}


class Commands:
    def __init__(
        self, channel: Channel, transaction: Transaction, settings: Settings, prepared: dict[str, Prepared]
    ) -> None:
        self._channel = channel
        self._transaction = transaction
        self._settings = settings
        self._prepared = prepared
        self._commands: dict[str, Callable[[Statement], Awaitable[Running]]] = {
            "begin": self._begin,
            "commit": self._commit,
            "rollback": self._rollback,
            "savepoint": self._savepoint,
            "release": self._release,
            "rollback_to": self._rollback_to,
            "set": self._set,
            "show": self._show,
            "reset": self._reset,
            "discard": self._discard,
            "deallocate": self._deallocate,
            "noop": self._nothing,
            "empty": self._nothing,
        }

    def knows(self, kind: str) -> bool:
        return kind in self._commands

    async def run(self, statement: Statement) -> Running:
        return await self._commands[statement.kind](statement)

    def columns(self, statement: Statement) -> Columns | None:
        if statement.kind != "show":
            return None
        name = statement.details["name"]
        if name == "all":
            return tuple(OutputColumn(word, types.TEXT) for word in ("name", "setting", "description"))
        return (OutputColumn(name if name in _OF_TRANSACTION else spelling(name), types.TEXT),)

    async def _nothing(self, statement: Statement) -> Running:
        return Running(statement.tag)

    # Transactions

    async def _begin(self, statement: Statement) -> Running:
        transaction = self._transaction
        if transaction.in_block:
            self._warn("25001", "there is already a transaction in progress")
            self._characterise(statement.details)
        else:
            transaction.begin(_changed(transaction.defaults(), statement.details))
        return Running(statement.tag)

    async def _commit(self, statement: Statement) -> Running:
        if not self._transaction.in_block:
            self._warn("25P01", "there is no transaction in progress")
        if self._transaction.status == b"E":
            await self._transaction.rollback()
            return Running("ROLLBACK")
        await self._transaction.commit()
        return Running(statement.tag)

    async def _rollback(self, statement: Statement) -> Running:
        if not self._transaction.in_block:
            self._warn("25P01", "there is no transaction in progress")
        await self._transaction.rollback()
        return Running(statement.tag)

    async def _savepoint(self, statement: Statement) -> Running:
        self._only_in_block("SAVEPOINT")
        await self._transaction.savepoint(statement.details["name"])
        return Running(statement.tag)

    async def _release(self, statement: Statement) -> Running:
        self._only_in_block("RELEASE SAVEPOINT")
        await self._transaction.release(statement.details["name"])
        return Running(statement.tag)

    async def _rollback_to(self, statement: Statement) -> Running:
        self._only_in_block("ROLLBACK TO SAVEPOINT")
        await self._transaction.rollback_to(statement.details["name"])
        return Running(statement.tag)

    def _only_in_block(self, what: str) -> None:
        if not self._transaction.in_block:
            raise SessionError("25P01", f"{what} can only be used in transaction blocks")

    def _characterise(self, details: Any) -> None:
        """SET TRANSACTION: what is fixed by the first statement cannot change after it."""
        transaction = self._transaction
        changed = _changed(transaction.characteristics, details)
        if transaction.has_run:
            if changed.isolation != transaction.characteristics.isolation:
                raise SessionError("25001", "SET TRANSACTION ISOLATION LEVEL must be called before any query")
            if transaction.characteristics.read_only and not changed.read_only:
                raise SessionError(
                    "25001", "cannot set transaction read-write mode inside a read-only transaction"
                )
        transaction.characteristics = changed

    # Settings

    async def _set(self, statement: Statement) -> Running:
        details = statement.details
        name = details["name"]
        if name == "transaction":
            if details.get("session"):
                self._set_defaults(details)
            else:
                self._set_transaction(details)
        elif name in _OF_TRANSACTION:
            self._set_transaction(_as_details(name, details["value"]))
        elif details.get("local") and not self._transaction.in_block:
            self._warn("25P01", "SET LOCAL can only be used in transaction blocks")
        else:
            self._settings.set(name, details["value"], local=bool(details.get("local")))
        return Running(statement.tag)

    def _set_transaction(self, details: Any) -> None:
        if not self._transaction.in_block:
            self._warn("25P01", "SET TRANSACTION can only be used in transaction blocks")
        self._characterise(details)

    def _set_defaults(self, details: Any) -> None:
        if "isolation" in details:
            self._settings.set("default_transaction_isolation", details["isolation"])
        if "read_only" in details:
            self._settings.set("default_transaction_read_only", "on" if details["read_only"] else "off")

    async def _reset(self, statement: Statement) -> Running:
        name = statement.details["name"]
        if name == "all":
            self._settings.reset_all()
        else:
            self._settings.set(name, None)
        return Running(statement.tag)

    async def _show(self, statement: Statement) -> Running:
        name = statement.details["name"]
        columns = self.columns(statement)
        assert columns is not None
        if name == "all":
            rows = Rows.of((each, value, "") for each, value in self._settings.all())
        else:
            rows = Rows.of([(self._value(name),)])
        return Running(statement.tag, rows, columns)

    def _value(self, name: str) -> str:
        now = self._transaction.characteristics
        if not self._transaction.in_block:
            now = self._transaction.defaults()
        if name == "transaction_isolation":
            return now.isolation
        if name == "transaction_read_only":
            return "on" if now.read_only else "off"
        if name == "transaction_deferrable":
            return "on" if now.deferrable else "off"
        return self._settings.get(name)

    async def _discard(self, statement: Statement) -> Running:
        if statement.details["what"] == "all":
            if self._transaction.in_block:
                raise SessionError("25001", "DISCARD ALL cannot run inside a transaction block")
            self._prepared.clear()
            self._settings.reset_all()
        return Running(statement.tag)

    async def _deallocate(self, statement: Statement) -> Running:
        name = statement.details["name"]
        if name is None:
            self._prepared.clear()
        elif self._prepared.pop(name, None) is None:
            raise SessionError("26000", f'prepared statement "{name}" does not exist')
        return Running(statement.tag)

    def _warn(self, sqlstate: str, message: str) -> None:
        self._channel.write(backend.notice_response(Report(sqlstate, message, severity="WARNING").fields()))


def _changed(characteristics: Characteristics, details: Any) -> Characteristics:
    if "isolation" in details:
        characteristics = replace(
            characteristics, isolation=isolation_level("isolation", details["isolation"])
        )
    if "read_only" in details:
        characteristics = replace(characteristics, read_only=details["read_only"])
    return characteristics


def _as_details(name: str, value: str | None) -> dict[str, Any]:
    """`SET transaction_read_only = on` says the same as SET TRANSACTION READ ONLY."""
    if name == "transaction_isolation":
        return {"isolation": value or "read committed"}
    if name == "transaction_read_only":
        return {"read_only": (value or "off").lower() in ("on", "true", "yes", "1")}
    return {}
