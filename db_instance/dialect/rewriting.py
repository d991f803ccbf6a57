"""The tree of a statement of PostgreSQL's as SQLite is to read it, where sqlglot's generator does not know it."""

from collections.abc import Callable
from typing import Any, Final

from sqlglot import exp

from db_instance.dialect import types
from db_instance.dialect.changing import as_sqlite_changes
from db_instance.dialect.distinct_on import first_of_each
from db_instance.dialect.expression_types import (
    FLOATS,
    FRACTIONS,
    INTEGERS,
    NUMBERS,
    TEXTS,
    oid_of,
    oid_of_type,
)
from db_instance.dialect.functions import INTEGER_CASTS, READ_AS
from db_instance.dialect.scalar_queries import refuse_several_rows
from db_instance.dialect.statement import SqlError, TableInfo

Tables = dict[str, TableInfo]

_OURS: Final[dict[Any, str]] = {
    exp.CurrentTimestamp: "sixfold_now",
    exp.Uuid: "gen_random_uuid",
    exp.CurrentVersion: "version",
    exp.CurrentSchema: "current_schema",
    exp.CurrentDatabase: "current_database",
    exp.CurrentCatalog: "current_database",
    exp.CurrentUser: "sixfold_user",
    exp.SessionUser: "sixfold_user",
}
"""Functions that the generator would call by SQLite's names, or answer itself (dialect/functions.py)."""


def rewritten(tree: exp.Expression, tables: Tables) -> exp.Expression:
    """What SQLite writes otherwise, where the generator does not know it."""
    root = tree.copy()
    as_sqlite_changes(root)
    for select in list(root.find_all(exp.Select)):
        distinct = select.args.get("distinct")
        if distinct is not None and distinct.args.get("on") is not None:
            changed_root = select is root
            outer = first_of_each(select)
            root = outer if changed_root else root
    refuse_several_rows(root, tables)
    # Children first: what is written otherwise may hold more of it.
    for node in reversed(list(root.walk())):
        change = _CHANGES.get(type(node))
        changed = change(node, tables) if change is not None else node
        if changed is not node:
            node.replace(changed)
    return root


def _parameter(node: Any, _: Tables) -> exp.Expr:
    written = exp.Var(this=f"?{node.name}")
    written.meta.update(node.meta)
    return written


def _ours(node: Any, _: Tables) -> exp.Expr:
    return exp.Anonymous(this=_OURS[type(node)])


def _like(node: Any, _: Tables) -> exp.Expr:
    return _escaped(node, node)


def _ilike(node: Any, _: Tables) -> exp.Expr:
    """SQLite's LIKE is told to tell a from A, as PostgreSQL's does."""
    like = exp.Like(
        this=exp.Lower(this=node.this),
        expression=exp.Lower(this=node.expression),
        negate=node.args.get("negate"),
    )
    return _escaped(like, node)


def _substring(node: Any, _: Tables) -> Any:
    """SQLite counts from the end where it begins before the text, and backwards where its length is negative."""
    if _is_within(node):
        return node
    parts = [node.this, node.args.get("start") or exp.Literal.number(1), node.args.get("length")]
    return exp.Anonymous(this="sixfold_substring", expressions=[each for each in parts if each is not None])


def _concatenation(node: Any, tables: Tables) -> exp.Expr:
    if types.BYTEA in (oid_of(node.this, tables), oid_of(node.expression, tables)):
        raise SqlError("0A000", "|| of bytea is not supported")
    left, right = _as_text(node.this, tables), _as_text(node.expression, tables)
    return exp.DPipe(this=left, expression=right, safe=node.args.get("safe"))


def _concat(node: Any, tables: Tables) -> exp.Expr:
    if any(oid_of(each, tables) == types.BYTEA for each in node.expressions):
        raise SqlError("0A000", f"{node.sql_name().lower()} of bytea is not supported")
    node.set("expressions", [_as_text(each, tables) for each in node.expressions])
    whole: exp.Expr = node
    return whole


def _round(node: Any, tables: Tables) -> Any:
    """Floats are rounded half to even; numerics, of which literals are some, away from zero."""
    digits = node.args.get("decimals")
    if digits is not None:
        return _rounded(node.this, digits)
    if not _is_fraction(node.this, tables):
        return node
    if _is_float(node.this, tables):
        return exp.Anonymous(this="sixfold_round", expressions=[node.this])
    return _rounded(node.this)


def _rounded(value: exp.Expr, digits: Any = None) -> exp.Expr:
    return exp.Anonymous(this="sixfold_rounded", expressions=[value, digits or exp.Literal.number(0)])


def _is_fraction(node: Any, tables: Tables) -> bool:
    return oid_of(node, tables) in FRACTIONS


def _is_float(node: Any, tables: Tables) -> bool:
    """To PostgreSQL; what has a fraction and comes of no float is a numeric."""
    return any(
        oid_of(each, tables) in FLOATS for each in node.find_all(exp.Column, exp.Cast, exp.Var)
    ) or bool(node.find(exp.Sqrt, exp.Ln, exp.Log, exp.Exp, exp.Pow, exp.Rand))


def _random(_: Any, __: Tables) -> exp.Expr:
    """A number from 0 to 1, of 53 random bits: SQLite's is one of 64."""
    bits = exp.BitwiseAnd(this=exp.Anonymous(this="random"), expression=exp.Literal.number((1 << 53) - 1))
    return exp.Paren(this=exp.Div(this=exp.Paren(this=bits), expression=exp.Literal.number(float(1 << 53))))


def _division(node: Any, tables: Tables) -> Any:
    is_remainder = isinstance(node, exp.Mod)
    are_integers = {oid_of(node.this, tables), oid_of(node.expression, tables)} <= INTEGERS
    if _is_other_than_zero(node.expression) and (are_integers or not is_remainder):
        return node
    name = "sixfold_remainder" if is_remainder else "sixfold_quotient"
    return exp.Anonymous(this=name, expressions=[node.this, node.expression])


def _without_a_comma(node: exp.GroupConcat, _: Tables) -> exp.Expr:
    """SQLite takes DISTINCT with one argument only, and a comma between the values then."""
    inner = node.this.this if isinstance(node.this, exp.Order) else node.this
    if not isinstance(inner, exp.Distinct):
        return node
    separator = node.args.get("separator")
    if not (isinstance(separator, exp.Literal) and separator.name == ","):
        raise SqlError("0A000", "string_agg(DISTINCT ...) with a separator other than ',' is not supported")
    if inner is not node.this:
        raise SqlError("0A000", "string_agg(DISTINCT ... ORDER BY ...) is not supported")
    return exp.Anonymous(this="group_concat", expressions=[inner])


def _as_branch(node: exp.Subquery, _: Tables) -> exp.Expr:
    """SQLite has no parentheses around a branch of UNION, which may have an order and a limit of its own in them."""
    if not isinstance(node.parent, exp.SetOperation):
        return node
    inside: exp.Expr = node.this
    is_plain = isinstance(inside, exp.Select) and not any(
        inside.args.get(each) for each in ("order", "limit", "offset", "with_")
    )
    if is_plain:
        return inside
    node.set("alias", None)
    return exp.Select(expressions=[exp.Star()], from_=exp.From(this=node.copy()))


def _as_cast(node: exp.Cast, tables: Tables) -> exp.Expr:
    """SQLite's own would make a number of whatever begins like one, and 0 of the rest."""
    oid = oid_of_type(node.to)
    if oid in INTEGERS and _is_fraction(node.this, tables) and not _is_float(node.this, tables):
        return exp.Anonymous(this=INTEGER_CASTS[oid], expressions=[_rounded(node.this)])
    if oid == types.NUMERIC and (sizes := list(node.to.find_all(exp.DataTypeParam))):
        return _rounded(node.this, sizes[1].this.copy() if len(sizes) > 1 else None)
    if oid in TEXTS:
        return _cut(node, _as_text(node.this, tables))
    if oid == types.NUMERIC:
        name = "sixfold_float"
    elif oid in FLOATS:
        name = "" if oid_of(node.this, tables) in NUMBERS else "sixfold_float"
    else:
        name = "sixfold_boolean" if oid == types.BOOL else INTEGER_CASTS.get(oid) or READ_AS.get(oid, "")
    return exp.Anonymous(this=name, expressions=[node.this]) if name else node


def _as_text(node: exp.Expr, tables: Tables) -> exp.Expr:
    """What becomes text: a boolean and a float in PostgreSQL's words, arithmetic before it, as || is last there."""
    oid = oid_of(node, tables)
    if oid == types.BOOL:
        return exp.Anonymous(this="sixfold_boolean_text", expressions=[node])
    if oid in (types.TIME, types.TIMESTAMP, types.TIMESTAMPTZ):
        return exp.Anonymous(this="sixfold_time_text", expressions=[node])
    inner = node.unnest() if isinstance(node, exp.Paren) else node
    is_quotient = isinstance(inner, exp.Anonymous) and inner.name == "sixfold_quotient"
    is_unclear = is_quotient or isinstance(inner, exp.Div | exp.Round | exp.Case | exp.Subquery)
    if oid in FRACTIONS or oid == types.BYTEA or is_unclear:
        return exp.Anonymous(this="sixfold_text", expressions=[node])
    is_operator = isinstance(node, exp.Binary) and not isinstance(node, exp.DPipe | exp.Dot)
    return exp.Paren(this=node) if is_operator else node


def _cut(cast: exp.Cast, value: exp.Expr) -> exp.Expr:
    """A cast to text, or to varchar(n), which takes the first n characters."""
    text = exp.Cast(this=value, to=exp.DataType.build("text"))
    size = cast.to.find(exp.DataTypeParam)
    if size is None:
        return text
    return exp.Anonymous(this="substr", expressions=[text, exp.Literal.number(1), size.this.copy()])


def _escaped(like: exp.Expr, written: exp.Expr) -> exp.Expr:
    """A backslash takes the next character for itself, where no ESCAPE says otherwise; SQLite has none by itself.

    Without one in the pattern nothing changes, and SQLite may look the prefix up in an index.
    """
    pattern = written.expression
    plain = isinstance(pattern, exp.Literal) and "\\" not in pattern.name
    if plain or isinstance(written.parent, exp.Escape):
        return like
    return exp.Escape(this=like.copy(), expression=exp.Literal.string("\\"))


def _is_within(part: exp.Substring) -> bool:
    """As can be seen without running it."""
    limits = [each for each in (part.args.get("start"), part.args.get("length")) if each is not None]
    are_numbers = all(isinstance(each, exp.Literal) and each.is_int for each in limits)
    return are_numbers and "start" in part.args and int(part.args["start"].this) > 0


def _is_other_than_zero(node: Any) -> bool:
    """Can be seen without running it."""
    while isinstance(node, exp.Paren | exp.Neg):
        node = node.this
    return isinstance(node, exp.Literal) and not node.is_string and float(node.this) != 0


_CHANGES: Final[dict[Any, Callable[[Any, Tables], exp.Expr]]] = {
    **dict.fromkeys(_OURS, _ours),
    exp.Cast: _as_cast,
    exp.Concat: _concat,
    exp.ConcatWs: _concat,
    exp.DPipe: _concatenation,
    exp.Div: _division,
    exp.GroupConcat: _without_a_comma,
    exp.ILike: _ilike,
    exp.Like: _like,
    exp.Mod: _division,
    exp.Parameter: _parameter,
    exp.Rand: _random,
    exp.Round: _round,
    exp.Subquery: _as_branch,
    exp.Substring: _substring,
}
"""By the class of a node: what takes its place, or the node itself."""
