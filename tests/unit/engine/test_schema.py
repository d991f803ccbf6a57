"""The schema as the dialect knows it, read from a plain SQLite database."""

import apsw
import pytest

from db_instance.dialect import types
from db_instance.dialect.statement import Column
from db_instance.engine.schema import EMPTY_SCHEMA, Schema, read_schema


def _schema(*statements: str) -> Schema:
    connection = apsw.Connection(":memory:")
    for statement in statements:
        connection.execute(statement)
    return read_schema(connection)


@pytest.mark.parametrize(
    ("why", "sql", "columns", "key"),
    [
        ("declared types", "t (a text, b varchar(9), c boolean)", [("a", 25), ("b", 1043), ("c", 16)], ()),
        ("SQLite's row number is bigint", "t (a INTEGER PRIMARY KEY, b int)", [("a", 20), ("b", 23)], ("a",)),
        (
            "not so half of a key",
            "t (a INTEGER, b INTEGER, PRIMARY KEY (b, a))",
            [("a", 23), ("b", 23)],
            ("b", "a"),
        ),
        ("a type of none of ours", "t (a nonsense, b)", [("a", 0), ("b", 0)], ()),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_table(why: str, sql: str, columns: list[tuple[str, int]], key: tuple[str, ...]) -> None:
    table = _schema(f"CREATE TABLE {sql}").table("T")
    assert table is not None
    assert table.columns == tuple(Column(*each) for each in columns)
    assert (table.name, table.primary_key) == ("t", key)


def test_an_integer_key_is_as_wide_as_its_check_says_whatever_it_is_called() -> None:
    check = 'CONSTRAINT "smallint out of range" CHECK (a BETWEEN -32768 AND 32767)'
    schema = _schema(
        f"CREATE TABLE t (a INTEGER PRIMARY KEY {check}, b text DEFAULT ('x'))",
        'ALTER TABLE t RENAME COLUMN a TO "b (c"',
    )
    table = schema.table("t")
    assert table is not None
    assert table.columns == (Column("b (c", types.INT2), Column("b", types.TEXT, default="'x'"))


def test_a_check_of_the_users_own_says_nothing_of_the_type() -> None:
    table = _schema(
        'CREATE TABLE t (a INTEGER PRIMARY KEY CONSTRAINT "a out of range" CHECK (a BETWEEN 1 AND 5))'
    ).table("t")
    assert table is not None and table.columns == (Column("a", types.INT8),)


def test_views_are_tables_and_sqlites_own_are_not() -> None:
    schema = _schema(
        "CREATE TABLE t (id INTEGER PRIMARY KEY AUTOINCREMENT, v text)",
        "CREATE TABLE sqliteish (v text)",
        "CREATE VIEW w AS SELECT v FROM t",
    )
    assert sorted(schema.tables) == ["sqliteish", "t", "w"]
    view = schema.table("w")
    assert view is not None and view.columns == (Column("v", types.TEXT),)


def test_each_change_is_another_version() -> None:
    one = _schema("CREATE TABLE t (a int)")
    two = _schema("CREATE TABLE t (a int)", "CREATE TABLE u (a int)")
    assert one.version != two.version
    assert (EMPTY_SCHEMA.table("t"), one.table("nowhere")) == (None, None)
