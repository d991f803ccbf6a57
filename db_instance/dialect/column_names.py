"""What PostgreSQL calls a column of a result that the client has not named (FigureColname in its parse_target.c)."""

import re
from typing import Any, Final

from sqlglot import exp

from db_instance.dialect import types

_NAME: Final = "name"
"""In a node's meta: what the function was called by the client. The parser knows one class for char_length and length."""

_UNNAMED: Final = "?column?"
_CALLED: Final[dict[Any, str]] = {
    exp.Case: "case",
    exp.CurrentUser: "current_user",
    exp.CurrentVersion: "version",
    exp.Exists: "exists",
    exp.GroupConcat: "string_agg",
    exp.SessionUser: "session_user",
    exp.StrPosition: "position",
    exp.Tuple: "row",
}
_TYPES: Final = {
    types.BOOL: "bool",
    types.BPCHAR: "bpchar",
    types.BYTEA: "bytea",
    types.DATE: "date",
    types.FLOAT4: "float4",
    types.FLOAT8: "float8",
    types.INT2: "int2",
    types.INT4: "int4",
    types.INT8: "int8",
    types.JSON: "json",
    types.JSONB: "jsonb",
    types.NAME: "name",
    types.TEXT: "text",
    types.TIME: "time",
    types.TIMESTAMP: "timestamp",
    types.TIMESTAMPTZ: "timestamptz",
    types.UUID: "uuid",
    types.VARCHAR: "varchar",
}
_TRIMS: Final = {"LEADING": "ltrim", "TRAILING": "rtrim"}
_PLAIN: Final = (exp.Binary, exp.Unary, exp.Predicate, exp.Literal, exp.Null)
"""Operators and literals have no name, though some have classes of functions."""


def keep_names(tree: exp.Expression, source: str) -> None:
    """Once, after parsing: note what each function was called in the text."""
    for node in tree.find_all(exp.Func, exp.Binary):
        start, end = node.meta.get("start"), node.meta.get("end")
        if start is not None and end is not None and re.fullmatch(r"\w+", source[start : end + 1]):
            node.meta[_NAME] = source[start : end + 1].lower()


def name_of(node: Any) -> str:
    return _name(node)[0]


def _name(node: Any) -> tuple[str, bool]:
    """The name, and whether it is one that a cast or a CASE around it takes over."""
    if isinstance(node, exp.Alias | exp.Column):
        return str(node.alias_or_name), True
    if isinstance(node, exp.Paren | exp.Window | exp.Filter | exp.WithinGroup):
        return _name(node.this)
    if isinstance(node, exp.Cast):
        inner = _name(node.this)
        return inner if inner[1] else (_type(node.to), False)
    if isinstance(node, exp.Case) and node.args.get("default") is not None:
        inner = _name(node.args["default"])
        return inner if inner[1] else ("case", False)
    if isinstance(node, exp.Subquery) and (selects := selects_of(node)):
        return _name(selects[0].expressions[0])
    if isinstance(node, exp.Boolean):
        return "bool", False
    if _NAME in node.meta:
        return str(node.meta[_NAME]), True
    if isinstance(node, exp.Trim):
        return _TRIMS.get(node.args.get("position", ""), "btrim"), True
    if type(node) in _CALLED:
        return _CALLED[type(node)], type(node) is not exp.Case
    if isinstance(node, exp.Anonymous):
        return str(node.name).lower(), True
    if isinstance(node, exp.Func) and not isinstance(node, _PLAIN):
        return node.sql_name().lower(), True
    return _UNNAMED, False


def _type(written: exp.DataType) -> str:
    """As the catalog of types has it."""
    return _TYPES.get(types.oid_of_decltype(written.sql("postgres").lower()), _UNNAMED)


def selects_of(query: Any) -> list[exp.Select]:
    """The branches of a UNION, or the one SELECT; empty for a query that is something else."""
    if isinstance(query, exp.Select):
        return [query]
    if isinstance(query, exp.Subquery):
        return selects_of(query.this)
    if not isinstance(query, exp.SetOperation):
        return []
    left, right = selects_of(query.this), selects_of(query.expression)
    return [*left, *right] if left and right else []
