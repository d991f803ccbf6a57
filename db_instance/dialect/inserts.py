"""INSERT as SQLite wants it: its columns are named where values are given for some only, and DEFAULT is left out."""

from sqlglot import exp

from db_instance.dialect.statement import Catalog, SqlError


def name_columns(tree: exp.Insert, catalog: Catalog) -> None:
    """Change the statement in place. Raises SqlError if columns and values do not come out even."""
    named = tree.this if isinstance(tree.this, exp.Schema) else None
    table = named.this if named is not None else tree.this
    columns = list(named.expressions) if named is not None else _columns_of(table, catalog)
    rows = _rows(tree.expression)
    if not columns or not rows:
        return
    width = len(rows[0])
    if any(len(row) != width for row in rows):
        raise SqlError("42601", "VALUES lists must all be the same length")
    if width > len(columns):
        raise SqlError("42601", "INSERT has more expressions than target columns")
    if named is not None and width < len(columns):
        raise SqlError("42601", "INSERT has more target columns than expressions")
    given = [at for at in range(width) if not _is_default(rows, at)]
    if not given and len(rows) == 1:
        tree.set("this", table)
        tree.set("expression", None)
        tree.set("default", True)
        return
    if not given:
        raise SqlError("0A000", "several rows of nothing but DEFAULT are not supported")
    if len(given) < len(columns):
        tree.set("this", exp.Schema(this=table, expressions=[columns[at] for at in given]))
    if len(given) < width:
        for row in tree.expression.expressions:
            row.set("expressions", [row.expressions[at] for at in given])


def _columns_of(table: exp.Expression, catalog: Catalog) -> list[exp.Expression]:
    info = catalog.table(table.name)
    if info is None:
        return []
    return [exp.to_identifier(column.name, quoted=True) for column in info.columns]


def _rows(source: exp.Expression | None) -> list[list[exp.Expression]]:
    """What is given for the columns, a list for each row; none if it cannot be told how many there are."""
    if isinstance(source, exp.Values):
        return [row.expressions for row in source.expressions]
    if isinstance(source, exp.Select) and not any(each.is_star for each in source.expressions):
        return [source.expressions]
    return []


def _is_default(rows: list[list[exp.Expression]], at: int) -> bool:
    """Has the column DEFAULT in each row? Raises SqlError if it has in some."""
    found = [isinstance(row[at], exp.Var) and row[at].name.upper() == "DEFAULT" for row in rows]
    if any(found) and not all(found):
        raise SqlError(
            "0A000",
            "DEFAULT in some of the rows of a column is not supported",
            hint="Insert these rows by a statement of their own.",
        )
    return found[0]
