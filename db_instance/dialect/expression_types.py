"""What an expression of a query comes to: its type, as far as it can be told without running it."""

from collections.abc import Iterator
from typing import Any, Final

from sqlglot import exp

from db_instance.dialect import types
from db_instance.dialect.column_names import name_of, selects_of
from db_instance.dialect.functions import INTEGER_CASTS, READ_AS
from db_instance.dialect.statement import TableInfo

INTEGERS: Final = types.INTEGERS
FLOATS: Final = frozenset((types.FLOAT4, types.FLOAT8))
TEXTS: Final = frozenset((types.TEXT, types.VARCHAR))
FRACTIONS: Final = FLOATS | {types.NUMERIC}
NUMBERS: Final = INTEGERS | FRACTIONS
TIMES: Final = frozenset((types.DATE, types.TIME, types.TIMESTAMP, types.TIMESTAMPTZ))

_SCOPES: Final = (exp.Select, exp.Insert, exp.Update, exp.Delete)

_EXCLUDED: Final = {exp.Select: "", exp.Insert: "excluded", exp.Update: "", exp.Delete: ""}

_AS_THEIR_FIRST: Final = (
    exp.Paren, exp.Neg, exp.Min, exp.Max, exp.Abs, exp.Nullif, exp.Window, exp.Filter,
    exp.Lag, exp.Lead, exp.FirstValue, exp.LastValue,
)  # fmt: skip

_DECLARED: Final = "declared"
"""In a parameter's meta: its type, if the client says."""

_told: dict[int, int] = {}
"""What columns of subqueries and CTEs came to, while one is asked for: each is looked at once, however often those
around it name it, and one that leads to itself is not clear."""

_OIDS: Final[tuple[tuple[Any, int], ...]] = (
    ((exp.Count, exp.RowNumber), types.INT8),
    ((exp.Length,), types.INT4),
    ((exp.Predicate, exp.Boolean, exp.And, exp.Or, exp.Not, exp.Escape, exp.StartsWith), types.BOOL),
    ((exp.CurrentTimestamp,), types.TIMESTAMPTZ),
    ((exp.CurrentDate,), types.DATE),
    ((exp.Uuid,), types.UUID),
    ((exp.CurrentUser, exp.SessionUser), types.NAME),
    (
        (exp.Lower, exp.Upper, exp.Concat, exp.ConcatWs, exp.DPipe, exp.Substring, exp.Trim, exp.GroupConcat),
        types.TEXT,
    ),
    ((exp.Avg, exp.Round, exp.Rand), types.FLOAT8),
)

_OIDS_OF_OURS: Final = {
    "sixfold_boolean": types.BOOL,
    "sixfold_float": types.FLOAT8,
    "sixfold_round": types.FLOAT8,
    "sixfold_rounded": types.FLOAT8,
    "sixfold_now": types.TIMESTAMPTZ,
    "sixfold_user": types.NAME,
    "sixfold_text": types.TEXT,
    "sixfold_boolean_text": types.TEXT,
    "sixfold_time_text": types.TEXT,
    **{name: oid for oid, name in [*READ_AS.items(), *INTEGER_CASTS.items()]},
}
"""What our functions come to, as views hold what was written for SQLite."""


def declare(tree: exp.Expression, declared: tuple[int, ...]) -> None:
    """Note what the client says of its parameters."""
    for param in tree.find_all(exp.Parameter):
        if param.name.isdigit() and 0 < int(param.name) <= len(declared):
            oid = declared[int(param.name) - 1]
            param.meta[_DECLARED] = 0 if oid == types.UNKNOWN else oid


def oid_of(node: Any, tables: dict[str, TableInfo]) -> int:
    """The type of an expression, 0 if its value must tell."""
    if isinstance(node, exp.Column):
        return _column_oid(node, tables)
    if isinstance(node, exp.Parameter | exp.Var):  # which it is once it is written for SQLite
        declared: int = node.meta.get(_DECLARED, 0)
        return declared
    if isinstance(node, exp.Cast):
        return oid_of_type(node.to)
    if isinstance(node, _AS_THEIR_FIRST):
        return oid_of(node.this, tables)
    if isinstance(node, exp.Subquery):
        inside = node.this
        is_one = isinstance(inside, exp.Select) and len(inside.expressions) == 1
        return oid_of(inside.expressions[0].unalias(), tables) if is_one else 0
    if isinstance(node, exp.Case):
        return _common_oid(list(results_of(node)), tables)
    if isinstance(node, exp.Greatest | exp.Least):
        return _common_oid([node.this, *node.expressions], tables)
    if isinstance(node, exp.Literal):
        if node.is_string:
            return types.TEXT
        return (
            types.FLOAT8 if not node.is_int else types.INT4 if abs(int(node.this)) < 1 << 31 else types.INT8
        )
    if isinstance(node, exp.Sum):
        inner = oid_of(node.this, tables)
        return inner if inner in FRACTIONS else types.INT8 if inner else 0
    if isinstance(node, exp.Coalesce):
        oids = [oid for each in [node.this, *node.expressions] if (oid := oid_of(each, tables))]
        return max(oids, key=_width) if NUMBERS.issuperset(oids) and oids else next(iter(oids), 0)
    if isinstance(node, exp.Anonymous):
        return _OIDS_OF_OURS.get(node.name.lower(), 0)
    for classes, oid in _OIDS:
        if isinstance(node, classes):
            return oid
    if isinstance(node, exp.Add | exp.Sub | exp.Mul | exp.Div | exp.Mod):
        return max(oid_of(node.this, tables), oid_of(node.expression, tables), key=_width)
    return 0


def _column_oid(column: exp.Column, tables: dict[str, TableInfo]) -> int:
    """The type of a column that is named; 0 if it is not clear which."""
    qualifier = column.table.lower()
    ctes = ctes_seen(column)
    scope = column.find_ancestor(*_SCOPES)
    while scope is not None:
        for source in sources_of(scope):
            if qualifier not in ("", source.alias_or_name.lower(), _EXCLUDED[type(scope)]):
                continue
            name = source.name.lower()
            if not isinstance(source, exp.Table) or name in ctes:
                oid = _derived_oid(ctes.get(name, source), column.name, tables)
            else:
                oid = _table_oid(tables.get(name), column.name)
            if oid is not None:
                return oid
        scope = scope.find_ancestor(*_SCOPES)
    return 0


def ctes_seen(node: exp.Expression) -> dict[str, exp.Expression]:
    """By name: those that a query may name at this place. One that names itself stands for what is not clear."""
    found: dict[str, exp.Expression] = {}
    child: Any = node
    while (parent := child.parent) is not None:
        stated: Any = parent if isinstance(parent, exp.With) else parent.args.get("with_")
        for each in stated.expressions if stated is not None and stated is not child else ():
            if each is child:
                if stated.recursive:
                    found.setdefault(each.alias.lower(), exp.Null())
                break
            found.setdefault(each.alias.lower(), each)
        child = parent
    return found


def _table_oid(info: TableInfo | None, name: str) -> int | None:
    columns = (*info.columns, *info.generated) if info is not None else ()
    return next((each.oid for each in columns if each.name.lower() == name.lower()), None)


def _derived_oid(source: exp.Expression, name: str, tables: dict[str, TableInfo]) -> int | None:
    """The same of a subquery or a CTE; None if it has no such column, 0 if that is not clear."""
    names = derived_names(source)
    if names is None:
        return 0
    found = [at for at, each in enumerate(names) if each.lower() == name.lower()]
    if not found:
        return None
    branches = selects_of(source.this)
    key = id(branches[0].expressions[found[0]])
    if key in _told:
        return _told[key]
    outermost = not _told
    _told[key] = 0
    try:
        _told[key] = oid = oid_in_all(branches, found[0], tables)
    finally:
        if outermost:
            _told.clear()
    return oid


def derived_names(source: exp.Expression) -> list[str] | None:
    """The columns of a subquery or a CTE; None if they are not clear."""
    branches = selects_of(source.this)
    if not branches or any(each.is_star for each in branches[0].expressions):
        return None
    alias = source.args.get("alias")
    given = [each.name for each in alias.args.get("columns") or []] if alias is not None else []
    return [*given, *(name_of(each) for each in branches[0].expressions[len(given) :])]


def oid_in_all(branches: list[exp.Select], at: int, tables: dict[str, TableInfo]) -> int:
    """The type of a UNION's column."""
    if any(at >= len(each.expressions) for each in branches):
        return 0
    return _common_oid([each.expressions[at].unalias() for each in branches], tables)


def sources_of(scope: exp.Expression) -> list[exp.Expression]:
    """What the names of columns in a query may belong to, before those of the queries around it."""
    own = None if isinstance(scope, exp.Select) else scope.this
    own = own.this if isinstance(own, exp.Schema) else own
    found = [own] if own is not None else []
    source = scope.args.get("from_") or scope.args.get("from")
    for each in [source, *(scope.args.get("joins") or [])]:
        if each is not None:
            found.append(each.this)
    found += scope.args.get("using") or []
    for table in list(found):
        found += [each.this for each in table.args.get("joins") or []]
    return found


def _common_oid(nodes: list[Any], tables: dict[str, TableInfo]) -> int:
    """The type of what may be any of them; 0 if it is not clear."""
    oids = {oid_of(each, tables) for each in nodes if not _has_no_value(each)}
    if oids and oids <= NUMBERS:
        return max(oids, key=_width)
    return oids.pop() if len(oids) == 1 else 0


def _has_no_value(node: Any) -> bool:
    return isinstance(node, exp.Null) or (
        isinstance(node, exp.Anonymous) and node.name.lower() == "sixfold_several_rows"
    )


def _width(oid: int) -> int:
    order = (0, types.INT2, types.INT4, types.INT8, types.NUMERIC, types.FLOAT4, types.FLOAT8)
    return order.index(oid) if oid in order else 0


def oid_of_type(kind: Any) -> int:
    return types.oid_of_decltype(kind.sql("postgres").lower()) if kind is not None else 0


def results_of(value: Any) -> Iterator[Any]:
    """What an expression may come to."""
    if isinstance(value, exp.Paren):
        yield from results_of(value.this)
    elif isinstance(value, exp.Coalesce):
        for each in [value.this, *value.expressions]:
            yield from results_of(each)
    elif isinstance(value, exp.Case):
        for each in [*(case.args["true"] for case in value.args["ifs"]), value.args.get("default")]:
            yield from results_of(each)
    elif value is not None:
        yield value


def oid_around(param: exp.Expression, tables: dict[str, TableInfo]) -> int:
    parent = param.parent
    while isinstance(parent, exp.Paren | exp.Coalesce) or (
        isinstance(parent, exp.If | exp.Case) and parent.this is not param
    ):
        others = [each for each in results_of(parent) if each is not param and oid_of(each, tables)]
        if others and not isinstance(parent, exp.If):
            return oid_of(others[0], tables)
        param, parent = parent, parent.parent
    if isinstance(parent, exp.Cast):
        return oid_of_type(parent.to)
    if isinstance(parent, exp.If) and isinstance(parent.parent, exp.Case) and parent.parent.this is not None:
        return oid_of(parent.parent.this, tables)  # CASE x WHEN this one
    if isinstance(parent, exp.Limit | exp.Offset):
        return types.INT8
    if isinstance(parent, exp.Substring) and parent.this is not param:
        return types.INT4
    if isinstance(parent, exp.DPipe | exp.Escape | exp.Like | exp.ILike):
        return types.TEXT  # whatever is on the other side
    if isinstance(parent, exp.Binary):
        other = parent.expression if parent.this is param else parent.this
        return oid_of(other, tables)
    if isinstance(parent, exp.In | exp.Between):
        return oid_of(parent.this, tables)
    if isinstance(parent, exp.Tuple):
        return _oid_in_row(parent, param, tables)
    return 0


def _oid_in_row(row: exp.Tuple, param: exp.Expression, tables: dict[str, TableInfo]) -> int:
    """`param` is one of the values of a row, which is compared with, or given to, as many others."""
    parent = row.parent
    other = parent.this if isinstance(parent, exp.In) else None
    if isinstance(parent, exp.Binary):
        other = parent.expression if parent.this is row else parent.this
    if not isinstance(other, exp.Tuple):
        return 0
    at = next(at for at, each in enumerate(row.expressions) if each is param)
    return oid_of(other.expressions[at], tables) if at < len(other.expressions) else 0
