"""A real server on loopback over the small cluster, as a fixture: `sql` in the tests of wire and session."""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import AsyncConnection

from db_instance.engine.engine import Engine
from db_instance.wire.postgres.server import PostgresServer, ServerSettings
from tests.harness.small_cluster import SmallCluster

ENDLESS = "with recursive c(n) as (select 1 union all select n + 1 from c) select count(*) from c"
"""A statement that must be cancelled to end."""


class SqlServer:
    def __init__(self, cluster: SmallCluster, settings: ServerSettings) -> None:
        self.cluster = cluster
        self._settings = settings
        self.server: PostgresServer

    async def start(self) -> None:
        self.server = PostgresServer(self.engine, self._settings)
        await self.server.start("127.0.0.1", 0)

    async def stop(self) -> None:
        await self.server.stop()
        assert self.engine.leased == 0, "a session kept its connection"

    async def reopen(self) -> None:
        """End the instance; another one opens the volume, with the nodes that are left."""
        await self.stop()
        await self.cluster.close()
        await self.cluster.open()
        await self.start()

    @property
    def engine(self) -> Engine:
        return self.cluster.engine

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
        """One was begun since the last turn of the loop, and has given way to others several times."""
        before = self.engine.statements
        await self.until(lambda: self.engine.statements > before)
        for _ in range(3):
            await asyncio.sleep(0)


@pytest.fixture
def server_settings() -> ServerSettings:
    """Override it in a class for other limits."""
    return ServerSettings()


@pytest.fixture
def commit_timeout_s() -> float:
    """Override it in a class for less patience."""
    return 30.0


@pytest.fixture
async def sql(
    tmp_path: Path, server_settings: ServerSettings, commit_timeout_s: float
) -> AsyncIterator[SqlServer]:
    cluster = SmallCluster(tmp_path, commit_timeout_s)
    await cluster.start()
    server = SqlServer(cluster, server_settings)
    await server.start()
    yield server
    await server.stop()
    await cluster.stop()
