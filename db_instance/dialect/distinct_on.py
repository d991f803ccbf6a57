"""SELECT DISTINCT ON, which SQLite does not have."""

from typing import Any

from sqlglot import exp

from db_instance.dialect.column_names import name_of
from db_instance.dialect.statement import SqlError


def first_of_each(select: exp.Select) -> exp.Select:
    """SELECT DISTINCT ON, in place: rows numbered within each of its groups, of which the first ones are taken, in
    the order of all and only then as many as are wanted."""
    projections = _named(select)
    by_alias = {each.alias.lower(): each.this for each in projections}

    def meant(node: exp.Expression) -> Any:
        """An output column's name or number, where it is not an input column's."""
        if isinstance(node, exp.Literal) and node.is_int and 0 < int(node.this) <= len(projections):
            return projections[int(node.this) - 1].this.copy()
        if isinstance(node, exp.Column) and not node.table and node.name.lower() in by_alias:
            return by_alias[node.name.lower()].copy()
        return node.copy()

    keys = [meant(each) for each in select.args["distinct"].args["on"].expressions]
    order = select.args.get("order")
    orders = [each.copy() for each in order.expressions] if order else [exp.Ordered(this=key) for key in keys]
    for each in orders:
        each.set("this", meant(each.this))
    within = exp.Window(
        this=exp.RowNumber(), partition_by=keys, order=exp.Order(expressions=[each.copy() for each in orders])
    )
    among_all = exp.Window(this=exp.RowNumber(), order=exp.Order(expressions=orders))
    outer = exp.Select(
        expressions=[exp.column(exp.to_identifier(each.alias, quoted=True)) for each in projections],
        where=exp.Where(this=exp.EQ(this=exp.column("_of_its_group"), expression=exp.Literal.number(1))),
        order=exp.Order(expressions=[exp.Ordered(this=exp.column("_of_all"), nulls_first=True)]),
        limit=select.args.get("limit"),
        offset=select.args.get("offset"),
    )
    for arg in ("distinct", "order", "limit", "offset"):
        select.set(arg, None)
    select.set(
        "expressions", [*projections, exp.alias_(within, "_of_its_group"), exp.alias_(among_all, "_of_all")]
    )
    if select.parent is not None:
        select.replace(outer)
    outer.set(
        "from_", exp.From(this=exp.Subquery(this=select, alias=exp.TableAlias(this=exp.to_identifier("_t"))))
    )
    return outer


def _named(select: exp.Select) -> list[exp.Alias]:
    """What it selects, each with its name, no two alike. Raises SqlError for a * that is still one (columns.py)."""
    if any(each.is_star for each in select.expressions):
        raise SqlError("0A000", "DISTINCT ON with * of what has no clear columns is not supported")
    named: list[Any] = [
        each if isinstance(each, exp.Alias) else exp.alias_(each, name_of(each), quoted=True)
        for each in select.expressions
    ]
    if len({each.alias.lower() for each in named}) < len(named):
        raise SqlError("0A000", "DISTINCT ON with two columns of one name is not supported")
    return named
