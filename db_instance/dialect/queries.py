"""SELECT, INSERT, UPDATE, DELETE, VALUES and WITH: sqlglot parses PostgreSQL's, our generator writes SQLite's.

Nothing is guessed: what the generator does not know raises, and so do function and type names that
SQLite would misread.
"""

import math
import re
from collections.abc import Iterator
from typing import Any, Final

import sqlglot
from sqlglot import exp
from sqlglot.errors import ErrorLevel, ParseError, TokenError, UnsupportedError

from db_instance.dialect import types
from db_instance.dialect.allowed import check_allowed
from db_instance.dialect.assignments import complete_assignments
from db_instance.dialect.functions import READ_AS
from db_instance.dialect.lexer import Token, string_value, tokens, unquote
from db_instance.dialect.statement import Catalog, Column, SqlError, Statement, TableInfo

_INTEGERS: Final = frozenset((types.INT2, types.INT4, types.INT8))
_FLOATS: Final = frozenset((types.FLOAT4, types.FLOAT8))
_NUMBERS: Final = _INTEGERS | _FLOATS
_TIMES: Final = frozenset((types.DATE, types.TIME, types.TIMESTAMP, types.TIMESTAMPTZ))
_KINDS: Final = {"insert": "INSERT 0", "update": "UPDATE", "delete": "DELETE"}


def query(sql: str, catalog: Catalog) -> Statement:
    """Raises SqlError."""
    tree = _with_parameters(_parse(_parseable(sql)))
    kind = _kind_of(tree)
    locking = bool(tree.find(exp.Lock))
    tables = _tables(tree, catalog)
    _simplify(tree)
    check_allowed(tree)
    _refuse_arithmetic_of_times(tree, tables)
    complete_assignments(tree, catalog)
    _read_literals(tree, tables, catalog)
    params = _param_types(tree, tables, kind, catalog)
    columns = _columns(tree, tables)
    returns_rows = kind == "select" or tree.args.get("returning") is not None
    try:
        text = _rewritten(tree, tables).sql(
            dialect="sqlite", unsupported_level=ErrorLevel.RAISE, comments=False
        )
    except UnsupportedError as error:
        raise SqlError("0A000", f"not supported: {error}") from None
    reads_only = kind == "select" and not locking and not tree.find(exp.Insert, exp.Update, exp.Delete)
    return Statement(kind, text, _KINDS.get(kind, "SELECT"), returns_rows, reads_only, params, columns)


def _refuse_arithmetic_of_times(tree: exp.Expression, tables: dict[str, TableInfo]) -> None:
    """SQLite would calculate with the year."""
    for node in tree.find_all(exp.Add, exp.Sub, exp.Mul, exp.Div, exp.Sum, exp.Avg):
        for each in (node.this, node.args.get("expression")):
            if _oid_of(each, tables) in _TIMES:
                raise SqlError("0A000", "arithmetic with dates and times is not supported")


class _NoTables:
    version = 0

    def table(self, _name: str) -> TableInfo | None:
        return None


def expression(sql: str) -> str:
    """One expression that reads no tables, as SQLite has it. Raises SqlError."""
    return query(f"SELECT {sql}", _NoTables()).sql.removeprefix("SELECT ")


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


def _tables(tree: exp.Expression, catalog: Catalog) -> dict[str, TableInfo]:
    """By alias. Names of our one schema lose it; the system catalog is refused where nothing answers for it."""
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
            found[table.alias_or_name.lower()] = info
    return found


def _simplify(tree: exp.Expression) -> None:
    for lock in list(tree.find_all(exp.Lock)):
        if lock.parent is not None:
            lock.parent.set("locks", None)
    for dot in list(tree.find_all(exp.Dot)):
        if dot.this.name.lower() in ("pg_catalog", "public") and isinstance(dot.expression, exp.Func):
            dot.replace(dot.expression)
    for cast in tree.find_all(exp.Cast):
        if _oid_of_type(cast.to) == 0:
            raise SqlError("0A000", f"cast to {cast.to.sql('postgres').lower()} is not supported")


def _rewritten(tree: exp.Expression, tables: dict[str, TableInfo]) -> exp.Expression:
    """What SQLite writes otherwise, where the generator does not know it."""

    def change(node: exp.Expr) -> exp.Expr:
        if isinstance(node, exp.Parameter):
            return exp.Var(this=f"?{node.name}")
        if isinstance(node, exp.CurrentTimestamp):
            return exp.Anonymous(this="sixfold_now")
        if isinstance(node, exp.Uuid):
            return exp.Anonymous(this="gen_random_uuid")
        if isinstance(node, exp.ILike):
            # SQLite's LIKE is told to tell a from A, as PostgreSQL's does.
            like = exp.Like(this=exp.Lower(this=node.this), expression=exp.Lower(this=node.expression))
            return _escaped(like, node)
        if isinstance(node, exp.Like):
            return _escaped(node, node)
        if isinstance(node, exp.Cast) and _oid_of_type(node.to) in _INTEGERS:
            return exp.Anonymous(this="sixfold_integer", expressions=[node.this])
        if isinstance(node, exp.Cast) and _oid_of_type(node.to) in READ_AS:
            return exp.Anonymous(this=READ_AS[_oid_of_type(node.to)], expressions=[node.this])
        if isinstance(node, exp.Cast) and _oid_of_type(node.to) == types.BOOL:
            return exp.Anonymous(this="sixfold_boolean", expressions=[node.this])
        if (
            isinstance(node, exp.Cast)
            and _oid_of_type(node.to) in _FLOATS
            and _oid_of(node.this, tables) not in _NUMBERS
        ):
            return exp.Anonymous(this="sixfold_float", expressions=[node.this])
        if isinstance(node, exp.Div | exp.Mod) and not _is_other_than_zero(node.expression):
            name = "sixfold_quotient" if isinstance(node, exp.Div) else "sixfold_remainder"
            return exp.Anonymous(this=name, expressions=[node.this, node.expression])
        return node

    root = tree.copy()
    # Children first: what is written otherwise may hold more of it.
    for node in reversed(list(root.walk())):
        changed = change(node)
        if changed is not node:
            node.replace(changed)
    return root


def _escaped(like: exp.Expr, written: exp.Expr) -> exp.Expr:
    """A backslash takes the next character for itself, where no ESCAPE says otherwise; SQLite has none by itself.

    Without one in the pattern nothing changes, and SQLite may look the prefix up in an index.
    """
    pattern = written.expression
    plain = isinstance(pattern, exp.Literal) and "\\" not in pattern.name
    if plain or isinstance(written.parent, exp.Escape):
        return like
    return exp.Escape(this=like.copy(), expression=exp.Literal.string("\\"))


def _is_other_than_zero(node: Any) -> bool:
    """Can be seen without running it."""
    while isinstance(node, exp.Paren | exp.Neg):
        node = node.this
    return isinstance(node, exp.Literal) and not node.is_string and float(node.this) != 0


def _oid_of_type(kind: Any) -> int:
    return types.oid_of_decltype(kind.sql("postgres").lower()) if kind is not None else 0


def _column_oid(node: Any, tables: dict[str, TableInfo]) -> int:
    """The type of a column that is named; 0 if it is not clear which."""
    if not isinstance(node, exp.Column):
        return 0
    qualifier = node.table.lower()
    if not qualifier and _sees_derived(node):
        return 0
    for alias, info in tables.items():
        if qualifier in ("", alias):
            for column in info.columns:
                if column.name.lower() == node.name.lower():
                    return column.oid
    return 0


def _sees_derived(node: exp.Expression) -> bool:
    """Its query reads from a subquery, VALUES or a CTE, whose column it may be."""
    select = node.find_ancestor(exp.Select)
    if select is None:
        return False
    ctes = {each.alias.lower() for each in select.root().find_all(exp.CTE)}
    joins = select.args.get("joins") or []
    sources = [each.this for each in [select.args.get("from_") or select.args.get("from"), *joins] if each]
    return any(not isinstance(each, exp.Table) or each.name.lower() in ctes for each in sources)


def _param_types(
    tree: exp.Expression, tables: dict[str, TableInfo], kind: str, catalog: Catalog
) -> tuple[int, ...]:
    found: dict[int, int] = {}
    for param in tree.find_all(exp.Parameter):
        try:
            number = int(param.name)
        except ValueError:
            raise SqlError("42601", f'syntax error at or near "{param.sql("postgres")}"') from None
        found[number] = found.get(number) or _oid_around(param, tables)
    if isinstance(tree, exp.Insert):
        _types_of_inserted(tree, catalog, found)
    if found and (min(found) < 1 or max(found) > 32767):
        raise SqlError("42P02", f"there is no parameter ${min(found)}")
    return tuple(found.get(number, 0) for number in range(1, max(found, default=0) + 1))


_READ: Final = frozenset((types.BOOL, types.BYTEA, types.UUID)) | _NUMBERS | _TIMES


def _read_literals(tree: exp.Expression, tables: dict[str, TableInfo], catalog: Catalog) -> None:
    """Strings whose place says that they are another type's, as SQLite holds it. Raises InvalidValue."""
    given = dict(_given(tree, catalog))
    for literal in list(tree.find_all(exp.Literal)):
        if not literal.is_string or isinstance(literal.parent, exp.Cast):
            continue
        oid = given.get(id(literal)) or _oid_around(literal, tables)
        is_number_for_column = id(literal) in given and oid in _NUMBERS  # the column's checks see to it
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


def _given(tree: exp.Expression, catalog: Catalog) -> Iterator[tuple[int, int]]:
    """What INSERT gives to columns, by identity, with the columns' types, wherever it is in CASE and COALESCE."""
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
        for name, value in zip(names, row, strict=False):
            for each in _results(value):
                yield id(each), oids.get(name, 0)


def _results(value: Any) -> Iterator[Any]:
    """What an expression may come to."""
    if isinstance(value, exp.Paren):
        yield from _results(value.this)
    elif isinstance(value, exp.Coalesce):
        for each in [value.this, *value.expressions]:
            yield from _results(each)
    elif isinstance(value, exp.Case):
        for each in [*(case.args["true"] for case in value.args["ifs"]), value.args.get("default")]:
            yield from _results(each)
    elif value is not None:
        yield value


def _oid_around(param: exp.Expression, tables: dict[str, TableInfo]) -> int:
    parent = param.parent
    while isinstance(parent, exp.Paren | exp.Coalesce) or (
        isinstance(parent, exp.If | exp.Case) and parent.this is not param
    ):
        others = [each for each in _results(parent) if each is not param and _oid_of(each, tables)]
        if others and not isinstance(parent, exp.If):
            return _oid_of(others[0], tables)
        param, parent = parent, parent.parent
    if isinstance(parent, exp.Cast):
        return _oid_of_type(parent.to)
    if isinstance(parent, exp.Limit | exp.Offset):
        return types.INT8
    if isinstance(parent, exp.Binary):
        other = parent.expression if parent.this is param else parent.this
        return _oid_of(other, tables)
    if isinstance(parent, exp.In | exp.Between):
        return _oid_of(parent.this, tables)
    return 0


def _types_of_inserted(tree: exp.Insert, catalog: Catalog, found: dict[int, int]) -> None:
    given = dict(_given(tree, catalog))
    for param in tree.find_all(exp.Parameter):
        if id(param) in given:
            found[int(param.name)] = given[id(param)]


def _columns(tree: exp.Expression, tables: dict[str, TableInfo]) -> tuple[Column, ...] | None:
    """Names and types of the result, if they can be told without running it."""
    if isinstance(tree, exp.Select):
        projections = tree.expressions
    elif (returning := tree.args.get("returning")) is not None:
        projections = returning.expressions
    else:
        return None
    if any(
        isinstance(each, exp.Star) or (isinstance(each, exp.Column) and each.name == "*")
        for each in projections
    ):
        return None
    return tuple(Column(_name_of(each), _oid_of(each.unalias(), tables)) for each in projections)


def _name_of(node: Any) -> str:
    if isinstance(node, exp.Alias | exp.Column):
        return str(node.alias_or_name)
    inner = node
    while isinstance(inner, exp.Cast | exp.Paren):
        inner = inner.this
    if isinstance(inner, exp.Column):
        return str(inner.name)
    if isinstance(inner, exp.Anonymous):
        return str(inner.name).lower()
    if isinstance(inner, exp.Func):
        return inner.sql_name().lower()
    return "?column?"


_OIDS: Final[tuple[tuple[Any, int], ...]] = (
    ((exp.Count, exp.RowNumber), types.INT8),
    ((exp.Length,), types.INT4),
    ((exp.Predicate, exp.Boolean, exp.And, exp.Or, exp.Not), types.BOOL),
    ((exp.CurrentTimestamp,), types.TIMESTAMPTZ),
    ((exp.CurrentDate,), types.DATE),
    ((exp.Uuid,), types.UUID),
    ((exp.Lower, exp.Upper, exp.Concat, exp.DPipe, exp.Substring, exp.Trim, exp.GroupConcat), types.TEXT),
    ((exp.Avg,), types.FLOAT8),
)


def _oid_of(node: Any, tables: dict[str, TableInfo]) -> int:
    """The type of an expression, 0 if its value must tell."""
    if isinstance(node, exp.Column):
        return _column_oid(node, tables)
    if isinstance(node, exp.Cast):
        return _oid_of_type(node.to)
    if isinstance(node, exp.Paren | exp.Neg | exp.Min | exp.Max):
        return _oid_of(node.this, tables)
    if isinstance(node, exp.Literal):
        if node.is_string:
            return types.TEXT
        return (
            types.FLOAT8 if not node.is_int else types.INT4 if abs(int(node.this)) < 1 << 31 else types.INT8
        )
    if isinstance(node, exp.Sum):
        inner = _oid_of(node.this, tables)
        return inner if inner in (types.FLOAT4, types.FLOAT8) else types.INT8 if inner else 0
    if isinstance(node, exp.Coalesce):
        return next((oid for each in [node.this, *node.expressions] if (oid := _oid_of(each, tables))), 0)
    for classes, oid in _OIDS:
        if isinstance(node, classes):
            return oid
    if isinstance(node, exp.Add | exp.Sub | exp.Mul | exp.Div | exp.Mod):
        return max(_oid_of(node.this, tables), _oid_of(node.expression, tables), key=_width)
    return 0


def _width(oid: int) -> int:
    order = (0, types.INT2, types.INT4, types.INT8, types.FLOAT4, types.FLOAT8)
    return order.index(oid) if oid in order else 0


_FIRST_WORDS: Final = re.compile(r"select|insert|update|delete|with|values|table|\(", re.IGNORECASE)


def is_query(first: Token) -> bool:
    return bool(_FIRST_WORDS.fullmatch(unquote(first)))
