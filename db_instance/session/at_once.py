"""The shortest way from a request to its answer, for what clients send most.

That is a prepared statement with its values in one packet (Bind, Describe, Execute, Sync), or one statement
as a text. `answer` takes the packet as it came, before anything of it is decoded: if it is what was sent
before with other values, and the statement has all it needs at hand, its answer is there when `answer` returns;
no message, portal or coroutine is made for it. Whatever is unusual goes the long way (session.py,
extended.py), which does the same in more steps, and from which this learns what comes again.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

from db_instance.dialect import Catalog, SqlError, Statement
from db_instance.engine import parking
from db_instance.engine.lease import Cursor
from db_instance.engine.parking import Outcome, Waiting
from db_instance.session.errors import SessionError
from db_instance.session.execution import Execution
from db_instance.session.results import Writer, is_complete, static_columns, writer
from db_instance.session.settings import Settings
from db_instance.session.statement_cache import StatementCache
from db_instance.session.statements import Portal, Prepared, Running
from db_instance.wire.postgres import backend
from db_instance.wire.postgres.frontend import BindPattern
from db_instance.wire.postgres.messages import RunPrepared

_COUNTED: Final = {"select", "insert", "update", "delete"}
_BLOCKS: Final = {"begin", "commit"}
_WRONG_VALUE: Final = (SessionError, SqlError, ValueError, OverflowError)
"""What coding a value may raise."""

_BOUND_AND_DESCRIBED: Final = backend.BIND_COMPLETE + backend.NO_DATA


@dataclass(frozen=True, slots=True)
class Known:
    """A statement that was run before, and all of its answer that does not depend on values."""

    statement: Statement
    writer: Writer | None
    """How its rows are written; None: it writes, and returns none."""
    bound: bytes
    """What is answered before it runs, and so also when it fails."""
    head: bytes
    """What comes before its rows."""


@dataclass(frozen=True, slots=True)
class Begun:
    """A request that could not be answered at once: it waits, has failed, or has many rows."""

    known: Known
    params: list[Any]
    call: Outcome | Waiting | None
    """None: it has not begun, since it commits, or needs the write lock, or a connection."""
    packet: bytes
    catalog: Catalog | None
    """The schema that it was translated for."""


class AtOnce:
    def __init__(
        self,
        execution: Execution,
        portals: Mapping[str, Portal],
        settings: Settings,
        cache: StatementCache,
    ) -> None:
        self._execution = execution
        self._portals = portals
        self._cache = cache
        self._transaction = execution.transaction
        self._prepared = execution.prepared
        self._settings = settings

    def answer(self, packet: bytes) -> bytes | Begun | None:
        """The whole answer, or what the session has to `finish`; None, and nothing has happened, if the packet
        is not known or its statement cannot begin now. Only for a session that waits for its client's next request.
        """
        if packet[:1] == b"Q":
            return self._answer_text(packet)
        end = BindPattern.statement_ends(packet)
        if not end:
            return None
        prepared = self._prepared.get(packet[BindPattern.STATEMENT_AT : end].decode("utf-8", "replace"))
        if prepared is None or prepared.repeated is None:
            return None
        if not self._is_plain or self._execution.is_outdated(prepared):
            return None
        pattern, decoders, known = prepared.repeated
        if self._settings.seconds("statement_timeout") is not None:
            return None
        try:
            params = pattern.values(packet, end, decoders)
        except _WRONG_VALUE:
            return None  # the long way tells what is wrong
        return None if params is None else self._answer(known, params, packet)

    def _answer_text(self, packet: bytes) -> bytes | Begun | None:
        if not self._is_plain or int.from_bytes(packet[1:5], "big") != len(packet) - 1:
            return None
        if self._settings.seconds("statement_timeout") is not None:
            return None
        try:
            found = self._cache.repeated(packet[5:-1].decode(), self._transaction.known_catalog)
        except _WRONG_VALUE:
            return None
        if found is None:
            return None
        self._prepared.pop("", None)
        return self._answer(*found, packet)

    def learn_text(self, sql: str, statement: Statement, catalog: Catalog) -> None:
        """The text was one statement, translated for this schema, and has run: it is likely to come again."""
        known = _known_text(statement)
        if known is not None:
            self._cache.learn(sql, statement, catalog, known)

    @property
    def _is_plain(self) -> bool:
        """Nothing is open or has failed that a statement would have to do with."""
        return not self._portals and self._transaction.status != b"E"

    def _answer(self, known: Known, params: list[Any], packet: bytes) -> bytes | Begun | None:
        transaction, reads = self._transaction, known.writer is not None
        catalog = transaction.known_catalog
        if known.statement.kind == "begin":
            if transaction.begun:
                return None
            transaction.begin(transaction.defaults())
            return known.bound + known.head + backend.ready_for_query(transaction.status)
        if known.statement.kind == "commit":
            return Begun(known, params, None, packet, catalog) if transaction.in_block else None
        if not transaction.runs_plainly(reads=reads):
            return None
        if not transaction.is_ready(reads=reads):
            return Begun(known, params, None, packet, catalog)
        call = transaction.begin_now(known.statement.sql, params, reads=reads)
        if type(call) is not Outcome or call.error is not None or type(call.value) is Cursor:
            return Begun(known, params, call, packet, catalog)
        try:
            told = known.bound + _answer_of(known, call.value)
        except _WRONG_VALUE:
            # A value that its column's type cannot tell: `finish` says so.
            return Begun(known, params, call, packet, catalog)
        transaction.end_now()
        return told + backend.ready_for_query(transaction.status)

    async def finish(self, begun: Begun) -> bool:
        """Write the answer of what `answer` began, but for the word that the next request may come. False, and
        nothing has happened, if it has to go the long way."""
        if begun.call is None:
            return await self._run(begun.known, begun.params, begun.catalog)
        self._execution.channel.write(begun.known.bound)
        await self._write(begun.known, await parking.finish(begun.call))
        return True

    async def run(self, message: RunPrepared) -> bool:
        """The same for a message. False, and nothing has happened, if it has to go the long way."""
        bind = message.bind
        prepared = self._prepared.get(bind.statement)
        if prepared is None or not self._is_plain or self._execution.is_outdated(prepared):
            return False
        known = _known(prepared, message)
        if known is None:
            return False
        params = prepared.decode(bind.params, bind.param_formats)
        if not self._may_run(known):
            return False
        if not await self._run(known, params, prepared.catalog):
            return False
        # The client is likely to send it again, with other values.
        prepared.repeated = BindPattern(message), prepared.decoders(bind.param_formats), known
        return True

    def _may_run(self, known: Known) -> bool:
        transaction, kind = self._transaction, known.statement.kind
        if kind == "begin":
            return not transaction.begun
        if kind == "commit":
            return transaction.in_block
        return transaction.runs_plainly(reads=known.writer is not None)

    async def _run(self, known: Known, params: list[Any], catalog: Catalog | None) -> bool:
        """False, and nothing has happened or been answered: it writes, and while it stood in line for the write lock
        the schema has become another than `catalog`, for which it was translated."""
        transaction, statement = self._transaction, known.statement
        write = self._execution.channel.write
        if statement.kind == "begin":
            write(known.bound)
            transaction.begin(transaction.defaults())
            write(known.head)
        elif statement.kind == "commit":
            write(known.bound)
            await transaction.commit()
            write(known.head)
        elif known.writer is None and not transaction.in_block:
            with self._bound_if_it_fails(known):
                changed = await transaction.write_of_its_own(statement.sql, params, catalog)
            if changed is None:
                return False
            write(known.bound + _answer_of(known, changed))
        else:
            reads = known.writer is not None
            with self._bound_if_it_fails(known):
                await transaction.get_ready(reads=reads)
            if not reads and transaction.known_catalog is not catalog:
                return False
            write(known.bound)
            call = transaction.begin_now(statement.sql, params, reads=reads)
            await self._write(known, await parking.finish(call))
        return True

    @contextmanager
    def _bound_if_it_fails(self, known: Known) -> Iterator[None]:
        """Its values were taken, whatever becomes of it."""
        try:
            yield
        except BaseException:
            self._execution.channel.write(known.bound)
            raise

    async def _write(self, known: Known, value: Any) -> None:
        execution = self._execution
        if type(value) is not Cursor:
            execution.channel.write(_answer_of(known, value))
            return
        assert known.writer is not None
        execution.channel.write(known.head)
        rows = self._transaction.adopt(value)
        running = Running(known.statement.tag, rows, counts=True)
        await execution.send_rows(running, known.writer.encoders, 0)
        self._transaction.forget(rows)
        execution.channel.write(_counted(known.statement.tag, running.returned))


def _known(prepared: Prepared, message: RunPrepared) -> Known | None:
    statement = prepared.statement
    bound = _BOUND_AND_DESCRIBED if message.described else backend.BIND_COMPLETE
    if statement.kind in _BLOCKS and not statement.details:
        return Known(statement, None, bound, backend.command_complete(statement.tag))
    if statement.kind not in _COUNTED or statement.reads_only is not statement.returns_rows:
        return None
    if not statement.returns_rows:
        return Known(statement, None, bound, b"")
    found = prepared.writer(message.bind.result_formats)
    if found is None:
        return None
    bound = backend.BIND_COMPLETE + found.description if message.described else backend.BIND_COMPLETE
    return Known(statement, found, bound, b"")


def _known_text(statement: Statement) -> Known | None:
    if statement.kind in _BLOCKS and not statement.details:
        return Known(statement, None, b"", backend.command_complete(statement.tag))
    if statement.kind not in _COUNTED or statement.reads_only is not statement.returns_rows:
        return None
    if not statement.returns_rows:
        return Known(statement, None, b"", b"")
    columns = static_columns(statement)
    if columns is None or not is_complete(columns):
        return None
    found = writer(columns, ())
    return Known(statement, found, b"", found.description)


def _answer_of(known: Known, value: Any) -> bytes:
    """`value`: the rows of a statement that reads, how many rows one that writes has changed."""
    how, tag = known.writer, known.statement.tag
    if how is None:
        return known.head + _counted(tag, value)
    if value and len(value[0]) != len(how.encoders):
        raise SessionError("0A000", "cached plan must not change result type")
    return known.head + backend.data_rows(value, how.encoders) + _counted(tag, len(value))


@lru_cache(maxsize=2000)
def _counted(tag: str, count: int) -> bytes:
    """CommandComplete with a number of rows."""
    return backend.command_complete(f"{tag} {count}")
