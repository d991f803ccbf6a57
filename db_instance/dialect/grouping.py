"""Columns beside aggregates are refused where PostgreSQL refuses them: SQLite takes one of the group's rows."""

from collections.abc import Iterable
from typing import Any

from sqlglot import exp

from db_instance.dialect.column_names import name_of
from db_instance.dialect.expression_types import ctes_seen, sources_of
from db_instance.dialect.statement import SqlError, TableInfo


def check_grouping(tree: exp.Expression, tables: dict[str, TableInfo]) -> None:
    """Raises SqlError. What cannot be told for sure is let through."""
    for select in tree.find_all(exp.Select):
        having, order, group = (select.args.get(each) for each in ("having", "order", "group"))
        parts = [*select.expressions, *([having.this] if having else []), *_sorted_by(order, select)]
        if group is not None or has_aggregates(select):
            keys = [_meant(key, select, tables) for key in (group.expressions if group is not None else [])]
            for part in parts:
                _check(part, keys, select, tables)


def has_aggregates(select: exp.Select) -> bool:
    """Of its rows, and not only in windows and subqueries."""
    having, order = select.args.get("having"), select.args.get("order")
    parts = [*select.expressions, *([having.this] if having else []), *(order.expressions if order else [])]
    return having is not None or any(isinstance(each, exp.AggFunc) for part in parts for each in _own(part))


def _sorted_by(order: exp.Order | None, select: exp.Select) -> list[Any]:
    """What the result is sorted by, but for columns of the result, which a plain name stands for before all others."""
    names = {name_of(each).lower() for each in select.expressions}
    keys = [each.this for each in order.expressions] if order is not None else []
    return [
        key
        for key in keys
        if not (isinstance(key, exp.Column) and not key.table and key.name.lower() in names)
    ]


def _own(node: exp.Expr) -> Iterable[exp.Expr]:
    """The nodes that are the query's own: none of a subquery, and of a window only what it is made of."""
    if isinstance(node, exp.Query):
        return
    if not isinstance(node, exp.Window):
        yield node
    for child in _children(node):
        yield from _own(child)


def _children(node: exp.Expr) -> list[exp.Expr]:
    """The function of a window is none of the rows' aggregates; what it is given may be."""
    children = list(node.iter_expressions())
    if not isinstance(node, exp.Window):
        return children
    function = node.this.this if isinstance(node.this, exp.Filter) else node.this
    return [*function.iter_expressions(), *(each for each in children if each is not node.this)]


def _meant(key: Any, select: exp.Select, tables: dict[str, TableInfo]) -> Any:
    """A key of GROUP BY: a number stands for a column of the result, and so does a name that no table has."""
    if isinstance(key, exp.Literal) and key.is_int and 0 < int(key.this) <= len(select.expressions):
        return _bare(select.expressions[int(key.this) - 1])
    if isinstance(key, exp.Column) and not key.table and not _holders(key, select, tables):
        for each in select.expressions:
            if isinstance(each, exp.Alias) and each.alias.lower() == key.name.lower():
                return _bare(each)
    return _bare(key)


def _bare(node: Any) -> Any:
    node = node.unalias()
    return _bare(node.this) if isinstance(node, exp.Paren) else node


def _check(node: exp.Expr, keys: list[Any], select: exp.Select, tables: dict[str, TableInfo]) -> None:
    bare = _bare(node)
    if any(_written(bare) == _written(key) for key in keys):
        return
    if isinstance(bare, exp.Column):
        if not bare.is_star:
            _check_column(bare, keys, select, tables)
        return
    if isinstance(bare, exp.AggFunc | exp.Query):
        return
    for child in [bare.this] if isinstance(bare, exp.Filter | exp.WithinGroup) else _children(bare):
        _check(child, keys, select, tables)


def _written(node: Any) -> str:
    """Without qualifiers: `t.n % 2` is `n % 2`."""
    copied = node.copy()
    for column in copied.find_all(exp.Column):
        column.set("table", None)
        column.this.set("quoted", False)
    return str(copied.sql()).lower()


def _check_column(
    column: exp.Column, keys: list[Any], select: exp.Select, tables: dict[str, TableInfo]
) -> None:
    holders = _holders(column, select, tables)
    if len(holders) != 1:
        return  # an outer query's, or a name for a column of the result, or nobody knows
    alias, info = holders[0]
    named = {
        key.name.lower() for key in keys if isinstance(key, exp.Column) and key.table.lower() in ("", alias)
    }
    if info.primary_key and named.issuperset(each.lower() for each in info.primary_key):
        return
    raise SqlError(
        "42803",
        f'column "{alias}.{column.name}" must appear in the GROUP BY clause or be used in an aggregate function',
    )


def _holders(
    column: exp.Column, select: exp.Select, tables: dict[str, TableInfo]
) -> list[tuple[str, TableInfo]]:
    """The tables of the query that have such a column; none if not all that it reads are tables that are known."""
    found = []
    for source in sources_of(select):
        info = tables.get(source.name.lower()) if isinstance(source, exp.Table) else None
        if info is None or source.name.lower() in ctes_seen(source):
            return []
        alias = source.alias_or_name.lower()
        has_it = any(each.name.lower() == column.name.lower() for each in (*info.columns, *info.generated))
        if column.table.lower() in ("", alias) and has_it:
            found.append((alias, info))
    return found
