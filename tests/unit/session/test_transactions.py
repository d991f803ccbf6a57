"""What a transaction leaves behind, and what it must not: portals, rows, settings, schemas, by hand-made packets."""

import asyncio
from typing import Any

import psycopg
import pytest
from psycopg import AsyncClientCursor, errors

from db_instance.engine import parking
from db_instance.engine.pages import Pages
from db_instance.session import rows
from tests.harness.packets import (
    FLUSH,
    SYNC,
    bind,
    describe,
    execute,
    introduced,
    message,
    parse,
    query,
    read_until,
    sqlstate,
)
from tests.harness.sql_server import SqlServer

_TEXTS = "create table t (id int primary key, v text)"
_BOOLEANS = "drop table t; create table t (id int primary key, v boolean)"
_THOUSAND = "with recursive c(n) as (select 1 union all select n + 1 from c where n < 1000) select n from c"


class _Client:
    """It sends packets, and hears the answers up to the next ReadyForQuery, or another kind of message."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def ask(self, packets: bytes, until: bytes = b"Z") -> list[tuple[bytes, bytes]]:
        self._writer.write(packets)
        return await read_until(self._reader, until)

    def close(self) -> None:
        self._writer.close()


async def _client(sql: SqlServer) -> _Client:
    return _Client(*await introduced(sql))


def _refused(answers: list[tuple[bytes, bytes]]) -> str:
    """The SQLSTATE of what must be an error, and nothing before it."""
    kind, body = answers[0]
    assert kind == b"E", answers
    return sqlstate(body)


async def _rows(connection: psycopg.AsyncConnection[Any], text: str) -> list[tuple[Any, ...]]:
    return await (await connection.execute(text)).fetchall()


@pytest.mark.parametrize("isolation", ["read committed", "repeatable read"])
async def test_readers_go_by_the_schema_that_is_durable(sql: SqlServer, isolation: str) -> None:
    async with await sql.connect() as changer, await sql.connect() as reader:
        await changer.execute(_TEXTS)
        await changer.execute("insert into t values (1, '123'), (2, 'yes')")
        before = sql.engine.catalog
        sql.cluster.lose_the_write_quorum()
        changing = asyncio.ensure_future(changer.execute(_BOOLEANS))
        await sql.until(lambda: sql.engine.catalog is not before)
        await reader.execute(f"begin isolation level {isolation}")
        cursor = await AsyncClientCursor(reader).execute("select v from t order by id")
        assert await cursor.fetchall() == [("123",), ("yes",)]
        await reader.execute("rollback")
        sql.cluster.heal()
        await changing
        await changer.execute("insert into t values (3, true)")
        assert await _rows(reader, "select v from t") == [(True,)]


async def test_each_portal_has_its_values_read_as_the_types_are_when_it_runs(sql: SqlServer) -> None:
    async with await sql.connect() as changer:
        await changer.execute(_TEXTS)
        client = await _client(sql)
        insert = parse("s", "insert into t (id, v) values ($1, $2)")
        portals = bind("p1", "s", "1", "yes") + bind("p2", "s", "2", "yes")
        await client.ask(query("begin") + insert + portals + FLUSH, b"2")
        await changer.execute(_BOOLEANS)
        await client.ask(b"", b"2")
        await client.ask(execute("p1") + execute("p2") + SYNC)
        await client.ask(query("commit"))
        client.close()
        assert await _rows(changer, "select id from t where v = true order by id") == [(1,), (2,)]


async def test_a_portal_that_was_described_keeps_its_columns_or_is_refused(sql: SqlServer) -> None:
    async with await sql.connect() as changer:
        await changer.execute(_TEXTS)
        client = await _client(sql)
        await client.ask(parse("s", "select v from t") + bind("p", "s") + describe("p") + FLUSH, b"T")
        await changer.execute(f"{_BOOLEANS}; insert into t values (1, true)")
        assert _refused(await client.ask(execute("p") + SYNC)) == "0A000"
        client.close()


async def test_what_returns_rows_is_described_once_it_has_the_lock(sql: SqlServer) -> None:
    async with await sql.connect() as changer, await sql.connect() as writer:
        await changer.execute(_TEXTS)
        await changer.execute("begin")
        await changer.execute(_BOOLEANS)
        waiting = asyncio.create_task(
            writer.execute("insert into t (id, v) values (%s, %s) returning v", (1, "yes"))
        )
        await sql.until(lambda: sql.engine._write_lock.waiting == 1)
        await changer.execute("commit")
        assert await (await waiting).fetchall() == [(True,)]


@pytest.mark.parametrize("prepare", [False, True])
async def test_a_transaction_that_becomes_read_only_writes_no_more(sql: SqlServer, prepare: bool) -> None:
    async with await sql.connect() as connection:
        await connection.execute("create table t (n int)")

        async def insert(number: int) -> None:
            await connection.execute("insert into t values (%s)", (number,), prepare=prepare)

        for number in range(3):
            await insert(number)
        await connection.execute("begin")
        await insert(3)
        await connection.execute("savepoint a")
        await connection.execute("set transaction read only")
        with pytest.raises(errors.ReadOnlySqlTransaction):
            await insert(4)
        await connection.execute("rollback to a")
        await insert(5)
        await connection.execute("commit")
        assert await _rows(connection, "select n from t where n > 2 order by n") == [(3,), (5,)]


async def test_rows_of_a_query_that_has_failed_are_not_read_on(sql: SqlServer) -> None:
    endless = "with recursive c(n) as (select 2147483600 union all select n + 1 from c) select n from c"
    async with await sql.connect() as connection:
        await connection.execute("create table t (n int)")
        await connection.execute("set statement_timeout = '5s'")
        await connection.execute("begin")
        await connection.execute("savepoint a")
        with pytest.raises(errors.NumericValueOutOfRange):
            await AsyncClientCursor(connection).execute(f"{endless} where n < 2147484000")
        await connection.execute("rollback to a")
        await connection.execute("insert into t values (1)")
        await connection.execute("commit")
        assert await _rows(connection, "select n from t") == [(1,)]


@pytest.mark.parametrize("wrong", ["selec 1", "select 1 +", "begin what", "commit; select ("])
async def test_a_text_with_a_syntax_error_anywhere_does_nothing(sql: SqlServer, wrong: str) -> None:
    async with await sql.connect() as connection:
        await connection.execute("create table t (n int)")
        with pytest.raises(errors.SyntaxError):
            await connection.execute(f"begin; insert into t values (1); commit; {wrong}")
        assert connection.info.transaction_status == 0
        assert await _rows(connection, "select n from t") == []
        with pytest.raises(errors.UndefinedTable):
            await connection.execute("insert into t values (2); create table u (n int); select * from v")
        await connection.execute("create table u (n int); insert into u values (3); alter table u add m int")
        assert await _rows(connection, "select n, m from u") == [(3, None)]


async def test_a_portal_ends_with_its_transaction(sql: SqlServer) -> None:
    client = await _client(sql)
    await client.ask(query("begin"))
    await client.ask(parse("", _THOUSAND) + bind("p", "") + execute("p", 5) + SYNC)
    await client.ask(query("commit; begin"))
    assert _refused(await client.ask(execute("p", 5) + SYNC)) == "34000"
    client.close()


async def test_a_portal_ends_with_its_savepoint(sql: SqlServer) -> None:
    async with await sql.connect() as setup:
        await setup.execute("create table t (n int)")
    client = await _client(sql)

    async def open_portal(name: str) -> None:
        await client.ask(parse("", "select n from t") + bind(name, "") + execute(name, 1) + SYNC)

    for text in ("begin", "insert into t values (1), (2), (3)"):
        await client.ask(query(text))
    await open_portal("outside")
    await client.ask(query("savepoint a"))
    await open_portal("kept")
    await client.ask(query("release a"))
    await client.ask(query("savepoint b"))
    await client.ask(query("insert into t values (4), (5)"))
    await open_portal("undone")
    await client.ask(parse("back", "rollback to b") + bind("", "back") + execute("") + SYNC)
    for name in ("outside", "kept"):
        found = await client.ask(execute(name) + SYNC)
        assert [kind for kind, _ in found] == [b"D", b"D", b"C", b"Z"]
        assert found[2][1] == b"SELECT 2\0"
    assert _refused(await client.ask(execute("undone", 5) + SYNC)) == "34000"
    client.close()


async def test_a_snapshot_that_is_cut_short_has_its_savepoints(
    sql: SqlServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def endless(_: object) -> None:
        await asyncio.get_running_loop().create_future()

    async with await sql.connect() as connection:
        await connection.execute("create table t (n int)")
        await connection.execute("begin isolation level repeatable read")
        await connection.execute("savepoint a")
        await connection.execute("set statement_timeout = '50ms'")
        with monkeypatch.context() as patched, pytest.raises(errors.QueryCanceled):
            patched.setattr(sql.engine, "catalog_of", endless)
            await connection.execute("select * from t")
        await connection.execute("rollback to a")
        assert await _rows(connection, "select * from t") == []


async def test_what_was_set_before_a_request_that_is_answered_at_once_stays(sql: SqlServer) -> None:
    client = await _client(sql)
    await client.ask(query("create table t (n int)"))
    for number in range(3):
        await client.ask(query(f"select n from t where n = {number}"))
    setting = parse("", "set application_name = 'x'") + bind("", "") + execute("") + message(b"C", b"P\0")
    await client.ask(setting + FLUSH, b"3")
    for text in ("select n from t where n = 7", "select nonsense"):
        await client.ask(query(text))
    assert b"x" in dict(await client.ask(query("show application_name")))[b"D"]
    client.close()


async def test_a_snapshot_that_could_not_be_pinned_is_pinned_later(
    sql: SqlServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with await sql.connect() as connection, await sql.connect() as other:
        await connection.execute("create table t (n int)")
        await other.execute("select * from t")  # an idle connection is at hand
        await connection.execute("begin isolation level repeatable read")
        await connection.execute("savepoint a")
        await connection.execute("set statement_timeout = '50ms'")
        never = asyncio.get_running_loop().create_future()
        with monkeypatch.context() as patched, pytest.raises(errors.QueryCanceled):
            patched.setattr(Pages, "confirm", lambda self: parking.park(asyncio.shield(never)))
            await connection.execute("select * from t")
        await connection.execute("rollback to a")
        assert await _rows(connection, "select * from t") == []
        await connection.execute("commit")


async def test_all_portals_of_a_transaction_hold_no_more_than_one_may(
    sql: SqlServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rows, "_HELD_ROWS_MAX", 3000)
    async with await sql.connect() as setup:
        await setup.execute("create table t (n int)")
    client = await _client(sql)

    async def with_portals(count: int) -> list[bytes]:
        await client.ask(query("begin"))
        for number in range(count):
            name = f"p{number}"
            await client.ask(parse("", _THOUSAND) + bind(name, "") + execute(name, 1) + SYNC)
        found = [kind for kind, _ in await client.ask(query("insert into t values (1)"))]
        if found[0] == b"C":
            for number in range(count):
                answers = await client.ask(execute(f"p{number}") + SYNC)
                assert len(answers) == 999 + 2
        await client.ask(query("rollback"))
        return found

    for _ in range(3):
        assert await with_portals(3) == [b"C", b"Z"]
        assert await with_portals(4) == [b"E", b"Z"]
    client.close()
