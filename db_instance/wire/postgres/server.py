"""Listens for PostgreSQL clients, lets them in, and gives each one a session.

server = PostgresServer(engine, ServerSettings())
await server.start("127.0.0.1", 5440)
...
await server.stop()
"""

import asyncio
import hmac
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from db_instance.engine.engine import Engine
from db_instance.session.channel import ClientGone
from db_instance.session.errors import FatalError, SessionError, report
from db_instance.session.session import Session
from db_instance.session.settings import Settings
from db_instance.session.statement_cache import StatementCache
from db_instance.wire.postgres import backend
from db_instance.wire.postgres.auth import Authentication, Trust
from db_instance.wire.postgres.connection import Connection
from db_instance.wire.postgres.frontend import CLIENT_MESSAGE_BYTES_MAX, ProtocolViolation
from db_instance.wire.postgres.messages import CancelRequest
from db_instance.wire.postgres.startup import Client, authenticate, introduce
from db_instance.wire.postgres.vigil import Vigil
from runtime.events import get_logger

events = get_logger("wire")

_STRANGERS_MAX: Final = 100
"""Connections beyond the sessions' limit that are still told why they are not let in."""

SHUTDOWN: Final = "terminating connection due to administrator command"


@dataclass(frozen=True, slots=True)
class ServerSettings:
    max_connections: int = 500
    startup_timeout_s: float = 10.0
    """From the connection to the end of authentication."""
    session_defaults: dict[str, str] = field(
        default_factory=lambda: {"lock_timeout": "1min", "idle_in_transaction_session_timeout": "10min"}
    )
    """What settings begin with, unless the client says otherwise. There is one write lock: nobody waits
    for it, or forgets that they hold it, for ever."""


class PostgresServer:
    def __init__(
        self,
        engine: Engine,
        settings: ServerSettings | None = None,
        *,
        authentication: Callable[[], Authentication] = Trust,
        dice: random.Random | None = None,
    ) -> None:
        self.settings = settings or ServerSettings()
        self._engine = engine
        self._authentication = authentication
        self._dice = dice or random.SystemRandom()
        self._statements = StatementCache()
        self._listener: asyncio.Server | None = None
        self._connections: set[Connection] = set()
        self._sessions: dict[int, tuple[Connection, Session, bytes]] = {}
        self._vigil: Vigil | None = None
        self._stopping = False
        self._all_closed: asyncio.Future[None] | None = None

    @property
    def address(self) -> str:
        """host:port, as it was bound."""
        assert self._listener is not None
        host, port = self._listener.sockets[0].getsockname()[:2]
        return f"{host}:{port}"

    @property
    def sessions(self) -> int:
        return len(self._sessions)

    async def start(self, host: str, port: int) -> None:
        loop = asyncio.get_running_loop()
        self._vigil = Vigil(loop)
        self._listener = await loop.create_server(self._accept, host, port, backlog=512)

    async def stop(self, why: FatalError | None = None, grace_s: float = 2.0) -> None:
        """Let nobody in, end every session (with `why`, or else 57P01), and return when all are gone."""
        self._stopping = True
        if self._listener is not None:
            self._listener.close()
        for connection in list(self._connections):
            connection.terminate(why or FatalError("57P01", SHUTDOWN))
        await self._until_closed(grace_s)
        for connection in list(self._connections):
            connection.abort()
        await self._until_closed(grace_s)

    async def _until_closed(self, limit_s: float) -> None:
        if not self._connections:
            return
        self._all_closed = asyncio.get_running_loop().create_future()
        await asyncio.wait([self._all_closed], timeout=limit_s)

    def _accept(self) -> asyncio.Protocol:
        assert self._vigil is not None
        connection = Connection(self._serve, self._forget, self._vigil)
        self._connections.add(connection)
        return connection

    def _forget(self, connection: Connection) -> None:
        self._connections.discard(connection)
        if not self._connections and self._all_closed is not None and not self._all_closed.done():
            self._all_closed.set_result(None)

    async def _serve(self, connection: Connection) -> None:
        """One connection, from its first byte to its last."""
        if self._stopping or len(self._connections) > self.settings.max_connections + _STRANGERS_MAX:
            return
        try:
            entered = await self._let_in(connection)
            if entered is not None:
                await self._run_session(connection, *entered)
        except ClientGone:
            return
        except (SessionError, ProtocolViolation) as error:
            told = report(error)
            told.severity = "FATAL"
            connection.write(backend.error_response(told.fields()))

    async def _let_in(self, connection: Connection) -> tuple[Client, Settings] | None:
        """The client and its settings; None if it only came to cancel. Raises FatalError."""
        deadline = asyncio.get_running_loop().call_later(
            self.settings.startup_timeout_s,
            connection.terminate,
            FatalError("08006", "client did not introduce itself in time"),
        )
        try:
            first = await introduce(connection)
            if isinstance(first, CancelRequest):
                self._cancel(first)
                return None
            if len(self._sessions) >= self.settings.max_connections:
                raise FatalError("53300", "sorry, too many clients already")
            client = await authenticate(connection, first, self._authentication())
        finally:
            deadline.cancel()
        settings = Settings(self.settings.session_defaults)
        settings.start_with(client.settings | {"session_authorization": client.user})
        return client, settings

    async def _run_session(self, connection: Connection, client: Client, settings: Settings) -> None:
        process_id, secret = self._new_key()
        session = Session(self._engine, connection, settings, self._statements)
        connection.parser.bytes_max = CLIENT_MESSAGE_BYTES_MAX
        connection.on_doom = session.cancel
        connection.answer = session.answer
        self._sessions[process_id] = (connection, session, secret)
        try:
            for name, value in settings.reported().items():
                connection.write(backend.parameter_status(name, value))
            connection.write(backend.backend_key_data(process_id, secret))
            await session.run()
        finally:
            del self._sessions[process_id]

    def _new_key(self) -> tuple[int, bytes]:
        while True:
            process_id = self._dice.randrange(1, 1 << 31)
            if process_id not in self._sessions:
                return process_id, self._dice.randbytes(4)

    def _cancel(self, request: CancelRequest) -> None:
        """Another connection's running statement is to end. Whether it did, this one is not told."""
        found = self._sessions.get(request.process_id)
        if found is None:
            return
        _, session, secret = found
        if hmac.compare_digest(secret, request.secret):
            session.cancel(SessionError("57014", "canceling statement due to user request"))
