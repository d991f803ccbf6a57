"""CREATE and DROP of PostgreSQL's on a plain SQLite connection: what is kept means what it meant to the client."""

from typing import Any

import apsw
import pytest

from db_instance.dialect import SqlError, translate, types
from db_instance.engine.schema import read_schema
from tests.harness.plain_sqlite import plain_sqlite

_TABLE = "CREATE TABLE t (id int PRIMARY KEY, s text, d date, b boolean, at timestamptz)"
_ROWS = "INSERT INTO t VALUES (1, 'Anna', '2024-01-05', true, '2024-01-01'), (2, 'bob', '2023-12-31', false, NULL)"


class _Database:
    def __init__(self, *statements: str) -> None:
        self._connection = plain_sqlite()
        self.run(*statements)

    def run(self, *statements: str) -> list[tuple[Any, ...]]:
        """The rows of the last one."""
        for sql in statements:
            rows = self._connection.execute(translate(sql, read_schema(self._connection)).sql).fetchall()
        return rows

    def columns(self, sql: str) -> list[tuple[str, int]]:
        found = translate(sql, read_schema(self._connection)).columns
        assert found is not None
        return [(column.name, column.oid) for column in found]

    def refused(self, sql: str) -> str:
        with pytest.raises(SqlError) as raised:
            self.run(sql)
        return raised.value.sqlstate


@pytest.mark.parametrize(
    ("sql", "columns", "rows"),
    [
        ("SELECT * FROM (SELECT id > 1 AS late, d FROM t) AS q", [("late", 16), ("d", 1082)], [(0, "2024-01-05"), (1, "2023-12-31")]),
        ("SELECT q.* FROM (SELECT count(*), max(d) FROM t) AS q", [("count", 20), ("max", 1082)], [(2, "2024-01-05")]),
        ("SELECT count FROM (SELECT count(*) FROM t) AS q", [("count", 20)], [(2,)]),
        ("WITH x AS (SELECT * FROM t) SELECT id FROM x WHERE at > '2023-12-31 23:00'", [("id", 23)], [(1,)]),
        ("WITH x (y) AS (SELECT b, id FROM t) SELECT * FROM x", [("y", 16), ("id", 23)], [(1, 1), (0, 2)]),
        ("WITH RECURSIVE r (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM r WHERE n < 3) SELECT * FROM r", [("n", 23)], [(1,), (2,), (3,)]),
        ("SELECT a.x, y FROM (SELECT s, b FROM t) AS a (x, y)", [("x", 25), ("y", 16)], [("Anna", 1), ("bob", 0)]),
        ("SELECT v.n, s, column3 FROM (VALUES (1, 'a', 7), (2, 'b', 8)) AS v (n, s)", [("n", 0), ("s", 0), ("column3", 0)], [(1, "a", 7), (2, "b", 8)]),
        ("SELECT b FROM t UNION ALL SELECT NULL", [("b", 16)], [(1,), (0,), (None,)]),
        ("SELECT id FROM t UNION ALL SELECT 1.5", [("id", 701)], [(1,), (2,), (1.5,)]),
        ("SELECT u.*, t.id FROM t, (SELECT b FROM t) AS u WHERE t.id = 1", [("b", 16), ("id", 23)], [(1, 1), (0, 1)]),
        ("SELECT DISTINCT ON (s) * FROM (SELECT s, d FROM t) AS q ORDER BY s", [("s", 25), ("d", 1082)], [("Anna", "2024-01-05"), ("bob", "2023-12-31")]),
    ],
)  # fmt: skip
def test_what_a_star_or_a_union_comes_to_has_a_type(
    sql: str, columns: list[tuple[str, int]], rows: list[tuple[Any, ...]]
) -> None:
    database = _Database(_TABLE, _ROWS)
    assert database.columns(sql) == columns
    assert database.run(sql) == rows


def test_a_star_of_a_join_with_using_has_the_column_once() -> None:
    assert _Database(_TABLE, _ROWS).run("SELECT * FROM t JOIN t AS u USING (id, s, d, b, at)") == [
        (1, "Anna", "2024-01-05", 1, "2024-01-01 00:00:00+00")
    ]  # of NULLs none equals the other


@pytest.mark.parametrize(
    ("sql", "names", "rows"),
    [
        ("SELECT * FROM a JOIN b USING (g)", "g id n id m", [(1, 10, 100, 20, 200)]),
        ("SELECT * FROM a x LEFT JOIN b y USING (g) ORDER BY 1", "g id n id m", [(1, 10, 100, 20, 200), (2, 11, 101, None, None)]),
        ("SELECT * FROM a FULL JOIN b USING (g) ORDER BY 1", "g id n id m", [(1, 10, 100, 20, 200), (2, 11, 101, None, None), (3, None, None, 21, 201)]),
        ("SELECT * FROM a NATURAL JOIN (SELECT m, g FROM b) AS q", "g id n m", [(1, 10, 100, 200)]),
        ("SELECT * FROM a JOIN b USING (g) JOIN c USING (m)", "m g id n id", [(200, 1, 10, 100, 20)]),
        ("SELECT * FROM c, a JOIN b ON a.g = b.g", "m id n g id m g", [(200, 10, 100, 1, 20, 200, 1)]),
        ("SELECT b.*, a.id FROM a JOIN b USING (g)", "id m g id", [(20, 200, 1, 10)]),
        ("WITH q AS (SELECT * FROM a JOIN b USING (g)) SELECT count(*) FROM q", "count", [(1,)]),
    ],
)  # fmt: skip
def test_columns_that_a_join_has_made_one_come_first(
    sql: str, names: str, rows: list[tuple[Any, ...]]
) -> None:
    database = _Database(
        "CREATE TABLE a (id int, n int, g int)",
        "CREATE TABLE b (id int, m int, g int)",
        "CREATE TABLE c (m int)",
        "INSERT INTO a VALUES (10, 100, 1), (11, 101, 2)",
        "INSERT INTO b VALUES (20, 200, 1), (21, 201, 3)",
        "INSERT INTO c VALUES (200)",
    )
    assert database.run(sql) == rows
    assert " ".join(name for name, _ in database.columns(sql)) == names


def test_names_that_are_not_quoted_are_in_lower_case() -> None:
    database = _Database(
        'CREATE TABLE Users (userId INT PRIMARY KEY, "firstName" Text DEFAULT CURRENT_USER, Born Date)',
        "ALTER TABLE USERS ADD COLUMN lastSeen TIMESTAMP",
        'CREATE VIEW Seen AS SELECT UserID AS Id, lastSeen, max(BORN) OVER () AS "Born" FROM Users',
    )
    for sql, names in (
        ("SELECT * FROM Users", ["userid", "firstName", "born", "lastseen"]),
        (
            "SELECT USERID, Users.BORN, count(*) AS HowMany FROM USERS GROUP BY 1, 2",
            ["userid", "born", "howmany"],
        ),
        ('SELECT * FROM (SELECT Born AS B, "firstName" FROM users) AS Q', ["b", "firstName"]),
        ("SELECT * FROM SEEN", ["id", "lastseen", "Born"]),
        ('INSERT INTO Users (UserId) VALUES (1) RETURNING UserId, "firstName"', ["userid", "firstName"]),
        ("UPDATE Users AS U SET Born = NULL RETURNING U.UserId AS WHO", ["who"]),
    ):
        assert [name for name, _ in database.columns(sql) or []] == names, sql
        database.run(sql)


def test_what_goes_into_columns_from_a_subquery_becomes_what_they_are() -> None:
    database = _Database(_TABLE, _ROWS, "CREATE TABLE u (day date)")
    assert database.run(
        "INSERT INTO u (day) SELECT * FROM (SELECT at FROM t) AS q", "SELECT day FROM u WHERE day IS NOT NULL"
    ) == [("2024-01-01",)]


@pytest.mark.parametrize("name", ["rowid", "oid", "_rowid_", "t.rowid"])
def test_row_numbers_are_no_columns(name: str) -> None:
    database = _Database(_TABLE, _ROWS)
    assert database.refused(f"SELECT {name} FROM t") == "42703"
    assert database.run("CREATE TABLE r (oid int)", "INSERT INTO r VALUES (7)", "SELECT oid FROM r") == [(7,)]
    assert database.run("SELECT rowid FROM (SELECT s AS rowid FROM t) AS q WHERE rowid = 'bob'") == [("bob",)]


@pytest.mark.parametrize(
    ("query", "columns", "rows"),
    [
        ("SELECT * FROM t WHERE d > '2024-01-01 '", [("id", 23), ("s", 25), ("d", 1082), ("b", 16), ("at", 1184)], [(1, "Anna", "2024-01-05", 1, "2024-01-01 00:00:00+00")]),
        ("SELECT s::varchar(2) AS start, id / 2 FROM t WHERE s ILIKE 'A%'", None, [("An", 0)]),
        ("SELECT id > 1 AS late, max(at) FROM t GROUP BY id", [("late", 16), ("max", 1184)], [(0, "2024-01-01 00:00:00+00"), (1, None)]),
        ("SELECT at = '2024-01-01 01:00+01' FROM t WHERE id = 1", [("?column?", 16)], [(1,)]),
        ("SELECT now() > '2020-01-01', b::text FROM t WHERE id = 1", [("?column?", 16), ("b", 25)], [(1, "true")]),
        ("SELECT id::bigint, id::text::date IS NULL AS n FROM t WHERE false", [("id", 20), ("n", 16)], []),
        ("SELECT b FROM t UNION SELECT NOT b FROM t", [("b", 16)], [(0,), (1,)]),
        ("WITH x AS (SELECT d FROM t) SELECT * FROM x WHERE d < '2024-01-01'", [("d", 1082)], [("2023-12-31",)]),
    ],
)  # fmt: skip
def test_a_view_is_its_query(
    query: str, columns: list[tuple[str, int]] | None, rows: list[tuple[Any, ...]]
) -> None:
    database = _Database(_TABLE, _ROWS, f"CREATE VIEW v AS {query}")
    assert database.run("SELECT * FROM v") == rows
    if columns is not None:
        assert database.columns("SELECT * FROM v") == columns
        assert [column.oid for column in read_schema(database._connection).tables["v"].columns] == [
            oid for _, oid in columns
        ]


def test_views_of_views_have_types_and_their_literals_are_read() -> None:
    database = _Database(
        _TABLE,
        _ROWS,
        "CREATE VIEW v (day, who) AS SELECT d, s FROM t",
        "CREATE VIEW w AS SELECT v.day FROM v",
    )
    assert database.run("SELECT day FROM w WHERE day > '2024-01-01 '") == [("2024-01-05",)]
    assert database.columns("SELECT * FROM w") == [("day", types.DATE)]


def test_a_view_is_replaced() -> None:
    database = _Database(_TABLE, _ROWS, "CREATE VIEW v AS SELECT s FROM t")
    assert database.run("CREATE OR REPLACE VIEW v AS SELECT id FROM t WHERE id > 1", "SELECT * FROM v") == [
        (2,)
    ]


@pytest.mark.parametrize(
    ("sql", "sqlstate"),
    [
        ("CREATE VIEW v AS SELECT 1, 2", "42701"),
        ("CREATE VIEW v AS SELECT $1::int", "42P02"),
        ("CREATE VIEW v AS DELETE FROM t RETURNING id", "42601"),
        ("CREATE VIEW v AS", "42601"),
        ("CREATE VIEW v", "42601"),
        ("CREATE VIEW v AS SELECT s ~ 'a' FROM t", "0A000"),
        ("CREATE TABLE u (s text CHECK (s ~ 'a'))", "0A000"),
        ("CREATE TABLE u (s text, , n int)", "42601"),
        ("CREATE INDEX ON t ()", "42601"),
        ("CREATE INDEX ON t", "42601"),
        ("CREATE INDEX x ON t USING", "0A000"),
    ],
)
def test_what_cannot_be_defined(sql: str, sqlstate: str) -> None:
    assert _Database(_TABLE).refused(sql) == sqlstate


def test_what_views_read_is_not_dropped_under_them() -> None:
    """SQLite would drop it, and the schema could then not be read by anyone."""
    made = "CREATE VIEW v AS SELECT * FROM t", "CREATE VIEW w AS SELECT id FROM v"
    database = _Database(_TABLE, _ROWS, *made)
    assert [database.refused(f"DROP {what}") for what in ("TABLE t", "VIEW v")] == ["2BP01", "2BP01"]
    database.run("DROP VIEW v, w", *made, "DROP VIEW v CASCADE", *made, "DROP TABLE t CASCADE")
    assert read_schema(database._connection).tables == {}


def test_a_view_of_what_is_gone_hides_nothing_else() -> None:
    database = _Database(_TABLE, "CREATE VIEW v AS SELECT id FROM t", "CREATE TABLE u (n int)")
    database._connection.execute("DROP TABLE t")
    assert list(read_schema(database._connection).tables) == ["u"]
    database.run("INSERT INTO u VALUES (1)", "DROP VIEW v")


@pytest.mark.parametrize(
    ("check", "kept", "broken"),
    [
        ("d date, CHECK (d > '2024-01-01 ')", "'2024-01-02'", "'2024-01-01'"),
        ("s text CHECK (s ILIKE 'a%')", "'Abc'", "'bc'"),
        ("n int, CONSTRAINT c CHECK (n::text LIKE '1%' AND n / 2.0 > 5)", "11", "20"),
        ("n int CHECK (n % 2 = 0), m int CHECK (m > 0)", "4", "3"),
        ("s text, CHECK (char_length(s) < 3), m date", "'ab'", "'abc'"),
        ("at timestamptz CHECK (at >= '2024-01-01 01:00+01')", "'2024-01-01 00:00+00'", "'2023-12-31 23:59+00'"),
    ],
)  # fmt: skip
def test_checks_are_what_they_were_to_the_client(check: str, kept: str, broken: str) -> None:
    database = _Database(f"CREATE TABLE u ({check})")
    first = check.split()[0]
    database.run(f"INSERT INTO u ({first}) VALUES ({kept})")
    with pytest.raises(apsw.ConstraintError):
        database.run(f"INSERT INTO u ({first}) VALUES ({broken})")


def test_a_column_that_is_added_has_its_check() -> None:
    database = _Database(_TABLE, "ALTER TABLE t ADD COLUMN day date CHECK (day > '2024-01-01 ' AND day > d)")
    with pytest.raises(apsw.ConstraintError, match="t_day_check"):
        database.run("INSERT INTO t (id, d, day) VALUES (3, '2025-01-01', '2024-05-05')")


def test_computed_columns_are_read_and_not_written() -> None:
    database = _Database(
        "CREATE TABLE u (d date, late boolean GENERATED ALWAYS AS (d > '2024-01-01 ') STORED, s text)",
        "INSERT INTO u VALUES ('2024-02-01', 'x')",
    )
    assert database.run("SELECT * FROM u") == [("2024-02-01", 1, "x")]
    assert database.columns("SELECT late FROM u") == [("late", types.BOOL)]


@pytest.mark.parametrize(
    ("column", "sqlstate"),
    [
        ("r int REFERENCES nowhere", "42P01"),
        ("r int REFERENCES p (nothing)", "42703"),
        ("r int REFERENCES p", "42704"),
        ("r int REFERENCES p (b)", "42830"),
        ("r int REFERENCES p (c)", "42830"),
        ("r int, s int, FOREIGN KEY (r, s) REFERENCES p (a, b)", "42830"),
    ],
)
def test_what_a_foreign_key_names_is_a_key(column: str, sqlstate: str) -> None:
    database = _Database(
        _TABLE,
        "CREATE TABLE p (a int UNIQUE, b int, c int, UNIQUE (b, c))",
        "CREATE UNIQUE INDEX p_c ON p (c) WHERE b > 0",
    )
    assert database.refused(f"CREATE TABLE u ({column})") == sqlstate
    if "FOREIGN" not in column:
        assert database.refused(f"ALTER TABLE t ADD COLUMN {column}") == sqlstate
    database.run(
        "CREATE TABLE u (i int PRIMARY KEY, t int REFERENCES T, a int REFERENCES public.p (A) ON DELETE CASCADE,"
        " b int, c int, up int REFERENCES u (i), FOREIGN KEY (c, b) REFERENCES p (c, b))",
        "CREATE UNIQUE INDEX p_b ON p (b)",
        "ALTER TABLE t ADD COLUMN r int REFERENCES p (b)",
    )


def test_indexes_of_expressions_serve_the_queries_that_name_them() -> None:
    database = _Database(
        _TABLE,
        "CREATE INDEX by_text ON t ((d::text), s text_pattern_ops DESC)",
        "CREATE INDEX ON t (lower(s))",
        "CREATE INDEX ON t (b) WHERE d > '2024-01-01 '",
    )
    for query, index in (
        ("SELECT id FROM t WHERE d::text = 'x'", "by_text"),
        ("SELECT id FROM t WHERE lower(s) = 'x'", "t_lower_idx"),
        ("SELECT s FROM t WHERE b AND d > '2024-01-01'", "t_b_idx"),
    ):
        sql = translate(query, read_schema(database._connection)).sql
        plan = database._connection.execute(f"EXPLAIN QUERY PLAN {sql}").fetchall()
        assert index in str(plan)
    names = "SELECT name FROM sqlite_schema WHERE type = 'index' AND sql IS NOT NULL ORDER BY 1"
    assert database._connection.execute(names).fetchall() == [("by_text",), ("t_b_idx",), ("t_lower_idx",)]


@pytest.mark.parametrize(
    ("sql", "rows"),
    [
        ("SELECT d IN (SELECT ts FROM e), ts IN (SELECT tz FROM e), (d, id) IN (SELECT ts, id FROM e) FROM e", [(1, 1, 1)]),
        ("SELECT (d, id) = (ts, 1), (id, tz) IN ((1, d), (2, ts)) FROM e", [(1, 1)]),
        ("SELECT nullif(d, ts) IS NULL, coalesce(d, ts) = ts, greatest(ts, d) = d, least(d, tz) = tz FROM e", [(1, 1, 1, 1)]),
        ("SELECT d AS x FROM e UNION SELECT ts FROM e", [("2024-01-05 00:00:00",)]),
        ("SELECT ts AS x FROM e UNION SELECT tz FROM e UNION SELECT d FROM e", [("2024-01-05 00:00:00+00",)]),
        ("SELECT CASE WHEN id = 1 THEN d ELSE ts END AS x FROM e", [("2024-01-05 00:00:00",)]),
        ("SELECT count(*) FROM (SELECT d FROM e UNION SELECT tz FROM e) AS q", [(1,)]),
    ],
)  # fmt: skip
def test_dates_and_times_of_different_types_are_one_moment(sql: str, rows: list[tuple[Any, ...]]) -> None:
    database = _Database(
        "CREATE TABLE e (id int, d date, ts timestamp, tz timestamptz)",
        "INSERT INTO e VALUES (1, '2024-01-05', '2024-01-05', '2024-01-05')",
    )
    assert database.run(sql) == rows
    if "AS x" in sql:
        assert database.columns(sql)[0][1] == (1184 if "tz" in sql else 1114)


@pytest.mark.parametrize(
    "sql", ["SELECT id FROM t UNION SELECT s FROM t", "SELECT b FROM t EXCEPT SELECT d FROM t"]
)
def test_a_union_of_unlike_columns_is_refused(sql: str) -> None:
    database = _Database(_TABLE, _ROWS)
    assert database.refused(sql) == "42804"
    assert database.run("SELECT id FROM t UNION SELECT NULL UNION SELECT 2.5 ORDER BY 1 LIMIT 2") == [
        (1,),
        (2,),
    ]
