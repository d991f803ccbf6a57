"""Views: the query as SQLite keeps it, and what can be told of one that is kept."""

import sqlglot
from sqlglot import exp
from sqlglot.errors import ParseError, TokenError

from db_instance.dialect.clauses import plain, split
from db_instance.dialect.column_names import selects_of
from db_instance.dialect.expression_types import oid_in_all
from db_instance.dialect.lexer import Token, unquote
from db_instance.dialect.queries import query, tables_in
from db_instance.dialect.statement import Catalog, SqlError, Statement


def create_view(given: list[Token], sql: str, catalog: Catalog) -> Statement:
    """The query is translated as it would be if it were asked now; the view's columns are called as that calls its own.

    Raises SqlError, InvalidValue."""
    texts = [token.text.lower() for token in given]
    at = texts.index("as") if "as" in texts else len(given)
    if at + 1 >= len(given):
        raise SqlError("42601", "syntax error at end of input")
    head = [token for token in given[:at] if token.text.lower() not in ("or", "replace")]
    body = query(sql[given[at + 1].at :], catalog)
    if body.kind != "select":
        raise SqlError("42601", f'syntax error at or near "{given[at + 1].text}"', given[at + 1].at + 1)
    if body.param_types:
        raise SqlError("42P02", "there is no parameter $1")
    opening = next((index for index, token in enumerate(head) if token.text == "("), len(head))
    names = [unquote(each[0]) for each in split(head[opening + 1 : -1]) if each]
    names += [each.name for each in (body.columns or ())[len(names) :]]
    if again := next((name for at, name in enumerate(names) if name in names[:at]), None):
        raise SqlError("42701", f'column "{again}" specified more than once')
    columns = ", ".join('"' + name.replace('"', '""') + '"' for name in names)
    parts = [*plain(head[:opening]), *([f"({columns})"] if columns else []), "AS", body.sql]
    if texts[1] == "or":
        parts = ["DROP VIEW IF EXISTS", f"{' '.join(plain(head[2:opening]))};", *parts]
    return Statement("ddl", " ".join(parts), "CREATE VIEW", reads_only=False)


def view_query(kept: str) -> exp.Query:
    """The query of a view that SQLite holds; an empty one if it cannot be read."""
    try:
        found = sqlglot.parse_one(kept, read="sqlite").args.get("expression")
    except (ParseError, TokenError, RecursionError, ValueError):
        found = None
    return found if isinstance(found, exp.Query) else exp.Select()


def tables_read(view: exp.Query) -> set[str]:
    """In lower case."""
    return {table.name.lower() for table in view.find_all(exp.Table)}


def column_oids(view: exp.Query, catalog: Catalog) -> tuple[int, ...]:
    """What a view's columns are, 0 for what is not clear; () if not even their number is."""
    selects = selects_of(view)
    if not selects or any(each.is_star for each in selects[0].expressions):
        return ()
    tables = tables_in(view, catalog)
    return tuple(oid_in_all(selects, at, tables) for at in range(len(selects[0].expressions)))
