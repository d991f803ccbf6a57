"""One client's session: it reads messages and answers them, until the client leaves or must go.

Each message is answered to its end before the next one is read. A failed one is answered with its
error; what follows it in the same extended query sequence is skipped up to Sync, as the protocol says.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final

from db_instance.dialect import check_syntax, split_statements
from db_instance.engine.engine import Engine
from db_instance.session.at_once import AtOnce, Begun
from db_instance.session.channel import Channel, ClientGone, IdleTooLong
from db_instance.session.errors import FatalError, Report, SessionError, report
from db_instance.session.execution import Execution
from db_instance.session.extended import ExtendedQueries
from db_instance.session.settings import Settings
from db_instance.session.statement_cache import StatementCache
from db_instance.session.statements import Running
from db_instance.session.transaction import Transaction
from db_instance.wire.postgres import backend
from db_instance.wire.postgres.messages import (
    Bind,
    Close,
    CopyData,
    CopyDone,
    CopyFail,
    Describe,
    Execute,
    Flush,
    Message,
    NotText,
    Parse,
    Query,
    RunPrepared,
    Sync,
    Terminate,
)
from runtime.events import get_logger

events = get_logger("session")

_EXTENDED: Final = (Parse, Bind, Describe, Execute, Close, Flush)


class Session:
    def __init__(
        self,
        engine: Engine,
        channel: Channel,
        settings: Settings,
        cache: StatementCache,
    ) -> None:
        self._channel = channel
        self._settings = settings
        self._transaction = Transaction(engine, settings)
        self._execution = Execution(channel, self._transaction, settings, cache)
        self._extended = ExtendedQueries(channel, self._execution)
        self._at_once = AtOnce(self._execution, self._extended.portals, settings, cache)
        self._at_rest = False
        """Nothing is under way: the client's next request may be answered at once."""
        self._told_changes = settings.changes
        self._told = settings.reported()
        self._skipping = False
        self._task: asyncio.Task[Any] | None = None
        self._can_cancel = False
        self._cancelled: SessionError | None = None
        self._doom: SessionError | None = None
        extended = self._extended
        self._handlers: dict[type, Callable[[Any], Awaitable[None]]] = {
            Query: self._query,
            Parse: extended.parse,
            Bind: extended.bind,
            Describe: extended.describe,
            Execute: self._execute,
            RunPrepared: self._run_prepared,
            Begun: self._finish,
            Close: extended.close,
            Sync: self._sync,
            Flush: self._flush,
            CopyData: self._ignore,
            CopyDone: self._ignore,
            CopyFail: self._ignore,
            NotText: self._refuse,
        }

    async def run(self) -> None:
        """Serve the client to the end. Raises what ended the session, unless the client just left."""
        self._task = asyncio.current_task()
        try:
            self._ready()
            while True:
                message: Message | Begun | None = self._channel.poll()
                if message is None:
                    message = await self._next()
                if type(message) is Terminate:
                    return
                if not self._skipping:
                    await self._handle(message)
                elif type(message) is Sync or type(message) is RunPrepared:
                    await self._handle(Sync())
        finally:
            self._can_cancel = False
            self._extended.close_all()
            await self._transaction.rollback()

    def cancel(self, reason: SessionError) -> None:
        """End the running statement with this error; a FatalError ends the session as well.

        A commit that is under way cannot be undone by this: its client hears what becomes of it.
        """
        if isinstance(reason, FatalError):
            self._doom = reason
        if not self._can_cancel or self._transaction.begrudge(reason):
            return
        if not self._transaction.committing and self._cancelled is None:
            self._cancelled = reason
            assert self._task is not None
            self._task.cancel()

    # Messages

    async def _next(self) -> Message | Begun:
        self._at_rest = not self._skipping
        try:
            message: Message | Begun = await self._channel.receive(self._idle_limit_s)
            return message
        except IdleTooLong:
            raise self._idle_error() from None
        except asyncio.CancelledError:
            # A cancel that came as its statement had just ended: nothing is left to cancel.
            if not self._take_cancel():
                raise
            return await self._next()
        finally:
            self._at_rest = False

    def _idle_error(self) -> FatalError:
        if self._transaction.begun:
            return FatalError("25P03", "terminating connection due to idle-in-transaction timeout")
        return FatalError("57P05", "terminating connection due to idle-session timeout")

    def _idle_limit_s(self) -> float | None:
        if self._transaction.begun:  # a sequence without its Sync holds what a block would
            return self._settings.seconds("idle_in_transaction_session_timeout")
        return self._settings.seconds("idle_session_timeout")

    async def _handle(self, message: Message | Begun) -> None:
        handler = self._handlers.get(type(message))
        if handler is None:
            raise FatalError("0A000", f"{type(message).__name__} is not supported")
        self._can_cancel = True
        try:
            await handler(message)
            self._can_cancel = False
        except (ClientGone, FatalError):
            raise
        except IdleTooLong:
            raise self._idle_error() from None
        except (Exception, asyncio.CancelledError) as error:
            self._can_cancel = False
            await self._failed(error, message)

    async def _failed(self, error: BaseException, message: Message | Begun) -> None:
        """Answer with the error, undo what it spoiled, and get ready for the next message."""
        if isinstance(error, asyncio.CancelledError):
            cancelled = self._take_cancel()
            if cancelled is None:
                raise error
            error = cancelled
        told = report(error, self._transaction.known_catalog)
        if told.is_bug:
            events.error("session.bug", exc_info=error)
        if self._doom is not None and self._doom is not error:
            told = report(self._doom)
        if told.severity == "FATAL":
            raise _as_fatal(told)
        if self._transaction.in_block:
            self._extended.close_portals()
        await self._transaction.fail()
        self._channel.write(backend.error_response(told.fields()))
        if isinstance(message, _EXTENDED) or (isinstance(message, NotText) and message.extended):
            self._skipping = True
        else:
            self._ready()

    def _take_cancel(self) -> SessionError | None:
        """The reason why this task was cancelled, once; None if it was not by us."""
        reason, self._cancelled = self._cancelled, None
        if reason is not None:
            assert self._task is not None
            self._task.uncancel()
        return reason

    def _ready(self) -> None:
        """The answer is complete: tell changed settings, and that the next message may come."""
        if self._told_changes != self._settings.changes:
            self._tell_settings()
        self._channel.write(backend.ready_for_query(self._transaction.status))
        self._channel.sequence_ends()

    def _tell_settings(self) -> None:
        now = self._settings.reported()
        for name, value in now.items():
            if self._told[name] != value:
                self._channel.write(backend.parameter_status(name, value))
        self._told = now
        self._told_changes = self._settings.changes

    async def _ignore(self, message: Message) -> None:
        """What a client still sends of a COPY that has failed."""

    async def _refuse(self, message: NotText) -> None:
        found = " ".join(f"0x{byte:02x}" for byte in message.found)
        raise SessionError("22021", f'invalid byte sequence for encoding "UTF8": {found}')

    async def _flush(self, message: Flush) -> None:
        await self._channel.flush()

    async def _sync(self, message: Sync | None = None) -> None:
        self._skipping = False
        if not self._transaction.in_block:
            self._extended.close_portals()
            await self._transaction.commit()
        self._ready()

    async def _execute(self, message: Execute) -> None:
        timer = self._start_timer()
        try:
            await self._extended.execute(message)
        finally:
            if timer is not None:
                timer.cancel()

    async def _run_prepared(self, message: RunPrepared) -> None:
        timer = self._start_timer()
        try:
            if not await self._at_once.run(message):
                if self._extended.takes_data(message):
                    # Its Sync comes before the data, and so counts for nothing: the client sends another one.
                    self._channel.unfold(message)
                    await self._handle(message.bind)
                    return
                await self._extended.run_prepared(message)
        finally:
            if timer is not None:
                timer.cancel()
        await self._sync()

    def answer(self, packet: bytes) -> bytes | Begun | None:
        """The answer to what came from the client, if it can be given at once (at_once.py).

        A `Begun` is to be handed to the session as its next message. None: the packet is to be decoded.
        """
        return self._at_once.answer(packet) if self._at_rest else None

    async def _finish(self, begun: Begun) -> None:
        if await self._at_once.finish(begun):
            await self._sync()
        else:
            self._channel.put_back(begun.packet)

    async def _query(self, message: Query) -> None:
        timer = self._start_timer()
        try:
            await self._simple_query(message.sql)
        finally:
            if timer is not None:
                timer.cancel()
        if not self._transaction.in_block:
            self._extended.close_portals()
        self._ready()

    def _start_timer(self) -> asyncio.TimerHandle | None:
        timeout_s = self._settings.seconds("statement_timeout")
        if timeout_s is None:
            return None
        reason = SessionError("57014", "canceling statement due to statement timeout")
        return asyncio.get_running_loop().call_later(timeout_s, self.cancel, reason)

    # Simple query

    async def _simple_query(self, sql: str) -> None:
        """All statements of one text: together one transaction, unless they say otherwise."""
        self._extended.close_unnamed()
        texts = split_statements(sql)
        if not texts:
            self._channel.write(backend.EMPTY_QUERY)
        if len(texts) > 1:
            for text in texts:
                check_syntax(text)
        for index, text in enumerate(texts):
            catalog = await self._transaction.catalog()
            statement, values = await self._execution.translate_text(text)
            await self._execution.hold_schema(statement)
            if catalog is not self._transaction.known_catalog:
                catalog = await self._transaction.catalog()
                statement, values = await self._execution.translate_text(text)
            running = await self._execution.start(statement, values)
            await self._return_all(running)
            self._extended.after(statement)
            if index == len(texts) - 1 and not self._transaction.in_block:
                await self._transaction.commit()
            self._channel.write(_completion(running))
        if len(texts) == 1:
            self._at_once.learn_text(sql, statement, catalog)

    async def _return_all(self, running: Running) -> None:
        if running.rows is None:
            return
        if running.columns:
            writer = await self._execution.writer(running, ())
            self._channel.write(writer.description)
            await self._execution.send_rows(running, writer.encoders, 0)
        self._transaction.forget(running.rows)


def _completion(running: Running) -> bytes:
    tag = running.complete_tag()
    return backend.command_complete(tag) if tag else backend.EMPTY_QUERY


def _as_fatal(told: Report) -> FatalError:
    return FatalError(told.sqlstate, told.message, detail=told.detail, hint=told.hint)
