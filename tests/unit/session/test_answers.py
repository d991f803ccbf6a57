"""Statements that SQLite alone would answer in another way: what PostgreSQL gives, or a refusal."""

import asyncio
from typing import Any

import psycopg
import pytest

from tests.harness.sql_server import SqlServer

_TABLE = "create table m (id int primary key, b boolean, tz timestamptz, d date, u uuid, by bytea, n int, s text, jb jsonb)"


def _ask(connection: Any, sql: str, params: tuple[str, ...]) -> Any:
    """As node-postgres asks: parameters are text of no type."""
    if params:
        result = connection.pgconn.exec_params(sql.encode(), [each.encode() for each in params])
    else:
        result = connection.pgconn.exec_(sql.encode())
    if result.status not in (1, 2):
        return "refused"
    return [
        tuple(result.get_value(row, column) for column in range(result.nfields))
        for row in range(result.ntuples)
    ]


_U = "abcdef78-1234-5678-1234-567812345678"
_OTHER = [
    ("create table o (m_id int, n text, b text, from_ int)",),
    ("insert into m (id, n, b) values (1, 7, true), (2, 8, false)",),
    ("insert into o values (1, '007', 't', 1), (2, '7', 'true', 2)",),
]
"""A table with columns that are called as the first one's, and are of another type."""
_AT = ("insert into m (id, b, tz) values (1, true, '2024-01-05 09:00Z')",)
_FILL = ", ".join(f"({at}, 'f', 1, 'x')" for at in range(100, 170))


@pytest.mark.parametrize(
    ("statements", "expected"),
    [
        # casts
        ([("insert into m (id, tz) values (1, '2024-01-05 10:00:00+02'::timestamptz)",), ("select tz from m",)], [(b"2024-01-05 08:00:00+00",)]),
        ([("insert into m (id, u, jb) values (1, $1::uuid, $2::jsonb)", _U, '{"a": 1}'), ("select u, jb from m",)], [(_U.encode(), b'{"a": 1}')]),
        ([("select now()::date = current_date",)], [(b"t",)]),
        # literals
        ([("insert into m (id, b) values ($1, 'f')", "1"), ("select id, b from m where not b",)], [(b"1", b"f")]),
        ([("insert into m (id, b, s) values (1, 'f', 'C:\\dir')",), ("select b from m",)], [(b"f",)]),
        ([(f"insert into m (id, b, n, s) values {_FILL}",), ("select b from m where id = 100",)], [(b"f",)]),
        ([("insert into m (id, tz) values (1, '2024-01-05 08:00:00Z')",), ("select id from m where tz = '2024-01-05 10:00+02' and id = $1", "1")], [(b"1",)]),
        ([("insert into m (id) values (1)",), ("update m set b = coalesce($1, b) where id = $2", "f", "1"), ("select b from m",)], [(b"f",)]),
        ([("insert into m (id, b) select $1, $2", "1", "f"), ("select b from m",)], [(b"f",)]),
        # like
        ([("select 'a_b' like 'a\\_b', 'axb' like 'a\\_b', 'A_b' ilike 'a\\_b'",)], [(b"t", b"f", b"t")]),
        ([("insert into m (id, s) values (1, 'Spam'), (2, 'mail')",), ("delete from m where s not ilike 'spam'",), ("select id from m",)], [(b"1",)]),
        ([("select 'Spam' not ilike 's%', 'Spam' !~~* 'x_', 'Spam' not ilike 's\\_%'",)], [(b"f", b"t", b"t")]),
        # parts
        ([("select substring('hello', $1, $2)", "2", "3")], [(b"ell",)]),
        # rows
        ([_AT, ("update m set (b, tz) = ('f', '2024-01-05 11:00+01') where id = 1",), ("select b, tz from m where not b",)], [(b"f", b"2024-01-05 10:00:00+00")]),
        ([_AT, ("update m set (b, tz) = ($1, $2) where id = 1", "f", "2024-01-05 11:00+01"), ("select b, tz from m where not b",)], [(b"f", b"2024-01-05 10:00:00+00")]),
        ([_AT, ("select id from m where (tz, id) > ($1, $2) order by tz, id", "2024-01-05T09:00:00Z", "0")], [(b"1",)]),
        ([_AT, ("select id from m where (tz, id) > ('2024-01-05T09:00:00Z', 0) order by tz, id",)], [(b"1",)]),
        ([_AT, ("select id from m where (tz, id) in (('2024-01-05T09:00:00Z', 1))",)], [(b"1",)]),
        # json
        ([("create table j (id int primary key, j json, jb jsonb, n name)",), ("insert into j values (1, '1.50', '12345678901234567890123', '007')",), ("select j, jb, n from j",)], [(b"1.50", b"12345678901234567890123", b"007")]),
        ([("create table j (id int primary key, jb jsonb)",), ("insert into j select $1, $2", "1", "{1"), ("select id from j",)], []),
        # dates
        ([("insert into m (id, d) values (1, '2024-01-05')",), ("select d - 1 from m",)], [(b"2024-01-04",)]),
        ([("select current_date - 1 < current_date, current_date + 7 > current_date",)], [(b"t", b"t")]),
        # scope
        ([("insert into m (id, s) values (1, 'x')",), ("select b from (select s as b from m) q",)], [(b"x",)]),
        ([*_OTHER, ("select id from m where id in (select m_id from o where n = '007')",)], [(b"1",)]),
        ([*_OTHER, ("select id from m where id in (select m_id from o where n = $1)", "007")], [(b"1",)]),
        ([*_OTHER, ("select id from m where exists (select from_ from o where m_id = m.id and b = 'true')",)], [(b"2",)]),
        ([*_OTHER, ("delete from m where id in (select m_id from o where n = '007')",), ("select id from m",)], [(b"2",)]),
        ([("insert into m (id, n) values (1, 7)",), ("select x.b from (select n > 5 as b from m) x where x.b",)], [(b"t",)]),
        ([("insert into m (id, n) values (1, 7)",), ("with x as (select n > 5 as b, n from m) select b, id from x join m on x.n = m.n",)], [(b"t", b"1")]),
        ([("insert into m (id, n) values (1, 7)",), ("with o as (select n > 5 as n from m), m as (select n from o) select n from m",)], [(b"t",)]),
        ([("insert into m (id, n) values (1, 7)",), ("with recursive m(n, s) as (select 1, 'a' union all select n + 1, s || n from m where n < 2) select n, s from m",)], [(b"1", b"a"), (b"2", b"a1")]),
        ([*_OTHER, ("with m as (select '007' as n) select m.n from m where m.n = '007'",)], [(b"007",)]),
    ],
    ids=["cast-tz", "cast-uuid", "cast-date", "lit-param", "lit-backslash", "lit-many", "lit-where", "lit-coalesce", "lit-select",
         "like", "not-ilike", "not-ilikes", "parts", "row-set", "row-set-param", "row-param", "row-lit", "row-in", "json", "json-wrong", "dates", "dates2", "scope", "inner", "inner-param", "inner-bool", "inner-delete", "derived", "derived-cte", "cte-order", "cte-recursive", "cte"],
)  # fmt: skip
async def test_the_answer_is_postgresqls_or_none(
    sql: SqlServer, statements: list[tuple[str, ...]], expected: list[Any]
) -> None:

    def run() -> Any:
        with psycopg.connect(sql.conninfo, autocommit=True) as connection:
            answers = [_ask(connection, text, params) for text, *params in [(_TABLE,), *statements]]
        return "refused" if "refused" in answers else answers[-1]

    found = await asyncio.to_thread(run)
    assert found in (expected, "refused")
