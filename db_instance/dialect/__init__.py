"""PostgreSQL's SQL to what SQLite runs. Pure: text and a schema in, a Statement out."""

from db_instance.dialect.definitions import definition, is_definition
from db_instance.dialect.lexer import Token, split_statements, tokens
from db_instance.dialect.queries import check_query, is_query, query
from db_instance.dialect.statement import Catalog, Column, SqlError, Statement, TableInfo
from db_instance.dialect.utility import utility

__all__ = [
    "Catalog",
    "Column",
    "SqlError",
    "Statement",
    "TableInfo",
    "check_syntax",
    "split_statements",
    "translate",
]


def check_syntax(sql: str) -> None:
    """Is it a statement at all, as far as can be told without the schema? Raises SqlError: 42601."""
    found = tokens(sql)
    if not found:
        return
    try:
        if is_query(found[0]):
            check_query(sql)
        elif not is_definition(found[0]) and utility(found, sql) is None:
            raise _no_statement(found[0])
    except SqlError as error:
        if error.sqlstate == "42601":
            raise


def translate(sql: str, catalog: Catalog, declared: tuple[int, ...] = ()) -> Statement:
    """One statement. `declared`: OIDs of its parameters, from the first one on, 0 where the client does not say.

    Raises SqlError: 42601 for what is no SQL, 0A000 for what is not supported.
    """
    found = tokens(sql)
    if not found:
        return Statement("empty")
    if is_query(found[0]):
        return query(sql, catalog, declared)
    known = utility(found, sql) or definition(found, sql, catalog)
    if known is None:
        raise _no_statement(found[0])
    return known


def _no_statement(first: Token) -> SqlError:
    return SqlError("42601", f'syntax error at or near "{first.text}"', first.at + 1)
