"""The constraints of a table: what they are called, and their expressions as SQLite is to check them."""

from itertools import count
from typing import Final

from db_instance.dialect.clauses import closing, declared_column, source, split
from db_instance.dialect.lexer import Token, tokens, unquote
from db_instance.dialect.queries import expression
from db_instance.dialect.statement import Catalog, SqlError, TableInfo

_OF_TABLES: Final = frozenset(("primary", "unique", "check", "foreign", "constraint", "exclude", "like"))
"""Words that begin what is no column among a table's definitions."""


def is_column(item: list[Token]) -> bool:
    return item[0].kind != "word" or item[0].text.lower() not in _OF_TABLES


def with_expressions(items: list[list[Token]], info: TableInfo) -> list[list[Token]]:
    """CHECKs, and columns GENERATED AS, of a table, `items` being among its definitions: the columns they name have
    types, which decide what is compared. Raises SqlError."""
    return [_with_expressions(item, info) for item in items]


def _with_expressions(item: list[Token], info: TableInfo) -> list[Token]:
    done: list[Token] = []
    at = 0
    for word in sorted(at_depth_zero(item, "check") + at_depth_zero(item, "as")):
        if word < at or word + 1 == len(item) or item[word + 1].text != "(":
            continue
        end = closing(item, word + 1)
        text = expression(source(item[word + 2 : end]), info)
        done += [*item[at : word + 2], Token("sql", text, item[word + 1].at)]
        at = end
    return [*done, *item[at:]]


def described(name: str, items: list[list[Token]]) -> TableInfo:
    """A table that is about to be made, as queries will know it."""
    return TableInfo(name, tuple(declared_column(item) for item in items if is_column(item)))


def check_references(name: str, items: list[list[Token]], catalog: Catalog) -> None:
    """Foreign keys are of keys that are there: SQLite would say so with the first row. Raises SqlError."""
    for item in items:
        for at in at_depth_zero(item, "references"):
            parts = item[at + 1 : at + 4]
            end = at + (4 if len(parts) == 3 and parts[1].text == "." else 2)
            parent = unquote(item[end - 1]) if end <= len(item) else ""
            if parent.lower() != name.lower():
                is_list = end < len(item) and item[end].text == "("
                given = split(item[end + 1 : closing(item, end)]) if is_list else []
                _check_reference(parent, [unquote(each[0]) for each in given if each], catalog)


def _check_reference(parent: str, given: list[str], catalog: Catalog) -> None:
    info = catalog.table(parent)
    if info is None:
        raise SqlError("42P01", f'relation "{parent}" does not exist')
    known = {column.name.lower() for column in info.columns}
    if missing := next((each for each in given if each.lower() not in known), None):
        raise SqlError("42703", f'column "{missing}" referenced in foreign key constraint does not exist')
    if not given and not info.primary_key:
        raise SqlError("42704", f'there is no primary key for referenced table "{info.name}"')
    keys = [info.primary_key, *info.unique]
    if given and {each.lower() for each in given} not in [{each.lower() for each in key} for key in keys]:
        told = f'there is no unique constraint matching given keys for referenced table "{info.name}"'
        raise SqlError("42830", told)


def named_keys(table_sql: str) -> dict[tuple[str, ...], str]:
    """The names of a table's constraints that are unique, which SQLite forgets, by their columns."""
    found = {}
    try:
        given = tokens(table_sql)
        opening = next(at for at, token in enumerate(given) if token.text == "(")
        items = split(given[opening + 1 : closing(given, opening)])
    except (SqlError, StopIteration):  # not written by us
        return {}
    for item in items:
        words = [token.text.lower() for token in item]
        for at, word in enumerate(words):
            if (
                word != "constraint"
                or item[at].kind != "word"
                or words[at + 2 : at + 3] not in (["unique"], ["primary"])
            ):
                continue
            if at:
                columns: list[list[Token]] = [item[:1]]
            else:
                start = words.index("(")
                columns = split(item[start + 1 : closing(item, start)])
            found[tuple(unquote(each[0]) for each in columns)] = unquote(item[at + 1])
    return found


def with_checks_named(table: str, items: list[list[Token]]) -> list[list[Token]]:
    """CHECKs that nobody named are called as PostgreSQL would call them: SQLite's name would be the expression."""
    columns = {unquote(item[0]) for item in items}
    taken = {
        unquote(item[at + 1])
        for item in items
        for at in at_depth_zero(item, "constraint")
        if at + 1 < len(item)
    }
    named = []
    for item in items:
        given: list[Token] = []
        checks = at_depth_zero(item, "check")
        for at, token in enumerate(item):
            is_named = at > 1 and item[at - 2].text.lower() == "constraint"
            if at in checks and not is_named and at + 1 < len(item):
                inside = item[at + 1 : closing(item, at + 1)]
                used = {unquote(each) for each in inside if each.kind in ("word", "name")} & columns
                base = "_".join([table, *(used if len(used) == 1 else ()), "check"])
                name = next(each for number in count() if (each := f"{base}{number or ''}") not in taken)
                taken.add(name)
                quoted = '"' + name.replace('"', '""') + '"'
                given += [Token("word", "CONSTRAINT", token.at), Token("name", quoted, token.at)]
            given.append(token)
        named.append(given)
    return named


def at_depth_zero(item: list[Token], word: str) -> list[int]:
    found, depth = [], 0
    for at, token in enumerate(item):
        depth += {"(": 1, ")": -1}.get(token.text, 0)
        if not depth and token.kind == "word" and token.text.lower() == word:
            found.append(at)
    return found
