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
_TEXTS: Final = frozenset((types.TEXT, types.VARCHAR))
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
    _cast_times(tree, tables, catalog)
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


_WIDER: Final = (types.DATE, types.TIMESTAMP, types.TIMESTAMPTZ)
"""Each in front of what it becomes where two are compared."""
_COMPARISONS: Final = (exp.EQ, exp.NEQ, exp.GT, exp.GTE, exp.LT, exp.LTE, exp.NullSafeEQ, exp.NullSafeNEQ)


def _cast_times(tree: exp.Expression, tables: dict[str, TableInfo], catalog: Catalog) -> None:
    """Dates and times become the type of the column that they are given to, or of what they are compared with:
    SQLite holds them as texts, of which those of different types are never equal."""
    assigned = {id(each) for each in _assignments(tree)}
    for value, oid in [*_values_given(tree, catalog), *_values_set(tree, tables)]:
        if (
            oid in _WIDER
            and _oid_of(value, tables) != oid
            and not isinstance(value, exp.Literal | exp.Null | exp.Var)
        ):
            _cast(value, oid)
    for node in list(tree.find_all(*_COMPARISONS, exp.Between, exp.In)):
        if id(node) in assigned:
            continue
        sides = [node.this, *(node.args.get(arg) for arg in ("expression", "low", "high")), *node.expressions]
        sides = [each for each in sides if each is not None and not isinstance(each, exp.Literal)]
        found = [oid for each in sides if (oid := _oid_of(each, tables)) in _WIDER]
        widest = max(found, key=_WIDER.index, default=0)
        for each in sides:
            oid = _oid_of(each, tables)
            # A date is compared with a parameter that is a timestamp as it is: cast, it would lose its time.
            is_parameter = isinstance(each, exp.Parameter) and widest in _WIDER[1:]
            if is_parameter or (oid in _WIDER and oid != widest):
                _cast(each, widest)


def _cast(value: exp.Expression, oid: int) -> None:
    value.replace(
        exp.Cast(this=value.copy(), to=exp.DataType.build(types.type_name(oid), dialect="postgres"))
    )


def _assignments(tree: exp.Expression) -> list[exp.Expression]:
    conflict = tree.args.get("conflict")
    sets = tree.expressions if isinstance(tree, exp.Update) else conflict.expressions if conflict else []
    return [each for each in sets if isinstance(each, exp.EQ)]


def _values_set(tree: exp.Expression, tables: dict[str, TableInfo]) -> list[tuple[exp.Expression, int]]:
    return [(each.expression, _oid_of(each.this, tables)) for each in _assignments(tree)]


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
            like = exp.Like(
                this=exp.Lower(this=node.this),
                expression=exp.Lower(this=node.expression),
                negate=node.args.get("negate"),
            )
            return _escaped(like, node)
        if isinstance(node, exp.Like):
            return _escaped(node, node)
        if isinstance(node, exp.DPipe):
            return exp.DPipe(
                this=_as_text(node.this, tables),
                expression=_as_text(node.expression, tables),
                safe=node.args.get("safe"),
            )
        if isinstance(node, exp.Cast) and _oid_of_type(node.to) in _TEXTS:
            return _cut(node, _as_text(node.this, tables))
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
    for select in list(root.find_all(exp.Select)):
        distinct = select.args.get("distinct")
        if distinct is not None and distinct.args.get("on") is not None:
            changed_root = select is root
            outer = _first_of_each(select, tables)
            root = outer if changed_root else root
    # Children first: what is written otherwise may hold more of it.
    for node in reversed(list(root.walk())):
        changed = change(node)
        if changed is not node:
            node.replace(changed)
    return root


def _first_of_each(select: exp.Select, tables: dict[str, TableInfo]) -> exp.Select:
    """SELECT DISTINCT ON, in place: rows numbered within each of its groups, of which the first ones are taken, in
    the order of all and only then as many as are wanted."""
    projections = _named(select, tables)
    by_alias = {each.alias.lower(): each.this for each in projections}

    def meant(node: exp.Expression) -> exp.Expression:
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


def _named(select: exp.Select, tables: dict[str, TableInfo]) -> list[exp.Alias]:
    """What it selects, each with its name, no two alike. Raises SqlError for a * of what is not a table."""
    found: list[exp.Expression] = []
    for each in select.expressions:
        if not each.is_star:
            found.append(each)
            continue
        qualifier = each.table.lower() if isinstance(each, exp.Column) else ""
        ctes = {cte.alias.lower() for cte in select.root().find_all(exp.CTE)}
        for table in _sources(select):
            alias = table.alias_or_name
            if qualifier in ("", alias.lower()):
                info = tables.get(table.name.lower()) if table.name.lower() not in ctes else None
                if info is None or not isinstance(table, exp.Table):
                    raise SqlError("0A000", "DISTINCT ON with * of what is not a table is not supported")
                found += [exp.column(column.name, table=alias, quoted=True) for column in info.columns]
    named = [
        each if isinstance(each, exp.Alias) else exp.alias_(each, _name_of(each), quoted=True)
        for each in found
    ]
    if len({each.alias.lower() for each in named}) < len(named):
        raise SqlError("0A000", "DISTINCT ON with two columns of one name is not supported")
    return named


def _as_text(node: exp.Expr, tables: dict[str, TableInfo]) -> exp.Expr:
    """What becomes text: a boolean and a float in PostgreSQL's words, arithmetic before it, as || is last there."""
    oid = _oid_of(node, tables)
    if oid == types.BOOL:
        return exp.Anonymous(this="sixfold_boolean_text", expressions=[node.copy()])
    if oid in _FLOATS or isinstance(node, exp.Div | exp.Round | exp.Case | exp.Subquery):
        return exp.Anonymous(this="sixfold_text", expressions=[node.copy()])
    is_operator = isinstance(node, exp.Binary) and not isinstance(node, exp.DPipe | exp.Dot)
    return exp.Paren(this=node.copy()) if is_operator else node.copy()


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
    name, qualifier = node.name.lower(), node.table.lower()
    ctes = {each.alias.lower() for each in node.root().find_all(exp.CTE)}
    scope = node.find_ancestor(*_SCOPES)
    while scope is not None:
        sources = _sources(scope)
        if qualifier:
            sources = [
                each for each in sources if qualifier in (each.alias_or_name.lower(), _EXCLUDED[type(scope)])
            ]
        if any(not isinstance(each, exp.Table) or each.name.lower() in ctes for each in sources):
            return 0  # it may be a column of a subquery, of VALUES or of a CTE
        for table in sources:
            info = tables.get(table.name.lower())
            for column in info.columns if info is not None else ():
                if column.name.lower() == name:
                    return column.oid
        scope = scope.find_ancestor(*_SCOPES)
    return 0


_SCOPES: Final = (exp.Select, exp.Insert, exp.Update, exp.Delete)
_EXCLUDED: Final = {exp.Select: "", exp.Insert: "excluded", exp.Update: "", exp.Delete: ""}


def _sources(scope: exp.Expression) -> list[exp.Expression]:
    """What the names of columns in a query may belong to, before those of the queries around it."""
    own = None if isinstance(scope, exp.Select) else scope.this
    own = own.this if isinstance(own, exp.Schema) else own
    found = [own] if own is not None else []
    source = scope.args.get("from_") or scope.args.get("from")
    for each in [source, *(scope.args.get("joins") or [])]:
        if each is not None:
            found.append(each.this)
    for table in list(found):
        found += [each.this for each in table.args.get("joins") or []]
    return found


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
    for value, oid in list(_values_given(tree, catalog)):
        for each in _results(value):
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
        for name, value in zip(names, row, strict=False):
            yield value, oids.get(name, 0)


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
    if isinstance(parent, exp.DPipe | exp.Escape | exp.Like | exp.ILike):
        return types.TEXT  # whatever is on the other side
    if isinstance(parent, exp.Binary):
        other = parent.expression if parent.this is param else parent.this
        return _oid_of(other, tables)
    if isinstance(parent, exp.In | exp.Between):
        return _oid_of(parent.this, tables)
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
    return _oid_of(other.expressions[at], tables) if at < len(other.expressions) else 0


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
    if isinstance(node, _AS_THEIR_FIRST):
        return _oid_of(node.this, tables)
    if isinstance(node, exp.Subquery):
        inside = node.this
        is_one = isinstance(inside, exp.Select) and len(inside.expressions) == 1
        return _oid_of(inside.expressions[0].unalias(), tables) if is_one else 0
    if isinstance(node, exp.Case):
        return _common_oid(list(_results(node)), tables)
    if isinstance(node, exp.Greatest | exp.Least):
        return _common_oid([node.this, *node.expressions], tables)
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


_AS_THEIR_FIRST: Final = (
    exp.Paren, exp.Neg, exp.Min, exp.Max, exp.Abs, exp.Nullif, exp.Window, exp.Filter,
    exp.Lag, exp.Lead, exp.FirstValue, exp.LastValue,
)  # fmt: skip


def _common_oid(nodes: list[Any], tables: dict[str, TableInfo]) -> int:
    """The type of what may be any of them; 0 if it is not clear."""
    oids = {_oid_of(each, tables) for each in nodes if not isinstance(each, exp.Null)}
    if oids and oids <= _NUMBERS:
        return max(oids, key=_width)
    return oids.pop() if len(oids) == 1 else 0


def _width(oid: int) -> int:
    order = (0, types.INT2, types.INT4, types.INT8, types.FLOAT4, types.FLOAT8)
    return order.index(oid) if oid in order else 0


_FIRST_WORDS: Final = re.compile(r"select|insert|update|delete|with|values|table|\(", re.IGNORECASE)


def is_query(first: Token) -> bool:
    return bool(_FIRST_WORDS.fullmatch(unquote(first)))
