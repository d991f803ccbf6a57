"""What INSERT and UPDATE give to columns, as SQLite wants it: the columns are named where values are given for
some only, and DEFAULT, a word SQLite does not have there, is the column's own expression."""

from collections.abc import Iterable, Iterator

from sqlglot import exp

from db_instance.dialect.statement import Catalog, SqlError, TableInfo, null_in_key


def complete_assignments(tree: exp.Expression, catalog: Catalog) -> None:
    """Change the statement in place. Raises SqlError if columns and values do not come out even."""
    if isinstance(tree, exp.Insert):
        table = tree.this.this if isinstance(tree.this, exp.Schema) else tree.this
        _complete_rows(tree, table, catalog.table(table.name))
        conflict = tree.args.get("conflict")
        if conflict is not None:
            _name_the_key(conflict, table.name, catalog.table(table.name))
            _complete_sets(conflict.expressions, catalog.table(table.name))
    elif isinstance(tree, exp.Update):
        _complete_sets(tree.expressions, catalog.table(tree.this.name))


def _complete_rows(tree: exp.Insert, table: exp.Expression, info: TableInfo | None) -> None:
    named = tree.this if isinstance(tree.this, exp.Schema) else None
    rows = _rows(tree.expression)
    if named is not None:
        columns = list(named.expressions)
        if twice := first_twice([each.name for each in columns]):
            raise SqlError("42701", f'column "{twice}" specified more than once')
    else:
        columns = [exp.to_identifier(each.name, quoted=True) for each in info.columns] if info else []
    if columns:
        _refuse_a_missing_key(tree, [each.name for each in columns], rows, info)
    if not columns or not rows:
        return
    width = len(rows[0])
    if any(len(row) != width for row in rows):
        raise SqlError("42601", "VALUES lists must all be the same length")
    if width > len(columns):
        raise SqlError("42601", "INSERT has more expressions than target columns")
    if named is not None and width < len(columns):
        raise SqlError("42601", "INSERT has more target columns than expressions")
    if width < len(columns):
        tree.set("this", exp.Schema(this=table, expressions=columns[:width]))
    for row in rows:
        for column, value in zip(columns, row, strict=False):
            is_key = info is not None and column.name.lower() == (info.integer_key or "").lower()
            if _is_default(value):
                value.replace(_default_of(column.name, info))
            elif info is not None and is_key and not (isinstance(value, exp.Literal) and value.is_number):
                given = value.unalias()
                names = [exp.Literal.string(info.name), exp.Literal.string(column.name)]
                refusal = exp.Anonymous(this="sixfold_null_in_key", expressions=names)
                given.replace(exp.Coalesce(this=given.copy(), expressions=[refusal]))


def _refuse_a_missing_key(
    tree: exp.Insert, columns: list[str], rows: list[list[exp.Expression]], info: TableInfo | None
) -> None:
    """SQLite would make a number up. A key that counts may be missing, or be DEFAULT."""
    key = info.integer_key if info is not None else None
    if info is None or key is None or info.counts or _has_default(key, info):
        return
    named = [each.lower() for each in columns]
    at = named.index(key.lower()) if key.lower() in named else -1
    is_missing = at < 0 or tree.args.get("default") or any(at >= len(row) for row in rows)
    if is_missing or any(_is_default(row[at].unalias()) for row in rows):
        raise null_in_key(info.name, key)


def _has_default(column: str, info: TableInfo) -> bool:
    return any(each.default for each in info.columns if each.name == column)


def _rows(source: exp.Expression | None) -> list[list[exp.Expression]]:
    """What is given for the columns, a list for each row; none if it cannot be told how many there are."""
    if isinstance(source, exp.Values):
        return [row.expressions for row in source.expressions]
    if isinstance(source, exp.Select) and not any(each.is_star for each in source.expressions):
        return [source.expressions]
    return []


def first_twice(names: Iterable[str]) -> str | None:
    """A name that comes again: SQLite would take one of its values, and say nothing."""
    seen: set[str] = set()
    for name in names:
        if name.lower() in seen:
            return name
        seen.add(name.lower())
    return None


def _name_the_key(conflict: exp.Expression, table: str, info: TableInfo | None) -> None:
    """ON CONFLICT ON CONSTRAINT: SQLite knows a key by its columns."""
    constraint = conflict.args.get("constraint")
    if constraint is None:
        return
    columns = info.key_called(constraint.name) if info is not None else None
    if columns is None:
        raise SqlError("42704", f'constraint "{constraint.name}" for table "{table}" does not exist')
    conflict.set("constraint", None)
    conflict.set("conflict_keys", [exp.to_identifier(name, quoted=True) for name in columns])


def _complete_sets(sets: list[exp.Expression], info: TableInfo | None) -> None:
    if twice := first_twice(name for each in sets for name in _set_names(each)):
        raise SqlError("42601", f'multiple assignments to same column "{twice}"')
    for column, value in [pair for each in sets for pair in pairs(each)]:
        if _is_default(value):
            value.replace(_default_of(column.name, info))


def pairs(assignment: exp.Expression) -> Iterator[tuple[exp.Expression, exp.Expression]]:
    """(column, value) of `a = 1`, or of `(a, b) = (1, 2)`."""
    column, value = assignment.this, assignment.expression
    if isinstance(column, exp.Tuple) and isinstance(value, exp.Tuple):
        yield from zip(column.expressions, value.expressions, strict=False)
    else:
        yield column, value


def _set_names(assignment: exp.Expression) -> list[str]:
    columns = assignment.this
    return [each.name for each in (columns.expressions if isinstance(columns, exp.Tuple) else [columns])]


def _is_default(value: exp.Expr) -> bool:
    """The parser takes the word for a Var in VALUES, and for a column's name elsewhere."""
    if isinstance(value, exp.Column):
        return not value.table and not value.this.quoted and value.name.upper() == "DEFAULT"
    return isinstance(value, exp.Var) and value.name.upper() == "DEFAULT"


def _default_of(column: str, info: TableInfo | None) -> exp.Expression:
    """NULL without one, which SQLite takes for the next number in an integer key."""
    found = [each.default for each in info.columns if each.name.lower() == column.lower()] if info else []
    return exp.var(f"({found[0]})") if found and found[0] else exp.null()
