"""CREATE, ALTER, DROP and TRUNCATE: SQLite takes them nearly as written; here is what it does not."""

from db_instance.dialect.alter_table import alter_table
from db_instance.dialect.clauses import closing, column, plain, source, split
from db_instance.dialect.constraints import (
    check_references,
    described,
    is_column,
    with_checks_named,
    with_expressions,
)
from db_instance.dialect.lexer import Token, unquote
from db_instance.dialect.queries import expression
from db_instance.dialect.statement import Catalog, SqlError, Statement, TableInfo
from db_instance.dialect.views import create_view


def is_definition(first: Token) -> bool:
    return first.text.lower() in ("alter", "create", "drop", "truncate")


def definition(tokens: list[Token], sql: str, catalog: Catalog) -> Statement | None:
    """The statement if it defines something; None otherwise. Raises SqlError."""
    # Names that are not quoted are in lower case, whatever the client writes.
    tokens = [each._replace(text=each.text.lower()) if each.kind == "word" else each for each in tokens]
    words = [token.text.lower() for token in tokens[:8]]
    if words[:1] == ["truncate"]:
        return _truncate(tokens, catalog)
    if words[:1] == ["create"]:
        return _create(tokens, words, sql, catalog)
    if words[:1] == ["drop"]:
        return _drop(tokens, words, catalog)
    if words[:2] == ["alter", "table"]:
        return alter_table(tokens, catalog)
    if words[:1] == ["alter"]:
        raise SqlError("0A000", f"ALTER {' '.join(words[1:2]).upper()} is not supported")
    return None


def _ddl(tag: str, parts: list[str]) -> Statement:
    return Statement("ddl", " ".join(parts), tag, reads_only=False)


def _create(tokens: list[Token], words: list[str], sql: str, catalog: Catalog) -> Statement:
    words = [word for word in words if word not in ("temp", "temporary", "unlogged", "global", "local")]
    if len(words) != len([token.text for token in tokens[:8]]) and "unlogged" not in [
        t.text.lower() for t in tokens[:3]
    ]:
        raise SqlError("0A000", "temporary tables are not supported")
    tokens = [token for token in tokens if token.text.lower() != "unlogged"]
    if words[1:2] == ["table"]:
        return _create_table(tokens, catalog)
    if words[1:2] == ["index"] or words[1:3] == ["unique", "index"]:
        return _create_index(tokens, catalog)
    if words[1:2] == ["view"] or words[1:4] == ["or", "replace", "view"]:
        return create_view(tokens, sql, catalog)
    raise SqlError("0A000", f"CREATE {' '.join(words[1:2]).upper()} is not supported")


def _create_table(tokens: list[Token], catalog: Catalog) -> Statement:
    texts = [token.text.lower() for token in tokens]
    if "(" not in texts or ("as" in texts and texts.index("as") < texts.index("(")):
        raise SqlError(
            "0A000", "CREATE TABLE AS is not supported", hint="create the table, then INSERT ... SELECT"
        )
    opening = texts.index("(")
    end = closing(tokens, opening)
    head = tokens[:opening]
    keys = _keys(tokens[opening + 1 : end])
    name = unquote(head[-1])
    given = split(tokens[opening + 1 : end])
    if [] in given:
        raise SqlError("42601", 'syntax error at or near ","')
    # SQLite wants all columns first.
    named = with_checks_named(name, sorted(given, key=lambda item: not is_column(item)))
    check_references(name, named, catalog)
    items = [_item(item, keys) for item in with_expressions(named, described(name, named))]
    body = [part for item in items for part in (*item, ",")][:-1]
    return _ddl("CREATE TABLE", [*plain(head), "(", *body, ")"])


def _keys(tokens: list[Token]) -> set[str]:
    """The columns of a primary key that is written after them: in SQLite they may be NULL."""
    found = set()
    for item in split(tokens):
        words = [token.text.lower() for token in item]
        words = words[2:] if words[:1] == ["constraint"] else words
        if words[:3] == ["primary", "key", "("]:
            opening = next(at for at, token in enumerate(item) if token.text == "(")
            found |= {unquote(each[0]) for each in split(item[opening + 1 : closing(item, opening)]) if each}
    return found


def _item(item: list[Token], keys: set[str]) -> list[str]:
    if not is_column(item):
        if item[0].text.lower() in ("like", "exclude"):
            raise SqlError("0A000", f"{item[0].text.upper()} in CREATE TABLE is not supported")
        if "match full" in " ".join(token.text.lower() for token in item):  # SQLite reads it, and no more
            raise SqlError("0A000", "FOREIGN KEY ... MATCH FULL is not supported")
        return plain(item)
    return [*column(item), *(["NOT NULL"] if unquote(item[0]) in keys else [])]


def _create_index(tokens: list[Token], catalog: Catalog) -> Statement:
    kept = [token for token in tokens if token.text.lower() != "concurrently"]
    texts = [token.text.lower() for token in kept]
    if "using" in texts:
        at = texts.index("using")
        method = " ".join(texts[at + 1 : at + 2])
        if method != "btree":
            raise SqlError("0A000", f"index method {method} is not supported", hint="use btree")
        kept = kept[:at] + kept[at + 2 :]
        texts = [token.text.lower() for token in kept]
    if "(" not in texts or "on" not in texts:
        raise SqlError("42601", "syntax error at end of input")
    opening = texts.index("(")
    end = closing(kept, opening)
    info = catalog.table(unquote(kept[opening - 1]))
    items = split(kept[opening + 1 : end])
    if "" in (" ".join(token.text for token in item) for item in items):
        raise SqlError("42601", f'syntax error at or near "{kept[opening + 1].text}"')
    parts = [_indexed(item, info) for item in items]
    on = texts.index("on")
    head = plain(kept[:opening])
    if texts[on - 1] == "index":
        names = [name for _, name in parts]
        made = "_".join([unquote(kept[opening - 1]), *names, "idx"]).replace('"', '""')
        head = [*plain(kept[:on]), f'"{made}"', *plain(kept[on:opening])]
    rest = kept[end + 1 :]
    is_partial = texts[end + 1 : end + 2] == ["where"] and info is not None
    where = ["WHERE", expression(source(rest[1:]), info)] if is_partial else plain(rest)
    return _ddl("CREATE INDEX", [*head, "(", ", ".join(text for text, _ in parts), ")", *where])


def _indexed(item: list[Token], info: TableInfo | None) -> tuple[str, str]:
    """A column or an expression of an index, and what PostgreSQL's names of indexes call it."""
    kept = [token for token in item if not token.text.lower().endswith("_ops")]
    called = len(kept) > 1 and kept[1].text == "("
    size = closing(kept, int(called)) + 1 if called or kept[0].text == "(" else 1
    text = expression(source(kept[:size]), info) if size > 1 and info else " ".join(plain(kept[:size]))
    name = unquote(kept[0]) if size == 1 or called else "expr"
    return " ".join([text, *plain(kept[size:])]), name


def _other_that_references(items: list[list[Token]], catalog: Catalog) -> tuple[str, str] | None:
    """One of the tables, and another one that is not among them and has a foreign key to it."""
    names = [unquote(item[-1]).lower() for item in items if item]
    for name in names:
        info = catalog.table(name)
        for other in info.referenced_by if info is not None else ():
            if other.lower() not in names:
                return name, other
    return None


def _views_of(names: list[str], catalog: Catalog) -> list[str]:
    """Views that read them and are not among them, each before those that it reads."""
    found: list[str] = []
    for name in names:
        info = catalog.table(name)
        direct = [view for view in (info.viewed_by if info is not None else ()) if view.lower() not in names]
        for view in [*_views_of([view.lower() for view in direct], catalog), *direct] if direct else []:
            if view not in found:
                found.append(view)
    return found


def _drop(tokens: list[Token], words: list[str], catalog: Catalog) -> Statement:
    what = words[1] if len(words) > 1 else ""
    if what not in ("table", "index", "view"):
        raise SqlError("0A000", f"DROP {what.upper()} is not supported")
    kept = [token for token in tokens if token.text.lower() not in ("cascade", "restrict", "concurrently")]
    start = 4 if words[2:4] == ["if", "exists"] else 2
    head = " ".join(token.text for token in kept[:start])
    if what == "table" and (found := _other_that_references(split(kept[start:]), catalog)):
        # SQLite would delete all rows first, and with them those that reference them.
        if tokens[-1].text.lower() == "cascade":
            raise SqlError("0A000", f"DROP TABLE {found[0]} CASCADE: table {found[1]} references it")
        raise SqlError("2BP01", f"cannot drop table {found[0]} because other objects depend on it")
    named = [unquote(item[-1]).lower() for item in split(kept[start:]) if item]
    views = [] if what == "index" else _views_of(named, catalog)
    if views and tokens[-1].text.lower() != "cascade":
        raise SqlError(
            "2BP01",
            f"cannot drop {what} {named[0]} because other objects depend on it: view {views[-1]}",
            hint="Use DROP ... CASCADE to drop the dependent objects too.",
        )
    names = [" ".join(plain(item)) for item in split(kept[start:])]
    quoted = ['"' + view.replace('"', '""') + '"' for view in views]
    statements = "; ".join([f"DROP VIEW {view}" for view in quoted] + [f"{head} {name}" for name in names])
    return Statement("ddl", statements, f"DROP {what.upper()}", reads_only=False)


def _truncate(tokens: list[Token], catalog: Catalog) -> Statement:
    kept = [
        token for token in tokens[1:] if token.text.lower() not in ("table", "only", "cascade", "restrict")
    ]
    texts = [token.text.lower() for token in kept]
    for word in ("restart", "continue"):
        if word in texts:
            kept = kept[: texts.index(word)]
    if found := _other_that_references(split(kept), catalog):
        raise SqlError("0A000", f"cannot truncate a table referenced in a foreign key constraint: {found[1]}")
    statements = [f"DELETE FROM {' '.join(plain(item))}" for item in split(kept)]
    if "restart" in texts:
        for item in split(kept):
            info = catalog.table(unquote(item[-1]))
            if info is not None and info.counts:
                name = info.name.replace("'", "''")
                statements.append(f"DELETE FROM sqlite_sequence WHERE name = '{name}'")
    return Statement("ddl", "; ".join(statements), "TRUNCATE TABLE", reads_only=False)
