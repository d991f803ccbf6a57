"""Primary keys, the numbers that they are given, and tables that others reference."""

import asyncio

import psycopg
import pytest
from psycopg import errors

from tests.harness.sql_server import SqlServer
from tests.unit.session.test_session import Connection, rows


@pytest.mark.parametrize(
    "key",
    [
        "id text primary key",
        "id text primary key check (id not in ('y'))",
        "id text, primary key (id)",
        "id int, b int, constraint k primary key (id, b)",
        'id int, "b c" int default 1, primary key ("b c", id)',
    ],
)
async def test_a_primary_key_is_never_null(sql: SqlServer, key: str) -> None:
    async with await sql.connect() as connection:
        await connection.execute(f"create table p (v text, {key})")
        for _ in range(2):
            with pytest.raises(psycopg.IntegrityError):
                await connection.execute("insert into p (v) values ('x')")
        assert await rows(connection, "select count(*) from p") == [(0,)]


async def _next(connection: Connection, table: str = "p") -> int:
    ((number,),) = await rows(connection, f"insert into {table} (v) values ('x') returning id")
    return int(number)


@pytest.mark.parametrize(
    "key", ["serial primary key", "bigserial primary key", "bigint generated always as identity primary key"]
)
async def test_numbers_that_were_given_do_not_come_again(sql: SqlServer, key: str) -> None:
    async with await sql.connect() as connection:
        await connection.execute(f"create table p (id {key}, v text)")
        assert [await _next(connection) for _ in range(3)] == [1, 2, 3]
        await connection.execute("delete from p where id = 3")
        assert await _next(connection) == 4
        await connection.execute("delete from p")
    await sql.reopen()
    async with await sql.connect() as connection:
        assert await _next(connection) == 5
        await connection.execute("truncate p")
        assert await _next(connection) == 6
        await connection.execute('alter table p rename to "it\'s"')
        await connection.execute('truncate table "it\'s" restart identity')
        assert await _next(connection, '"it\'s"') == 1
        await connection.execute('drop table "it\'s"')


@pytest.mark.parametrize("action", ["cascade", "set null", "no action"])
@pytest.mark.parametrize(
    ("statement", "sqlstate"),
    [
        ("drop table p", "2BP01"),
        ("drop table if exists other, P restrict", "2BP01"),
        ("drop table p cascade", "0A000"),
        ("truncate p", "0A000"),
        ("truncate other, p cascade", "0A000"),
    ],
)
async def test_rows_that_reference_a_table_do_not_go_with_it(
    sql: SqlServer, action: str, statement: str, sqlstate: str
) -> None:
    async with await sql.connect() as connection:
        await connection.execute("create table other (id int)")
        await connection.execute("create table p (id int primary key)")
        await connection.execute(
            f"create table c (id int primary key, p int references P (id) on delete {action})"
        )
        await connection.execute("insert into p values (1)")
        await connection.execute("insert into c values (1, 1)")
        with pytest.raises(psycopg.Error) as told:
            await connection.execute(statement)
        assert told.value.sqlstate == sqlstate
        assert await rows(connection, "select * from c") == [(1, 1)]
        assert await rows(connection, "select * from p") == [(1,)]
        await connection.execute("drop table c, p")


async def test_a_table_that_references_itself_can_go(sql: SqlServer) -> None:
    async with await sql.connect() as connection:
        await connection.execute("create table p (id int primary key, up int references p (id))")
        await connection.execute("insert into p values (1, null), (2, 1)")
        await connection.execute("truncate p")
        await connection.execute("drop table p")


@pytest.mark.parametrize("prepare", [False, True], ids=["text", "prepared"])
@pytest.mark.parametrize(("statement", "sqlstate"), [("truncate p", "0A000"), ("drop table p", "2BP01")])
async def test_a_reference_that_comes_while_one_stands_in_line_counts(
    sql: SqlServer, statement: str, sqlstate: str, prepare: bool
) -> None:
    async with await sql.connect() as one, await sql.connect() as other:
        await one.execute("create table p (id int primary key)")
        await one.execute("insert into p values (1)")
        await one.execute("begin")
        await one.execute("create table c (id int primary key, p int references p on delete cascade)")
        await one.execute("insert into c values (1, 1)")
        standing = asyncio.create_task(other.execute(statement, prepare=prepare))
        await sql.until(lambda: sql.engine._write_lock.waiting > 0)
        await one.execute("commit")
        with pytest.raises(psycopg.Error) as refused:
            await standing
        assert refused.value.sqlstate == sqlstate
        assert await rows(one, "select id from c") == [(1,)]


async def test_null_in_a_key_of_several_columns_is_told_as_such(sql: SqlServer) -> None:
    async with await sql.connect() as connection:
        await connection.execute('create table t (a int, "B" text, c int, constraint k primary key (a, "B"))')
        for values, column in {"(null, 'x')": "a", "(1, null)": "B", "(1)": "B"}.items():
            with pytest.raises(errors.NotNullViolation) as raised:
                await connection.execute(f"insert into t values {values}")
            assert (raised.value.diag.table_name, raised.value.diag.column_name) == ("t", column)
        await connection.execute("insert into t values (1, 'x')")
