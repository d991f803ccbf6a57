"""Parameters are of the types that the client says: what is made of them, and what it is told of that, follows."""

import datetime as dt
from collections.abc import AsyncIterator
from decimal import Decimal
from typing import Any

import pytest
from psycopg import AsyncConnection

from db_instance.dialect import types
from tests.harness.sql_server import SqlServer

_DAY = dt.datetime(2024, 1, 5)
_UTC_DAY = _DAY.replace(tzinfo=dt.UTC)


@pytest.fixture
async def connection(sql: SqlServer) -> AsyncIterator[AsyncConnection[Any]]:
    async with await sql.connect() as connection:
        await connection.execute(
            "create table t (id int primary key, d date, ts timestamp, f float8, v text)"
        )
        await connection.execute("insert into t values (1, '2024-01-05', '2024-01-05', 2.5, 'abc')")
        yield connection


@pytest.mark.parametrize(
    ("expression", "given", "answer"),
    [
        ("%s + 1", 2.5, 3.5),
        ("%s / 2", Decimal(5), Decimal("2.5")),
        ("id * %s", 2.5, 2.5),
        ("id / %s", Decimal(2), Decimal("0.5")),
        ("coalesce(%s, id)", 2.5, 2.5),
        ("case when id = 1 then %s end", True, True),
        ("%s", True, True),
        ("%s", dt.date(2024, 1, 5), dt.date(2024, 1, 5)),
        ("%s", _UTC_DAY, _UTC_DAY),
        ("(select %s)", 7, 7),
        ("%s::text", True, "true"),
        ("%s::text", 2.0, "2"),
        ("'is ' || %s", False, "is false"),
        ("round(%s)", 2.5, 2.0),
        ("%s::numeric(10, 2)", Decimal("10.126"), Decimal("10.13")),
        ("length(v) = %s", Decimal(3), True),
        ("abs(f) = %s", Decimal("2.5"), True),
        ("abs(f) < %s", Decimal("2.5"), False),
        ("coalesce(f, 0) < %s", Decimal(2), False),
        ("nullif(f, %s) is null", Decimal("2.5"), True),
        ("f + 1 = %s", Decimal("3.5"), True),
        ("d >= %s", _DAY, True),
        ("d = %s", _DAY, True),
        ("d < %s", _DAY, False),
        ("d = %s", _UTC_DAY, True),
        ("d < %s", _DAY.replace(hour=1), True),
        ("d in (%s)", _DAY, True),
        ("ts = %s", _UTC_DAY, True),
        ("ts <= %s", dt.date(2024, 1, 5), True),
        ("(d, id) = (%s, 1)", _DAY, True),
        ("d between %s and '2024-02-01'", _DAY, True),
    ],
)
async def test_an_answer_is_of_its_parameters_type(
    connection: AsyncConnection[Any], expression: str, given: Any, answer: Any
) -> None:
    for prepare, binary in ((False, False), (True, False), (True, False), (False, True), (True, True)):
        cursor = connection.cursor(binary=binary)
        await cursor.execute(f"select {expression} from t", (given,), prepare=prepare)
        (found,) = await cursor.fetchone() or ()
        assert (type(found), found) == (type(answer), answer)


@pytest.mark.parametrize(
    ("column", "given", "held"),
    [
        ("id", 2.6, 3),
        ("id", Decimal("7.5"), 8),
        ("v", True, "true"),
        ("v", 2.0, "2"),
        ("f", Decimal("0.1"), 0.1),
        ("d", _DAY.replace(hour=3), dt.date(2024, 1, 5)),
        ("ts", dt.date(2024, 1, 5), _DAY),
    ],
)
async def test_a_column_is_given_a_value_of_its_own_type(
    connection: AsyncConnection[Any], column: str, given: Any, held: Any
) -> None:
    await connection.execute(f"update t set {column} = %s", (given,))
    assert await (await connection.execute(f"select {column} from t")).fetchone() == (held,)
    await connection.execute("delete from t")
    key = "" if column == "id" else "id, "
    await connection.execute(
        f"insert into t ({key}{column}) values ({'' if column == 'id' else '1, '}%s)", (given,)
    )
    assert await (await connection.execute(f"select {column} from t")).fetchone() == (held,)


@pytest.mark.parametrize(
    "number",
    [
        "0",
        "1",
        "-1.5",
        "0.1",
        "12345.678",
        "10000",
        "99999999",
        "0.0001",
        "0.00001",
        "123456789012",
        "-20000.00025",
        "1e-10",
        "1e20",
    ],
)
def test_a_numeric_in_binary_is_itself(number: str) -> None:
    value = float(number)
    assert types.decode_binary(types.NUMERIC, types.encode_binary(types.NUMERIC, value)) == value


async def test_a_number_in_binary_is_what_psycopg_takes_it_for(connection: AsyncConnection[Any]) -> None:
    for number in ("0", "-1.5", "10000", "0.00025", "1234567.5"):
        cursor = connection.cursor(binary=True)
        await cursor.execute("select %b::numeric, %b::numeric + 0", (Decimal(number), Decimal(number)))
        assert await cursor.fetchone() == (Decimal(number), Decimal(number))
