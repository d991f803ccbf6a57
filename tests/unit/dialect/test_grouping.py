"""Columns beside aggregates, and subqueries that stand for a value: what PostgreSQL refuses is refused."""

import pytest

from db_instance.dialect import SqlError, translate, types
from db_instance.engine.schema import read_schema
from tests.harness.plain_sqlite import plain_sqlite

_TABLES = (
    "CREATE TABLE t (id int PRIMARY KEY, a int, b text, c float8)",
    "CREATE TABLE u (id int PRIMARY KEY, t int REFERENCES t (id), n int)",
)


def _run(sql: str) -> None:
    connection = plain_sqlite()
    for each in (*_TABLES, sql):
        connection.execute(translate(each, read_schema(connection)).sql).fetchall()


@pytest.mark.parametrize(
    "sql",
    [
        "select count(*) from t",
        "select a, count(*) from t group by a",
        "select t.a, count(*) from t group by a",
        "select a, count(*) from t group by t.a",
        "select a+1, count(*) from t group by a",
        "select a % 2, count(*) from t group by a % 2",
        "select (a % 2), count(*) from t group by t.a % 2 order by t.a % 2",
        "select a as x, sum(c) from t group by x order by x",
        "select a, sum(c) from t group by 1 order by 2 desc",
        "select id, a, b from t group by id",
        "select t.*, count(u.id) from t left join u on u.t=t.id group by t.id",
        "select lower(b), max(c) from t group by lower(b) having lower(b) > 'a' and count(*) > 1",
        "select sum(c) over (partition by a), id from t",
        "select sum(sum(c)) over (order by a), a from t group by a",
        "select rank() over (order by count(*)), a from t group by a",
        "select count(*) over (), id from t",
        "select a, count(*) filter (where c > 1) from t group by a",
        "select string_agg(b, ',' order by id) from t",
        "select (select count(*) from u where u.t = t.id), id from t",
        "select id from t where a = (select max(a) from t)",
        "select a from t group by a having a > 1",
        "select case when a > 1 then 'x' else 'y' end as k, count(*) from t group by k",
        "select case when a > 1 then 'x' else 'y' end, count(*) from t group by case when a > 1 then 'x' else 'y' end",
        "select coalesce(a, 0), count(*) from t group by coalesce(a, 0)",
        "select max(a) from t having count(*) > 1",
        "select 1, count(*) from t",
        "select now(), count(*) from t",
        "select id, (select max(u.n + t.a) from u) from t",
        "select x.a, count(*) from (select a from t) x group by x.a",
        "select count(*), a from (select a from t) x group by a",
        "select distinct a from t group by a, b",
        "select a, b from t group by a, b order by max(c)",
        "select a::text, count(*) from t group by a",
        "select date '2024-01-01', max(c) from t",
        "select exists(select 1 from u where u.t = t.id), count(*) from t group by id",
        "select count(*) from t order by 1",
        "select sum(a) / count(*) as m from t order by m",
        'select "a", count(*) from t group by a',
        "select A, count(*) from T group by a",
        "select a from t group by a union select n from u",
        "select max(id) as id from t order by id",
        "select a, count(*) as n from t group by a order by n desc, a",
        "select t.id, t.b, u.n from t join u on u.t=t.id group by t.id, u.n",
    ],
)
def test_grouped(sql: str) -> None:
    _run(sql)


@pytest.mark.parametrize(
    "sql",
    [
        "select id, count(*) from t",
        "select a, b from t group by a",
        "select a, count(*) from t group by b",
        "select b, max(c) from t group by a having b > 'x'",
        "select a, count(*) from t group by a order by b",
        "select t.a, u.n, count(*) from t join u on u.t = t.id group by t.id",
        "select a + c, count(*) from t group by a",
        "select sum(c) over (order by b), a from t group by a",
        "select a, (b) from t group by a",
        "select max(a) from t order by id",
    ],
)
def test_not_grouped(sql: str) -> None:
    with pytest.raises(SqlError) as raised:
        _run(sql)
    assert raised.value.sqlstate == "42803"


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("(SELECT b FROM t WHERE id = 1)", "x"),
        ("(SELECT b FROM t WHERE a = 2)", "y"),
        ("(SELECT b FROM t WHERE a = 9)", None),
        ("(SELECT b FROM t ORDER BY id DESC LIMIT 1)", "y"),
        ("(SELECT max(b) FROM t)", "z"),
        ("(SELECT b FROM t WHERE a = 1 LIMIT 5)", "SEVERAL"),
        ("(SELECT b FROM t WHERE a = 1)", "SEVERAL"),
        ("(SELECT b AS q FROM t ORDER BY q DESC)", "SEVERAL"),
        ("(SELECT 'x' UNION SELECT 'y')", "SEVERAL"),
        ("(SELECT 'x' UNION SELECT 'x')", "x"),
        ("(SELECT count(*) FROM t GROUP BY a)", "SEVERAL"),
        ("(SELECT t2.b FROM t AS t2 WHERE t2.a = t.a + 1)", "y"),
        ("coalesce((SELECT b FROM t WHERE a > 5), 'none')", "none"),
        ("1 IN (SELECT a FROM t)", 1),
        ("EXISTS (SELECT a FROM t)", 1),
        ("(SELECT count(*) FROM (SELECT a FROM t) AS q)", 3),
    ],
)
def test_a_subquery_is_one_value(expression: str, value: object) -> None:
    connection = plain_sqlite()
    for each in (*_TABLES, "INSERT INTO t VALUES (1, 1, 'x', 0), (2, 1, 'z', 0), (3, 2, 'y', 0)"):
        connection.execute(translate(each, read_schema(connection)).sql)
    statement = translate(f"SELECT {expression} FROM t WHERE id = 1", read_schema(connection))
    if value == "SEVERAL":
        with pytest.raises(SqlError, match="more than one row returned by a subquery used as an expression"):
            connection.execute(statement.sql).fetchall()
    else:
        assert connection.execute(statement.sql).fetchall() == [(value,)]


def test_a_view_of_such_a_subquery_has_its_type() -> None:
    connection = plain_sqlite()
    view = "CREATE VIEW v AS SELECT (SELECT b = 'x' FROM t WHERE a = 2) AS it FROM u"
    for each in (*_TABLES, view):
        connection.execute(translate(each, read_schema(connection)).sql)
    assert read_schema(connection).tables["v"].columns[0].oid == types.BOOL
