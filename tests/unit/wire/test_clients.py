"""psql and pgbench, unmodified, against a server over a small cluster."""

import asyncio
import shutil

import pytest

from tests.harness.sql_server import SqlServer

PSQL = shutil.which("psql")
PGBENCH = shutil.which("pgbench")
needs_psql = pytest.mark.skipif(PSQL is None, reason="psql is not installed")
needs_pgbench = pytest.mark.skipif(PGBENCH is None, reason="pgbench is not installed")


async def run(program: str | None, *arguments: str, stdin: str = "") -> tuple[int, str]:
    """Exit status, and everything that the program wrote."""
    assert program is not None
    process = await asyncio.create_subprocess_exec(
        program,
        *arguments,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        async with asyncio.timeout(60):
            out, _ = await process.communicate(stdin.encode())
    finally:
        if process.returncode is None:
            process.kill()
    assert process.returncode is not None
    return process.returncode, out.decode()


async def psql(sql: SqlServer, script: str) -> str:
    _, out = await run(PSQL, "-X", "-A", "-t", "-q", sql.conninfo, stdin=script)
    return out


@needs_psql
async def test_psql_runs_a_script(sql: SqlServer) -> None:
    script = """
        create table t (id integer primary key, name text);
        insert into t values (1, 'one'), (2, null);
        select * from t order by id;
        begin; update t set name = 'two' where id = 2; rollback;
        select coalesce(name, 'none') from t where id = 2;
        show transaction_isolation;
    """
    assert (await psql(sql, script)).split() == ["1|one", "2|", "none", "read", "committed"]


@needs_psql
async def test_psql_shows_errors_with_their_state(sql: SqlServer) -> None:
    script = (
        "\\set VERBOSITY verbose\nselect * from nowhere;\nselec 1;\ncreate table t (a int primary key);\n"
    )
    script += "insert into t values (1);\ninsert into t values (1);\n"
    out = await psql(sql, script)
    for sqlstate in ("42P01", "42601", "23505"):
        assert f"ERROR:  {sqlstate}" in out


@needs_psql
async def test_psql_copies_in_and_out(sql: SqlServer) -> None:
    script = "create table t (a int, b text);\ncopy t from stdin;\n1\tx\\ty\n2\t\\N\n\\.\n"
    script += "copy t to stdout;\ncopy t to stdout with (format csv, header);\n"
    out = await psql(sql, script)
    assert out == "1\tx\\ty\n2\t\\N\na,b\n1,x\ty\n2,\n"


@needs_pgbench
async def test_pgbench_in_its_three_modes(sql: SqlServer) -> None:
    status, out = await run(PGBENCH, "-i", "-s", "1", sql.conninfo)
    assert status == 0, out
    for mode in ("simple", "extended", "prepared"):
        status, out = await run(PGBENCH, "-n", "-M", mode, "-c", "4", "-t", "20", sql.conninfo)
        assert status == 0, out
        assert "number of transactions actually processed: 80/80" in out, out
        assert "number of failed transactions: 0" in out, out
    status, out = await run(PGBENCH, "-n", "-S", "-M", "prepared", "-c", "4", "-t", "50", sql.conninfo)
    assert "number of failed transactions: 0" in out, out
    connection = await sql.connect()
    deltas = await (await connection.execute("select sum(delta), count(*) from pgbench_history")).fetchone()
    balances = await (await connection.execute("select sum(abalance) from pgbench_accounts")).fetchone()
    tellers = await (await connection.execute("select sum(tbalance) from pgbench_tellers")).fetchone()
    assert deltas is not None
    assert balances is not None
    assert deltas[1] == 240
    assert deltas[0] == balances[0]
    assert tellers == balances
    await connection.close()
