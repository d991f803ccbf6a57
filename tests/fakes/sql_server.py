"""A real server on loopback over the plain engine, as a fixture: `sql` in the tests of wire and session."""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import AsyncConnection

from db_instance.wire.postgres.server import PostgresServer, ServerSettings
from tests.fakes.plain_engine import PlainEngine

ENDLESS = "with recursive c(n) as (select 1 union all select n + 1 from c) select count(*) from c"
"""A statement that must be cancelled to end."""


class SqlServer:
    def __init__(self, engine: PlainEngine, server: PostgresServer) -> None:
        self.engine = engine
        self.server = server

    @property
    def host(self) -> str:
        return self.server.address.rpartition(":")[0]

    @property
    def port(self) -> int:
        return int(self.server.address.rpartition(":")[2])

    @property
    def conninfo(self) -> str:
        return f"host={self.host} port={self.port} user=app dbname=main"

    async def connect(self, options: str = "", **settings: Any) -> AsyncConnection[Any]:
        settings.setdefault("autocommit", True)
        return await psycopg.AsyncConnection.connect(f"{self.conninfo} {options}", **settings)

    async def raw(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection(self.host, self.port)

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(5):
            while not condition():
                await asyncio.sleep(0)

    async def until_no_sessions_but(self, count: int) -> None:
        await self.until(lambda: self.server.sessions <= count)

    async def until_a_statement_is_long(self) -> None:
        before = self.engine.looks
        await self.until(lambda: self.engine.looks > before + 2)


@pytest.fixture
def server_settings() -> ServerSettings:
    """Override it in a module for other limits."""
    return ServerSettings()


@pytest.fixture
async def sql(tmp_path: Path, server_settings: ServerSettings) -> AsyncIterator[SqlServer]:
    engine = PlainEngine(tmp_path)
    server = PostgresServer(engine, server_settings)
    await server.start("127.0.0.1", 0)
    yield SqlServer(engine, server)
    await server.stop()
    assert engine.leased == 0, "a session kept its connection"
    engine.close()
