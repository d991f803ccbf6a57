"""A subquery that stands for one value has one row at most: of several SQLite would take the first."""

from typing import Any, Final

from sqlglot import exp

from db_instance.dialect.column_names import selects_of
from db_instance.dialect.grouping import has_aggregates
from db_instance.dialect.statement import TableInfo

_VALUE: Final = "_value"


def refuse_several_rows(root: exp.Expression, tables: dict[str, TableInfo]) -> None:
    """In place: where more than one row may come, two are asked for, and the second one is an error (21000)."""
    for subquery in list(root.find_all(exp.Subquery)):
        selects = selects_of(subquery)
        is_one_column = bool(selects) and len(selects[0].expressions) == 1
        if _is_a_value(subquery) and is_one_column and not _has_one_row(subquery.this, tables):
            _with_a_second_row(subquery, selects[0])


def _is_a_value(subquery: exp.Subquery) -> bool:
    parent = subquery.parent
    if isinstance(
        parent, exp.From | exp.Join | exp.SetOperation | exp.CTE | exp.Insert | exp.Exists | exp.Table
    ):
        return False
    if isinstance(parent, exp.In):
        return parent.args.get("query") is not subquery
    return parent is not None and not isinstance(parent, exp.Subquery)


def _has_one_row(query: Any, tables: dict[str, TableInfo]) -> bool:
    if not isinstance(query, exp.Select):
        return False
    limit = query.args.get("limit")
    if (
        limit is not None
        and isinstance(limit.expression, exp.Literal)
        and limit.expression.name in ("0", "1")
    ):
        return True
    if query.args.get("from_") is None:
        return True
    if query.args.get("group") is None and has_aggregates(query):
        return True
    return _is_by_key(query, tables)


def _is_by_key(query: exp.Select, tables: dict[str, TableInfo]) -> bool:
    """Of one table, by all columns of one of its keys."""
    source = query.args["from_"].this
    info = tables.get(source.name.lower()) if isinstance(source, exp.Table) else None
    where = query.args.get("where")
    if info is None or where is None or query.args.get("joins") or source.args.get("joins"):
        return False
    alias = source.alias_or_name.lower()
    given = set()
    for condition in where.this.flatten() if isinstance(where.this, exp.And) else [where.this]:
        if isinstance(condition, exp.EQ):
            for side in (condition.this, condition.expression):
                if isinstance(side, exp.Column) and side.table.lower() in ("", alias):
                    given.add(side.name.lower())
    keys = [key for key in (info.primary_key, *info.unique) if key]
    return any(given.issuperset(each.lower() for each in key) for key in keys)


def _with_a_second_row(subquery: exp.Subquery, first: exp.Select) -> None:
    query = subquery.this
    projection: Any = first.expressions[0]
    name = projection.alias if isinstance(projection, exp.Alias) else _VALUE
    if not isinstance(projection, exp.Alias):
        first.set("expressions", [exp.alias_(projection, name, quoted=True)])
    if not isinstance(query, exp.Select) or query.args.get("limit") is not None:
        query = exp.Select(expressions=[exp.Star()], from_=exp.From(this=_table_of(query)))
    query.set("limit", exp.Limit(expression=exp.Literal.number(2)))
    value = exp.column(name, quoted=True)
    several = exp.GT(this=exp.Count(this=exp.Star()), expression=exp.Literal.number(1))
    one = exp.Case(
        ifs=[exp.If(this=several, true=exp.Anonymous(this="sixfold_several_rows"))],
        default=exp.Max(this=value),
    )
    subquery.set("this", exp.Select(expressions=[one], from_=exp.From(this=_table_of(query))))


def _table_of(query: Any) -> exp.Subquery:
    return exp.Subquery(this=query, alias=exp.TableAlias(this=exp.to_identifier("_rows")))
