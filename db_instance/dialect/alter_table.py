"""ALTER TABLE: each of its actions becomes a statement of SQLite's, all run as one."""

from dataclasses import replace
from typing import Final

from db_instance.dialect.clauses import column, declared_column, plain, split
from db_instance.dialect.constraints import check_references, with_checks_named, with_expressions
from db_instance.dialect.lexer import Token, unquote
from db_instance.dialect.statement import Catalog, SqlError, Statement, TableInfo

_TAG: Final = "ALTER TABLE"


def alter_table(tokens: list[Token], catalog: Catalog) -> Statement:
    """What IF EXISTS and IF NOT EXISTS come to is decided by the catalog. Raises SqlError."""
    rest, if_exists = _without(tokens[2:], "if", "exists")
    rest, _ = _without(rest, "only")
    qualified = len(rest) > 1 and rest[1].text == "."
    name, actions = (rest[:3], rest[3:]) if qualified else (rest[:1], rest[1:])
    if not actions:
        raise SqlError("42601", "syntax error at end of input")
    info = catalog.table(unquote(name[-1]))
    if info is None and if_exists:
        return Statement("noop", tag=_TAG)
    table = "".join(plain(name))
    done = [text for action in split(actions) for text in _action(table, action, info, catalog)]
    if not done:
        return Statement("noop", tag=_TAG)
    return Statement("ddl", "; ".join(done), _TAG, reads_only=False)


def _without(tokens: list[Token], *words: str) -> tuple[list[Token], bool]:
    """The tokens after these words, and whether they begin with them."""
    found = tuple(token.text.lower() for token in tokens[: len(words)]) == words
    return (tokens[len(words) :] if found else tokens), found


def _action(table: str, action: list[Token], info: TableInfo | None, catalog: Catalog) -> list[str]:
    words = [token.text.lower() for token in action]
    match words:
        case ["add", "primary", "key", *_]:
            name = f'"{table.strip(chr(34))}_pkey"'
            return [_joined("CREATE UNIQUE INDEX IF NOT EXISTS", name, "ON", table, *plain(action[3:]))]
        case ["add", "unique", "(", *_]:
            name = "_".join(
                [table.strip('"'), *(word.strip('"') for word in words[3:] if word not in ",()"), "key"]
            )
            return [_joined("CREATE UNIQUE INDEX", f'"{name}"', "ON", table, *plain(action[2:]))]
        case ["add", "constraint", _, "primary", "key", *_]:
            return [_joined("CREATE UNIQUE INDEX", action[2].text, "ON", table, *plain(action[5:]))]
        case ["add", "constraint", _, "unique", "(", *_]:
            return [_joined("CREATE UNIQUE INDEX", action[2].text, "ON", table, *plain(action[4:]))]
        case ["add", "constraint" | "check" | "foreign" | "exclude", *_] | ["drop", "constraint", *_]:
            pass
        case ["add", *_]:
            return _add_column(table, _without(action[1:], "column")[0], info, catalog)
        case ["drop", *_]:
            return _drop_column(table, _without(action[1:], "column")[0], info)
        case ["rename", *_]:
            return [_joined("ALTER TABLE", table, *plain(action))]
    raise SqlError("0A000", f"ALTER TABLE ... {' '.join(words[:2]).upper()} is not supported")


def _add_column(table: str, action: list[Token], info: TableInfo | None, catalog: Catalog) -> list[str]:
    action, if_not_exists = _without(action, "if", "not", "exists")
    if if_not_exists and action and _has(info, action[0]):
        return []
    if not action:
        raise SqlError("42601", "syntax error at end of input")
    info = info or TableInfo(table, ())
    check_references(info.name, [action], catalog)
    now = replace(info, columns=(*info.columns, declared_column(action)))
    named = with_expressions(with_checks_named(info.name, [action]), now)[0]
    return [_joined("ALTER TABLE", table, "ADD COLUMN", *column(named))]


def _drop_column(table: str, action: list[Token], info: TableInfo | None) -> list[str]:
    action, if_exists = _without(action, "if", "exists")
    if if_exists and action and not _has(info, action[0]):
        return []
    kept = [token for token in action if token.text.lower() not in ("cascade", "restrict")]
    return [_joined("ALTER TABLE", table, "DROP COLUMN", *plain(kept))]


def _has(info: TableInfo | None, name: Token) -> bool:
    return info is not None and any(found.name.lower() == unquote(name).lower() for found in info.columns)


def _joined(*parts: str) -> str:
    return " ".join(parts)
