"""SELECT, INSERT, UPDATE, DELETE, VALUES and WITH: sqlglot parses PostgreSQL's, our generator writes SQLite's.

Nothing is guessed: what the generator does not know raises, and so do function and type names that
SQLite would misread.
"""

import re
from typing import Final

import sqlglot
from sqlglot import exp
from sqlglot.errors import ErrorLevel, ParseError, TokenError, UnsupportedError

from db_instance.dialect.allowed import check_allowed
from db_instance.dialect.assignments import complete_assignments
from db_instance.dialect.column_names import keep_names, name_of, selects_of
from db_instance.dialect.columns import spell_out
from db_instance.dialect.expression_types import declare, oid_in_all, oid_of, oid_of_type
from db_instance.dialect.grouping import check_grouping
from db_instance.dialect.lexer import Token, string_value, tokens, unquote
from db_instance.dialect.rewriting import rewritten
from db_instance.dialect.statement import Catalog, Column, SqlError, Statement, TableInfo
from db_instance.dialect.value_types import (
    cast_values,
    param_types,
    read_literals,
    refuse_other_arithmetic,
)

_KINDS: Final = {"insert": "INSERT 0", "update": "UPDATE", "delete": "DELETE"}


def query(sql: str, catalog: Catalog, declared: tuple[int, ...] = ()) -> Statement:
    """Raises SqlError, InvalidValue."""
    source = _parseable(sql)
    tree = _with_parameters(_parse(source))
    _fold_names(tree)
    declare(tree, declared)
    keep_names(tree, source)
    kind = _kind_of(tree)
    locking = bool(tree.find(exp.Lock))
    tables = tables_in(tree, catalog)
    _simplify(tree)
    check_allowed(tree)
    for cte in tree.find_all(exp.CTE):
        if isinstance(cte.this, exp.Insert | exp.Update | exp.Delete):
            raise SqlError("0A000", f"{cte.this.key.upper()} in WITH is not supported")
    _refuse_row_numbers(tree, tables)
    spell_out(tree, tables)
    check_grouping(tree, tables)
    refuse_other_arithmetic(tree, tables)
    complete_assignments(tree, catalog)
    cast_values(tree, tables, catalog)
    read_literals(tree, tables, catalog)
    params = param_types(tree, tables, kind, catalog)
    columns = _columns(tree, tables)
    returns_rows = kind == "select" or tree.args.get("returning") is not None
    try:
        text = rewritten(tree, tables).sql(
            dialect="sqlite", unsupported_level=ErrorLevel.RAISE, comments=False
        )
    except UnsupportedError as error:
        raise SqlError("0A000", f"not supported: {error}") from None
    reads_only = kind == "select" and not locking and not tree.find(exp.Insert, exp.Update, exp.Delete)
    return Statement(kind, text, _KINDS.get(kind, "SELECT"), returns_rows, reads_only, params, columns)


def check_query(sql: str) -> None:
    """Can it be parsed? Raises SqlError."""
    _parse(_parseable(sql))


class _OneTable:
    version = 0

    def __init__(self, info: TableInfo | None) -> None:
        self._info = info

    def table(self, name: str) -> TableInfo | None:
        info = self._info
        return info if info is not None and info.name.lower() == name.lower() else None


def expression(sql: str, info: TableInfo | None = None) -> str:
    """One expression, of a table's columns if one is given, as SQLite has it. Raises SqlError, InvalidValue."""
    source = exp.Select(expressions=[exp.Star()])
    if info is not None:
        source = source.from_(exp.table_(info.name, quoted=True))
    before, after = source.sql(dialect="sqlite").split("*", 1)
    return query(f"{before}{sql}{after}", _OneTable(info)).sql.removeprefix(before).removesuffix(after)


def _parse(sql: str) -> exp.Expression:
    try:
        trees = sqlglot.parse(sql, read="postgres")
    except (ParseError, TokenError) as error:
        raise SqlError("42601", _message(error)) from None
    except (RecursionError, ValueError) as error:
        raise SqlError("54001", f"statement is too complex: {type(error).__name__}") from None
    if len(trees) != 1 or trees[0] is None or isinstance(trees[0], exp.Command):
        raise SqlError("42601", f'syntax error at or near "{sql.split()[0]}"')
    tree = trees[0]
    while isinstance(tree, exp.Subquery) and set(tree.args) - {"this"} <= {
        name for name, value in tree.args.items() if not value
    }:
        tree = tree.this  # parentheses around all of it
    assert isinstance(tree, exp.Expression)
    return tree


def _message(error: Exception) -> str:
    errors = getattr(error, "errors", None)
    if errors and errors[0].get("highlight"):
        return f'syntax error at or near "{errors[0]["highlight"]}"'
    return "syntax error"


def _parseable(sql: str) -> str:
    """E'...' and $$...$$ as plain strings, $1 as a name: the parser would lose or misread them."""
    if "$" not in sql and "'" not in sql:
        return sql
    parts = []
    end = 0
    for token in tokens(sql):
        if token.kind == "string" and token.text[0] in "eE$":
            parts += [sql[end : token.at], "'" + string_value(token.text).replace("'", "''") + "'"]
        elif token.kind == "param":
            parts += [sql[end : token.at], f'"{token.text}"']
        else:
            continue
        end = token.at + len(token.text)
    return "".join(parts) + sql[end:]


def _with_parameters(tree: exp.Expression) -> exp.Expression:
    """Undo what `_parseable` did to $1, and what the parser reads into ON CONFLICT (column)."""

    def change(node: exp.Expression) -> exp.Expression:
        if isinstance(node, exp.Column) and re.fullmatch(r"\$\d+", node.name):
            return exp.Parameter(this=exp.Literal.number(node.name[1:]))
        if isinstance(node, exp.Ordered) and isinstance(node.parent, exp.OnConflict):
            inner: exp.Expression = node.this
            return inner
        return node

    return tree.transform(change)


def _fold_names(tree: exp.Expression) -> None:
    """Names that are not quoted are in lower case, whatever the client writes."""
    for name in tree.find_all(exp.Identifier):
        if not name.args.get("quoted"):
            name.set("this", name.name.lower())


def _kind_of(tree: exp.Expression) -> str:
    if isinstance(tree, exp.Insert):
        return "insert"
    if isinstance(tree, exp.Update):
        return "update"
    if isinstance(tree, exp.Delete):
        return "delete"
    if isinstance(tree, exp.Query | exp.Values):
        return "select"
    raise SqlError("0A000", f"{tree.key.upper()} is not supported")


def tables_in(tree: exp.Expr, catalog: Catalog) -> dict[str, TableInfo]:
    """By name. Names of our one schema lose it; the system catalog is refused where nothing answers for it."""
    found = {}
    for table in tree.find_all(exp.Table):
        schema = table.db.lower()
        if schema in ("pg_catalog", "information_schema") or table.name.lower().startswith("pg_"):
            raise SqlError("0A000", f"the system catalog is not there yet: {table.name}")
        if schema not in ("", "public"):
            raise SqlError("42P01", f'relation "{schema}.{table.name}" does not exist')
        table.set("db", None)
        table.set("catalog", None)
        info = catalog.table(table.name)
        if info is not None:
            found[table.name.lower()] = info
    return found


def _simplify(tree: exp.Expression) -> None:
    for lock in list(tree.find_all(exp.Lock)):
        if lock.parent is not None:
            lock.parent.set("locks", None)
    for dot in list(tree.find_all(exp.Dot)):
        if dot.this.name.lower() in ("pg_catalog", "public") and isinstance(dot.expression, exp.Func):
            dot.replace(dot.expression)
    for cast in tree.find_all(exp.Cast):
        if oid_of_type(cast.to) == 0:
            raise SqlError("0A000", f"cast to {cast.to.sql('postgres').lower()} is not supported")


def _refuse_row_numbers(tree: exp.Expression, tables: dict[str, TableInfo]) -> None:
    """SQLite knows each row's number by these names, where no column has them."""
    for column in tree.find_all(exp.Column):
        name = column.name.lower()
        if name not in ("rowid", "_rowid_", "oid") or any(
            each.name.lower() == name for info in tables.values() for each in info.columns
        ):
            continue
        if not any(each.alias.lower() == name for each in tree.find_all(exp.Alias)):
            raise SqlError("42703", f'column "{column.name}" does not exist')


def _columns(tree: exp.Expression, tables: dict[str, TableInfo]) -> tuple[Column, ...] | None:
    """Names and types of the result, if they can be told without running it."""
    if (returning := tree.args.get("returning")) is not None:
        projections, branches = returning.expressions, []
    elif branches := selects_of(tree):
        projections = branches[0].expressions
    else:
        return None
    if any(each.is_star for each in projections):
        return None
    return tuple(
        Column(
            name_of(each), oid_in_all(branches, at, tables) if branches else oid_of(each.unalias(), tables)
        )
        for at, each in enumerate(projections)
    )


_FIRST_WORDS: Final = re.compile(r"select|insert|update|delete|with|values|table|\(", re.IGNORECASE)


def is_query(first: Token) -> bool:
    return bool(_FIRST_WORDS.fullmatch(unquote(first)))
