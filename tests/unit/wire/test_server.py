"""What a server does about clients that are wrong, slow, many, or gone."""

import asyncio
import random
import struct

import psycopg
import pytest

from db_instance.session.errors import SessionError
from db_instance.wire.postgres.server import ServerSettings
from tests.harness.packets import introduced, message, query, read_until, sqlstate, startup
from tests.harness.sql_server import ENDLESS, SqlServer


async def test_encryption_is_declined_and_the_session_begins(sql: SqlServer) -> None:
    reader, writer = await sql.raw()
    for code in (80877103, 80877104):
        writer.write(struct.pack(">II", 8, code))
        assert await reader.readexactly(1) == b"N"
    writer.write(startup())
    kinds = [kind for kind, _ in await read_until(reader, b"Z")]
    assert kinds[0] == b"R"
    assert b"K" in kinds
    writer.close()


async def test_a_newer_minor_version_is_negotiated_down(sql: SqlServer) -> None:
    reader, writer = await sql.raw()
    writer.write(startup(2, b"user", b"app", b"_pq_.wish", b"1"))
    messages = await read_until(reader, b"Z")
    assert messages[0] == (b"v", struct.pack(">ii", 3 << 16, 1) + b"_pq_.wish\0")
    writer.close()


async def test_libpq_takes_the_older_version(sql: SqlServer) -> None:
    if psycopg.pq.version() < 180000:
        pytest.skip("this libpq asks for 3.0 only")
    async with await sql.connect("max_protocol_version=latest") as connection:
        assert await (await connection.execute("select 1")).fetchone() == (1,)


async def test_a_setting_may_be_empty(sql: SqlServer) -> None:
    reader, writer = await sql.raw()
    writer.write(
        startup(0, b"user", b"app", b"application_name", b"", b"search_path", b"", b"database", b"x")
    )
    await read_until(reader, b"Z")
    writer.write(query("show search_path"))
    assert [body for kind, body in await read_until(reader, b"Z") if kind == b"D"] == [
        bytes([0, 1, 0, 0, 0, 0])
    ]
    writer.close()


async def test_pipelined_queries_are_answered_in_order(sql: SqlServer) -> None:
    reader, writer = await introduced(sql)
    count = 1000
    writer.write(b"".join(query(f"select {number}") for number in range(count)))
    for number in range(count):
        rows = [body for kind, body in await read_until(reader, b"Z") if kind == b"D"]
        assert rows == [b"\0\1" + struct.pack(">I", len(str(number))) + str(number).encode()]
    writer.close()


@pytest.mark.parametrize(
    ("why", "sent"),
    [
        ("random bytes", b"\x93\x11\x05\xfe" * 50),
        ("oversized startup", b"\0\1\0\0" + b"x" * 100),
        ("http", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"),
        ("no user", startup(0, b"database", b"x")),
        ("replication", startup(0, b"user", b"x", b"replication", b"database")),
        ("unknown setting", startup(0, b"user", b"x", b"nonsense", b"1")),
        ("startup options that are none", startup(0, b"user", b"x", b"options", b"what")),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_a_bad_beginning_is_told_and_closed(sql: SqlServer, why: str, sent: bytes) -> None:
    reader, writer = await sql.raw()
    writer.write(sent)
    async with asyncio.timeout(10):
        answer = await reader.read()
    assert b"SFATAL\0" in answer
    writer.close()


@pytest.mark.parametrize(
    ("why", "sent"),
    [
        ("unknown kind", b"!\0\0\0\4"),
        ("oversized", b"Q\x7f\xff\xff\xff"),
        ("malformed bind", b"B\0\0\0\x08\0\0\0\0"),
        ("function call", b"F\0\0\0\4"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_a_bad_message_ends_its_session_and_no_other(sql: SqlServer, why: str, sent: bytes) -> None:
    other = await sql.connect()
    reader, writer = await introduced(sql)
    writer.write(query("begin; create table half(a int)"))
    await read_until(reader, b"Z")
    writer.write(sent)
    async with asyncio.timeout(10):
        answer = await reader.read()
    assert b"SFATAL\0" in answer
    await sql.until_no_sessions_but(1)
    assert await (await other.execute("select 1")).fetchone() == (1,)
    await other.execute("create table half(a int)")
    await other.close()


@pytest.mark.parametrize(
    "sent",
    [
        message(b"Q", b"insert into t values ('caf\xe9')\0"),
        message(b"P", b"\0insert into t values ('caf\xe9')\0\0\0")
        + message(b"B", bytes(8))
        + message(b"E", bytes(5))
        + message(b"S"),
    ],
    ids=["simple", "extended"],
)
async def test_a_text_that_is_no_utf_8_fails_and_its_session_goes_on(sql: SqlServer, sent: bytes) -> None:
    reader, writer = await introduced(sql)
    writer.write(query("create table t (a text)"))
    await read_until(reader, b"Z")
    writer.write(sent)
    [(kind, body), ready] = await read_until(reader, b"Z")
    assert (kind, sqlstate(body), ready) == (b"E", "22021", (b"Z", b"I"))
    assert b"0xe9" in body
    writer.write(query("begin"))
    await read_until(reader, b"Z")
    writer.write(sent)
    assert (await read_until(reader, b"Z"))[-1] == (b"Z", b"E")
    writer.write(query("rollback") + query("select count(*) from t"))
    await read_until(reader, b"Z")
    assert [body[6:] for kind, body in await read_until(reader, b"Z") if kind == b"D"] == [b"0"]
    writer.close()


async def test_random_bytes_after_the_beginning_harm_nobody_else(sql: SqlServer) -> None:
    dice = random.Random(11)
    other = await sql.connect()
    for _ in range(60):
        reader, writer = await introduced(sql)
        kind = dice.choice(b"QPBDECSHdcfpFX!")
        body = dice.randbytes(dice.randrange(40))
        size = len(body) + 4 if dice.random() < 0.7 else dice.randrange(1 << 32)
        writer.write(bytes([kind]) + struct.pack(">I", size) + body)
        writer.write_eof()
        async with asyncio.timeout(10):
            await reader.read()
        writer.close()
    assert await (await other.execute("select 1")).fetchone() == (1,)
    await other.close()


async def test_a_truncated_message_and_a_close_undo_the_transaction(sql: SqlServer) -> None:
    other = await sql.connect()
    await other.execute("create table t(a int)")
    reader, writer = await introduced(sql)
    writer.write(query("begin; insert into t values (1)"))
    await read_until(reader, b"Z")
    writer.write(query("insert into t values (2)")[:10])
    writer.close()
    await sql.until_no_sessions_but(1)
    await other.execute("insert into t values (3)")
    assert await (await other.execute("select a from t")).fetchall() == [(3,)]
    await other.close()


@pytest.mark.parametrize(
    ("why", "sql_text", "data", "last"),
    [
        ("all is well", "copy t from stdin", message(b"d", b"1\n") + message(b"c"), (b"C", b"COPY 1\0")),
        ("the client gives it up", "copy t from stdin", message(b"f", b"no\0"), (b"E", b"57014")),
        ("a bad row", "copy t from stdin", message(b"d", b"x\n") * 2 + message(b"c"), (b"E", b"22P02")),
        ("no such table", "copy u from stdin", None, (b"E", b"42P01")),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
@pytest.mark.parametrize("describe", [message(b"D", b"P\0"), b""], ids=["described", ""])
async def test_a_copy_by_the_extended_protocol_has_one_answer(
    sql: SqlServer, why: str, sql_text: str, data: bytes | None, last: tuple[bytes, bytes], describe: bytes
) -> None:
    """The Sync that comes with the Execute counts where no data are asked for, and only there."""
    async with await sql.connect() as other:
        await other.execute("create table t (a int)")
    reader, writer = await introduced(sql)
    parse, bind = message(b"P", b"\0" + sql_text.encode() + b"\0\0\0"), message(b"B", b"\0" * 8)
    writer.write(parse + bind + describe + message(b"E", b"\0" * 5) + message(b"S"))
    if data is not None:
        await read_until(reader, b"G")
        writer.write(data + message(b"S"))
    kind, body = (await read_until(reader, b"Z"))[-2]
    assert kind == last[0]
    assert last[1] in body
    writer.write(query("select 42"))
    assert [each for each, _ in await read_until(reader, b"Z")] == [b"T", b"D", b"C", b"Z"]
    writer.close()


@pytest.mark.parametrize("reading_max", [16, 1])
async def test_an_open_portal_keeps_what_it_reads_and_no_other_statement_does(
    sql: SqlServer, reading_max: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("db_instance.session.transaction._READING_MAX", reading_max)
    other = await sql.connect()
    await other.execute("create table t (a int, b int)")
    numbers = "with recursive c(n) as (select 1 union all select n + 1 from c where n < 2000)"
    await other.execute(f"insert into t {numbers} select n, 0 from c")
    await other.execute("create table u (v int); insert into u values (0)")
    reader, writer = await introduced(sql)
    writer.write(query("begin"))
    await read_until(reader, b"Z")

    async def values(run: bytes) -> list[bytes]:
        """Of the rows of one column that it returns."""
        writer.write(run + message(b"S"))
        return [body[6:] for kind, body in await read_until(reader, b"Z") if kind == b"D"]

    def bound(portal: bytes, text: bytes) -> bytes:
        return message(b"P", b"\0" + text + b"\0\0\0") + message(b"B", portal + b"\0" * 8)

    def executed(portal: bytes, rows: int) -> bytes:
        return message(b"E", portal + b"\0" + struct.pack(">i", rows))

    for portal in (b"p", b"q"):
        assert (
            await values(bound(portal, b"select b from t order by a") + executed(portal, 10)) == [b"0"] * 10
        )
    for new in (b"1", b"2"):
        await other.execute("update u set v = v + 1; update t set b = 1")
        assert await values(bound(b"", b"select v from u") + executed(b"", 0)) == [new]
    writer.write(query("update t set b = 2 where a > 1000"))
    await read_until(reader, b"Z")
    assert await values(executed(b"p", 0)) == [b"0"] * 1990
    writer.write(query("rollback"))
    await read_until(reader, b"Z")
    assert sql.engine.leased == 0
    writer.close()
    await other.close()


async def test_a_running_statement_is_cancelled(sql: SqlServer) -> None:
    connection = await sql.connect()
    running = asyncio.ensure_future(connection.execute(ENDLESS))
    await sql.until_a_statement_is_long()
    await connection.cancel_safe(timeout=5)
    with pytest.raises(psycopg.errors.QueryCanceled):
        await running
    assert await (await connection.execute("select 1")).fetchone() == (1,)
    await connection.close()


async def test_a_copy_that_is_told_to_be_cancelled_is(sql: SqlServer) -> None:
    other = await sql.connect()
    await other.execute("create table t (a int)")
    reader, writer = await introduced(sql)
    writer.write(query("copy t from stdin"))
    await read_until(reader, b"G")
    [(connection, session, _)] = [each for each in sql.server._sessions.values() if each[1]._can_cancel]

    def both_in_one_turn() -> None:
        session.cancel(SessionError("57014", "canceling statement due to user request"))
        connection.data_received(message(b"d", b"1\n") + message(b"c"))

    asyncio.get_running_loop().call_soon(both_in_one_turn)
    assert [kind for kind, _ in await read_until(reader, b"Z")] == [b"E", b"Z"]
    await other.execute("insert into t values (2)")
    assert await (await other.execute("select a from t")).fetchall() == [(2,)]
    writer.close()
    await other.close()


async def test_a_cancel_with_the_wrong_key_does_nothing(sql: SqlServer) -> None:
    connection = await sql.connect()
    running = asyncio.ensure_future(connection.execute("select 1"))
    _, writer = await sql.raw()
    writer.write(struct.pack(">III", 16, 80877102, connection.info.backend_pid) + b"nope")
    writer.close()
    assert await (await running).fetchone() == (1,)
    await connection.close()


async def test_a_client_that_leaves_in_mid_statement_leaves_nothing(sql: SqlServer) -> None:
    reader, writer = await introduced(sql)
    writer.write(query(ENDLESS))
    await sql.until_a_statement_is_long()
    writer.close()
    await sql.until_no_sessions_but(0)
    assert sql.engine.leased == 0


async def test_a_client_that_does_not_read_does_not_fill_the_memory(sql: SqlServer) -> None:
    reader, writer = await introduced(sql)
    endless = (
        "with recursive c(n) as (select 1 union all select n + 1 from c) select n, repeat('x', 1000) from c"
    )
    writer.write(query(endless))
    other = await sql.connect()
    for _ in range(200):
        await other.execute("select 1")
    [transport] = [each for each in sql.server._connections if each._room is not None]
    assert transport._out_bytes < 4 * 1024 * 1024
    writer.close()
    await sql.until_no_sessions_but(1)
    await other.close()


async def test_what_comes_while_an_answer_waits_for_its_client_is_answered(sql: SqlServer) -> None:
    reader, writer = await introduced(sql)
    [connection] = sql.server._connections
    writer.write(query("select repeat('x', 12000000)"))
    await sql.until(lambda: connection._room is not None)
    writer.write(query("select 2"))
    await sql.until(lambda: connection._stepper is not None and not connection._stepper.idle)
    writer.write(query("select 3"))
    await sql.until(lambda: connection.parser.waiting_bytes > 0)
    answers = [await read_until(reader, b"Z") for _ in range(3)]
    assert [answer[1][1][6:] for answer in answers[1:]] == [b"2", b"3"]
    writer.close()


async def test_a_client_that_pipelines_and_does_not_read_does_not_fill_the_memory(sql: SqlServer) -> None:
    reader, writer = await introduced(sql)
    [connection] = sql.server._connections
    writer.write(query("select repeat('x', 1000000)") * 200)
    await sql.until(lambda: connection._room is not None)
    other = await sql.connect()
    for _ in range(200):
        await other.execute("select 1")
    assert connection._transport is not None
    assert connection._out_bytes + connection._transport.get_write_buffer_size() < 16 * 1024 * 1024
    for _ in range(200):
        await read_until(reader, b"Z")
    writer.close()
    await other.close()


async def test_who_leaves_without_reading_the_answer_is_dropped(
    sql: SqlServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("db_instance.wire.postgres.connection._SLOW_CLIENT_S", 0.1)
    reader, writer = await introduced(sql)
    writer.transport.pause_reading()
    [connection] = sql.server._connections
    assert connection._stepper is not None
    while connection._room is None:  # until both sockets hold as much as they can
        before = sql.engine.statements
        writer.write(query("select repeat('x', 200000)"))
        await sql.until(lambda: sql.engine.statements > before and connection._stepper.idle)  # noqa: B023
    writer.write(message(b"X"))
    await sql.until_no_sessions_but(0)
    await sql.until(lambda: not sql.server._connections)
    writer.close()


_THOUSAND = "with recursive c(n) as (select 1 union all select n + 1 from c where n < 1000) select n from c"


def _execute(portal: bytes, rows: int) -> bytes:
    return message(b"E", portal + b"\0" + struct.pack(">i", rows)) + message(b"S")


async def _open_portal(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, begin: str) -> None:
    """Ten of a thousand rows are read."""
    for text in ("create table t (n int)", f"insert into t {_THOUSAND}", begin):
        writer.write(query(text))
        await read_until(reader, b"Z")
    writer.write(message(b"P", b"\0select n from t\0\0\0") + message(b"B", b"c\0\0" + bytes(6)))
    writer.write(_execute(b"c", 10))
    assert [kind for kind, _ in await read_until(reader, b"Z")][-2:] == [b"s", b"Z"]


@pytest.mark.parametrize(
    "begin", ["begin", "begin; insert into t values (0)", "begin isolation level repeatable read"]
)
async def test_a_portal_is_read_on_after_a_rollback_to_a_later_savepoint(sql: SqlServer, begin: str) -> None:
    reader, writer = await introduced(sql)
    await _open_portal(reader, writer, begin)
    writer.write(query("savepoint a; rollback to savepoint a"))
    await read_until(reader, b"Z")
    writer.write(_execute(b"c", 0))
    found = [kind for kind, _ in await read_until(reader, b"Z")]
    assert found.count(b"D") == 990 + begin.count("insert")
    writer.close()


async def test_a_block_that_a_simple_query_ends_has_no_portals_any_more(sql: SqlServer) -> None:
    reader, writer = await introduced(sql)
    await _open_portal(reader, writer, "begin")
    writer.write(query("commit"))
    await read_until(reader, b"Z")
    writer.write(_execute(b"c", 0))
    [(kind, body), _] = await read_until(reader, b"Z")
    assert (kind, sqlstate(body)) == (b"E", "34000")
    writer.close()


async def test_a_sequence_without_its_sync_does_not_hold_the_write_lock_for_ever(sql: SqlServer) -> None:
    reader, writer = await sql.raw()
    limit = (b"options", b"-c idle_in_transaction_session_timeout=100ms")
    writer.write(startup(0, b"user", b"app", *limit) + query("create table t (n int)"))
    for _ in range(2):
        await read_until(reader, b"Z")
    writer.write(message(b"P", b"\0insert into t values (1)\0\0\0") + message(b"B", bytes(8)))
    writer.write(message(b"E", bytes(5)) + message(b"H"))
    await read_until(reader, b"C")
    assert sqlstate((await read_until(reader, b"E"))[-1][1]) == "25P03"
    async with await sql.connect() as other:
        await other.execute("insert into t values (2)")
        assert await (await other.execute("select n from t")).fetchall() == [(2,)]
    writer.close()


async def test_stop_tells_the_clients(sql: SqlServer) -> None:
    idle = await sql.connect()
    reader, writer = await introduced(sql)
    writer.write(query(ENDLESS))
    await sql.until_a_statement_is_long()
    await sql.server.stop()
    assert sqlstate((await read_until(reader, b"E"))[-1][1]) == "57P01"
    with pytest.raises(psycopg.OperationalError):
        await idle.execute("select 1")
    assert sql.server.sessions == 0


class TestFew:
    @pytest.fixture
    def server_settings(self) -> ServerSettings:
        return ServerSettings(max_connections=2, startup_timeout_s=0.1)

    async def test_too_many_clients(self, sql: SqlServer) -> None:
        first, second = await sql.connect(), await sql.connect()
        with pytest.raises(psycopg.OperationalError, match="too many clients"):
            await sql.connect()
        await first.close()
        await sql.until_no_sessions_but(1)
        await (await sql.connect()).close()
        await second.close()

    async def test_who_says_nothing_is_dropped(self, sql: SqlServer) -> None:
        reader, writer = await sql.raw()
        async with asyncio.timeout(10):
            answer = await reader.read()
        assert sqlstate(answer[5:]) == "08006"
        writer.close()
