"""CREATE, ALTER, DROP and TRUNCATE: SQLite takes them nearly as written; here is what it does not.

Worked on tokens, so that everything not understood stays as the client wrote it and SQLite itself accepts
or refuses it. Types keep their PostgreSQL names as SQLite's declared types; what SQLite would not enforce
(integers are integers, lengths are limits) becomes a CHECK.
"""

import re
from typing import Final

from db_instance.dialect import types
from db_instance.dialect.lexer import Token, string_value, unquote
from db_instance.dialect.statement import SqlError, Statement

_SERIALS: Final = {"serial", "bigserial", "smallserial", "serial4", "serial8"}
_INTEGERS: Final = {"int", "integer", "int4", "bigint", "int8", "smallint", "int2"}
_INT_OIDS: Final = {types.INT2: 15, types.INT4: 31, types.INT8: 63}
_CONSTRAINTS: Final = {"primary", "unique", "check", "foreign", "constraint", "exclude", "like"}


def definition(tokens: list[Token], sql: str) -> Statement | None:
    """The statement if it defines something; None otherwise. Raises SqlError."""
    words = [token.text.lower() for token in tokens[:8]]
    if words[:1] == ["truncate"]:
        return _truncate(tokens)
    if words[:1] == ["create"]:
        return _create(tokens, words)
    if words[:1] == ["drop"]:
        return _drop(tokens, words)
    if words[:2] == ["alter", "table"]:
        return _alter_table(tokens)
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
        return _ddl("CREATE VIEW", _plain(tokens))
    raise SqlError("0A000", f"CREATE {' '.join(words[1:2]).upper()} is not supported")


def _plain(tokens: list[Token]) -> list[str]:
    """Tokens as SQLite reads them: schema names of ours gone, strings without escapes."""
    parts: list[str] = []
    skip = False
    for index, token in enumerate(tokens):
        following = tokens[index + 1].text if index + 1 < len(tokens) else ""
        if skip:
            skip = False
            continue
        if token.kind in ("word", "name") and unquote(token) in ("public", "pg_catalog") and following == ".":
            skip = True
            continue
        if token.kind == "string":
            parts.append("'" + string_value(token.text).replace("'", "''") + "'")
        elif token.text.lower() in ("now", "transaction_timestamp") and following == "(":
            parts.append("sixfold_now")
        else:
            parts.append(token.text)
    return parts


def _create_table(tokens: list[Token]) -> Statement:
    texts = [token.text.lower() for token in tokens]
    if "(" not in texts or ("as" in texts and texts.index("as") < texts.index("(")):
        raise SqlError(
            "0A000", "CREATE TABLE AS is not supported", hint="create the table, then INSERT ... SELECT"
        )
    opening = texts.index("(")
    closing = _closing(tokens, opening)
    head = [token for token in tokens[:opening]]
    items = [_item(item) for item in _split(tokens[opening + 1 : closing])]
    body = [part for item in items for part in (*item, ",")][:-1]
    return _ddl("CREATE TABLE", [*_plain(head), "(", *body, ")"])


def _closing(tokens: list[Token], opening: int) -> int:
    depth = 0
    for index in range(opening, len(tokens)):
        depth += {"(": 1, ")": -1}.get(tokens[index].text, 0)
        if depth == 0:
            return index
    raise SqlError("42601", "syntax error at end of input")


def _split(tokens: list[Token]) -> list[list[Token]]:
    """At the commas that are in no parentheses."""
    items: list[list[Token]] = [[]]
    depth = 0
    for token in tokens:
        depth += {"(": 1, ")": -1}.get(token.text, 0)
        if token.text == "," and depth == 0:
            items.append([])
        else:
            items[-1].append(token)
    return items


def _item(item: list[Token]) -> list[str]:
    if not item:
        raise SqlError("42601", 'syntax error at or near ","')
    if item[0].kind == "word" and item[0].text.lower() in _CONSTRAINTS:
        if item[0].text.lower() in ("like", "exclude"):
            raise SqlError("0A000", f"{item[0].text.upper()} in CREATE TABLE is not supported")
        return _plain(item)
    return _column(item)


_TYPE_WORDS: Final = {
    "double",
    "precision",
    "character",
    "varying",
    "with",
    "without",
    "time",
    "zone",
    "timestamp",
}


def _column(item: list[Token]) -> list[str]:
    """name type constraints -> the same with a type SQLite treats alike, and the checks it lacks."""
    name = item[0].text
    size = 2
    while size < len(item) and item[size].text.lower() in _TYPE_WORDS:
        size += 1
    arguments: list[Token] = []
    if size < len(item) and item[size].text == "(":
        end = _closing(item, size)
        arguments = item[size + 1 : end]
        size = end + 1
        while size < len(item) and item[size].text.lower() in _TYPE_WORDS:
            size += 1
    if size > len(item) or len(item) < 2:
        raise SqlError("42601", f'syntax error at or near "{name}"', item[0].at + 1)
    words = [token.text.lower() for token in item[1:size] if token.text not in "()" and token.kind == "word"]
    rest = item[size:]
    return [name, *_typed(name, " ".join(words), [token.text for token in arguments], rest)]


def _typed(name: str, declared: str, arguments: list[str], rest: list[Token]) -> list[str]:
    constraints = _constraints(rest)
    is_key = constraints[:2] == ["primary", "key"] or " primary key" in " " + " ".join(constraints).lower()
    if declared in _SERIALS:
        if not is_key:
            raise SqlError("0A000", f"column {name}: serial is supported for a primary key only")
        return ["INTEGER", *constraints]
    oid = types.oid_of_decltype(declared)
    if oid == types.NUMERIC:
        raise SqlError(
            "0A000",
            f"column {name}: type numeric is not supported yet",
            hint="use bigint or double precision",
        )
    if oid == 0:
        raise SqlError("42704", f'type "{declared}" does not exist')
    if is_key and oid in _INT_OIDS:
        return ["INTEGER", *constraints]  # SQLite's own row number, no second index
    suffix = f"({', '.join(arguments)})" if arguments else ""
    return [f"{declared}{suffix}", *constraints, *_checks(name, oid, arguments)]


def _checks(name: str, oid: int, arguments: list[str]) -> list[str]:
    if oid in _INT_OIDS:
        bits = _INT_OIDS[oid]
        span = f" AND {name} BETWEEN {-(1 << bits)} AND {(1 << bits) - 1}" if bits < 63 else ""
        return [f"CHECK ({name} IS NULL OR typeof({name}) = 'integer'{span})"]
    if oid in (types.VARCHAR, types.BPCHAR) and arguments:
        return [f"CHECK (length({name}) <= {int(arguments[0])})"]
    if oid in (types.FLOAT4, types.FLOAT8):
        return [f"CHECK ({name} IS NULL OR typeof({name}) IN ('real', 'integer'))"]
    return []


def _constraints(rest: list[Token]) -> list[str]:
    """A column's constraints; a DEFAULT that is an expression goes in parentheses."""
    parts = _plain(rest)
    text = " ".join(parts)
    if re.search(r"\bgenerated\b.*\bas identity\b", text, re.IGNORECASE):
        text = re.sub(r"\bgenerated\b.*?\bas identity\b(\s*\(.*?\))?", "", text, flags=re.IGNORECASE)
    text = re.sub(r"\bdefault\s+(sixfold_now|\w+)\s*\(\s*\)", r"DEFAULT (\1())", text, flags=re.IGNORECASE)
    return text.split()


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
    return _ddl("CREATE INDEX", _plain(kept))


def _drop(tokens: list[Token], words: list[str]) -> Statement:
    what = words[1] if len(words) > 1 else ""
    if what not in ("table", "index", "view"):
        raise SqlError("0A000", f"DROP {what.upper()} is not supported")
    kept = [token for token in tokens if token.text.lower() not in ("cascade", "restrict", "concurrently")]
    start = 4 if words[2:4] == ["if", "exists"] else 2
    head = " ".join(token.text for token in kept[:start])
    names = [" ".join(_plain(item)) for item in _split(kept[start:])]
    statements = "; ".join(f"{head} {name}" for name in names)
    return Statement("ddl", statements, f"DROP {what.upper()}", reads_only=False)


def _truncate(tokens: list[Token]) -> Statement:
    kept = [
        token for token in tokens[1:] if token.text.lower() not in ("table", "only", "cascade", "restrict")
    ]
    texts = [token.text.lower() for token in kept]
    for word in ("restart", "continue"):
        if word in texts:
            kept = kept[: texts.index(word)]
    names = [" ".join(_plain(item)) for item in _split(kept)]
    return Statement(
        "ddl", "; ".join(f"DELETE FROM {name}" for name in names), "TRUNCATE TABLE", reads_only=False
    )


def _alter_table(tokens: list[Token]) -> Statement:
    start = 2
    if [token.text.lower() for token in tokens[2:4]] == ["if", "exists"]:
        start = 4
    kept = [token for token in tokens[start:] if token.text.lower() not in ("only",)]
    table = _plain(kept[:3] if len(kept) > 1 and kept[1].text == "." else kept[:1])[0]
    action = kept[3:] if len(kept) > 1 and kept[1].text == "." else kept[1:]
    words = [token.text.lower() for token in action]
    if words[:3] == ["add", "primary", "key"]:
        return _ddl(
            "ALTER TABLE",
            ["CREATE UNIQUE INDEX IF NOT EXISTS", f'"{_bare(table)}_pkey"', "ON", table, *_plain(action[3:])],
        )
    if words[:2] == ["add", "constraint"] and words[3:5] in (["primary", "key"], ["unique", "("]):
        rest = action[5:] if words[3] == "primary" else action[4:]
        return _ddl("ALTER TABLE", ["CREATE UNIQUE INDEX", action[2].text, "ON", table, *_plain(rest)])
    if words[:1] == ["add"] and words[1:2] != ["constraint"]:
        column = action[2:] if words[1] == "column" else action[1:]
        return _ddl("ALTER TABLE", ["ALTER TABLE", table, "ADD COLUMN", *_column(column)])
    if words[:1] in (["rename"], ["drop"]) and words[1:2] != ["constraint"]:
        return _ddl("ALTER TABLE", ["ALTER TABLE", table, *_plain(action)])
    raise SqlError("0A000", f"ALTER TABLE ... {' '.join(words[:2]).upper()} is not supported")


def _bare(name: str) -> str:
    return name.strip('"')
