"""A statement that writes means what it means in the schema that it finds once it has the write lock."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from psycopg import AsyncClientCursor, AsyncConnection

from tests.harness.sql_server import SqlServer

Connection = AsyncConnection[Any]
Write = Callable[[Connection, int, str], Awaitable[None]]

_WITH_TEXTS = "create table t (id int primary key, v text)"
_WITH_BOOLEANS = "drop table t; create table t (id int primary key, v boolean)"


async def _text(connection: Connection, id: int, value: str) -> None:
    await AsyncClientCursor(connection).execute("insert into t (id, v) values (%s, %s)", (id, value))


async def _unnamed(connection: Connection, id: int, value: str) -> None:
    await connection.execute("insert into t (id, v) values (%s, %s)", (id, value), prepare=False)


async def _prepared(connection: Connection, id: int, value: str) -> None:
    await connection.execute("insert into t (id, v) values (%s, %s)", (id, value), prepare=True)


async def _returning(connection: Connection, id: int, value: str) -> None:
    await connection.execute("insert into t (id, v) values (%s, %s) returning id", (id, value))


async def _copy(connection: Connection, id: int, value: str) -> None:
    async with connection.cursor().copy("copy t (id, v) from stdin") as copy:
        await copy.write_row((id, value))


WRITES = [_text, _unnamed, _prepared, _returning, _copy]


@pytest.mark.parametrize("in_block", [False, True], ids=["alone", "in_block"])
@pytest.mark.parametrize("times_before", [0, 3], ids=["first", "again"])
@pytest.mark.parametrize("write", WRITES, ids=[write.__name__[1:] for write in WRITES])
async def test_a_table_that_was_made_anew_while_it_waited(
    sql: SqlServer, write: Write, times_before: int, in_block: bool
) -> None:
    async with await sql.connect() as changer, await sql.connect() as writer:
        await changer.execute(_WITH_TEXTS)
        for number in range(times_before):
            await write(writer, number, "yes")
        if in_block:
            await writer.execute("begin")
        await changer.execute("begin")
        await changer.execute(_WITH_BOOLEANS)
        waiting = asyncio.create_task(write(writer, 10, "yes"))
        await sql.until(lambda: sql.engine._write_lock.waiting == 1)
        await changer.execute("commit")
        await waiting
        if in_block:
            await writer.execute("commit")
        cursor = await changer.execute("select id, v from t where v")
        assert await cursor.fetchall() == [(10, True)]


@pytest.mark.parametrize("write", WRITES, ids=[write.__name__[1:] for write in WRITES])
async def test_a_table_that_is_gone(sql: SqlServer, write: Write) -> None:
    async with await sql.connect() as changer, await sql.connect() as writer:
        await changer.execute(_WITH_TEXTS)
        await write(writer, 1, "yes")
        await changer.execute("begin")
        await changer.execute("drop table t")
        waiting = asyncio.create_task(write(writer, 10, "yes"))
        await sql.until(lambda: sql.engine._write_lock.waiting == 1)
        await changer.execute("commit")
        with pytest.raises(Exception, match='relation "t" does not exist'):
            await waiting
        cursor = await writer.execute("select 1")
        assert await cursor.fetchall() == [(1,)]


@pytest.mark.parametrize("prepare", [None, False, True])
async def test_a_snapshot_keeps_the_schema_that_it_was_taken_in(sql: SqlServer, prepare: bool | None) -> None:
    async with await sql.connect() as changer, await sql.connect() as reader:

        async def read() -> list[tuple[Any, ...]]:
            if prepare is None:
                cursor = await AsyncClientCursor(reader).execute("select v, id from t order by id")
                return await cursor.fetchall()
            cursor = await reader.execute("select v, id from t order by id", prepare=prepare)
            return await cursor.fetchall()

        await changer.execute(_WITH_TEXTS)
        await changer.execute("insert into t values (1, 'yes')")
        for _ in range(3):
            assert await read() == [("yes", 1)]
        await reader.execute("begin isolation level repeatable read")
        assert await read() == [("yes", 1)]
        await changer.execute(_WITH_BOOLEANS)
        await changer.execute("insert into t values (2, 'no'), (3, 'yes')")
        for _ in range(3):
            assert await read() == [("yes", 1)]
        await reader.execute("commit")
        assert await read() == [(False, 2), (True, 3)]
