"""CREATE, ALTER, DROP and TRUNCATE: SQLite takes them nearly as written; here is what it does not."""

from typing import Final

from db_instance.dialect.alter_table import alter_table
from db_instance.dialect.clauses import closing, column, plain, split, with_checks_named
from db_instance.dialect.lexer import Token, unquote
from db_instance.dialect.statement import Catalog, SqlError, Statement

_CONSTRAINTS: Final = {"primary", "unique", "check", "foreign", "constraint", "exclude", "like"}


def definition(tokens: list[Token], catalog: Catalog) -> Statement | None:
    """The statement if it defines something; None otherwise. Raises SqlError."""
    words = [token.text.lower() for token in tokens[:8]]
    if words[:1] == ["truncate"]:
        return _truncate(tokens, catalog)
    if words[:1] == ["create"]:
        return _create(tokens, words)
    if words[:1] == ["drop"]:
        return _drop(tokens, words, catalog)
    if words[:2] == ["alter", "table"]:
        return alter_table(tokens, catalog)
    if words[:1] == ["alter"]:
        raise SqlError("0A000", f"ALTER {' '.join(words[1:2]).upper()} is not supported")
    return None


def _ddl(tag: str, parts: list[str]) -> Statement:
    return Statement("ddl", " ".join(parts), tag, reads_only=False)


def _create(tokens: list[Token], words: list[str]) -> Statement:
    words = [word for word in words if word not in ("temp", "temporary", "unlogged", "global", "local")]
    if len(words) != len([token.text for token in tokens[:8]]) and "unlogged" not in [
        t.text.lower() for t in tokens[:3]
    ]:
        raise SqlError("0A000", "temporary tables are not supported")
    tokens = [token for token in tokens if token.text.lower() != "unlogged"]
    if words[1:2] == ["table"]:
        return _create_table(tokens)
    if words[1:2] == ["index"] or words[1:3] == ["unique", "index"]:
        return _create_index(tokens)
    if words[1:2] == ["view"] or words[1:4] == ["or", "replace", "view"]:
        if words[1] == "or":
            raise SqlError("0A000", "CREATE OR REPLACE VIEW is not supported", hint="drop the view first")
        return _ddl("CREATE VIEW", plain(tokens))
    raise SqlError("0A000", f"CREATE {' '.join(words[1:2]).upper()} is not supported")


def _create_table(tokens: list[Token]) -> Statement:
    texts = [token.text.lower() for token in tokens]
    if "(" not in texts or ("as" in texts and texts.index("as") < texts.index("(")):
        raise SqlError(
            "0A000", "CREATE TABLE AS is not supported", hint="create the table, then INSERT ... SELECT"
        )
    opening = texts.index("(")
    end = closing(tokens, opening)
    head = tokens[:opening]
    keys = _keys(tokens[opening + 1 : end])
    named = with_checks_named(unquote(head[-1]), split(tokens[opening + 1 : end]))
    items = [_item(item, keys) for item in named]
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
    if not item:
        raise SqlError("42601", 'syntax error at or near ","')
    if item[0].kind == "word" and item[0].text.lower() in _CONSTRAINTS:
        if item[0].text.lower() in ("like", "exclude"):
            raise SqlError("0A000", f"{item[0].text.upper()} in CREATE TABLE is not supported")
        if "match full" in " ".join(token.text.lower() for token in item):  # SQLite reads it, and no more
            raise SqlError("0A000", "FOREIGN KEY ... MATCH FULL is not supported")
        return plain(item)
    return [*column(item), *(["NOT NULL"] if unquote(item[0]) in keys else [])]


def _create_index(tokens: list[Token]) -> Statement:
    kept = [token for token in tokens if token.text.lower() != "concurrently"]
    texts = [token.text.lower() for token in kept]
    if "using" in texts:
        at = texts.index("using")
        if texts[at + 1] != "btree":
            raise SqlError("0A000", f"index method {texts[at + 1]} is not supported", hint="use btree")
        kept = kept[:at] + kept[at + 2 :]
    opening = next((i for i, token in enumerate(kept) if token.text == "("), None)
    if opening is None:
        raise SqlError("42601", "syntax error at end of input")
    if kept[opening - 2].text.lower() == "index":
        raise SqlError("0A000", "an index needs a name")
    return _ddl("CREATE INDEX", plain(kept))


def _other_that_references(items: list[list[Token]], catalog: Catalog) -> tuple[str, str] | None:
    """One of the tables, and another one that is not among them and has a foreign key to it."""
    names = [unquote(item[-1]).lower() for item in items if item]
    for name in names:
        info = catalog.table(name)
        for other in info.referenced_by if info is not None else ():
            if other.lower() not in names:
                return name, other
    return None


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
    names = [" ".join(plain(item)) for item in split(kept[start:])]
    statements = "; ".join(f"{head} {name}" for name in names)
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
