"""Runs SQL: one statement, a script from standard input, or a prompt with history."""

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from runtime.addresses import host_and_port
from sixfold.errors import CommandFailed
from sixfold.result_table import aligned
from sixfold.statements import is_blank, split

if TYPE_CHECKING:
    import psycopg

USER: Final = "sixfold"
DATABASE: Final = "main"
CONNECT_S_MAX: Final = 5
HISTORY: Final = Path("~/.sixfold_history")
NUMERIC_OIDS: Final = frozenset({20, 21, 23, 26, 700, 701, 1700})
HELP: Final = "End a statement with a semicolon. \\q or Ctrl-D leaves, Ctrl-C drops what was typed."

Connection = Any  # psycopg.Connection, which is imported only when a connection is made


class SqlFailed(Exception):
    """A statement was refused; the message is the line to print."""


def connect(address: str, timeout_s: int = CONNECT_S_MAX) -> "psycopg.Connection[Any]":
    import psycopg

    host, port = host_and_port(address)
    try:
        return psycopg.connect(
            host=host,
            port=port,
            user=USER,
            dbname=DATABASE,
            connect_timeout=timeout_s,
            autocommit=True,
            application_name="sixfold sql",
        )
    except psycopg.OperationalError as error:
        reason = str(error).strip().splitlines()[-1] if str(error).strip() else type(error).__name__
        raise CommandFailed(f"connect to {address}: {reason}") from error


def run_statement(connection: Connection, sql: str) -> Iterator[str]:
    """The lines to print of one statement, or of several at once. Raises SqlFailed."""
    import psycopg

    try:
        cursor = connection.execute(sql)
    except psycopg.Error as error:
        raise SqlFailed(error_line(error)) from error
    yield from _lines_of(cursor)
    while cursor.nextset():
        yield from _lines_of(cursor)


def error_line(error: "psycopg.Error") -> str:
    """As in `ERROR:  relation "t" does not exist (42P01)`."""
    message = error.diag.message_primary or (str(error).strip() or type(error).__name__).splitlines()[0]
    return f"{error.diag.severity or 'ERROR'}:  {message} ({error.sqlstate or '08006'})"


def _lines_of(cursor: Connection) -> Iterator[str]:
    result = cursor.pgresult
    if result is None:
        return
    if result.nfields == 0:
        if cursor.statusmessage:
            yield cursor.statusmessage
        return
    columns = range(result.nfields)
    names = [result.fname(column).decode() for column in columns]
    numeric = [result.ftype(column) in NUMERIC_OIDS for column in columns]
    rows = [[_text(result.get_value(row, column)) for column in columns] for row in range(result.ntuples)]
    yield from aligned(names, rows, numeric)


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode("utf-8", "replace")


def run_one(address: str, sql: str) -> None:
    """Run what was given on the command line; raises SqlFailed."""
    with contextlib.closing(connect(address)) as connection:
        _print(run_statement(connection, sql))


def run_script(address: str, text: str) -> None:
    """Run the statements of a script in order, up to the first that fails."""
    statements, rest = split(text)
    with contextlib.closing(connect(address)) as connection:
        for statement in [*statements, rest]:
            if not is_blank(statement):
                _print(run_statement(connection, statement))


def _print(lines: Iterator[str]) -> None:
    for line in lines:
        print(line)


def prompt(address: str) -> None:
    """Read statements from a human until they leave."""
    from prompt_toolkit import PromptSession
    from prompt_toolkit.history import FileHistory

    connection = connect(address)
    session: PromptSession[str] = PromptSession(history=FileHistory(str(HISTORY.expanduser())))
    print(f"Connected to {address}. {HELP}")
    pending = ""
    while True:
        try:
            line = session.prompt("sixfold-> " if pending else "sixfold=> ")
        except KeyboardInterrupt:
            pending = ""
            continue
        except EOFError:
            return connection.close()
        if not pending and line.strip().lower() in ("\\q", "exit", "quit"):
            return connection.close()
        if not pending and line.strip().lower() in ("help", "\\?"):
            print(HELP)
            continue
        statements, pending = split(f"{pending}{line}\n")
        pending = "" if is_blank(pending) else pending
        connection = _run_all(address, connection, statements)


def _run_all(address: str, connection: Connection, statements: list[str]) -> Connection:
    """Run what was typed; the connection to go on with, a new one if the old one broke."""
    for statement in statements:
        try:
            if connection.closed:
                connection = connect(address)
                print("The connection was lost and made again.", file=sys.stderr)
            _print(run_statement(connection, statement))
        except (SqlFailed, CommandFailed) as error:
            print(error, file=sys.stderr)
            break
        except KeyboardInterrupt:
            print("Cancelled.", file=sys.stderr)
            break
    return connection
