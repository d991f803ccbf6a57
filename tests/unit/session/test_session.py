"""Sessions as psycopg sees them: values, transactions, pipelines, COPY, settings, cancelling."""

import asyncio
import datetime as dt
import uuid
from typing import Any

import psycopg
import pytest
from psycopg import AsyncConnection, errors
from psycopg.types.json import Json

from db_instance.engine.mini_transaction import page_count
from db_instance.wire.postgres.server import ServerSettings
from tests.harness.sql_server import ENDLESS, SqlServer
from volume.ids import PageNumber

Connection = AsyncConnection[Any]


async def rows(connection: Connection, sql: str, *params: Any, **options: Any) -> list[tuple[Any, ...]]:
    cursor = await connection.execute(sql, params or None, **options)
    return await cursor.fetchall()


# Values

VALUES = [
    ("smallint", -32768),
    ("integer", 2147483647),
    ("bigint", -(2**63)),
    ("real", 1.5),
    ("double precision", 0.1),
    ("boolean", True),
    ("text", "a\té\\'\"\n"),
    ("varchar(20)", "twenty"),
    ("bytea", b"\x00\x01\xff"),
    ("date", dt.date(1999, 12, 31)),
    ("timestamp", dt.datetime(2026, 1, 31, 12, 30, 0, 500000)),
    ("timestamptz", dt.datetime(2026, 1, 31, 12, 30, tzinfo=dt.UTC)),
    ("uuid", uuid.UUID("12345678-1234-5678-1234-567812345678")),
]


@pytest.mark.parametrize("binary", [False, True], ids=["text", "binary"])
@pytest.mark.parametrize(("declared", "value"), VALUES, ids=[declared for declared, _ in VALUES])
async def test_values_go_in_and_out(sql: SqlServer, declared: str, value: Any, binary: bool) -> None:
    mark = "%b" if binary else "%t"
    async with await sql.connect() as connection:
        await connection.execute(f"create table t (id integer primary key, v {declared})")
        await connection.execute(f"insert into t (id, v) values (1, {mark}), (2, {mark})", (value, None))
        assert await rows(connection, "select v from t order by id", binary=binary) == [(value,), (None,)]
        found = await rows(connection, f"select id from t where v = {mark}", value, binary=binary)
        assert found == [(1,)]


async def test_json(sql: SqlServer) -> None:
    async with await sql.connect() as connection:
        await connection.execute("create table t (v json)")
        await connection.execute("insert into t values (%s)", (Json({"a": [1, None]}),))
        assert await rows(connection, "select v from t") == [({"a": [1, None]},)]


async def test_expressions_have_types(sql: SqlServer) -> None:
    async with await sql.connect() as connection:
        [row] = await rows(connection, "select 1, 2.5, 'x', 1 < 2, count(*), abs(-3), null")
        assert row == (1, 2.5, "x", True, 1, 3, None)
        [row] = await rows(connection, "select abs(%s), length('four')", -3)
        assert row == (3, 4)


async def test_integers_have_their_range(sql: SqlServer) -> None:
    async with await sql.connect() as connection:
        for sum_of in ("2147483647 + 1", "1000000 * 1000000"):
            for binary in (False, True):
                with pytest.raises(errors.NumericValueOutOfRange):
                    await rows(connection, f"select {sum_of}", binary=binary)
        assert await rows(connection, "select 2147483647 + 1::bigint, coalesce(1, 3000000000)") == [
            (1 << 31, 1)
        ]


@pytest.mark.parametrize("declared", ["boolean", "date", "timestamptz", "uuid", "jsonb", "bytea"])
async def test_a_number_is_no_value_of_other_types(sql: SqlServer, declared: str) -> None:
    async with await sql.connect() as connection:
        await connection.execute(f"create table t (v {declared}, n int)")
        for statement in (
            "insert into t (v) values (1)",
            "insert into t values (1, 1)",
            "update t set v = 7",
        ):
            with pytest.raises(errors.DatatypeMismatch):
                await connection.execute(statement, prepare=False)
        await connection.execute("insert into t values (null, 1)")
        assert await rows(connection, "select v from t") == [(None,)]


async def test_a_view_has_types_and_keeps_its_table(sql: SqlServer) -> None:
    async with await sql.connect() as connection:
        await connection.execute("create table t (n int, d date)")
        await connection.execute("insert into t values (1, '2024-01-05')")
        await connection.execute("create view v as select n > 0 as positive, max(d) from t group by n")
        assert await rows(connection, "select * from v") == [(True, dt.date(2024, 1, 5))]
        with pytest.raises(errors.DependentObjectsStillExist):
            await connection.execute("drop table t")
        with pytest.raises(errors.DependentObjectsStillExist, match="view v"):
            await connection.execute("alter table t drop column d")
        await connection.execute("drop table t cascade")
        with pytest.raises(errors.UndefinedTable):
            await connection.execute("select * from v")


@pytest.mark.parametrize(
    "expression",
    ["case when n > 1 then n end", "nullif(n, 1)", "lag(n + 1) over (order by n)", "abs(case when n > 1 then n end)",
     "(select max(o.n) + 1 from t as o where o.n < t.n)", "sum(case when n > 1 then n end)", "greatest(nullif(n, 1), null)",
     "max(n) filter (where n > 1)"],
)  # fmt: skip
async def test_a_first_row_of_null_does_not_make_text_of_the_others(sql: SqlServer, expression: str) -> None:
    async with await sql.connect() as connection:
        await connection.execute("create table t (n int)")
        await connection.execute("insert into t values (1), (2)")
        grouped = "group by n" if expression.startswith(("sum", "max")) else ""
        assert await rows(connection, f"select {expression} from t {grouped} order by n") == [(None,), (2,)]


async def test_floats_with_exponents_are_values_in_a_text(sql: SqlServer) -> None:
    async with await sql.connect() as connection:
        await connection.execute("create table t (n int, f double precision)")
        for number in (7, 8):
            await connection.execute(
                f"insert into t values ({number}, 1e-{number}), ({number}, 1.5E+{number})"
            )
            await connection.execute(f"update t set f = f * 2e-1 where n = {number} and f < 1e-{number - 1}")
        assert await rows(connection, "select n, f from t order by n, f") == [
            (7, 1e-7 * 2e-1), (7, 1.5e7), (8, 1e-8 * 2e-1), (8, 1.5e8),
        ]  # fmt: skip


async def test_defaults_may_call_functions(sql: SqlServer) -> None:
    async with await sql.connect() as connection:
        await connection.execute(
            "create table t (id uuid primary key default gen_random_uuid(), a timestamptz default now(),"
            " b timestamptz default current_timestamp, c date default current_date, d text default upper('x'),"
            " e text default 'yes' check (starts_with(e, 'y')))"
        )
        before = dt.datetime.now(dt.UTC)
        for _ in range(2):
            await connection.execute("insert into t (d) values ('y')")
        [one, other] = await rows(connection, "select * from t order by a")
        assert isinstance(one[0], uuid.UUID)
        assert one[0] != other[0]
        assert before <= one[1] <= one[2] <= other[1]
        assert one[3] == before.date() or one[3] == other[1].date()
        assert one[4:] == ("y", "yes")
        with pytest.raises(errors.CheckViolation):
            await connection.execute("insert into t (e) values ('no')")
        [(found,)] = await rows(connection, "select gen_random_uuid()")
        assert isinstance(found, uuid.UUID)


async def test_times_become_what_their_column_is(sql: SqlServer) -> None:
    noon, naive = dt.datetime(2026, 1, 31, 12, tzinfo=dt.UTC), dt.datetime(2026, 1, 31, 12)
    async with await sql.connect() as connection:
        await connection.execute(
            "create table t (id int primary key, ts timestamp unique default now(), tz timestamptz default now(), d date)"
        )
        await connection.execute("insert into t (id, d) values (0, now())")
        assert await rows(connection, "select id from t where d = ts::date and ts::text not like '%+%'") == [
            (0,)
        ]
        await connection.execute("insert into t values (1, %s, %s, %s)", (naive, noon, naive))
        with pytest.raises(errors.UniqueViolation):
            await connection.execute("insert into t values (2, %s, %s)", (noon, naive))
        await connection.execute("insert into t values (2, '2026-02-01', %s)", (naive,))
        for moment in (noon, naive):
            assert await rows(connection, "select id from t where tz = %s order by id", moment) == [
                (1,),
                (2,),
            ]
            assert await rows(connection, "select id from t where ts = %s", moment) == [(1,)]
        assert await rows(connection, "select id from t where ts = %s", dt.date(2026, 2, 1)) == [(2,)]
        await connection.execute(
            "update t set ts = d, d = tz where id = 1 and ts = tz and d = date '2026-01-31'"
        )
        await connection.execute("update t set ts = tz where id = 2")
        found = await rows(connection, "select ts, d from t where id > 0 order by id")
        assert found == [(dt.datetime(2026, 1, 31), naive.date()), (naive, None)]
        assert await rows(connection, "select id from t where ts = d") == [(1,)]


# Transactions


async def test_now_is_when_the_transaction_began(sql: SqlServer) -> None:
    async with await sql.connect() as connection:
        await connection.execute("create table t (n int, at timestamptz default now(), exact timestamptz)")
        rows_given = ", ".join("(1)" for _ in range(100))
        await connection.execute(f"insert into t (n) values {rows_given}")
        assert await rows(connection, "select count(distinct at) from t") == [(1,)]
        await connection.execute("begin")
        await connection.execute("update t set exact = clock_timestamp()")
        # What is asked for now is still the moment of BEGIN, whichever connection answers.
        [(began, in_order)] = await rows(
            connection, "select now(), now() < (select min(exact) from t) and now() > (select max(at) from t)"
        )
        assert in_order
        await connection.execute("insert into t (n) values (2)")
        assert await rows(connection, "select at from t where n = 2") == [(began,)]
        await connection.execute("commit")
        await connection.execute("insert into t (n) values (3)")
        assert await rows(connection, "select at > %s from t where n = 3", began) == [(True,)]


async def test_each_of_many_writes_in_one_commit_has_its_own_now(sql: SqlServer) -> None:
    async with await sql.connect() as connection:
        await connection.execute("create table t (at timestamptz default now(), n int)")

        async def insert(number: int) -> None:
            async with await sql.connect() as other:
                for _ in range(10):
                    await other.execute("insert into t (n) values (%s)", (number,))

        await asyncio.gather(*(insert(number) for number in range(8)))
        assert await rows(connection, "select count(*), count(distinct at) from t") == [(80, 80)]


async def test_blocks_commit_and_roll_back(sql: SqlServer) -> None:
    async with await sql.connect() as one, await sql.connect() as two:
        await one.execute("create table t (a int)")
        await one.execute("begin")
        await one.execute("insert into t values (1)")
        assert await rows(one, "select a from t") == [(1,)]
        assert await rows(two, "select a from t") == []
        await one.execute("commit")
        assert await rows(two, "select a from t") == [(1,)]
        await one.execute("begin")
        await one.execute("delete from t")
        await one.execute("rollback")
        assert await rows(one, "select a from t") == [(1,)]


async def test_a_failed_block_takes_nothing_but_its_end(sql: SqlServer) -> None:
    async with await sql.connect() as connection:
        await connection.execute("create table t (a int primary key)")
        await connection.execute("begin")
        await connection.execute("insert into t values (1)")
        with pytest.raises(errors.UniqueViolation):
            await connection.execute("insert into t values (1)")
        assert connection.info.transaction_status is psycopg.pq.TransactionStatus.INERROR
        for statement in ("select 1", "insert into t values (2)", "savepoint a", "set work_mem = '1MB'"):
            with pytest.raises(errors.InFailedSqlTransaction):
                await connection.execute(statement)
        cursor = await connection.execute("commit")
        assert cursor.statusmessage == "ROLLBACK"
        assert await rows(connection, "select a from t") == []


async def test_a_failed_block_gives_the_write_lock_away(sql: SqlServer) -> None:
    async with await sql.connect() as one, await sql.connect() as two:
        await one.execute("create table t (a int primary key)")
        await one.execute("begin")
        await one.execute("insert into t values (1)")
        with pytest.raises(errors.UniqueViolation):
            await one.execute("insert into t values (1)")
        await two.execute("insert into t values (2)")
        await one.execute("rollback")


async def test_savepoints(sql: SqlServer) -> None:
    async with await sql.connect() as connection:
        await connection.execute("create table t (a int primary key)")
        await connection.execute("begin")
        await connection.execute("savepoint first")
        await connection.execute("insert into t values (1)")
        await connection.execute('savepoint "a name"')
        with pytest.raises(errors.UniqueViolation):
            await connection.execute("insert into t values (1)")
        await connection.execute('rollback to "a name"')
        await connection.execute("insert into t values (2)")
        await connection.execute('release "a name"')
        with pytest.raises(errors.InvalidSavepointSpecification):
            await connection.execute('rollback to "a name"')
        await connection.execute("rollback to savepoint first")
        await connection.execute("insert into t values (3)")
        await connection.execute("commit")
        assert await rows(connection, "select a from t") == [(3,)]
        with pytest.raises(errors.NoActiveSqlTransaction):
            await connection.execute("savepoint a")


@pytest.mark.parametrize("reopens", [True, False])
async def test_pages_that_were_spilled_and_taken_back_to_a_savepoint_are_not_logged(
    sql: SqlServer, monkeypatch: pytest.MonkeyPatch, reopens: bool
) -> None:
    monkeypatch.setattr("db_instance.engine.engine._CONNECTION_CACHE_KIB", 24)
    await sql.reopen()
    many = (
        "insert into t select n + 10, repeat('x', 3500) from (with recursive c(n) as"
        " (select 1 union all select n + 1 from c where n < 100) select n from c) s"
    )
    async with await sql.connect() as connection:
        await connection.execute("create table t (id integer primary key, v text)")
        await connection.execute("begin")
        await connection.execute("insert into t values (1, 'kept')")
        await connection.execute("savepoint s")
        await connection.execute(many)
        await connection.execute("rollback to savepoint s")
        await connection.execute("commit")
    driver = sql.engine.pages.driver
    (_, header), *beyond = await driver.read_pages([PageNumber(page) for page in range(1, 60)], driver.vdl)
    assert {lsn for lsn, _ in beyond[page_count(header) - 1 :]} == {0}
    if reopens:
        await sql.reopen()
    async with await sql.connect() as connection:
        await connection.execute(many)
    await sql.reopen()
    async with await sql.connect() as connection:
        assert await rows(connection, "select count(*), sum(length(v)) from t") == [(101, 350_004)]


async def test_whoever_stands_in_line_when_the_lease_ends_waits_for_it_once(sql: SqlServer) -> None:
    async with await sql.connect() as connection:
        await connection.execute("create table t (id int primary key, v int)")
        await connection.execute("insert into t values (1, 1), (2, 1)")
        others = [await sql.connect() for _ in range(4)]
        await connection.execute("begin")
        await connection.execute("update t set v = 2 where id = 2")
        writing = [
            asyncio.create_task(other.execute("begin; update t set v = 3 where id = 1")) for other in others
        ]
        await sql.until(lambda: sql.engine._write_lock.waiting == 4)
        await sql.cluster.replace_the_writer()
        reading = asyncio.create_task(connection.execute("select v from t where id = 1"))
        turns = 0
        while not all(task.done() for task in (reading, *writing)):
            sql.cluster.let_pass(1.0)
            turns += 1
            await asyncio.sleep(0.01)
        found = await asyncio.gather(reading, *writing, return_exceptions=True)
        assert all(isinstance(each, psycopg.OperationalError) for each in found)
        assert turns < 150
        for other in others:
            await other.close()


async def test_a_write_that_is_cut_short_after_a_savepoint_lets_others_write(sql: SqlServer) -> None:
    async with await sql.connect() as connection, await sql.connect() as other:
        await connection.execute("create table t (a bigint)")
        await connection.execute("set statement_timeout = '100ms'")
        await connection.execute("begin")
        await connection.execute("insert into t values (1)")
        await connection.execute("savepoint s")
        with pytest.raises(errors.QueryCanceled):
            await connection.execute(f"insert into t {ENDLESS}")
        await other.execute("set lock_timeout = '2s'")
        await other.execute("insert into t values (5)")
        with pytest.raises(errors.InvalidSavepointSpecification, match='savepoint "s" does not exist'):
            await connection.execute("rollback to savepoint s")
        await connection.execute("rollback")
        assert await rows(connection, "select a from t") == [(5,)]


async def test_a_savepoint_from_before_the_first_write(sql: SqlServer) -> None:
    async with await sql.connect() as connection:
        await connection.execute("create table t (a int)")
        async with connection.transaction():
            await connection.execute("select 1")
            with pytest.raises(ZeroDivisionError):
                async with connection.transaction():
                    await connection.execute("insert into t values (1)")
                    raise ZeroDivisionError
            await connection.execute("insert into t values (2)")
        assert await rows(connection, "select a from t") == [(2,)]


async def test_read_committed_sees_what_was_committed_meanwhile(sql: SqlServer) -> None:
    async with await sql.connect() as one, await sql.connect() as two:
        await one.execute("create table t (a int)")
        await two.execute("begin")
        assert await rows(two, "select a from t") == []
        await one.execute("insert into t values (1)")
        assert await rows(two, "select a from t") == [(1,)]
        await two.execute("commit")


@pytest.mark.parametrize("level", ["repeatable read", "serializable"])
async def test_a_snapshot_stays_and_cannot_write_when_outdated(sql: SqlServer, level: str) -> None:
    async with await sql.connect() as one, await sql.connect() as two:
        await one.execute("create table t (a int)")
        await two.execute(f"begin isolation level {level}")
        assert await rows(two, "select a from t") == []
        await one.execute("insert into t values (1)")
        assert await rows(two, "select a from t") == []
        with pytest.raises(errors.SerializationFailure):
            await two.execute("insert into t values (2)")
        await two.execute("rollback")
        await two.execute(f"begin isolation level {level}")
        assert await rows(two, "select a from t") == [(1,)]
        await two.execute("insert into t values (2)")
        await two.execute("commit")
        assert await rows(one, "select count(*) from t") == [(2,)]


async def test_read_only_blocks(sql: SqlServer) -> None:
    async with await sql.connect() as connection:
        await connection.execute("create table t (a int)")
        await connection.execute("begin read only")
        with pytest.raises(errors.ReadOnlySqlTransaction):
            await connection.execute("insert into t values (1)")
        await connection.execute("rollback")
        await connection.execute("insert into t values (1)")


async def test_a_volume_with_three_of_six_copies_is_read_only(sql: SqlServer) -> None:
    async with await sql.connect() as connection:
        await connection.execute("create table t (a int)")
        await connection.execute("insert into t values (1)")
    await sql.cluster.leave_only_enough_to_read()
    await sql.reopen()
    async with await sql.connect() as connection:
        with pytest.raises(errors.ReadOnlySqlTransaction):
            await connection.execute("insert into t values (2)")
        assert await rows(connection, "select a from t") == [(1,)]


@pytest.mark.parametrize(
    ("why", "before", "asked"),
    [
        ("a row that it does not know of", [], "update t set v = 2 where id = 5"),
        ("a row that is gone", [], "insert into t values (1, 2)"),
        ("a lock that is none", ["begin"], "select v from t where id = 2 for update"),
        ("a lock that was none", ["begin", "select v from t where id = 2 for update"], "commit"),
        ("a read", ["begin", "update t set v = 2 where id = 2"], "select v from t where id = 2"),
        ("a write", ["begin", "update t set v = 2 where id = 2"], "update t set v = 3 where id = 5"),
        ("a duplicate", ["begin", "update t set v = 2 where id = 2"], "insert into t values (1, 2)"),
    ],
)
@pytest.mark.parametrize("prepare", [False, True], ids=["text", "prepared"])
async def test_a_writer_that_was_replaced_tells_nothing_outdated(
    sql: SqlServer, why: str, before: list[str], asked: str, prepare: bool
) -> None:
    one = await sql.connect()
    await one.execute("create table t (id int primary key, v int)")
    await one.execute("insert into t values (1, 1), (2, 1)")
    for text in before:
        await one.execute(text)
    await sql.cluster.replace_the_writer()
    replaced = SqlServer(sql.cluster, ServerSettings())
    await replaced.start()
    async with await replaced.connect() as other:
        await other.execute("delete from t where id = 1; insert into t values (5, 5); update t set v = 7")
    await replaced.stop()
    answer = asyncio.ensure_future(one.execute(asked, prepare=prepare))
    while not answer.done():
        sql.cluster.let_pass(1.0)
        await asyncio.sleep(0.01)
    with pytest.raises(psycopg.OperationalError, match="this is still the writer") as error:
        await answer
    assert error.value.sqlstate == "57P03"
    await one.close()


async def test_the_lock_is_handed_over_before_the_commit_is_durable(sql: SqlServer) -> None:
    async with await sql.connect() as one, await sql.connect() as two:
        await one.execute("create table t (a int)")
        before, durable = sql.engine.commits, sql.cluster.driver.vdl
        sql.cluster.lose_the_write_quorum()
        first = asyncio.ensure_future(one.execute("insert into t values (1)"))
        second = asyncio.ensure_future(two.execute("insert into t values (2)"))
        await sql.until(lambda: sql.engine.commits == before + 2)
        await asyncio.sleep(0.05)
        assert not first.done()
        assert not second.done()
        assert sql.cluster.driver.vdl == durable
        sql.cluster.heal()
        await first
        await second


class TestImpatient:
    @pytest.fixture
    def commit_timeout_s(self) -> float:
        return 0.1

    async def test_an_unknown_outcome_ends_the_session(self, sql: SqlServer) -> None:
        connection = await sql.connect()
        await connection.execute("create table t (a int)")
        sql.cluster.lose_the_write_quorum()
        with pytest.raises(psycopg.OperationalError, match="outcome of this commit is unknown") as error:
            await connection.execute("insert into t values (1)")
        assert error.value.sqlstate == "08007"
        assert connection.closed

    @pytest.fixture
    def small_is_large(self, sql: SqlServer, monkeypatch: pytest.MonkeyPatch) -> None:
        """A commit of a few dozen pages is spilled, and sent in chunks."""
        monkeypatch.setattr("db_instance.engine.engine._CONNECTION_CACHE_KIB", 24)
        monkeypatch.setattr("db_instance.engine.vfs._STAGED_MEMORY_MAX", 3 * 4096)
        monkeypatch.setattr("db_instance.engine.pages._CHUNK_PAGES", 4)
        sql.cluster.engine.reset_connections()

    @pytest.mark.usefixtures("small_is_large")
    async def test_an_unknown_outcome_of_a_large_commit_ends_the_session(self, sql: SqlServer) -> None:
        connection = await sql.connect()
        await connection.execute("create table t (a int, b bytea)")
        sql.cluster.lose_the_write_quorum()
        rows_of_two_kb = ", ".join(["(1, %s)"] * 60)
        with pytest.raises(psycopg.OperationalError, match="outcome of this commit is unknown") as error:
            await connection.execute(f"insert into t values {rows_of_two_kb}", [bytes(2000)] * 60)
        assert error.value.sqlstate == "08007"
        assert connection.closed
        sql.cluster.heal()
        await sql.until(lambda: not sql.cluster.driver.stalled_s)
        await sql.reopen()
        async with await sql.connect() as later:
            assert await rows(later, "select count(*) from t") == [(60,)], "and it has become durable"

    @pytest.mark.usefixtures("small_is_large")
    async def test_a_commit_of_more_records_than_a_volume_may_lack_is_refused_whole(
        self, sql: SqlServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("db_instance.volume_driver.batcher.LSN_ALLOCATION_LIMIT", 30)
        connection = await sql.connect()
        await connection.execute("create table t (a int, b bytea)")
        rows_of_two_kb = ", ".join(["(1, %s)"] * 100)
        with pytest.raises(psycopg.Error, match="LSNs") as error:
            await connection.execute(f"insert into t values {rows_of_two_kb}", [bytes(2000)] * 100)
        assert error.value.sqlstate == "54000"
        await connection.execute("insert into t values (2)")
        assert await rows(connection, "select a from t") == [(2,)], "and nobody else is the worse for it"

    @pytest.mark.usefixtures("small_is_large")
    async def test_after_a_large_commit_that_stopped_half_way_nothing_is_committed(
        self, sql: SqlServer
    ) -> None:
        async with await sql.connect() as large, await sql.connect() as other:
            await large.execute("create table t (a int, b bytea)")
            sql.cluster.lose_the_write_quorum()
            rows_of_two_kb = ", ".join(["(1, %s)"] * 60)
            with pytest.raises(psycopg.OperationalError):
                await large.execute(f"insert into t values {rows_of_two_kb}", [bytes(2000)] * 60)
            assert sql.cluster.engine.pages.broken.done()
            sql.cluster.heal()
            async with asyncio.timeout(10):
                while sql.cluster.driver.stalled_s:
                    await asyncio.sleep(0.01)
            # Its records are in the log, without the last one, which would make them count: so would any other.
            with pytest.raises(psycopg.Error, match="stopped half way"):
                await other.execute("insert into t values (0, null)")


async def test_lock_timeout(sql: SqlServer) -> None:
    async with await sql.connect() as one, await sql.connect() as two:
        await one.execute("create table t (a int)")
        await one.execute("begin")
        await one.execute("insert into t values (1)")
        await two.execute("set lock_timeout = '20ms'")
        with pytest.raises(errors.LockNotAvailable):
            await two.execute("insert into t values (2)")
        await one.execute("commit")
        await two.execute("insert into t values (2)")


async def test_a_wait_for_the_lock_can_be_cancelled(sql: SqlServer) -> None:
    async with await sql.connect() as one, await sql.connect() as two:
        await one.execute("create table t (a int)")
        await one.execute("begin")
        await one.execute("insert into t values (1)")
        await two.execute("set statement_timeout = '20ms'")
        with pytest.raises(errors.QueryCanceled, match="statement timeout"):
            await two.execute("insert into t values (2)")
        await one.execute("commit")
        assert await rows(one, "select a from t") == [(1,)]


async def test_a_statement_can_be_cancelled_after_a_write_that_changed_nothing(sql: SqlServer) -> None:
    async with await sql.connect() as connection:
        await connection.execute("create table t (a int)")
        await connection.execute("update t set a = 1")
        await connection.execute("set statement_timeout = '20ms'")
        with pytest.raises(errors.QueryCanceled):
            await connection.execute(ENDLESS.replace("from c)", "from c where n < 2000000)"))


async def test_statement_timeout_in_a_block(sql: SqlServer) -> None:
    async with await sql.connect() as connection:
        await connection.execute("create table t (a int)")
        await connection.execute("begin")
        await connection.execute("insert into t values (1)")
        await connection.execute("set statement_timeout = '20ms'")
        with pytest.raises(errors.QueryCanceled):
            await connection.execute(ENDLESS)
        await connection.execute("rollback")
        assert await rows(connection, "show statement_timeout") == [("0",)]
        assert await rows(connection, "select a from t") == []


async def test_idle_in_a_transaction_for_too_long(sql: SqlServer) -> None:
    connection = await sql.connect()
    await connection.execute("set idle_in_transaction_session_timeout = '20ms'")
    await connection.execute("begin")
    await sql.until_no_sessions_but(0)
    with pytest.raises(errors.IdleInTransactionSessionTimeout):
        await connection.execute("select 1")


# Simple query: several statements


async def test_several_statements_are_one_transaction(sql: SqlServer) -> None:
    async with await sql.connect() as connection:
        with pytest.raises(errors.UniqueViolation):
            await connection.execute(
                "create table t (a int primary key); insert into t values (1); insert into t values (1)"
            )
        with pytest.raises(errors.UndefinedTable):
            await connection.execute("select a from t")
        cursor = await connection.execute(
            "create table t (a int); insert into t values (1), (2); select a from t order by a; begin"
        )
        tags = [cursor.statusmessage]
        while cursor.nextset():
            tags.append(cursor.statusmessage)
        assert tags == ["CREATE TABLE", "INSERT 0 2", "SELECT 2", "BEGIN"]
        await connection.execute("insert into t values (3)")
        await connection.execute("rollback")
        with pytest.raises(errors.UndefinedTable):
            await connection.execute("select a from t")


async def test_nothing_is_a_statement_too(sql: SqlServer) -> None:
    async with await sql.connect() as connection:
        for text in ("", "  ;; ", "-- nothing"):
            cursor = await connection.execute(text)
            assert cursor.pgresult is not None
            assert cursor.pgresult.status == psycopg.pq.ExecStatus.EMPTY_QUERY


# Extended query


async def test_prepared_statements_follow_the_schema(sql: SqlServer) -> None:
    async with await sql.connect() as connection:
        await connection.execute("create table t (a int)")
        await connection.execute("insert into t values (1)")
        for _ in range(8):
            assert await rows(connection, "select * from t where a = %s", 1, prepare=True) == [(1,)]
        await connection.execute("alter table t add column b text default 'x'")
        assert await rows(connection, "select * from t where a = %s", 1, prepare=True) == [(1, "x")]
        await connection.execute("drop table t")
        with pytest.raises(errors.UndefinedTable):
            await rows(connection, "select * from t where a = %s", 1, prepare=True)


async def test_a_table_is_altered(sql: SqlServer) -> None:
    async with await sql.connect() as connection:
        await connection.execute("create table t (id int primary key, v text)")
        await connection.execute("insert into t values (1, 'a')")
        for text in (
            "alter table t add column n int",
            "alter table t add column if not exists n int",
            "alter table only public.t add m int not null default 5, add w text default 'a  b'::text",
            "alter table t rename column n to nn",
            "alter table t drop column if exists gone, drop column v restrict",
            "alter table t add constraint one_m unique (m)",
            "alter table if exists gone add column n int",
            "alter table t rename to u",
        ):
            cursor = await connection.execute(text)
            assert cursor.statusmessage == "ALTER TABLE"
        cursor = await connection.execute("select * from u")
        assert [column.name for column in cursor.description or ()] == ["id", "nn", "m", "w"]
        assert await cursor.fetchall() == [(1, None, 5, "a  b")]
        with pytest.raises(errors.NumericValueOutOfRange):
            await connection.execute("update u set nn = 3000000000")
        with pytest.raises(errors.UniqueViolation):
            await connection.execute("insert into u values (2, 2, 5, null)")


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("alter table gone add column n int", errors.UndefinedTable),
        ("alter table t add column id int", errors.DuplicateColumn),
        ("alter table t rename column gone to n", errors.UndefinedColumn),
        ("alter table t drop column gone", errors.UndefinedColumn),
        ("alter table t add column n int unique", errors.FeatureNotSupported),
        ("alter table t add column n int default now()", errors.FeatureNotSupported),
        ("alter table t add column n int default", errors.SyntaxError),
        ("alter table t", errors.SyntaxError),
        ("alter table t alter column id type bigint", errors.FeatureNotSupported),
        ("alter table t add column v text, add column id int", errors.DuplicateColumn),
    ],
)
async def test_an_alteration_is_refused_whole(sql: SqlServer, text: str, error: type[Exception]) -> None:
    async with await sql.connect() as connection:
        await connection.execute("create table t (id int primary key)")
        await connection.execute("insert into t values (1)")
        with pytest.raises(error):
            await connection.execute(text)
        assert await rows(connection, "select * from t") == [(1,)]


async def test_a_pipeline_is_one_transaction(sql: SqlServer) -> None:
    async with await sql.connect() as connection:
        await connection.execute("create table t (a int primary key)")
        with pytest.raises(errors.UniqueViolation):
            async with connection.pipeline():
                for number in (1, 2, 1):
                    await connection.execute("insert into t values (%s)", (number,))
        assert await rows(connection, "select a from t") == []
        async with connection.pipeline():
            cursors = [await connection.execute("insert into t values (%s)", (each,)) for each in range(50)]
        assert [cursor.statusmessage for cursor in cursors] == ["INSERT 0 1"] * 50
        assert await rows(connection, "select count(*) from t") == [(50,)]


async def test_returning(sql: SqlServer) -> None:
    async with await sql.connect() as connection:
        await connection.execute("create table t (id serial primary key, a int)")
        assert await rows(connection, "insert into t (a) values (%s), (%s) returning id, a", 7, 8) == [
            (1, 7),
            (2, 8),
        ]
        assert await rows(connection, "update t set a = a + 1 where a = %s returning a", 8) == [(9,)]
        cursor = await connection.execute("delete from t where a > %s", (0,))
        assert cursor.statusmessage == "DELETE 2"


async def test_stream_and_large_results(sql: SqlServer) -> None:
    numbers = "with recursive c(n) as (select 1 union all select n + 1 from c limit 5000) select n from c"
    async with await sql.connect() as connection:
        assert [row[0] for row in await rows(connection, numbers)] == list(range(1, 5001))
        seen = 0
        async for row in connection.cursor().stream(f"{numbers} where n > %s", (10,)):
            seen += row[0]
        assert seen == sum(range(11, 5001))


async def test_errors_in_values(sql: SqlServer) -> None:
    async with await sql.connect() as connection:
        await connection.execute("create table t (a int, b date)")
        with pytest.raises(errors.InvalidTextRepresentation):
            await connection.execute("insert into t (a) values (%s)", ("seven",))
        with pytest.raises(psycopg.DataError):
            await connection.execute("insert into t (b) values (%s)", ("yesterday?",))
        assert await rows(connection, "select 1") == [(1,)]


async def test_values_that_cannot_be_kept_or_told_are_refused(sql: SqlServer) -> None:
    async with await sql.connect() as connection:
        await connection.execute("create table t (n bigint, f float8)")
        await connection.execute("insert into t values (9223372036854775807, 'Infinity'::float8)")
        for binary in (False, True):
            with pytest.raises(errors.NumericValueOutOfRange):
                await rows(connection, "select n + 1 from t", binary=binary)
        for text in ("%s", "%b"):
            with pytest.raises(errors.FeatureNotSupported, match="NaN"):
                await connection.execute(f"insert into t (f) values ({text})", (float("nan"),))
        with pytest.raises(errors.FeatureNotSupported, match="NaN"):
            await connection.execute("insert into t (f) values ('NaN')")
        with pytest.raises(errors.DivisionByZero):
            await connection.execute("update t set f = 1 / (n - 9223372036854775807)")
        assert await rows(connection, "select * from t") == [(2**63 - 1, float("inf"))]


# COPY


async def test_copy_in_and_out(sql: SqlServer) -> None:
    async with await sql.connect() as connection:
        await connection.execute("create table t (id integer primary key, name text, ok boolean)")
        async with connection.cursor().copy("copy t (id, name, ok) from stdin") as copy:
            for number in range(1000):
                await copy.write_row((number, None if number % 3 else f"n\t{number}", number % 2 == 0))
        assert await rows(connection, "select count(*), count(name) from t") == [(1000, 334)]
        seen = []
        async with connection.cursor().copy("copy t to stdout") as copy:
            copy.set_types(["int4", "text", "bool"])
            async for row in copy.rows():
                seen.append(row)
        assert seen == [(n, None if n % 3 else f"n\t{n}", n % 2 == 0) for n in range(1000)]
        out = b""
        async with connection.cursor().copy(
            "copy (select id, name from t where id < 4) to stdout csv header"
        ) as copy:
            async for data in copy:
                out += bytes(data)
        assert out == b"id,name\n0,n\t0\n1,\n2,\n3,n\t3\n"


@pytest.mark.parametrize(
    ("why", "data", "error", "detail"),
    [
        ("too few fields", "1\n", errors.BadCopyFileFormat, "COPY row 2"),
        ("too many fields", "1\tx\n2\tx\ty\n", errors.BadCopyFileFormat, "COPY row 3"),
        ("no integer", "one\tx\n", errors.InvalidTextRepresentation, None),
        ("too large", "2147483648\tx\n", errors.NumericValueOutOfRange, None),
        ("duplicate", "1\tx\n1\ty\n", errors.UniqueViolation, None),
        ("no key", "1\tx\n\\N\ty\n", errors.NotNullViolation, None),
        ("a NUL", "1\tx\0\n", errors.CharacterNotInRepertoire, None),
    ],
)
async def test_a_failed_copy_leaves_nothing(
    sql: SqlServer, why: str, data: str, error: type[psycopg.Error], detail: str | None
) -> None:
    async with await sql.connect() as connection:
        await connection.execute("create table t (a int primary key, b text)")
        with pytest.raises(error) as raised:
            async with connection.cursor().copy("copy t from stdin") as copy:
                await copy.write("7\tseven\n")
                await copy.write(data)
        assert raised.value.diag.message_detail == detail
        assert await rows(connection, "select * from t") == []


@pytest.mark.parametrize(
    ("column", "value", "error", "message"),
    [
        ("int primary key", "2147483648", errors.NumericValueOutOfRange, "integer out of range"),
        ("smallint primary key", "-32769", errors.NumericValueOutOfRange, "smallint out of range"),
        ("int", "3000000000", errors.NumericValueOutOfRange, "integer out of range"),
        ("bigint", "'x' || ''", errors.InvalidTextRepresentation, "invalid input syntax for type bigint"),
        ("real", "'x' || ''", errors.InvalidTextRepresentation, "invalid input syntax for type real"),
        (
            "varchar(2)",
            "'xyz'",
            errors.StringDataRightTruncation,
            "value too long for type character varying(2)",
        ),
        ("char(2)", "'xyz'", errors.StringDataRightTruncation, "value too long for type character(2)"),
    ],
)
async def test_what_does_not_fit_a_type_is_refused_in_its_words(
    sql: SqlServer, column: str, value: str, error: type[psycopg.Error], message: str
) -> None:
    async with await sql.connect() as connection:
        await connection.execute(f"create table t (c {column})")
        with pytest.raises(error) as raised:
            await connection.execute(f"insert into t values ({value})")
        assert raised.value.diag.message_primary == message


async def test_an_integer_key_has_the_type_it_was_declared_with(sql: SqlServer) -> None:
    async with await sql.connect() as connection:
        for name, column in {
            "a": "smallint",
            "b": "int",
            "c": "bigint",
            "d": "serial",
            "e": "bigserial",
        }.items():
            await connection.execute(f"create table {name} ({name} {column} primary key, v text)")
            await connection.execute(f"insert into {name} values (1, 'x'), (2, 'y')")
        seen = [
            (await connection.execute(f"select {name}, v from {name} where {name} = %s", (2,), prepare=True))
            for name in "abcde"
        ]
        assert [(cursor.description or [])[0].type_code for cursor in seen] == [21, 23, 20, 23, 20]
        assert [await cursor.fetchall() for cursor in seen] == [[(2, "y")]] * 5


async def test_a_copy_names_each_column_once(sql: SqlServer) -> None:
    async with await sql.connect() as connection:
        await connection.execute("create table t (a int, b text)")
        with pytest.raises(errors.DuplicateColumn):
            async with connection.cursor().copy("copy t (a, b, a) from stdin") as copy:
                await copy.write("1\tx\t2\n")
        assert await rows(connection, "select * from t") == []


async def test_a_copy_that_the_client_gives_up(sql: SqlServer) -> None:
    async with await sql.connect() as connection:
        await connection.execute("create table t (a int)")
        with pytest.raises(ZeroDivisionError):
            async with connection.cursor().copy("copy t from stdin") as copy:
                await copy.write("1\n")
                raise ZeroDivisionError
        assert await rows(connection, "select * from t") == []


# Settings


async def test_set_show_reset(sql: SqlServer) -> None:
    async with await sql.connect("options='-c statement_timeout=7s' application_name=here") as connection:
        assert await rows(connection, "show statement_timeout") == [("7s",)]
        assert await rows(connection, "show application_name") == [("here",)]
        await connection.execute("set statement_timeout to '1min'")
        assert await rows(connection, "show statement_timeout") == [("1min",)]
        await connection.execute("reset statement_timeout")
        assert await rows(connection, "show statement_timeout") == [("7s",)]
        await connection.execute("set application_name = 'there'")
        assert connection.info.parameter_status("application_name") == "there"
        await connection.execute("set timezone to 'Etc/UTC'")
        assert connection.info.parameter_status("TimeZone") == "Etc/UTC"
        await connection.execute("begin; set local work_mem = '1MB'")
        assert await rows(connection, "show work_mem") == [("1MB",)]
        await connection.execute("commit")
        assert await rows(connection, "show work_mem") == [("4MB",)]
        with pytest.raises(errors.UndefinedObject):
            await connection.execute("show nonsense")
        await connection.execute("discard all")
        assert connection.info.parameter_status("application_name") == "here"


async def test_isolation_through_psycopg(sql: SqlServer) -> None:
    async with await sql.connect(autocommit=False) as connection:
        await connection.set_isolation_level(psycopg.IsolationLevel.SERIALIZABLE)
        assert await rows(connection, "show transaction_isolation") == [("serializable",)]
        await connection.commit()
        await connection.set_read_only(True)
        assert await rows(connection, "show transaction_read_only") == [("on",)]
        await connection.rollback()


async def test_target_session_attrs_finds_a_writer(sql: SqlServer) -> None:
    async with await sql.connect("target_session_attrs=read-write") as connection:
        assert await rows(connection, "select 1") == [(1,)]


@pytest.mark.parametrize(
    ("values", "name"),
    [
        ("(0, 1, 1, 1, 1, 1)", "t_a_check"),
        ("(1, 0, 1, 1, 1, 1)", "t_check"),
        ("(1, 9, 1, 1, 1, 1)", "t_b_check"),
        ("(1, 99, 1, 1, 1, 1)", "below"),
        ("(1, 1, 5, 1, 1, 1)", "own"),
        ("(1, 1, 1, 5, 1, 1)", "own two"),
        ("(1, 1, 1, 1, 5, 1)", "t_e_key"),
        ("(1, 1, 1, 1, 1, 5)", "own_index"),
    ],
)
async def test_a_violation_names_the_constraint(sql: SqlServer, values: str, name: str) -> None:
    table = (
        "create table t (a int check (a > 0), b int constraint below check (b < 90), c int constraint own unique,"
        ' d int, e int unique, f int, constraint "own two" unique (d, a), check (b >= a), check (b <> 9))'
    )
    async with await sql.connect() as connection:
        await connection.execute(table)
        await connection.execute("create unique index own_index on t (f) where f > 1")
        await connection.execute("insert into t values (1, 2, 5, 5, 5, 5)")
        with pytest.raises(psycopg.IntegrityError) as raised:
            await connection.execute(f"insert into t values {values}")
        assert raised.value.diag.constraint_name == name
        await connection.execute("insert into t values (1, 2, 6, 6, 6, 6)")


async def test_a_constraint_that_is_added_is_named(sql: SqlServer) -> None:
    async with await sql.connect() as connection:
        await connection.execute("create table t (a int, b int)")
        await connection.execute(
            "alter table t add constraint one_each unique (a, b), add column c int check (c > 0)"
        )
        await connection.execute("insert into t values (1, 1)")
        for values, name in {"(1, 1)": "one_each", "(1, 2, 0)": "t_c_check"}.items():
            with pytest.raises(psycopg.IntegrityError) as raised:
                await connection.execute(f"insert into t values {values}")
            assert raised.value.diag.constraint_name == name


async def test_each_session_is_told_its_own_user(sql: SqlServer) -> None:
    async with await sql.connect() as setup:
        await setup.execute("create table t (by text not null default current_user, n int)")
    asked = "select current_user, session_user"
    for user in ("ann", "bob", "ann"):
        async with await sql.connect(user=user) as connection:
            for _ in range(3):
                cursor = await connection.execute(asked)
                assert await cursor.fetchall() == [(user, user)]
                await connection.execute("insert into t (n) values (%s)", (1,), prepare=True)
            assert cursor.description is not None
            assert [(each.name, each.type_code) for each in cursor.description] == [
                ("current_user", 19),
                ("session_user", 19),
            ]
    async with await sql.connect(user="eve") as connection:
        assert await rows(connection, "select by, count(*) from t group by by order by by") == [
            ("ann", 6),
            ("bob", 3),
        ]


async def test_what_was_set_since_a_savepoint_goes_with_it(sql: SqlServer) -> None:
    async with await sql.connect(autocommit=False) as connection:
        await connection.execute("set statement_timeout = '1min'")
        await connection.execute("savepoint a")
        await connection.execute("set local lock_timeout = '5s'")
        await connection.execute("savepoint b")
        await connection.execute("set statement_timeout = '2min'")
        await connection.execute("release b")
        await connection.execute("rollback to a")
        assert await rows(connection, "show statement_timeout") == [("1min",)]
        assert await rows(connection, "show lock_timeout") == [("1min",)]  # as it began
        await connection.commit()
        assert await rows(connection, "show statement_timeout") == [("1min",)]
