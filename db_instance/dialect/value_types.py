"""Literals, parameters, dates and times become what their place in the statement says: the type of the column that
they are given to, or of what they are compared with."""

import math
from collections.abc import Iterator
from itertools import takewhile
from typing import Any, Final

from sqlglot import exp

from db_instance.dialect import types
from db_instance.dialect.assignments import pairs
from db_instance.dialect.column_names import selects_of
from db_instance.dialect.expression_types import (
    FRACTIONS,
    NUMBERS,
    TEXTS,
    TIMES,
    oid_around,
    oid_of,
    results_of,
)
from db_instance.dialect.statement import Catalog, SqlError, TableInfo

_READ: Final = frozenset((types.BOOL, types.BYTEA, types.UUID, types.JSON, types.JSONB)) | NUMBERS | TIMES

PARAMS_MAX: Final = 32_766
"""Of one statement, as SQLite has it. Clients may send as many as the protocol counts."""

_PROTOCOL_PARAMS_MAX: Final = 65_535

_WIDER: Final = (types.DATE, types.TIMESTAMP, types.TIMESTAMPTZ)
"""Each in front of what it becomes where two are compared."""

_ALIKE: Final = (NUMBERS, TEXTS | {types.BPCHAR, types.NAME}, frozenset(_WIDER))
"""Types that become one where columns of several are one."""

_COMPARISONS: Final = (exp.EQ, exp.NEQ, exp.GT, exp.GTE, exp.LT, exp.LTE, exp.NullSafeEQ, exp.NullSafeNEQ)


def refuse_other_arithmetic(tree: exp.Expression, tables: dict[str, TableInfo]) -> None:
    """Of dates and times, where SQLite would calculate with the year, and of texts, where it would with 0."""
    for node in tree.find_all(exp.Add, exp.Sub, exp.Mul, exp.Div, exp.Mod, exp.Sum, exp.Avg):
        for each in (node.this, node.args.get("expression")):
            oid = oid_of(each, tables)
            if oid in TIMES:
                raise SqlError("0A000", "arithmetic with dates and times is not supported")
            if oid in TEXTS | {types.BOOL} and not isinstance(each, exp.Literal | exp.Boolean):
                name = types.type_name(oid)
                told = (
                    f"function {node.sql_name().lower()}({name}) does not exist"
                    if isinstance(node, exp.AggFunc)
                    else f"operator does not exist on type {name}"
                )
                raise SqlError("42883", told, hint="You might need to add explicit type casts.")


def cast_values(tree: exp.Expression, tables: dict[str, TableInfo], catalog: Catalog) -> None:
    """Dates and times become the type of the column that they are given to, or of what they are compared with:
    SQLite holds them as texts, of which those of different types are never equal. What a column of text is given
    becomes text in PostgreSQL's words."""
    for value, oid in [*_values_given(tree, catalog), *_values_set(tree, tables)]:
        if oid in TEXTS and _is_other_as_text(value, tables):
            _cast(value, types.TEXT)
        if oid in types.INTEGERS and oid_of(value, tables) in FRACTIONS:
            _cast(value, oid)
        if oid in types.NOT_NUMBERS and (given := oid_of(value, tables)) in NUMBERS:
            told = f"column is of type {types.type_name(oid)} but expression is of type {types.PLAIN_NAMES[given]}"
            raise SqlError("42804", told, hint="You will need to rewrite or cast the expression.")
        if (
            oid in _WIDER
            and oid_of(value, tables) != oid
            and not isinstance(value, exp.Literal | exp.Null | exp.Var)
        ):
            _cast(value, oid)
    _unify_results(tree, tables)
    _unify_what_is_compared(tree, tables)


def _unify_results(tree: exp.Expression, tables: dict[str, TableInfo]) -> None:
    for node in list(tree.find_all(exp.Coalesce, exp.Nullif, exp.Greatest, exp.Least)):
        sides = [node.this, node.args.get("expression"), *node.expressions]
        _become_one_type([each for each in sides if each is not None], tables)
    for case in list(tree.find_all(exp.Case)):
        _become_one_type(list(results_of(case)), tables)
    for union in list(tree.find_all(exp.SetOperation)):
        for values in zip(*map(_projections, selects_of(union)), strict=False):
            _refuse_unlike(union, list(values), tables)
            _become_one_type(list(values), tables)


def _unify_what_is_compared(tree: exp.Expression, tables: dict[str, TableInfo]) -> None:
    assigned = {id(each) for each in _assignments(tree)}
    for node in list(tree.find_all(*_COMPARISONS, exp.Between, exp.In)):
        if id(node) in assigned:
            continue
        sides = [node.this, *(node.args.get(arg) for arg in ("expression", "low", "high")), *node.expressions]
        rows = [[each] for each in sides if each is not None]
        if any(isinstance(each, exp.Tuple) for (each,) in rows):
            rows = [each.expressions for (each,) in rows]
        rows += [_projections(each) for each in selects_of(node.args.get("query"))]
        for values in zip(*rows, strict=False):
            _become_one_type(list(values), tables)


def _projections(select: exp.Select) -> list[Any]:
    return [each.unalias() for each in select.expressions]


def _refuse_unlike(union: exp.SetOperation, values: list[Any], tables: dict[str, TableInfo]) -> None:
    """Columns that can be of no one type."""
    oids = [oid_of(each, tables) for each in values if not isinstance(each, exp.Literal | exp.Star)]
    known = [oid for oid in oids if oid]
    for oid in known[1:]:
        if oid != known[0] and not any({oid, known[0]} <= kind for kind in _ALIKE):
            first, other = (types.PLAIN_NAMES.get(each) or types.type_name(each) for each in (known[0], oid))
            raise SqlError("42804", f"{union.key.upper()} types {first} and {other} cannot be matched")


def _become_one_type(sides: list[Any], tables: dict[str, TableInfo]) -> None:
    """Of dates and times the wider type."""
    sides = [each for each in sides if not isinstance(each, exp.Literal)]
    found = [oid for each in sides if (oid := oid_of(each, tables)) in _WIDER]
    widest = max(found, key=_WIDER.index, default=0)
    columns = {oid_of(each, tables) for each in sides if isinstance(each, exp.Column)}
    if widest == types.TIMESTAMPTZ and types.TIMESTAMP in columns and widest not in columns:
        widest = types.TIMESTAMP  # the same moments, as zones are UTC, and the column's index is of use
    for each in sides:
        oid = oid_of(each, tables)
        # A date is compared with a parameter of no type as it is: a timestamp would lose its time.
        is_parameter = isinstance(each, exp.Parameter) and not oid and widest in _WIDER[1:]
        if is_parameter or (oid in _WIDER and oid != widest):
            _cast(each, widest)


def _is_other_as_text(value: exp.Expression, tables: dict[str, TableInfo]) -> bool:
    """A boolean, or a float that is no literal: SQLite would hold 1 and 100.0."""
    oid = oid_of(value, tables)
    return oid in (types.BOOL, types.BYTEA) or (
        oid in FRACTIONS and value.find(exp.Column, exp.Cast, exp.Parameter) is not None
    )


def _cast(value: exp.Expression, oid: int) -> None:
    value.replace(
        exp.Cast(this=value.copy(), to=exp.DataType.build(types.type_name(oid), dialect="postgres"))
    )


def _assignments(tree: exp.Expression) -> list[exp.Expression]:
    conflict = tree.args.get("conflict")
    sets = tree.expressions if isinstance(tree, exp.Update) else conflict.expressions if conflict else []
    return [each for each in sets if isinstance(each, exp.EQ)]


def _values_set(tree: exp.Expression, tables: dict[str, TableInfo]) -> list[tuple[exp.Expression, int]]:
    return [(value, oid_of(column, tables)) for each in _assignments(tree) for column, value in pairs(each)]


def read_literals(tree: exp.Expression, tables: dict[str, TableInfo], catalog: Catalog) -> None:
    """Strings whose place says that they are another type's, as SQLite holds it. Raises InvalidValue."""
    given = dict(_given(tree, catalog))
    for literal in list(tree.find_all(exp.Literal)):
        if not literal.is_string or isinstance(literal.parent, exp.Cast):
            continue
        oid = given.get(id(literal)) or oid_around(literal, tables)
        is_number_for_column = id(literal) in given and oid in NUMBERS  # the column's checks see to it
        if oid not in _READ or is_number_for_column:
            continue
        try:
            value = types.decode_text(oid, literal.name.encode())
        except types.InvalidValue as error:
            raise SqlError(error.sqlstate, error.message) from None
        if isinstance(value, bytes):
            literal.replace(exp.HexString(this=value.hex()))
        elif isinstance(value, str):
            literal.set("this", value)
        elif math.isinf(value):
            continue
        else:
            literal.replace(
                exp.Literal.number(value)
                if value >= 0
                else exp.Paren(this=exp.Neg(this=exp.Literal.number(-value)))
            )


def param_types(
    tree: exp.Expression, tables: dict[str, TableInfo], kind: str, catalog: Catalog
) -> tuple[int, ...]:
    found: dict[int, int] = {}
    for param in tree.find_all(exp.Parameter):
        try:
            number = int(param.name)
        except ValueError:
            raise SqlError("42601", f'syntax error at or near "{param.sql("postgres")}"') from None
        found[number] = oid_of(param, tables) or found.get(number) or oid_around(param, tables)
    if isinstance(tree, exp.Insert):
        _types_of_inserted(tree, catalog, found)
    if found and (min(found) < 1 or max(found) > _PROTOCOL_PARAMS_MAX):
        raise SqlError("42P02", f"there is no parameter ${min(found) if min(found) < 1 else max(found)}")
    if found and max(found) > PARAMS_MAX:
        raise SqlError(
            "54000", f"{max(found)} parameters in one statement: at most {PARAMS_MAX} are possible"
        )
    return tuple(found.get(number, 0) for number in range(1, max(found, default=0) + 1))


def _types_of_inserted(tree: exp.Insert, catalog: Catalog, found: dict[int, int]) -> None:
    given = dict(_given(tree, catalog))
    for param in tree.find_all(exp.Parameter):
        if id(param) in given and not oid_of(param, {}):
            found[int(param.name)] = given[id(param)]


def _given(tree: exp.Expression, catalog: Catalog) -> Iterator[tuple[int, int]]:
    """What INSERT gives to columns, by identity, with the columns' types, wherever it is in CASE and COALESCE."""
    for value, oid in list(_values_given(tree, catalog)):
        for each in results_of(value):
            yield id(each), oid


def _values_given(tree: exp.Expression, catalog: Catalog) -> Iterator[tuple[Any, int]]:
    """What INSERT gives to columns, with the columns' types."""
    if not isinstance(tree, exp.Insert):
        return
    schema = tree.this if isinstance(tree.this, exp.Schema) else None
    info = catalog.table((schema.this if schema is not None else tree.this).name)
    if info is None:
        return
    oids = {column.name.lower(): column.oid for column in info.columns}
    names = [each.name.lower() for each in schema.expressions] if schema is not None else list(oids)
    source = tree.expression
    rows = [row.expressions for row in source.expressions] if isinstance(source, exp.Values) else []
    if isinstance(source, exp.Select):
        rows = [[each.unalias() for each in source.expressions]]
    for row in rows:
        # Behind a * nobody knows which column a value is for.
        for name, value in zip(names, takewhile(lambda each: not each.is_star, row), strict=False):
            yield value, oids.get(name, 0)
