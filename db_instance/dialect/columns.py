"""The columns of what a query reads: each subquery's by PostgreSQL's name, each * as those it stands for, so that
every one has its type wherever it comes from."""

from typing import Any

from sqlglot import exp

from db_instance.dialect.column_names import name_of, selects_of
from db_instance.dialect.expression_types import ctes_seen, derived_names, sources_of
from db_instance.dialect.statement import SqlError, TableInfo


def spell_out(tree: exp.Expression, tables: dict[str, TableInfo]) -> None:
    """In place. A * of what is not known, or of what a join has made one of two, stays."""
    for values in list(tree.find_all(exp.Values)):
        _select_from(values)
    for derived in list(tree.find_all(exp.CTE, exp.Subquery)):
        _name(derived)
    seen: set[int] = set()
    for select in list(tree.find_all(exp.Select)):
        _expand(select, tables, seen)


def _select_from(values: exp.Values) -> None:
    """(VALUES ...) AS v (x, y), of which SQLite knows no x: it calls them column1 and column2, as PostgreSQL does."""
    alias = values.args.get("alias")
    columns = alias.args.get("columns") if alias is not None else None
    if alias is not None and columns:
        names = [*columns, *range(len(columns) + 1, len(values.expressions[0].expressions) + 1)]
        select = exp.Select(
            expressions=[
                exp.alias_(
                    exp.column(f"column{at}"), name if isinstance(name, exp.Identifier) else f"column{at}"
                )
                for at, name in enumerate(names, start=1)
            ]
        )
        subquery = exp.Subquery(this=select, alias=exp.TableAlias(this=alias.this))
        values.replace(subquery)
        values.set("alias", exp.TableAlias(this=exp.to_identifier("_v")))
        select.set("from_", exp.From(this=values))


def _name(derived: Any) -> None:
    """What it selects without a name gets PostgreSQL's, by which those around it may ask for it, or the one that is
    given behind its alias: SQLite takes those of CTEs only, and all or none."""
    if isinstance(derived, exp.Subquery) and not derived.alias:
        return
    selects = selects_of(derived.this)
    alias = derived.args.get("alias")
    given = (alias.args.get("columns") or []) if alias is not None else []
    if not selects or any(each.is_star for each in selects[0].expressions[: len(given)]):
        return
    projections = selects[0].expressions
    if len(given) > len(projections):
        told = f'table "{derived.alias}" has {len(projections)} columns available but {len(given)} columns specified'
        raise SqlError("42P10", told)
    if alias is not None:
        alias.set("columns", None)
    named = [exp.alias_(each.unalias(), name) for each, name in zip(projections, given, strict=False)]
    for each in projections[len(given) :]:
        is_named = each.is_star or isinstance(each, exp.Alias | exp.Column)
        named.append(each if is_named else exp.alias_(each, name_of(each), quoted=True))
    selects[0].set("expressions", named)


def _expand(select: exp.Select, tables: dict[str, TableInfo], seen: set[int]) -> None:
    """Those that it reads come first."""
    if id(select) in seen:
        return
    seen.add(id(select))
    for source in sources_of(select):
        for inner in _selects_of_derived(source):
            _expand(inner, tables, seen)
    if not any(each.is_star for each in select.expressions):
        return
    expressions: list[Any] = []
    for each in select.expressions:
        columns = _meant_by(each, select, tables) if each.is_star else None
        expressions += [each] if columns is None else columns
    select.set("expressions", expressions)


def _selects_of_derived(source: exp.Expression) -> list[exp.Select]:
    if isinstance(source, exp.Table):
        cte = ctes_seen(source).get(source.name.lower())
        return selects_of(cte.this) if isinstance(cte, exp.CTE) else []
    return selects_of(source.this)


def _meant_by(
    star: exp.Expression, select: exp.Select, tables: dict[str, TableInfo]
) -> list[exp.Expression] | None:
    qualifier = star.table.lower() if isinstance(star, exp.Column) else ""
    sources = sources_of(select)
    joins = [join for each in [select, *sources] for join in each.args.get("joins") or []]
    if not qualifier and any(each.args.get("using") or each.method for each in joins):
        return _of_merging_joins(select, tables)
    found: list[exp.Expression] = []
    for source in sources:
        alias = source.alias_or_name
        if qualifier not in ("", alias.lower()):
            continue
        names = _names_of(source, tables)
        if not alias or names is None or len({name.lower() for name in names}) < len(names):
            return None
        found += [exp.column(name, table=alias, quoted=True) for name in names]
    return found or None


def _of_merging_joins(select: exp.Select, tables: dict[str, TableInfo]) -> list[exp.Expression] | None:
    """Columns that USING or NATURAL have made one come first; SQLite leaves them where they are in the first table."""
    first, *others = sources_of(select)
    joins = select.args.get("joins") or []
    found = _columns_of(first, tables)
    if found is None or len(joins) != len(others):
        return None
    for join in joins:
        right = _columns_of(join.this, tables)
        if right is None:
            return None
        merged = [each.name.lower() for each in join.args.get("using") or []]
        if join.method.upper() == "NATURAL":
            merged = [name for name, _ in found if name in dict(right)]
        left = dict(found)
        if not all(name in left and name in dict(right) for name in merged):
            return None
        both = [(name, exp.column(left[name].name, quoted=True)) for name in merged]
        found = both + [each for each in [*found, *right] if each[0] not in merged]
    return [column for _, column in found]


def _columns_of(source: exp.Expression, tables: dict[str, TableInfo]) -> list[tuple[str, Any]] | None:
    """With their names in lower case."""
    names = _names_of(source, tables)
    alias = source.alias_or_name
    if names is None or not alias:
        return None
    return [(name.lower(), exp.column(name, table=alias, quoted=True)) for name in names]


def _names_of(source: exp.Expression, tables: dict[str, TableInfo]) -> list[str] | None:
    if not isinstance(source, exp.Table):
        return derived_names(source)
    cte = ctes_seen(source).get(source.name.lower())
    if cte is not None:
        return derived_names(cte) if isinstance(cte, exp.CTE) else None
    info = tables.get(source.name.lower())
    if info is None or info.generated:  # whose place among the others nobody remembers
        return None
    return [column.name for column in info.columns]
