"""The shortest way answers as the long way does: the same requests, byte for byte the same answers."""

import asyncio
import random
import struct

import pytest

from db_instance.session.at_once import AtOnce
from tests.harness.sql_server import SqlServer

_TABLE = "create table t (id int primary key, v text)"
_ROWS = 9
_PREPARED = {
    b"one": b"select v from t where id = $1",
    b"all": b"select a.id, b.v, c.id from t a, t b, t c order by 1, 2, 3",
    b"set": b"update t set v = $2 where id = $1",
    b"put": b"insert into t (id, v) values ($1, $2)",
    b"del": b"delete from t where id = $1",
    b"back": b"update t set v = $2 where id = $1 returning id, v",
    b"begin": b"begin",
    b"commit": b"commit",
    b"type": b"select coalesce(v, 'none') || $2 from t where id = $1",
}
_PARAMETERS = {b"one": 1, b"del": 1, b"all": 0, b"begin": 0, b"commit": 0}
_TEXTS = (
    "begin",
    "begin;",
    "commit",
    "rollback",
    "begin isolation level repeatable read",
    "select v from t where id = {n}",
    "select id, v from t where v = '{s}' or id = {n};",
    "select v from t where id = '{n}'",
    "select v from t where id = '{s}'",
    "select id from t where id = 99999999999999999999",
    "select v from t order by id limit {n}",
    'select "id" from t where id = {n} -- why not',
    "update t set v = '{s}' where id = {n}",
    "insert into t (id, v) values ({n}, '{s}')",
    "insert into t (id, v) values ({n}, '{s}') returning id",
    "delete from t where id = {n}; select count(*) from t",
    "select a.id from t a, t b, t c where a.id > {n}",
    "alter table t add column w{k} int",
    "set statement_timeout = '10s'",
    "reset all",
    "savepoint s",
    "rollback to s",
    "nonsense",
    "",
)


def _message(kind: bytes, body: bytes = b"") -> bytes:
    return kind + struct.pack(">I", len(body) + 4) + body


def _bind(
    statement: bytes, values: list[bytes | None], formats: tuple[int, ...], portal: bytes = b""
) -> bytes:
    body = portal + b"\0" + statement + b"\0" + struct.pack(f">H{len(formats)}h", len(formats), *formats)
    body += struct.pack(">H", len(values))
    for value in values:
        body += struct.pack(">i", -1) if value is None else struct.pack(">i", len(value)) + value
    return _message(b"B", body + b"\0\0")


_DESCRIBE = _message(b"D", b"P\0")
_EXECUTE = _message(b"E", b"\0\0\0\0\0")
_SYNC = _message(b"S")
_STARTUP = _message(b"", struct.pack(">I", 196608) + b"user\0app\0database\0main\0\0")


def _values(dice: random.Random, statement: bytes) -> tuple[list[bytes | None], tuple[int, ...]]:
    count = _PARAMETERS.get(statement, 2)
    number = dice.randrange(2 * _ROWS)
    key: bytes | None = dice.choice([b"%d" % number] * 8 + [None, b"x", b"99999999999"])
    formats: tuple[int, ...] = ()
    if count and dice.random() < 0.1:
        key, formats = struct.pack(">i", number), (1, 0)[:count]
    return [key, dice.choice([b"red", b"it's", b"", None, b"\xff"])][:count], formats


def _request(dice: random.Random, number: int) -> bytes:
    if dice.random() < 0.4:
        word = dice.choice(["red", "it''s", "", "a;b", "$1"])
        text = dice.choice(_TEXTS).format(n=dice.randrange(2 * _ROWS), s=word, k=number)
        return _message(b"Q", text.encode() + b"\0")
    statement = dice.choice([*_PREPARED] * 5 + [b"unknown"])
    run = _bind(statement, *_values(dice, statement)) + dice.choice([_DESCRIBE, b""]) + _EXECUTE
    kind = dice.random()
    if kind < 0.1:
        other = dice.choice([*_PREPARED])
        return run + _bind(other, *_values(dice, other)) + _EXECUTE + _SYNC
    if kind < 0.15:
        return _bind(statement, *_values(dice, statement), portal=b"p%d" % number) + _DESCRIBE[:0] + _SYNC
    if kind < 0.2:
        again = _message(b"C", b"S" + statement + b"\0")
        return again + _message(b"P", statement + b"\0" + _PREPARED.get(statement, b"x") + b"\0\0\0") + _SYNC
    return run + _SYNC


def _requests(seed: int) -> list[bytes]:
    dice = random.Random(seed)
    parse = [_message(b"P", name + b"\0" + text + b"\0\0\0") for name, text in _PREPARED.items()]
    return [b"".join(parse) + _SYNC, *(_request(dice, number) for number in range(60))]


async def _ask(
    sql: SqlServer, requests: list[bytes], pieces: random.Random | None = None, others: int = 0
) -> list[bytes]:
    """The answers, each up to ReadyForQuery."""
    reader, writer = await sql.raw()
    writer.write(_STARTUP)
    await _answer(reader)
    answers = []
    for request in requests:
        cut = pieces.randrange(len(request)) if pieces is not None else 0
        if cut:
            writer.write(request[:cut])
            await writer.drain()
            await asyncio.sleep(0.001)
        writer.write(request[cut:])
        answers.append(await _answer(reader))
    writer.close()
    await sql.until_no_sessions_but(others)
    return answers


async def _answer(reader: asyncio.StreamReader) -> bytes:
    told = b""
    async with asyncio.timeout(10):
        while True:
            head = await reader.readexactly(5)
            told += head + await reader.readexactly(int.from_bytes(head[1:], "big") - 4)
            if head[:1] == b"Z":
                return told


async def _fresh(sql: SqlServer) -> None:
    async with await sql.connect() as connection:
        await connection.execute("drop table if exists t")
        await connection.execute(_TABLE)
        for number in range(_ROWS):
            await connection.execute("insert into t values (%s, %s)", (number, "red"))


@pytest.mark.parametrize("seed", range(8))
async def test_both_ways_give_the_same_answers(
    sql: SqlServer, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests = _requests(seed)
    taken = 0
    answer = AtOnce.answer

    def counted(self: AtOnce, packet: bytes) -> object:
        nonlocal taken
        found = answer(self, packet)
        taken += found is not None
        return found

    async def never(self: AtOnce, message: object) -> bool:
        return False

    monkeypatch.setattr(AtOnce, "answer", counted)
    await _fresh(sql)
    short = await _ask(sql, requests)
    assert taken, "nothing went the shortest way"
    await _fresh(sql)
    in_pieces = await _ask(sql, requests, random.Random(seed))
    monkeypatch.setattr(AtOnce, "answer", lambda self, packet: None)
    monkeypatch.setattr(AtOnce, "run", never)
    await _fresh(sql)
    long = await _ask(sql, requests)
    for request, first, second, third in zip(requests, short, in_pieces, long, strict=True):
        assert first == third, request
        assert second == third, request


async def test_a_value_that_its_type_cannot_tell_is_an_error_and_no_end(sql: SqlServer) -> None:
    select = _bind(b"one", [b"1"], ())[:-2] + struct.pack(">Hh", 1, 1)
    select = select[:1] + struct.pack(">I", len(select) - 1) + select[5:] + _DESCRIBE + _EXECUTE + _SYNC
    parse = _message(b"P", b"one\0select n + 1 from u where id = $1\0\0\0") + _SYNC
    await _fresh(sql)
    async with await sql.connect() as connection:
        await connection.execute("create table u (id int primary key, n int)")
        await connection.execute("insert into u values (1, 2147483646)")
        grow = _message(b"Q", b"update u set n = n + 1 where id = 1\0")
        answers = await _ask(sql, [parse, select, select, grow, select, select], others=1)
    assert [b"\x7f\xff\xff\xff" in answer for answer in answers[1:3]] == [True, True]
    assert [b"22003" in answer for answer in answers[4:]] == [True, True]


async def test_a_value_beyond_its_type_is_an_error_and_no_end(sql: SqlServer) -> None:
    """Where it is read, by a parameter, and where it is written, in binary, by a repeated statement."""
    moment = b"select id from u where at = $1"
    number = b"select r from u where id = $1"
    parse = b"".join(
        _message(b"P", name + b"\0" + text + b"\0\0\0") for name, text in ((b"at", moment), (b"r", number))
    )
    at = [_bind(b"at", [b"%s 00:00:00+05" % day], ()) for day in (b"2024-01-01", b"0001-01-01")]
    binary = [_bind(b"r", [b"%d" % key], ())[:-2] + struct.pack(">Hh", 1, 1) for key in (1, 2)]
    binary = [bind[:1] + struct.pack(">I", len(bind) - 1) + bind[5:] for bind in binary]
    async with await sql.connect() as connection:
        await connection.execute("create table u (id int primary key, at timestamptz, r real)")
        await connection.execute("insert into u (id, r) values (1, 1.5), (2, 1e300)")
        runs = [bind + _EXECUTE + _SYNC for bind in (at[0], at[0], at[1], binary[0], binary[0], binary[1])]
        answers = await _ask(sql, [parse + _SYNC, *runs, runs[3]], others=1)
    assert [code in answers[index] for index, code in ((3, b"22008"), (6, b"22003"))] == [True, True]
    assert answers[4] == answers[5] == answers[7]


async def test_who_began_a_block_at_once_may_not_be_idle_in_it_for_ever(sql: SqlServer) -> None:
    begin, commit = (_message(b"Q", text + b"\0") for text in (b"begin", b"commit"))
    limit = _message(b"Q", b"set idle_in_transaction_session_timeout = '100ms'\0")
    reader, writer = await sql.raw()
    writer.write(_STARTUP)
    await _answer(reader)
    for request in (limit, begin, commit, begin):
        writer.write(request)
        await _answer(reader)
    async with asyncio.timeout(10):
        assert b"25P03" in await reader.read()
    writer.close()


async def test_a_statement_that_waits_for_the_lock_is_answered_when_it_has_it(sql: SqlServer) -> None:
    update = _bind(b"set", [b"1", b"blue"], ()) + _DESCRIBE + _EXECUTE + _SYNC
    parse = _message(b"P", b"set\0" + _PREPARED[b"set"] + b"\0\0\0") + _SYNC
    await _fresh(sql)
    async with await sql.connect() as holder:
        for _ in range(3):
            await holder.execute("begin")
            await holder.execute("update t set v = 'held' where id = 1")
            asked = asyncio.create_task(_ask(sql, [parse, update, update], others=1))
            await sql.until(lambda: sql.engine._write_lock.waiting == 1)
            await holder.execute("commit")
            answers = await asked
            assert all(b"UPDATE 1\0" in answer for answer in answers[1:])
