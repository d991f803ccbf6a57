"""The extended query protocol: statements are parsed once, bound to values, described and run in parts."""

from typing import Final

from db_instance.dialect import Statement
from db_instance.session.channel import Channel
from db_instance.session.errors import SessionError
from db_instance.session.execution import Execution
from db_instance.session.results import (
    Columns,
    Writer,
    is_complete,
    merge,
    settle,
    static_columns,
    writer,
)
from db_instance.session.statements import PORTALS_MAX, PREPARED_MAX, Portal, Prepared, named
from db_instance.wire.postgres import backend
from db_instance.wire.postgres.messages import Bind, Close, Describe, Execute, Parse, RunPrepared

_UNNAMED_PORTAL: Final = Describe("P", "")
_ALL_ROWS: Final = Execute("", 0)


class ExtendedQueries:
    def __init__(self, channel: Channel, execution: Execution) -> None:
        self._channel = channel
        self._execution = execution
        self.portals: dict[str, Portal] = {}

    @property
    def _prepared(self) -> dict[str, Prepared]:
        return self._execution.prepared

    async def parse(self, message: Parse) -> None:
        if message.name:
            self._execution.check_name_is_free(message.name)
        if len(self._prepared) >= PREPARED_MAX:
            raise SessionError("53400", f"more than {PREPARED_MAX} prepared statements in one session")
        prepared = await self._execution.prepare(message.name, message.sql, message.param_types)
        self._prepared[message.name] = prepared
        self._channel.write(backend.PARSE_COMPLETE)

    async def bind(self, message: Bind) -> None:
        prepared = self._find_prepared(message.statement)
        if message.portal and message.portal in self.portals:
            raise SessionError("42P03", f'portal "{message.portal}" already exists')
        if len(self.portals) >= PORTALS_MAX:
            raise SessionError("53400", f"more than {PORTALS_MAX} portals in one session")
        self._execution.check_status(prepared.statement)
        if self._execution.is_outdated(prepared):
            await self._execution.refresh(prepared)
        params = prepared.decode(message.params, message.param_formats)
        self._drop_portal(message.portal)
        self.portals[message.portal] = Portal(
            message.portal,
            prepared,
            message.params,
            message.param_formats,
            prepared.param_types(),
            params,
            message.result_formats,
            depth=self._execution.transaction.depth,
        )
        self._channel.write(backend.BIND_COMPLETE)

    async def describe(self, message: Describe) -> None:
        if message.kind == "S":
            await self._describe_statement(self._find_prepared(message.name))
        else:
            await self._describe_portal(self._find_portal(message.name))

    async def _describe_statement(self, prepared: Prepared) -> None:
        self._execution.check_status(prepared.statement)
        await self._execution.refresh(prepared)
        types = [oid or 25 for oid in prepared.param_types()]
        columns = await self._promise(prepared)
        self._channel.write(backend.parameter_description(types))
        if columns:
            self._channel.write(writer(columns, ()).description)
        else:
            self._channel.write(backend.NO_DATA)

    async def _promise(self, prepared: Prepared) -> Columns:
        """The statement's columns, which are kept from now on."""
        if prepared.promised is None:
            prepared.promise(settle(await self._columns(prepared), None))
        assert prepared.promised is not None
        return prepared.promised

    async def _columns(self, prepared: Prepared) -> Columns:
        """As far as they can be known without running the statement."""
        statement = prepared.statement
        if not statement.returns_rows:
            return ()
        own = self._execution.command_columns(statement)
        if own is not None:
            return own
        if prepared.static is not None:
            return prepared.static
        static = static_columns(statement)
        described = await self._execution.transaction.describe(statement.sql, len(prepared.param_types()))
        return merge(static, described)

    async def _describe_portal(self, portal: Portal) -> None:
        if not portal.prepared.statement.returns_rows:
            self._channel.write(backend.NO_DATA)
            return
        portal.told = await self._writer(portal)
        self._channel.write(portal.told.description)

    async def _writer(self, portal: Portal) -> Writer:
        """How the portal's rows are written. May have to run it, to see of which types its values are."""
        prepared = portal.prepared
        known = prepared.writer(portal.formats)
        if known is not None:
            return known
        columns: Columns = ()
        if portal.running is None:
            columns = await self._columns(prepared)
            if not is_complete(columns) and prepared.statement.reads_only:
                await self._start(portal)
        if portal.running is not None:
            return await self._execution.writer(portal.running, portal.formats)
        return writer(settle(columns, None), portal.formats)

    async def _settle(self, portal: Portal) -> None:
        """See to it that the portal is what its statement means in the schema that it is run in."""
        prepared = portal.prepared
        self._execution.check_status(prepared.statement)
        await self._execution.hold_schema(prepared.statement)
        if self._execution.is_outdated(prepared):
            await self._execution.refresh(prepared)
        if prepared.param_types() != portal.bound_types:
            portal.bound_types = prepared.param_types()
            portal.params = prepared.decode(portal.bound, portal.bound_formats)
        now = prepared.writer(portal.formats)
        if portal.told is not None and now is not None and now.description != portal.told.description:
            raise SessionError("0A000", "cached plan must not change result type")

    async def _start(self, portal: Portal) -> None:
        await self._settle(portal)
        prepared = portal.prepared
        portal.running = await self._execution.start(prepared.statement, portal.params, prepared.columns)

    async def execute(self, message: Execute) -> None:
        portal = self._find_portal(message.portal)
        if portal.done and not portal.prepared.statement.returns_rows:
            raise SessionError("55000", f"{named('portal', portal.name)} cannot be run")
        if portal.running is None:
            await self._start(portal)
        running = portal.running
        assert running is not None
        if running.rows is not None and running.columns:
            before = running.returned
            told = portal.told
            if told is None:
                told = portal.prepared.writer(portal.formats)
            if told is None:
                told = await self._execution.writer(running, portal.formats)
            suspended = await self._execution.send_rows(running, told.encoders, message.max_rows)
            if suspended:
                self._channel.write(backend.PORTAL_SUSPENDED)
                return
            running.returned -= before
        portal.done = True
        if running.rows is not None:
            self._execution.transaction.forget(running.rows)
        tag = running.complete_tag()
        self._channel.write(backend.command_complete(tag) if tag else backend.EMPTY_QUERY)
        self.after(portal.prepared.statement)

    def after(self, statement: Statement) -> None:
        """The statement has run: portals live no longer than the transaction that they are of, or its savepoint."""
        if statement.kind in ("commit", "rollback") and not self._execution.transaction.in_block:
            self.close_portals()
        elif statement.kind in ("rollback_to", "release"):
            self._close_portals_of_savepoint(undone=statement.kind == "rollback_to")

    def takes_data(self, message: RunPrepared) -> bool:
        """Does the statement read on from the client, as COPY FROM does?"""
        prepared = self._prepared.get(message.bind.statement)
        return prepared is not None and prepared.statement.kind == "copy_from"

    async def run_prepared(self, message: RunPrepared) -> None:
        """`bind`, `describe` and `execute`, one after the other."""
        await self.bind(message.bind)
        await self._settle(self._find_portal(""))
        if message.described:
            await self.describe(_UNNAMED_PORTAL)
        await self.execute(_ALL_ROWS)

    async def close(self, message: Close) -> None:
        if message.kind == "S":
            self._prepared.pop(message.name, None)
        else:
            self._drop_portal(message.name)
        self._channel.write(backend.CLOSE_COMPLETE)

    def close_unnamed(self) -> None:
        """A simple query takes the place of the unnamed statement and portal."""
        self._prepared.pop("", None)
        self._drop_portal("")

    def close_portals(self) -> None:
        """Portals live as long as their transaction."""
        for name in list(self.portals):
            self._drop_portal(name)

    def _close_portals_of_savepoint(self, *, undone: bool) -> None:
        """After ROLLBACK TO, those that were opened since the savepoint are gone; after RELEASE they are of those around."""
        depth = self._execution.transaction.depth
        for portal in list(self.portals.values()):
            if undone and portal.depth >= depth:
                self._drop_portal(portal.name)
            portal.depth = min(portal.depth, depth)

    def close_all(self) -> None:
        self.close_portals()
        self._prepared.clear()

    def _drop_portal(self, name: str) -> None:
        portal = self.portals.pop(name, None)
        if portal is not None and portal.running is not None and portal.running.rows is not None:
            self._execution.transaction.forget(portal.running.rows)

    def _find_prepared(self, name: str) -> Prepared:
        prepared = self._prepared.get(name)
        if prepared is None:
            raise SessionError("26000", f"{named('prepared statement', name)} does not exist")
        return prepared

    def _find_portal(self, name: str) -> Portal:
        portal = self.portals.get(name)
        if portal is None:
            raise SessionError("34000", f"{named('portal', name)} does not exist")
        return portal
