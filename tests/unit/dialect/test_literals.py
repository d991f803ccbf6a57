"""Which literals are taken out of a text, and that the text means the same without them."""

import apsw
import pytest

from db_instance.dialect.literals import take_literals


@pytest.mark.parametrize(
    ("why", "sql", "shape", "values"),
    [
        ("after =", "select a from t where id = 7", "select a from t where id = $1", ("7",)),
        ("in SET", "UPDATE t SET a = a + -5 WHERE id=7", "UPDATE t SET a = a + -$1 WHERE id=$2", ("5", "7")),
        ("a row", "insert into t values (1, 'it''s', null)", "insert into t values ($1, $2, null)", ("1", "it's")),
        ("a list", "delete from t where a in (1, 2)", "delete from t where a in ($1, $2)", ("1", "2")),
        ("a range", "select a from t where a between 1 and 2", "select a from t where a between $1 and $2", ("1", "2")),
        ("limits stay", "select a from t where a > 1 limit 5", "select a from t where a > $1 limit 5", ("1",)),
        ("names stay", 'select a from t where "5" = 5', 'select a from t where "5" = $1', ("5",)),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_what_is_taken(why: str, sql: str, shape: str, values: tuple[str, ...]) -> None:
    found = take_literals(sql)
    assert found is not None
    assert (found.sql, found.values) == (shape, values)


@pytest.mark.parametrize(
    ("why", "sql"),
    [
        ("its columns' types", "select 1, 'a'"),
        ("values of a query", "select * from (values (1)) v"),
        ("typed by a word", "select a from t where d > date '2026-01-01'"),
        ("typed by a cast", "select a from t where d > '2026-01-01'::date"),
        ("a fraction", "select a from t where a > 1.5"),
        ("an exponent", "select a from t where a > 1e5"),
        ("too long for 64 bits", "select a from t where a > 1234567890123456789012"),
        ("parameters already", "select a from t where a = $1 and b = 5"),
        ("comments", "select a from t where a = 5 -- five"),
        ("escapes", "select a from t where a = E'\\x41'"),
        ("no query", "create table t (a int default 5)"),
        ("a position", "select a from t order by 1"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_not(why: str, sql: str) -> None:
    assert take_literals(sql) is None


def test_the_meaning_stays() -> None:
    connection = apsw.Connection(":memory:")
    connection.execute(
        "create table t (a integer, b text); insert into t values (1, 'x'), (2, 'it''s'), (-3, '4')"
    )
    for sql in (
        "select a from t where a = 1 or b = 'it''s'",
        "select b from t where a = -3 and b like '4'",
        "select count(*) from t where a + 1 > 1 and a*2<>4",
        "select b from t where a in (1,2,3) order by 1 limit 2",
    ):
        found = take_literals(sql)
        assert found is not None
        values = [int(v) if number else v for v, number in zip(found.values, found.is_number, strict=True)]
        shape = found.sql
        for number in range(len(values), 0, -1):
            shape = shape.replace(f"${number}", f"?{number}")
        assert connection.execute(shape, values).fetchall() == connection.execute(sql).fetchall()
