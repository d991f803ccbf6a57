import apsw
import pytest

from db_instance.dialect import SqlError
from db_instance.engine.engine import ReadOnlyVolume, SerializationFailure
from db_instance.engine.write_lock import LockTimeout
from db_instance.session.errors import report
from volume.errors import OutcomeUnknown, PeerUnavailable, StaleEpoch, TransactionTooLarge

SCHEMA = """
    CREATE TABLE p (id INTEGER PRIMARY KEY);
    CREATE TABLE t (id INTEGER PRIMARY KEY, a TEXT UNIQUE, b INT NOT NULL, c INT CHECK (c > 0),
        p INT REFERENCES p, d INT, CONSTRAINT small CHECK (d < 10), UNIQUE (b, c),
        CHECK (a <> 'x out of range'), CONSTRAINT "integer out of range" CHECK (b < 100));
    CREATE UNIQUE INDEX double_d ON t (d * 2);
    CREATE VIEW v AS SELECT 1 AS one;
    INSERT INTO t VALUES (1, 'x', 1, 1, NULL, 1);
"""


@pytest.mark.parametrize(
    ("sql", "sqlstate", "words"),
    [
        ("INSERT INTO t (id, b) VALUES (1, 9)", "23505", '"t_pkey"'),
        ("INSERT INTO t (a, b) VALUES ('x', 9)", "23505", '"t_a_key"'),
        ("INSERT INTO t (b, c) VALUES (1, 1)", "23505", '"t_b_c_key"'),
        ("INSERT INTO t (b, d) VALUES (9, 1)", "23505", '"double_d"'),
        ("INSERT INTO t (a) VALUES ('y')", "23502", 'column "b" of relation "t"'),
        ("INSERT INTO t (b, c) VALUES (1, 0)", "23514", "c > 0"),
        ("INSERT INTO t (b, d) VALUES (1, 11)", "23514", '"small"'),
        ("INSERT INTO t (a, b) VALUES ('x out of range', 2)", "23514", "violates check constraint"),
        ("INSERT INTO t (b) VALUES (100)", "22003", "integer out of range"),
        ("INSERT INTO t (b, p) VALUES (1, 77)", "23503", "foreign key"),
        ("SELECT * FROM nowhere", "42P01", 'relation "nowhere" does not exist'),
        ("SELECT absent FROM t", "42703", 'column "absent" does not exist'),
        ("INSERT INTO t (absent) VALUES (1)", "42703", 'column "absent" of relation "t"'),
        ("SELECT nofunction(1)", "42883", "nofunction"),
        ("SELECT abs(1, 2)", "42883", "abs"),
        ("CREATE TABLE t (a)", "42P07", 'relation "t" already exists'),
        ("CREATE TABLE u (a, a)", "42701", '"a"'),
        ("SELECT id FROM t x, t y", "42702", '"id" is ambiguous'),
        ("SELECT FROM", "42601", 'at or near "FROM"'),
        ("SELECT (1", "42601", "end of input"),
        ("SELECT sum(sum(b)) FROM t", "42803", "aggregate"),
        ("INSERT INTO t VALUES (1)", "42601", "columns"),
        ("UPDATE v SET one = 2", "42809", '"v"'),
        ("DROP INDEX noindex", "42704", "noindex"),
        ("ROLLBACK TO nosuch", "3B001", "nosuch"),
        ("SELECT abs(-9223372036854775807 - 1)", "22003", "out of range"),
    ],
)
def test_sqlite_in_postgresql_words(sql: str, sqlstate: str, words: str) -> None:
    connection = apsw.Connection(":memory:")
    connection.execute(SCHEMA)
    connection.pragma("foreign_keys", "on")
    if sql.startswith("ROLLBACK"):
        connection.execute("BEGIN")
    with pytest.raises(apsw.Error) as caught:
        connection.execute(sql).fetchall()
    told = report(caught.value)
    assert told.sqlstate == sqlstate, caught.value
    assert words in told.message
    assert not told.is_bug


@pytest.mark.parametrize(
    ("error", "sqlstate", "severity"),
    [
        (SerializationFailure("x"), "40001", "ERROR"),
        (LockTimeout("x"), "55P03", "ERROR"),
        (ReadOnlyVolume("x"), "25006", "ERROR"),
        (PeerUnavailable("x"), "58030", "ERROR"),
        (StaleEpoch("x"), "57P02", "ERROR"),
        (TransactionTooLarge("x"), "54000", "ERROR"),
        (OutcomeUnknown("x"), "08007", "FATAL"),
        (SqlError("0A000", "x", hint="y"), "0A000", "ERROR"),
        (OverflowError("x"), "22003", "ERROR"),
        (apsw.InterruptError("x"), "57014", "ERROR"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else value,
)
def test_our_errors(error: Exception, sqlstate: str, severity: str) -> None:
    told = report(error)
    assert (told.sqlstate, told.severity) == (sqlstate, severity)
    assert not told.is_bug


def test_a_storage_error_under_sqlites_own() -> None:
    error = apsw.IOError("disk I/O error")
    error.__cause__ = PeerUnavailable("read page 7: s1 is gone")
    assert "read page 7" in report(error).message


def test_what_nobody_expected_is_a_bug() -> None:
    told = report(ZeroDivisionError("x"))
    assert told.sqlstate == "XX000"
    assert told.is_bug
