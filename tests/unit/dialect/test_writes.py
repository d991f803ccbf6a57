"""What is written, on a plain SQLite connection: PostgreSQL's values are stored, or the statement is refused."""

from typing import Any

import pytest

from db_instance.dialect import SqlError, translate
from db_instance.engine.schema import read_schema
from tests.harness.plain_sqlite import plain_sqlite


def _run(*statements: str) -> list[tuple[Any, ...]]:
    """The rows of the last one."""
    connection = plain_sqlite()
    rows: list[tuple[Any, ...]] = []
    for sql in statements:
        rows = connection.execute(translate(sql, read_schema(connection)).sql).fetchall()
    return rows


@pytest.mark.parametrize(
    ("column", "held"),
    [
        ("boolean DEFAULT 'f'", 0),
        ("boolean NOT NULL DEFAULT 'yes'", 1),
        ("boolean DEFAULT false", 0),
        ("timestamp DEFAULT '2024-01-01'", "2024-01-01 00:00:00"),
        ("timestamptz DEFAULT '2024-01-01 02:00+02'", "2024-01-01 00:00:00+00"),
        ("date DEFAULT '20240105'", "2024-01-05"),
        ("time DEFAULT '10:00'", "10:00:00"),
        ("uuid DEFAULT 'ABCDEF78-1234-5678-1234-567812345678'", "abcdef78-1234-5678-1234-567812345678"),
        ("bytea DEFAULT '\\x00ff'", b"\x00\xff"),
        ('jsonb DEFAULT \'{"b": 1, "a":"it\'\'s"}\'', '{"a": "it\'s", "b": 1}'),
        ("int DEFAULT 2.5", 3),
        ("smallint DEFAULT -7", -7),
        ("text DEFAULT 'f'", "f"),
    ],
)
def test_a_default_is_a_value_of_its_column(column: str, held: Any) -> None:
    table = "CREATE TABLE t (id int)"
    assert _run(f"CREATE TABLE t (id int, a {column})", "INSERT INTO t (id) VALUES (1) RETURNING a") == [
        (held,)
    ]
    assert _run(
        table, "INSERT INTO t VALUES (1)", f"ALTER TABLE t ADD COLUMN a {column}", "SELECT a FROM t"
    ) == [(held,)]


@pytest.mark.parametrize("default", ["now()", "CURRENT_TIMESTAMP", "current_date"])
def test_a_time_that_is_a_default_is_of_its_columns_type(default: str) -> None:
    columns = f"at timestamp DEFAULT {default}, d date DEFAULT {default}, n date DEFAULT NULL"
    (row,) = _run(
        f"CREATE TABLE t (id int, {columns})",
        "INSERT INTO t (id) VALUES (1)",
        "SELECT at = at::timestamp, d = d::date, n FROM t WHERE position('+' in at::text) = 0",
    )
    assert row == (1, 1, None)


def test_a_default_that_is_no_value_of_its_column_is_refused() -> None:
    with pytest.raises(SqlError, match="boolean"):
        _run("CREATE TABLE t (a boolean DEFAULT 'maybe')")


@pytest.mark.parametrize(
    ("sql", "sqlstate"),
    [
        ("INSERT INTO t (n, n) VALUES (1, 2)", "42701"),
        ('INSERT INTO t (n, s, "n") SELECT 1, 2, 3', "42701"),
        ("UPDATE t SET n = 1, s = 'a', N = 2", "42601"),
        ("UPDATE t SET (n, s) = (1, 'a'), n = 2", "42601"),
        ("UPDATE t SET (n, s) = (SELECT 1, 'a'), s = 'b'", "42601"),
        ("INSERT INTO t VALUES (1) ON CONFLICT (n) DO UPDATE SET s = 'a', s = 'b'", "42601"),
    ],
)
def test_a_column_is_given_one_value(sql: str, sqlstate: str) -> None:
    with pytest.raises(SqlError) as raised:
        _run("CREATE TABLE t (n int UNIQUE, s text)", sql)
    assert raised.value.sqlstate == sqlstate


@pytest.mark.parametrize(
    "sql",
    [
        "INSERT INTO t (n) VALUES (1)",
        "INSERT INTO t (n) SELECT 1",
        "INSERT INTO t (n) SELECT n FROM t",
        "INSERT INTO t DEFAULT VALUES",
        "INSERT INTO t VALUES (7, 1), (NULL, 2)",
        "INSERT INTO t VALUES (DEFAULT, 1)",
        "INSERT INTO t (n, id) VALUES (1, nullif(1, 1))",
        "INSERT INTO t SELECT NULL AS id, 2",
        "INSERT INTO t (n) VALUES (1) ON CONFLICT DO NOTHING",
        "INSERT INTO s VALUES (NULL, 1)",
        "INSERT INTO s (id, n) SELECT NULL, 1",
    ],
)
def test_sqlite_makes_no_key_up(sql: str) -> None:
    tables = ("CREATE TABLE t (id int PRIMARY KEY, n int)", "CREATE TABLE s (id serial PRIMARY KEY, n int)")
    with pytest.raises(SqlError) as raised:
        _run(*tables, sql)
    assert (raised.value.sqlstate, raised.value.about["c"]) == ("23502", "id")


def test_a_key_that_counts_may_be_left_out() -> None:
    for values in ("(n) VALUES (1), (2)", "VALUES (DEFAULT, 1), (2, 2)", "(n) SELECT 1 UNION ALL SELECT 2"):
        assert _run(
            "CREATE TABLE s (id serial PRIMARY KEY, n int)", f"INSERT INTO s {values} RETURNING *"
        ) == [(1, 1), (2, 2)]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("b", "true"),
        ("true", "true"),
        ("f > 5", "true"),
        ("'t'::boolean::text", "true"),
        ("('A' ILIKE 'a')::text", "true"),
        ("'is ' || 't'::bool", "is true"),
        ("f", "100"),
        ("f / g", "100"),
        ("(f / g)::text", "100"),
        ("(SELECT f)::text", "100"),
        ("y::text", "\\x6162"),
        ("y", "\\x6162"),
        ("n", "7"),
    ],
)
def test_a_column_of_text_gets_postgresqls_words(value: str, text: str) -> None:
    table = "CREATE TABLE t (n int, b boolean, f double precision, g double precision, y bytea, s text, v varchar(9))"
    row = "INSERT INTO t VALUES (7, true, 100, 1, 'ab')"
    assert _run(table, row, f"UPDATE t SET s = {value}, v = {value}", "SELECT s, v FROM t") == [(text, text)]
    assert _run(table, row, f"UPDATE t SET (s, v) = ({value}, {value})", "SELECT s, v FROM t") == [
        (text, text)
    ]
    assert _run(table, row, f"INSERT INTO t (s, v) SELECT {value}, {value} FROM t RETURNING s, v") == [
        (text, text)
    ]


def test_bytes_are_not_taken_for_text() -> None:
    with pytest.raises(SqlError, match="bytea"):
        _run("CREATE TABLE t (y bytea)", "SELECT y || '\\x01' FROM t")


@pytest.mark.parametrize(
    "sql",
    [
        "CREATE TABLE s (id int GENERATED BY DEFAULT AS IDENTITY (START WITH 100) PRIMARY KEY)",
        "CREATE TABLE s (id int GENERATED ALWAYS AS IDENTITY (START 1 INCREMENT BY 5) PRIMARY KEY)",
        "CREATE TABLE s (id int GENERATED ALWAYS AS IDENTITY (INCREMENT -1) PRIMARY KEY)",
        "CREATE TABLE c (a int, b int, FOREIGN KEY (a, b) REFERENCES t (id, n) MATCH FULL)",
        "UPDATE t SET n = u.n FROM u WHERE u.id = t.id RETURNING *",
    ],
)
def test_what_sqlite_would_pass_over_is_refused(sql: str) -> None:
    with pytest.raises(SqlError, match="not supported"):
        _run("CREATE TABLE t (id int, n int, UNIQUE (id, n))", "CREATE TABLE u (id int, n int)", sql)


def test_what_it_does_anyway_is_not() -> None:
    assert _run(
        "CREATE TABLE t (id int GENERATED ALWAYS AS IDENTITY (START WITH 1 INCREMENT BY 1 CACHE 20) PRIMARY KEY, n int)",
        "CREATE TABLE u (id int, n int REFERENCES t MATCH SIMPLE)",
        "INSERT INTO t (n) VALUES (1), (2)",
        "INSERT INTO u VALUES (2, 1)",
        "UPDATE t SET n = 7 FROM u WHERE u.id = t.id RETURNING t.id, t.n",
    ) == [(2, 7)]


@pytest.mark.parametrize("given", ["*", "q.*", "n, q.*", "*, n"])
def test_a_star_is_given_as_it_is(given: str) -> None:
    names = {"n, q.*": "m, at, n", "*, n": "at, n, m"}.get(given, "at, n")
    rows = _run(
        "CREATE TABLE t (at timestamptz, n int, m int)",
        "CREATE TABLE q (at timestamptz, n int)",
        "INSERT INTO q VALUES ('2024-01-01', 1)",
        f"INSERT INTO t ({names}) SELECT {given} FROM q",
        "SELECT at, n FROM t",
    )
    assert rows == [("2024-01-01 00:00:00+00", 1)]


@pytest.mark.parametrize(
    ("sql", "rows"),
    [
        ("DELETE FROM a USING b WHERE a.k = b.k AND b.s = 'y' RETURNING a.id", [(2,)]),
        (
            "DELETE FROM a AS x USING b y, b z WHERE x.k = y.k AND z.k = y.k AND y.s <> 'y' RETURNING x.*",
            [(1, 10)],
        ),
        (
            "UPDATE a x SET id = x.id + 5 FROM b WHERE b.k = x.k AND b.s = 'x' RETURNING x.id, id + 1 AS more",
            [(6, 7)],
        ),
        ("UPDATE a x SET k = 0 WHERE x.id = 3 RETURNING x.*", [(3, 0)]),
        ("DELETE FROM a AS x WHERE x.id = 3 RETURNING x.k", [(None,)]),
        (
            "INSERT INTO a AS x VALUES (4, 4) ON CONFLICT (id) DO UPDATE SET k = x.k + 1 RETURNING x.id",
            [(4,)],
        ),
    ],
)
def test_others_are_read_and_the_alias_returns(sql: str, rows: list[tuple[Any, ...]]) -> None:
    assert (
        _run(
            "CREATE TABLE a (id int PRIMARY KEY, k int)",
            "CREATE TABLE b (k int, s text)",
            "INSERT INTO a VALUES (1, 10), (2, 20), (3, NULL)",
            "INSERT INTO b VALUES (10, 'x'), (20, 'y')",
            sql,
        )
        == rows
    )


@pytest.mark.parametrize(
    ("sql", "sqlstate"),
    [
        ("DELETE FROM a USING b WHERE a.k = b.k RETURNING b.s", "0A000"),
        ("UPDATE a SET k = 1 FROM b RETURNING *", "0A000"),
        ("SELECT sum(s) FROM b", "42883"),
        ("SELECT s + 1 FROM b", "42883"),
        ("SELECT avg(k > 1) FROM b", "42883"),
    ],
)
def test_what_sqlite_would_take_for_something_else(sql: str, sqlstate: str) -> None:
    with pytest.raises(SqlError) as raised:
        _run("CREATE TABLE a (id int PRIMARY KEY, k int)", "CREATE TABLE b (k int, s text)", sql)
    assert raised.value.sqlstate == sqlstate


@pytest.mark.parametrize("constraint", ["a_pkey", "a_k_j_key", "own"])
def test_on_conflict_names_a_constraint(constraint: str) -> None:
    made = (
        "CREATE TABLE a (id int PRIMARY KEY, k int, j int, l int, UNIQUE (k, j), CONSTRAINT own UNIQUE (l))"
    )
    row = "INSERT INTO a VALUES (1, 2, 3, 4)"
    again = f"{row} ON CONFLICT ON CONSTRAINT {constraint} DO UPDATE SET k = 9 RETURNING k"
    assert _run(made, row, again) == [(9,)]
    with pytest.raises(SqlError, match='constraint "a_l_key" for table "a" does not exist'):
        _run(made, again.replace(constraint, "a_l_key"))


def test_numbers_become_what_their_column_is() -> None:
    made = "CREATE TABLE a (n int, b boolean)"
    assert _run(made, "INSERT INTO a (n) VALUES (7.6), (-7.4), (3e2)", "SELECT n FROM a") == [
        (8,),
        (-7,),
        (300,),
    ]
    assert _run(made, "INSERT INTO a (n) VALUES (1)", "UPDATE a SET n = n * 1.7 RETURNING n") == [(2,)]
    for sql in ("INSERT INTO a (b) VALUES (1)", "UPDATE a SET b = n"):
        with pytest.raises(SqlError) as raised:
            _run(made, sql)
        assert raised.value.sqlstate == "42804"


_NUMBERS = (
    "CREATE TABLE r (id int PRIMARY KEY, g int, n int)",
    "INSERT INTO r VALUES (1, 1, 1), (2, 1, 2), (3, 2, 3)",
)


@pytest.mark.parametrize(
    ("update", "held"),
    [
        ("UPDATE r SET n = (SELECT sum(x.n) FROM r x WHERE x.g = r.g)", [3, 3, 3]),
        ("UPDATE r SET n = coalesce((SELECT x.n FROM r x WHERE x.id = r.id - 1), 0)", [0, 1, 2]),
        ("UPDATE r AS q SET n = (SELECT max(n) FROM r) - q.n WHERE q.g = 1", [2, 1, 3]),
        ("UPDATE r SET (g, n) = (SELECT max(g), sum(n) FROM r)", [6, 6, 6]),
        ("UPDATE r SET n = n + s FROM (SELECT sum(n) AS s FROM r) AS q", [7, 8, 9]),
        ("UPDATE r SET n = (SELECT sum(r.n) FROM r) WHERE id = (SELECT max(id) FROM r)", [1, 2, 6]),
        ("UPDATE r SET n = n + 0.5", [2, 3, 4]),
    ],
)
def test_an_update_reads_what_was_there_before_it(update: str, held: list[int]) -> None:
    assert [n for (n,) in _run(*_NUMBERS, update, "SELECT n FROM r ORDER BY id")] == held


def test_an_update_returns_what_it_has_made() -> None:
    rows = _run(*_NUMBERS, "UPDATE r SET n = (SELECT sum(n) FROM r) WHERE g = 1 RETURNING *")
    assert sorted(rows) == [(1, 1, 6), (2, 1, 6)]


def test_a_foreign_key_may_set_the_default() -> None:
    rows = _run(
        "CREATE TABLE a (id int PRIMARY KEY)",
        "CREATE TABLE b (id int PRIMARY KEY, a int DEFAULT 1 REFERENCES a ON DELETE SET DEFAULT NOT NULL)",
        "INSERT INTO a VALUES (1), (2)",
        "INSERT INTO b VALUES (1, 2)",
        "DELETE FROM a WHERE id = 2",
        "SELECT a FROM b",
    )
    assert rows == [(1,)]
