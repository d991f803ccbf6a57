"""PostgreSQL's SQL to what SQLite runs. Pure: text and a schema in, a Statement out."""

from db_instance.dialect.definitions import definition
from db_instance.dialect.lexer import split_statements, tokens
from db_instance.dialect.queries import is_query, query
from db_instance.dialect.statement import Catalog, Column, SqlError, Statement, TableInfo
from db_instance.dialect.utility import utility

__all__ = ["Catalog", "Column", "SqlError", "Statement", "TableInfo", "split_statements", "translate"]


def translate(sql: str, catalog: Catalog) -> Statement:
    """One statement. Raises SqlError: 42601 for what is no SQL, 0A000 for what is not supported."""
    found = tokens(sql)
    if not found:
        return Statement("empty")
    if is_query(found[0]):
        return query(sql, catalog)
    known = utility(found, sql) or definition(found, sql, catalog)
    if known is None:
        raise SqlError("42601", f'syntax error at or near "{found[0].text}"', found[0].at + 1)
    return known
