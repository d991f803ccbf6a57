"""PostgreSQL's statements on a plain SQLite connection: the answer is the one PostgreSQL gives."""

import time
from typing import Any

import apsw
import pytest

from db_instance.dialect import Column, SqlError, translate
from db_instance.dialect.functions import VERSION
from db_instance.dialect.types import INT4, InvalidValue
from db_instance.engine.schema import read_schema
from tests.harness.plain_sqlite import plain_sqlite

_T = """CREATE TABLE t (id serial PRIMARY KEY, n int, s varchar(5), b boolean DEFAULT false, f double precision)"""
_ROWS = "INSERT INTO t (n, s, b, f) VALUES (1, 'a', true, 1.5), (2, 'b', false, 2), (3, NULL, NULL, NULL)"

_GROUPS = (
    "CREATE TABLE w (n int, g int)",
    "INSERT INTO w VALUES (6, NULL), (3, 1), (5, 2), (2, 1), (4, 2), (1, 1)",
)


def _connection() -> apsw.Connection:
    connection = plain_sqlite()
    for sql in (_T, _ROWS, *_GROUPS):
        _run(connection, sql)
    return connection


def _run(connection: apsw.Connection, sql: str, *params: Any) -> list[tuple[Any, ...]]:
    return connection.execute(translate(sql, read_schema(connection)).sql, params).fetchall()


@pytest.mark.parametrize(
    ("expression", "name"),
    [
        ("n", "n"), ("t.n", "n"), ("(n)", "n"), ("n::text", "n"), ("'1'::int", "int4"), ("cast('x' as varchar(3))", "varchar"),
        ("true", "bool"), ("'a'", "?column?"), ("n + 1", "?column?"), ("-n", "?column?"), ("n IS NULL", "?column?"),
        ("NOT b", "?column?"), ("b AND b", "?column?"), ("2 ^ 3", "?column?"), ("power(2, 3)", "power"), ("mod(n, 2)", "mod"),
        ("count(*) FILTER (WHERE b)", "count"), ("rank() OVER (ORDER BY n)", "rank"), ("string_agg(s, ',')", "string_agg"),
        ("char_length(s)", "char_length"), ("length(s)", "length"), ("ceiling(f)", "ceiling"), ("lpad(s, 3, '0')", "lpad"),
        ("trim(s)", "btrim"), ("ltrim(s)", "ltrim"), ("trim(LEADING 'x' FROM s)", "ltrim"), ("position('a' IN s)", "position"),
        ("substring(s FROM 2)", "substring"), ("now()", "now"), ("CURRENT_TIMESTAMP", "current_timestamp"),
        ("CASE WHEN b THEN 1 END", "case"), ("CASE WHEN b THEN 1 ELSE n END", "n"), ("CASE WHEN b THEN 1 ELSE 2 END::text", "text"),
        ("coalesce(n, 1)", "coalesce"), ("nullif(n, 1)", "nullif"), ("EXISTS (SELECT 1)", "exists"), ("(SELECT max(n) FROM t)", "max"),
        ("(SELECT 1)", "?column?"), ("version()", "version"), ("Current_Schema()", "current_schema"), ("n AS \"My n\"", "My n"),
    ],
)  # fmt: skip
def test_columns_are_called_as_postgresql_calls_them(expression: str, name: str) -> None:
    columns = translate(f"SELECT {expression} FROM t", read_schema(_connection())).columns
    assert columns is not None
    assert [column.name for column in columns] == [name]


@pytest.mark.parametrize(
    ("sql", "rows"),
    [
        ("SELECT id, n, s, b, f FROM t ORDER BY id LIMIT 2", [(1, 1, "a", 1, 1.5), (2, 2, "b", 0, 2.0)]),
        ("SELECT n FROM public.t WHERE b", [(1,)]),
        ("SELECT n FROM t ORDER BY s", [(1,), (2,), (3,)]),
        ("SELECT n FROM t ORDER BY s DESC", [(3,), (2,), (1,)]),
        ("SELECT n FROM t ORDER BY s NULLS FIRST", [(3,), (1,), (2,)]),
        ("SELECT 7/2, -7/2, 7%3, 10/4.0, 10::float8/4", [(3, -3, 1, 2.5, 2.5)]),
        ("SELECT 'a' || 'b', 'a' || NULL", [("ab", None)]),
        ("SELECT 'A' ILIKE 'a'", [(1,)]),
        ("SELECT true, false, NOT true, 1 = 1", [(1, 0, 0, 1)]),
        ("SELECT round(n + 0.5::float8) FROM w ORDER BY n LIMIT 3", [(2.0,), (2.0,), (4.0,)]),
        ("SELECT round(2.5), round(-2.5), round(2.345, 2)", [(3.0, -3.0, 2.35)]),
        ("SELECT (5 / 2.0)::int, round(5 / 2.0), round(avg(n)), avg(n)::int FROM w WHERE n IN (2, 3)", [(3, 3.0, 3.0, 3)]),
        ("SELECT round(2.675, 2), round(1.45, 1), round(1234.5, -2), round(15, -1), round(4, -1), round(0.004, 2)", [(2.68, 1.5, 1200.0, 20, 0, 0.0)]),
        ("SELECT round(f * 1.0), (f + 1)::int, round(n + 0.5::float8, 0) FROM t WHERE n = 1", [(2.0, 2, 2.0)]),
        ("SELECT '2.5'::numeric::int, 10.125::numeric(10, 2), (-2.5)::numeric(5), '3.5'::numeric(5, 0)", [(3, 10.13, -3.0, 4.0)]),
        ("SELECT 7.5 % 2, mod(7.5, 2), mod(-5.5, 2), 0.3 % 0.1, -7 % 3, f % 1 FROM t WHERE n = 1", [(1.5, 1.5, -1.5, 0.0, -1, 0.5)]),
        ("SELECT count(*) FROM w WHERE random() >= 0 AND random() < 1", [(6,)]),
        ("SELECT sqrt(4), ln(1), exp(0), power(2, 3), 2 ^ 0.5 = sqrt(2), power(-8, 3)", [(2.0, 0.0, 1.0, 8.0, 1, -512.0)]),
        ("SELECT CASE '2024-01-01 00:00:00'::timestamp WHEN '2024-01-01' THEN 1 END, CASE b WHEN 'yes' THEN 2 END FROM t WHERE n = 1", [(1, 2)]),
        ("SELECT string_agg(DISTINCT s, ',') FROM t", [("a,b",)]),
        ("SELECT '{\"bb\": 1.50, \"a\":[1,null,\"x\\u00fc\"]}'::jsonb", [('{"a": [1, null, "xü"], "bb": 1.50}',)]),
        ("SELECT '{\"b\":1,\"a\":2}'::jsonb = '{\"a\": 2, \"b\" : 1}'::jsonb, '[1,1e2]'::jsonb", [(1, "[1, 100]")]),
        ("(SELECT n FROM w ORDER BY n DESC LIMIT 1) UNION ALL (SELECT 0) ORDER BY 1", [(0,), (6,)]),
        ("SELECT 1 UNION SELECT 2 INTERSECT SELECT 3", [(1,)]),
        ("((SELECT n FROM w ORDER BY n LIMIT 1))", [(1,)]),
        ("SELECT '2024-01-01 10:00:00.50'::timestamp::text, 'at ' || '10:00:10'::time", [("2024-01-01 10:00:00.5", "at 10:00:10")]),
        ("SELECT n::text, '5'::int + 1 FROM t WHERE n = 1", [("1", 6)]),
        ("SELECT count(*), sum(n), avg(n), min(s) FROM t", [(3, 6, 2.0, "a")]),
        ("SELECT string_agg(s, ',') FROM t", [("a,b",)]),
        ("SELECT substring('hello' from 2 for 3), position('l' in 'hello')", [("ell", 3)]),
        ("SELECT coalesce(s, 'x'), nullif(n, 1) FROM t ORDER BY id LIMIT 1", [("a", None)]),
        ("SELECT CASE WHEN n > 1 THEN 'big' ELSE 'small' END FROM t ORDER BY n LIMIT 2", [("small",), ("big",)]),
        ("WITH x AS (SELECT n FROM t WHERE n > 1) SELECT * FROM x ORDER BY 1", [(2,), (3,)]),
        ("SELECT n FROM t ORDER BY n OFFSET 1 FETCH FIRST 1 ROWS ONLY", [(2,)]),
        ("SELECT DISTINCT ON (g) n, g FROM w ORDER BY g, n LIMIT 2", [(1, 1), (4, 2)]),
        ("SELECT DISTINCT ON (g) n FROM w ORDER BY g DESC, n OFFSET 1", [(4,), (1,)]),
        ("SELECT DISTINCT ON (g) * FROM w ORDER BY g, n DESC", [(3, 1), (5, 2), (6, None)]),
        ("SELECT DISTINCT ON (g) n * 2 AS m, g FROM w ORDER BY 2, m LIMIT 1", [(2, 1)]),
        ("SELECT sum(n) FROM (SELECT DISTINCT ON (g) n FROM w ORDER BY g, n LIMIT 2) AS q", [(5,)]),
        ("WITH q AS (SELECT DISTINCT ON (w.g) w.n FROM w ORDER BY w.g, w.n) SELECT n FROM q ORDER BY n", [(1,), (4,), (6,)]),
        ("SELECT '007' || n, '#' || n, n || '' FROM t WHERE n = 1", [("0071", "#1", "1")]),
        ("SELECT 'x' || n * 2, n + 1 || 'x' FROM t WHERE n = 2", [("x4", "3x")]),
        ("SELECT concat('x', b, f, n * 2, NULL), concat_ws('-', b, f, NULL, s) FROM t WHERE n < 3 ORDER BY n", [("xtrue1.52", "true-1.5-a"), ("xfalse24", "false-2-b")]),
        ("SELECT b::text, 'is ' || b FROM t ORDER BY id", [("true", "is true"), ("false", "is false"), (None, None)]),
        ("SELECT f::text, f || 's', (n > 1)::text FROM t WHERE n = 2", [("2", "2s", "true")]),
        ("SELECT 'abcdef'::varchar(3), n::varchar FROM t WHERE n = 2", [("abc", "2")]),
        ("SELECT n FROM t WHERE s || '%' LIKE 'b!%' ESCAPE '!'", [(2,)]),
        ("SELECT substr('hello', -3, 5), substr('hello', 0), substring('hello' from 2 for 3), substring('hello' for 2)", [("h", "hello", "ell", "he")]),
        ("SELECT substr('hello', 2, n) FROM t WHERE n = 1", [("e",)]),
        ("SELECT split_part('a,b,c', ',', -1), split_part('a,b', ',', -3), split_part('a,b', ',', 2)", [("c", "", "b")]),
        ("SELECT version(), pg_catalog.version(), current_schema(), current_schema", [(VERSION, VERSION, "public", "public")]),
        ("SELECT current_database(), current_catalog", [("main", "main")]),
        ("SELECT lpad('5', 3, '0'), lpad('abc', 2), rpad('a', 4, 'xy'), lpad('a', -1, 'x'), lpad('a', 3, '')", [("005", "ab", "axyx", "", "a")]),
        ("UPDATE t SET n = n + 10 WHERE n = 1 RETURNING n", [(11,)]),
        ("DELETE FROM t WHERE n = 2 RETURNING id, s", [(2, "b")]),
        ("INSERT INTO t (id, n) VALUES (2, 9) ON CONFLICT (id) DO UPDATE SET n = excluded.n RETURNING n", [(9,)]),
        ("INSERT INTO t (id, n) VALUES (2, 9) ON CONFLICT DO NOTHING RETURNING n", []),
        ("INSERT INTO t VALUES (7, 8) RETURNING id, n, s, b", [(7, 8, None, 0)]),
        ("INSERT INTO t VALUES (DEFAULT, 8, DEFAULT), (DEFAULT, 9, DEFAULT) RETURNING id, n", [(4, 8), (5, 9)]),
        ("INSERT INTO t (n, b) VALUES (DEFAULT, DEFAULT) RETURNING id, n, b", [(4, None, 0)]),
        ("INSERT INTO t (b, n) VALUES (true, DEFAULT), (DEFAULT, 7) RETURNING n, b", [(None, 1), (7, 0)]),
        ("INSERT INTO t (n) VALUES (DEFAULT), (DEFAULT) RETURNING id, n", [(4, None), (5, None)]),
        ("UPDATE t AS x SET b = DEFAULT, n = default WHERE id = 1 RETURNING b, n", [(0, None)]),
        ("UPDATE t SET (b, n) = (DEFAULT, n + 1) WHERE id = 1 RETURNING b, n", [(0, 2)]),
        ("INSERT INTO t (id) VALUES (1) ON CONFLICT (id) DO UPDATE SET b = DEFAULT RETURNING b", [(0,)]),
        ("INSERT INTO t AS x SELECT id + 9, n FROM t WHERE n = 1 RETURNING id, n, f", [(10, 1, None)]),
        ("INSERT INTO t SELECT * FROM t WHERE false RETURNING id", []),
        (r"SELECT E'a\nb', $$it's$$, $x$a$$b$x$, 'it''s'", [("a\nb", "it's", "a$$b", "it's")]),
        ("SELECT greatest(1, 2), least(1, 2), floor(2.7), ceil(2.1)", [(2, 1, 2, 3)]),
        ("SELECT n FROM t WHERE n = 1 FOR UPDATE", [(1,)]),
        ("SELECT n IS NULL, n IS DISTINCT FROM 2 FROM t ORDER BY n LIMIT 2", [(0, 1), (0, 0)]),
        ("SELECT row_number() OVER (ORDER BY n DESC), n FROM t ORDER BY n LIMIT 1", [(3, 1)]),
        ("VALUES (1, 2), (3, 4)", [(1, 2), (3, 4)]),
        ("SELECT left('abc', -1), right('abc', -1), split_part('a,b', ',', 2)", [("ab", "bc", "b")]),
        ("SELECT strpos('abc', 'c'), lpad('a', 3), repeat('ab', 2), md5(NULL)", [(3, "  a", "abab", None)]),
        ("SELECT 't'::boolean, 'FALSE'::bool, cast(s = 'a' AS boolean), NULL::bool FROM t WHERE n = 1", [(1, 0, 1, None)]),
        ("SELECT 'off'::boolean, ' on '::boolean, 2::boolean, 0::boolean", [(0, 1, 1, 0)]),
        ("SELECT '1.5'::float8, '-Infinity'::real, n::float8, s::text::float8 FROM t WHERE id = 3", [(1.5, float("-inf"), 3.0, None)]),
        ("SELECT 7 / n, -7 / n, 7 % n, -7 % n, 1 / f, '9' / n FROM t WHERE n = 2", [(3, -3, 1, -1, 0.5, 4)]),
        ("SELECT f / 0, 0 / s::int FROM t WHERE n = 3", [(None, None)]),
        ("SELECT sum(n) / count(n), sum(f) / sum(n) FROM t WHERE n > 7", [(None, None)]),
        ("SELECT 9223372036854775807 / n, (-9223372036854775807 - 1) / n, 7 / n / n FROM t WHERE n = 1", [(2**63 - 1, -(2**63), 7)]),
        ("SELECT 1 /* ; */ -- comment", [(1,)]),
    ],
)  # fmt: skip
def test_the_answer_is_postgresqls(sql: str, rows: list[tuple[Any, ...]]) -> None:
    assert _run(_connection(), sql) == rows


@pytest.mark.parametrize(
    ("expression", "sqlstate"),
    [
        ("1 / (n - 1)", "22012"),
        ("1 % (n - 1)", "22012"),
        ("mod(5, 0)", "22012"),
        ("1.0 / 0.0", "22012"),
        ("f / '0'", "22012"),
        ("(-9223372036854775807 - 1) / (n - 2)", "22003"),
        ("3000000000::int", "22003"),
        ("'3000000000'::int", "22003"),
        ("2147483647.5::int4", "22003"),
        ("(n * 40000)::smallint", "22003"),
        ("1e19::bigint", "22003"),
        ("'1_0'::int", "22P02"),
        ("n / s", "42883"),
        ("'{\"a\": NaN}'::json", "22P02"),
        ("s::boolean", "22P02"),
        ("'2'::boolean", "22P02"),
        ("s::float8", "22P02"),
        ("'1_0'::float8", "22P02"),
        ("'NaN'::float8", "0A000"),
        ("sqrt(-f)", "2201F"),
        ("ln(n - 1)", "2201E"),
        ("ln(-n)", "2201E"),
        ("exp(1000)", "22003"),
        ("power(0, -n)", "2201F"),
        ("power(-8, f)", "2201F"),
        ("10 ^ 400", "22003"),
    ],
)
def test_what_has_no_value_is_an_error(expression: str, sqlstate: str) -> None:
    with pytest.raises((SqlError, InvalidValue)) as raised:
        _run(_connection(), f"SELECT {expression} FROM t WHERE n = 1")
    assert raised.value.sqlstate == sqlstate


@pytest.mark.parametrize(
    ("sql", "params", "rows"),
    [
        ("SELECT $2::int - $1::int", (1, 10), [(9,)]),
        ("SELECT ($1::int)::bigint, now()::text ILIKE $2", ("7", "2%"), [(7, 1)]),
    ],
)
def test_what_is_written_otherwise_may_hold_more_of_it(
    sql: str, params: tuple[Any, ...], rows: list[tuple[Any, ...]]
) -> None:
    assert _run(_connection(), sql, *params) == rows


@pytest.mark.parametrize(
    ("why", "sql", "rows"),
    [
        ("a cast to an integer rounds", "SELECT 1.7::int", [(2,)]),
        (
            "half to even",
            "SELECT 2.5::float8::int, 3.5::float8::bigint, '7'::int, NULL::int",
            [(2, 4, 7, None)],
        ),
        (
            "numerics away from zero",
            "SELECT 2.5::int, -2.5::int, (-2.5)::int, cast(0.4 as bigint)",
            [(3, -3, -3, 0)],
        ),
        ("ILIKE", "SELECT 'A' ILIKE 'a%'", [(1,)]),
    ],
)
def test_the_answer_should_be_postgresqls(why: str, sql: str, rows: list[tuple[Any, ...]]) -> None:
    assert _run(_connection(), sql) == rows


def test_defaults_are_kept_as_they_were_written() -> None:
    connection = _connection()
    _run(
        connection,
        "CREATE TABLE d (k int GENERATED ALWAYS AS IDENTITY (START WITH 1) PRIMARY KEY, a text DEFAULT 'a  b' NOT NULL,"
        " b text DEFAULT E'x\\ny'::text, c int DEFAULT -(2 + 3) CHECK (c < 0), e varchar(9) DEFAULT upper('z') UNIQUE,"
        " f text CHECK (f IN ('a  b')) DEFAULT 'a  b', g timestamptz DEFAULT now())",
    )
    row = _run(connection, "INSERT INTO d (k) VALUES (DEFAULT) RETURNING k, a, b, c, e, f, g IS NOT NULL")
    assert row == [(1, "a  b", "x\ny", -5, "Z", "a  b", 1)]
    changed = _run(
        connection, "UPDATE d SET a = 'q', b = 'q', c = -1, e = 'q', f = 'a  b', g = NULL RETURNING a"
    )
    assert changed == [("q",)]
    sets = ", ".join(f"{column} = DEFAULT" for column in "abcefg")
    assert _run(connection, f"UPDATE d SET {sets} RETURNING k, a, b, c, e, f, g IS NOT NULL") == row


@pytest.mark.parametrize(
    ("sql", "sqlstate", "position"),
    [
        ("SELEC 1", "42601", 1),
        ("INSERT INTO t VALUES (1, 2, 'a', true, 1.5, 6)", "42601", None),
        ("INSERT INTO t (id, n) VALUES (1)", "42601", None),
        ("INSERT INTO t (id, n) SELECT 1, 2, 3", "42601", None),
        ("INSERT INTO t VALUES (1, 2), (3)", "42601", None),
        ("  ATTACH 'x' AS y", "42601", 3),
        ("PRAGMA writable_schema = 1", "42601", 1),
        ("SELECT 'a", "42601", 8),
        ("SELECT FROM WHERE", "42601", None),
        ("COMMIT NOW", "42601", 8),
        ("SAVEPOINT", "42601", 10),
        ("SELECT n FROM t ORDER BY n FETCH FIRST 2 ROWS WITH TIES", "0A000", None),
        ("SELECT 1 FROM pg_catalog.pg_class", "0A000", None),
        ("SELECT 1 FROM other.t", "42P01", None),
        ("CREATE TEMP TABLE x (a int)", "0A000", None),
        ("CREATE TABLE x AS SELECT 1", "0A000", None),
        ("CREATE TABLE x (a numeric)", "0A000", None),
        ("CREATE TABLE x (a nonsense)", "42704", None),
        ("CREATE TABLE x (a serial)", "0A000", None),
        ("CREATE TRIGGER x", "0A000", None),
        ("CREATE INDEX x ON t USING gin (s)", "0A000", None),
        ("WITH n AS (INSERT INTO t (n) VALUES (1) RETURNING id) SELECT * FROM n", "0A000", None),
        ("SELECT string_agg(DISTINCT s, ';') FROM t", "0A000", None),
        ("ALTER SYSTEM SET x = 1", "0A000", None),
        ("DROP DATABASE x", "0A000", None),
        ("COPY t FROM '/etc/passwd'", "0A000", None),
        ("LISTEN x", "0A000", None),
        ("EXPLAIN SELECT 1", "0A000", None),
        ("SELECT 1::money", "0A000", None),
    ],
)
def test_refused(sql: str, sqlstate: str, position: int | None) -> None:
    with pytest.raises(SqlError) as raised:
        translate(sql, read_schema(_connection()))
    assert (raised.value.sqlstate, raised.value.position) == (sqlstate, position)


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT extract(year from now())",
        "SELECT date_trunc('day', now())",
        "SELECT now() - interval '1 day'",
        "SELECT ARRAY[1, 2]",
        "SELECT to_char(now(), 'YYYY')",
        "SELECT n FROM t WHERE n = ANY(ARRAY[1])",
    ],
)
def test_what_is_not_known_should_be_refused(sql: str) -> None:
    with pytest.raises(SqlError, match=r"not supported|does not exist"):
        translate(sql, read_schema(_connection()))


@pytest.mark.parametrize(
    ("why", "sql"),
    [
        ("no number", "INSERT INTO t (n) VALUES ('x')"),
        ("too large", "INSERT INTO t (n) VALUES (2147483648)"),
        ("too long", "INSERT INTO t (s) VALUES ('toolong')"),
        ("no float", "INSERT INTO t (f) VALUES ('x')"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_columns_hold_their_types_only(why: str, sql: str) -> None:
    with pytest.raises(apsw.ConstraintError):
        _run(_connection(), sql)


@pytest.mark.parametrize(
    ("sql", "oids"),
    [
        ("SELECT $1::int + 1, $2", (23, 0)),
        ("INSERT INTO t (n, s) VALUES ($2, $1)", (1043, 23)),
        ("SELECT n FROM t WHERE n = $1 AND s = $2 LIMIT $3", (23, 1043, 20)),
        ("UPDATE t SET f = $1 WHERE id IN ($2)", (701, 23)),
        ("SELECT substring(s, $1, $2), substring(s FOR $3) FROM t", (23, 23, 23)),
    ],
)
def test_parameters_know_their_types(sql: str, oids: tuple[int, ...]) -> None:
    assert translate(sql, read_schema(_connection())).param_types == oids


@pytest.mark.parametrize(
    ("sql", "kind", "tag", "reads_only"),
    [
        ("", "empty", "", True),
        ("BEGIN ISOLATION LEVEL SERIALIZABLE", "begin", "BEGIN", True),
        ("START TRANSACTION READ ONLY", "begin", "START TRANSACTION", True),
        ("END", "commit", "COMMIT", True),
        ("ROLLBACK TO SAVEPOINT a", "rollback_to", "ROLLBACK", True),
        ("SELECT 1", "select", "SELECT", True),
        ("SELECT n FROM t FOR UPDATE", "select", "SELECT", False),
        ("INSERT INTO t (n) VALUES (1)", "insert", "INSERT 0", False),
        ("TRUNCATE t", "ddl", "TRUNCATE TABLE", False),
        ("COPY t FROM STDIN", "copy_from", "COPY", False),
        ("VACUUM", "noop", "VACUUM", True),
    ],
)
def test_what_a_statement_is(sql: str, kind: str, tag: str, reads_only: bool) -> None:
    found = translate(sql, read_schema(_connection()))
    assert (found.kind, found.tag, found.reads_only) == (kind, tag, reads_only)


@pytest.mark.parametrize(
    ("number", "sqlstate", "told"),
    [
        (0, "42P02", "there is no parameter $0"),
        (32_767, "54000", "32767 parameters in one statement: at most 32766 are possible"),
        (65_535, "54000", "65535 parameters in one statement: at most 32766 are possible"),
        (65_536, "42P02", "there is no parameter $65536"),
    ],
)
def test_a_parameter_that_cannot_be_is_named(number: int, sqlstate: str, told: str) -> None:
    with pytest.raises(SqlError) as refused:
        translate(f"SELECT n FROM t WHERE n IN ($1, ${number})", read_schema(_connection()))
    assert (refused.value.sqlstate, str(refused.value)) == (sqlstate, told)


def test_the_last_parameter_that_can_be() -> None:
    values = (1, *[None] * 32_764, 3)
    found = _run(_connection(), "SELECT n FROM t WHERE n IN ($1, $32766) ORDER BY n", *values)
    assert found == [(1,), (3,)]


@pytest.mark.parametrize("source", ["(SELECT x FROM t) AS q", "(SELECT x + 1 AS x FROM t) AS q"])
def test_a_column_of_a_subquery_that_leads_to_itself_does_not_exist(source: str) -> None:
    connection = _connection()
    with pytest.raises(apsw.SQLError, match="no such column: x"):
        _run(connection, f"SELECT q.x FROM {source} WHERE q.x = 1")


def test_a_column_that_the_schema_does_not_tell_may_be_in_a_subquery() -> None:
    connection = _connection()
    _run(connection, "CREATE TABLE g (a int, b int GENERATED ALWAYS AS (a * 2) STORED)")
    _run(connection, "INSERT INTO g (a) VALUES (2)")
    assert _run(connection, "SELECT q.b FROM (SELECT b FROM g) AS q WHERE q.b = 4") == [(4,)]


def test_types_are_looked_up_once_through_ctes_that_name_a_column_twice() -> None:
    ctes = ", ".join(f"c{at} AS (SELECT x + x AS x FROM c{at - 1})" for at in range(1, 25))
    sql = f"WITH c0 AS (SELECT n AS x FROM t), {ctes} SELECT x FROM c24"
    before = time.process_time()
    assert translate(sql, read_schema(_connection())).columns == (Column("x", INT4),)
    assert time.process_time() - before < 5


@pytest.mark.parametrize(
    "where",
    [
        "at < now()",
        "now() >= at",
        "at <= CURRENT_TIMESTAMP",
        "at BETWEEN '2024-01-01' AND now()",
        "at < '2024-01-06'::timestamptz",
    ],
)
def test_a_timestamp_that_is_compared_with_now_is_looked_up_in_its_index(where: str) -> None:
    connection = _connection()
    for sql in (
        "CREATE TABLE e (at timestamp, tz timestamptz)",
        "CREATE INDEX e_at ON e (at)",
        "INSERT INTO e VALUES ('2024-01-05 10:00', '2024-01-05 10:00Z'), ('3024-01-05 10:00', now())",
    ):
        _run(connection, sql)
    sql = translate(f"SELECT at FROM e WHERE {where}", read_schema(connection)).sql
    assert "SEARCH e" in str(connection.execute(f"EXPLAIN QUERY PLAN {sql}").fetchall())
    assert connection.execute(sql).fetchall() == [("2024-01-05 10:00:00",)]
    assert _run(connection, "SELECT count(*) FROM e WHERE at = tz AND at < now()") == [(1,)]


def test_a_long_concatenation_takes_as_long_as_it_is() -> None:
    schema = read_schema(_connection())

    def took_s(size: int) -> float:
        before = time.process_time()
        translate(f"SELECT {' || '.join(['s'] * size)} FROM t", schema)
        return time.process_time() - before

    assert min(took_s(200) for _ in range(5)) < 10 * min(took_s(50) for _ in range(5))
