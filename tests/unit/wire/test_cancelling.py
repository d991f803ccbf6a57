"""A statement that is cancelled, or gives up waiting, in the very turn of the loop in which it came."""

import asyncio
import os
import socket
import struct
import time

from tests.harness.packets import query, read_until, sqlstate, startup
from tests.harness.sql_server import SqlServer

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def _client_and_canceller(sql: SqlServer) -> tuple[Streams, asyncio.StreamWriter, bytes]:
    reader, writer = await sql.raw()
    writer.write(startup())
    key = dict(await read_until(reader, b"Z"))[b"K"]
    _, canceller = await sql.raw()
    await sql.until(lambda: len(sql.server._connections) == sql.server.sessions + 1)
    return (reader, writer), canceller, struct.pack(">II", 16, 80877102) + key


async def test_the_write_lock_goes_to_the_next_in_line(sql: SqlServer) -> None:
    async with await sql.connect() as holder, await sql.connect("options='-c lock_timeout=5s'") as next_one:
        await holder.execute("create table t (n int)")
        (reader, writer), canceller, cancel = await _client_and_canceller(sql)
        await holder.execute("begin; insert into t values (1)")
        writer.write(query("insert into t values (2)"))
        canceller.write(cancel)
        assert sqlstate((await read_until(reader, b"Z"))[0][1]) == "57014"
        await holder.execute("commit")
        await next_one.execute("insert into t values (3)")
        assert await (await holder.execute("select n from t order by n")).fetchall() == [(1,), (3,)]
        writer.close()
        canceller.close()


async def test_it_is_not_run_with_others_after_all(sql: SqlServer) -> None:
    async with await sql.connect() as other:
        await other.execute("create table t (n int)")
        (reader, writer), canceller, cancel = await _client_and_canceller(sql)
        for number in range(3):
            writer.write(query(f"insert into t values ({number})"))
            await read_until(reader, b"Z")
        sql.engine.lone_writes._sizes = (2, 2)  # as after two busy rounds: others are likely to come
        writer.write(query("insert into t values (77)"))
        canceller.write(cancel)
        assert sqlstate((await read_until(reader, b"Z"))[0][1]) == "57014"
        await other.execute("insert into t values (4)")
        assert await (await other.execute("select n from t where n > 3")).fetchall() == [(4,)]
        writer.close()
        canceller.close()


async def test_a_lock_timeout_that_runs_out_in_a_long_turn(sql: SqlServer) -> None:
    near, far = socket.socketpair()
    loop = asyncio.get_running_loop()
    loop.add_reader(near, lambda: (near.recv(1), time.sleep(0.03)))
    async with await sql.connect() as holder, await sql.connect("options='-c lock_timeout=5s'") as next_one:
        await holder.execute("create table t (n int)")
        reader, writer = await sql.raw()
        writer.write(startup() + query("set lock_timeout = '10ms'"))
        for _ in range(2):
            await read_until(reader, b"Z")
        await holder.execute("begin; insert into t values (1)")
        for _ in range(20):
            os.write(writer.get_extra_info("socket").fileno(), query("insert into t values (2)"))
            far.send(b"x")
            assert sqlstate((await read_until(reader, b"Z"))[0][1]) == "55P03"
        await holder.execute("commit")
        await next_one.execute("insert into t values (3)")
        writer.close()
    loop.remove_reader(near)
    near.close()
    far.close()
