"""UPDATE and DELETE, where SQLite has less: DELETE ... USING, and the target's alias in RETURNING; and where it has
something else: what an UPDATE reads of its own table."""

from typing import Any

from sqlglot import exp

from db_instance.dialect.statement import SqlError


def as_sqlite_changes(tree: exp.Expression) -> None:
    """INSERT, UPDATE and DELETE among it, in place. Raises SqlError."""
    for change in list(tree.find_all(exp.Insert, exp.Update, exp.Delete)):
        returning = change.args.get("returning")
        if returning is not None:
            _of_the_target(change, returning)
        if change.args.get("using"):
            _without_using(change)
        if isinstance(change, exp.Update):
            _read_before_it_is_changed(change)


def _target(change: exp.Expression) -> Any:
    return change.this.this if isinstance(change.this, exp.Schema) else change.this


def _of_the_target(change: exp.Expression, returning: exp.Expression) -> None:
    """SQLite's RETURNING knows the changed table's columns only, and not by its alias."""
    target = _target(change).alias_or_name.lower()
    reads_others = bool(change.args.get("from_") or change.args.get("using"))
    for each in list(returning.expressions):
        if isinstance(each, exp.Star) and reads_others:
            raise SqlError("0A000", "RETURNING * of several tables is not supported", hint="name the columns")
        if isinstance(each, exp.Column) and each.is_star and each.table.lower() == target:
            each.replace(exp.Star())
    for column in list(returning.find_all(exp.Column)):
        if column.find_ancestor(exp.Select, exp.Returning) is not returning or not column.table:
            continue
        if column.table.lower() == target:
            column.set("table", None)
        elif reads_others:
            told = f"RETURNING {column.sql('postgres')}: only columns of {target} can be returned"
            raise SqlError("0A000", told)


def _read_before_it_is_changed(update: exp.Update) -> None:
    """A subquery's rows are those from before the statement. SQLite works one out for each row, amid the changes, unless
    there is a FROM: then it has all new values before the first change."""
    if not update.args.get("from_") and any(each.find(exp.Query) for each in update.expressions):
        once = exp.Select(expressions=[exp.Literal.number(1)])
        update.set("from_", exp.From(this=exp.Subquery(this=once, alias=exp.TableAlias(this="sixfold_once"))))


def _without_using(delete: exp.Expression) -> None:
    """Rows are told by SQLite's number, which every table has."""
    target = _target(delete)
    chosen = exp.Select(
        expressions=[exp.column("rowid", table=target.alias_or_name, quoted=True)],
        from_=exp.From(this=target.copy()),
        joins=[exp.Join(this=each) for each in delete.args["using"]],
        where=delete.args.get("where"),
    )
    delete.set("using", None)
    delete.set("where", exp.Where(this=exp.In(this=exp.column("rowid"), query=exp.Subquery(this=chosen))))
