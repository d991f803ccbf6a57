"""Statements that are transactions of their own, from many sessions at once: each as if it were alone."""

import asyncio
import random
from collections import Counter
from collections.abc import Iterable
from typing import Any

import psycopg
import pytest
from psycopg import AsyncConnection

from db_instance.engine.lone_writes import LoneWrite, LoneWrites
from db_instance.engine.pages import Pages
from tests.harness.sql_server import SqlServer

_CLIENTS = 12
Client = AsyncConnection[Any]
Text = tuple[str, tuple[Any, ...]]


@pytest.fixture
def sizes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many statements were run together, each time."""
    found: list[int] = []
    run = LoneWrites._run

    async def counted(self: LoneWrites, writes: list[LoneWrite]) -> None:
        found.append(len(writes))
        await run(self, writes)

    monkeypatch.setattr(LoneWrites, "_run", counted)
    return found


async def _clients(sql: SqlServer, *setup: str, options: str = "") -> list[Client]:
    clients = [await sql.connect(options) for _ in range(_CLIENTS)]
    for text in setup:
        await clients[0].execute(text)
    return clients


async def _all_at_once(clients: list[Client], texts: Iterable[Text]) -> list[int | str | None]:
    """How many rows each has changed, or its SQLSTATE. The same texts have run before, so that they are known."""

    async def one(client: Client, text: str, params: tuple[Any, ...]) -> int | str | None:
        try:
            return (await client.execute(text, params, prepare=True)).rowcount
        except psycopg.Error as error:
            return error.sqlstate

    return await asyncio.gather(*(one(client, *each) for client, each in zip(clients, texts, strict=True)))


async def _close(clients: list[Client]) -> None:
    for client in clients:
        await client.close()


async def test_what_is_answered_is_there_whatever_else_comes(sql: SqlServer, sizes: list[int]) -> None:
    """A table's rows are what the answers say, for random changes of random rows."""
    clients = await _clients(sql, "create table t (id int primary key, n int)")
    dice = random.Random(7)
    expected: Counter[int] = Counter()
    there: set[int] = set()
    for _ in range(40):
        keys = dice.sample(range(30), _CLIENTS)
        texts: list[Text] = [
            dice.choice(
                (
                    ("insert into t values (%s, 1)", (key,)),
                    ("update t set n = n + 1 where id = %s", (key,)),
                    ("delete from t where id = %s", (key,)),
                )
            )
            for key in keys
        ]
        for key, (text, _params), found in zip(keys, texts, await _all_at_once(clients, texts), strict=True):
            if text.startswith("insert"):
                assert found == ("23505" if key in there else 1)
                if key not in there:
                    there.add(key)
                    expected[key] = 1
            else:
                assert found == (key in there)
                if text.startswith("update"):
                    expected[key] += key in there
                else:
                    there.discard(key)
    rows = await (await clients[0].execute("select id, n from t order by id")).fetchall()
    assert rows == [(key, expected[key]) for key in sorted(there)]
    assert max(sizes) > 2
    await _close(clients)


async def test_one_that_fails_half_way_undoes_itself_only(sql: SqlServer, sizes: list[int]) -> None:
    clients = await _clients(
        sql,
        "create table t (id int primary key)",
        "create table s (id int)",
        "insert into s values (100), (1), (101)",
    )
    insert: Text = ("insert into t values (%s)", (1,))
    many: Text = ("insert into t select id + %s from s", (0,))
    await clients[0].execute(*insert, prepare=True)
    for round_ in range(1, 4):
        texts = [("insert into t values (%s)", (10 * round_ + 1000 * at,)) for at in range(_CLIENTS - 1)]
        assert await _all_at_once(clients, [*texts, many]) == [1] * (_CLIENTS - 1) + ["23505"]
    assert (await (await clients[0].execute("select count(*) from t")).fetchone()) == (
        1 + 3 * (_CLIENTS - 1),
    )
    assert max(sizes) > 1
    await _close(clients)


async def _in_line(sql: SqlServer, sizes: list[int], clients: list[Client], texts: list[Text]) -> list[Any]:
    """Tasks of texts that wait together, in this order, while the first client has the lock."""
    await clients[0].execute("begin")
    await clients[0].execute("insert into lock values (1)")
    sizes.clear()
    tasks: list[asyncio.Task[Any]] = []

    def stand_in_line() -> bool:
        """The first one waits for the lock, with those that came at once, and the others for the next round."""
        return bool(sizes) and sum(sizes) + len(sql.engine.lone_writes._waiting) == len(tasks)

    for client, text in zip(clients[1:], texts, strict=True):
        sql.engine.lone_writes._sizes = (2, 2)  # as after two busy rounds: others are likely to come
        tasks.append(asyncio.create_task(_all_at_once([client], [text])))
        await sql.until(stand_in_line)
    return tasks


async def test_a_deferred_constraint_is_not_made_good_by_another(sql: SqlServer, sizes: list[int]) -> None:
    clients = await _clients(
        sql,
        "create table lock (n int)",
        "create table parent (id int primary key)",
        "create table child (p int references parent (id) deferrable initially deferred)",
    )
    await _all_at_once(clients, [("insert into child values (%s)", (None,))] * _CLIENTS)
    await _all_at_once([clients[-1]], [("insert into parent values (%s)", (1,))])
    texts: list[Text] = [("insert into child values (%s)", (7,))] * (_CLIENTS - 2)
    tasks = await _in_line(sql, sizes, clients, [*texts, ("insert into parent values (%s)", (7,))])
    await clients[0].execute("commit")
    found = [(await task)[0] for task in tasks]
    assert found == ["23503"] * (_CLIENTS - 2) + [1]
    await _close(clients)


async def test_one_that_ends_the_transaction_ends_its_own_only(sql: SqlServer) -> None:
    clients = await _clients(
        sql, "create table t (id int primary key)", "create table u (id int unique on conflict rollback)"
    )
    await clients[0].execute("insert into u values (1)")
    for round_ in range(3):
        texts: list[Text] = [
            ("insert into t values (%s)", (100 * round_ + at,)) for at in range(_CLIENTS - 1)
        ]
        texts.insert(5, ("insert into u values (%s)", (1,)))
        found = await _all_at_once(clients, texts)
        assert found == [1] * 5 + ["23505"] + [1] * (_CLIENTS - 6)
    assert (await (await clients[0].execute("select count(*) from t")).fetchone()) == (3 * (_CLIENTS - 1),)
    await _close(clients)


async def test_one_that_takes_long_runs_alone_and_can_be_cancelled(sql: SqlServer, sizes: list[int]) -> None:
    tables = ("t", "u", "lock")
    clients = await _clients(sql, *(f"create table {name} (n int)" for name in tables))
    long = "insert into u with recursive c(n) as (select 1 union all select n + 1 from c where n < %s) select n from c"
    texts: list[Text] = [("insert into t values (%s)", (1,))] * (_CLIENTS - 1)
    assert await _all_at_once(clients, [*texts, (long, (50_000,))]) == [1] * (_CLIENTS - 1) + [50_000]
    await _all_at_once([clients[1]], [(long, (1,))])
    tasks = await _in_line(sql, sizes, clients, [(long, (10**12,)), *texts[1:]])
    await clients[0].execute("commit")
    await sql.until(lambda: sql.engine._write_lock.held and sql.engine._write_lock.waiting > 0)
    await clients[1].cancel_safe()
    assert [(await task)[0] for task in tasks] == ["57014"] + [1] * (_CLIENTS - 2)
    assert (await (await clients[0].execute("select count(*) from u")).fetchone()) == (50_001,)
    await _close(clients)


async def test_a_table_that_was_made_anew_while_they_waited(sql: SqlServer, sizes: list[int]) -> None:
    clients = await _clients(sql, "create table t (id int, v text)", "create table lock (n int)")
    texts: list[Text] = [("insert into t values (%s, %s)", (at, "yes")) for at in range(_CLIENTS)]
    await _all_at_once(clients, texts)
    tasks = await _in_line(sql, sizes, clients, texts[1:])
    await clients[0].execute("drop table t")
    await clients[0].execute("create table t (id int, v boolean)")
    await clients[0].execute("commit")
    assert [(await task)[0] for task in tasks] == [1] * (_CLIENTS - 1)
    cursor = await clients[0].execute("select id from t where v order by id")
    assert await cursor.fetchall() == [(at,) for at in range(1, _CLIENTS)]
    await _close(clients)


async def test_each_is_run_by_its_own_user(sql: SqlServer, sizes: list[int]) -> None:
    clients = [await sql.connect(user=f"u{at}") for at in range(_CLIENTS)]
    await clients[0].execute("create table t (n int, by text default current_user)")
    for _ in range(3):
        await _all_at_once(clients, [("insert into t (n) values (%s)", (at,)) for at in range(_CLIENTS)])
    cursor = await clients[0].execute("select by, n from t group by by, n order by n")
    assert await cursor.fetchall() == [(f"u{at}", at) for at in range(_CLIENTS)]
    assert max(sizes) > 1
    await _close(clients)


async def test_one_that_takes_long_after_some_that_changed_nothing(sql: SqlServer, sizes: list[int]) -> None:
    clients = await _clients(sql, *(f"create table {name} (n int)" for name in ("t", "u", "w")))
    long = "insert into u with recursive c(n) as (select 1 union all select n + 1 from c where n < %s) select n from c"
    put: Text = ("insert into t values (%s)", (1,))
    none: Text = ("update w set n = 1 where n = %s", (1,))
    assert await _all_at_once(clients, [put] * _CLIENTS) == [1] * _CLIENTS
    await _all_at_once([clients[-1]], [(long, (1,))])
    for _ in range(3):
        await _all_at_once(clients, [none] * _CLIENTS)
        assert await _all_at_once(clients, [none] * _CLIENTS) == [0] * _CLIENTS
        found = await _all_at_once(clients, [put] * (_CLIENTS - 1) + [(long, (50_000,))])
        assert found == [1] * (_CLIENTS - 1) + [50_000]
    assert max(sizes) > 1
    await _close(clients)


async def test_who_waits_for_the_lock_is_told_when_it_takes_too_long(sql: SqlServer) -> None:
    clients = await _clients(sql, "create table t (id int primary key)")
    insert = "insert into t values (%s)"
    await _all_at_once(clients, [(insert, (at,)) for at in range(_CLIENTS)])
    hasty, patient = clients[1:6], clients[6:]
    for client in hasty:
        await client.execute("set lock_timeout = '50ms'")
    await clients[0].execute("begin")
    await clients[0].execute(insert, (100,))
    texts: list[Text] = [(insert, (200 + at,)) for at in range(len(hasty) + len(patient))]
    waiting = asyncio.create_task(_all_at_once(patient, texts[len(hasty) :]))
    await sql.until(lambda: sql.engine._write_lock.waiting > 0)
    assert await _all_at_once(hasty, texts[: len(hasty)]) == ["55P03"] * len(hasty)
    assert not waiting.done()
    await clients[0].execute("commit")
    assert await waiting == [1] * len(patient)
    await _close(clients)


async def test_one_that_was_taken_back_while_it_waited_has_not_run(sql: SqlServer, sizes: list[int]) -> None:
    clients = await _clients(sql, "create table t (id int primary key)")
    insert = "insert into t values (%s)"
    await _all_at_once(clients, [(insert, (at,)) for at in range(_CLIENTS)])
    await clients[0].execute("begin")
    await clients[0].execute(insert, (100,))
    sizes.clear()
    mine = asyncio.create_task(_all_at_once([clients[1]], [(insert, (101,))]))
    texts: list[Text] = [(insert, (100 + at,)) for at in range(2, _CLIENTS)]
    others = asyncio.create_task(_all_at_once(clients[2:], texts))
    await sql.until(lambda: sum(sizes) + len(sql.engine.lone_writes._waiting) == _CLIENTS - 1)
    await clients[1].cancel_safe()
    assert await mine == ["57014"]
    await clients[0].execute("commit")
    assert await others == [1] * (_CLIENTS - 2)
    assert (await (await clients[0].execute("select count(*) from t where id = 101")).fetchone()) == (0,)
    await _close(clients)


class TestWithoutAQuorum:
    @pytest.fixture
    def commit_timeout_s(self) -> float:
        return 0.5

    async def test_nobody_is_told_that_it_is_durable(self, sql: SqlServer) -> None:
        clients = await _clients(sql, "create table t (id int primary key)")
        insert = "insert into t values (%s)"
        await _all_at_once(clients, [(insert, (at,)) for at in range(_CLIENTS)])
        sql.cluster.lose_the_write_quorum()
        found = await _all_at_once(clients, [(insert, (100 + at,)) for at in range(_CLIENTS)])
        assert set(found) <= {"08007", "53000"}
        assert "08007" in found
        await _close(clients)


async def test_one_that_fails_as_sqlite_does_not_expect_leaves_nothing(
    sql: SqlServer, sizes: list[int]
) -> None:
    """SQLite keeps no journal for a statement of which it knows no constraint that might fail."""
    clients = await _clients(
        sql,
        "create table t (n int)",
        "create table p (s text)",
        "create table u (k int, x bigint)",
        "insert into u values (1, 1), (2, 2), (3, 9223372036854775807), (3, 9223372036854775807)",
    )
    overflows = (
        "insert into p select 'c' from u where k < 3 or (select sum(o.x) from u o where o.k = u.k) > %s"
    )
    texts: list[Text] = [("insert into t values (%s)", (1,))] * (_CLIENTS - 1) + [(overflows, (0,))]
    for _ in range(3):
        assert await _all_at_once(clients, texts) == [1] * (_CLIENTS - 1) + ["22003"]
    assert max(sizes) > 1
    assert (await (await clients[0].execute("select count(*) from p")).fetchone()) == (0,)
    await _close(clients)


async def test_a_timeout_while_they_run_together_holds_when_it_runs_alone(
    sql: SqlServer, sizes: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LoneWrites, "gathering", property(lambda self: True))
    client = await sql.connect()
    await client.execute("create table p (id int primary key, s text)")
    numbers = "with recursive c(n) as (select 1 union all select n + 1 from c where n < 20000)"
    await client.execute(f"insert into p {numbers} select n, '{'x' * 80}' from c")
    text = "update p set s = 'y' where id < %s or length(s) > 500"
    for _ in range(2):
        await client.execute(text, (0,), prepare=True)
    await client.execute("set statement_timeout = '400ms'")
    sql.engine.reset_connections()
    sql.engine.pages.cache.clear()
    fetch = Pages.fetch

    async def slow(self: Pages, *arguments: Any) -> Any:
        await asyncio.sleep(0.3)
        return await fetch(self, *arguments)

    monkeypatch.setattr(Pages, "fetch", slow)
    sizes.clear()
    with pytest.raises(psycopg.errors.QueryCanceled):
        await client.execute(text, (0,), prepare=True)
    assert sizes == [1]
    await client.close()


async def test_those_that_have_given_up_hold_no_memory(sql: SqlServer) -> None:
    clients = await _clients(sql, "create table t (n int, s text)")
    texts: list[Text] = [("insert into t values (%s, %s)", (1, "x"))] * _CLIENTS
    for _ in range(5):
        await _all_at_once(clients, texts)
    holder = await sql.connect()
    await holder.execute("begin")
    await holder.execute("insert into t values (0, 'h')")
    for client in clients:
        await client.execute("set lock_timeout = '10ms'")
    for _ in range(5):
        assert await _all_at_once(clients, texts) == ["55P03"] * _CLIENTS
    assert not sql.engine.lone_writes._waiting
    await holder.close()
    await _close(clients)
