"""The clauses of definitions: lists in parentheses, columns with their types, defaults and checks.

Worked on tokens, so that everything not understood stays as the client wrote it and SQLite itself accepts
or refuses it. Types keep their PostgreSQL names as SQLite's declared types; what SQLite would not enforce
(integers are integers, lengths are limits) becomes a CHECK.
"""

from decimal import ROUND_HALF_UP, Decimal, InvalidOperation
from typing import Final

from db_instance.dialect import types
from db_instance.dialect.lexer import Token, string_value, unquote
from db_instance.dialect.queries import expression
from db_instance.dialect.statement import Column, SqlError

_SERIALS: Final = {"serial", "bigserial", "smallserial", "serial2", "serial4", "serial8"}
_INTEGERS: Final = {"int", "integer", "int4", "bigint", "int8", "smallint", "int2"}
_NEXT_CONSTRAINT: Final = {
    "not",
    "null",
    "primary",
    "unique",
    "check",
    "references",
    "constraint",
    "collate",
    "default",
    "generated",
}
"""Words that begin a constraint, and so end what is before it."""
_TIMES: Final = frozenset((types.DATE, types.TIMESTAMP, types.TIMESTAMPTZ))
_TEXTS_TO_SQLITE: Final = frozenset((types.JSON, types.JSONB, types.NAME))
_READ: Final = _TIMES | {types.BOOL, types.BYTEA, types.TIME, types.UUID, types.JSON, types.JSONB}
_INTEGER_BITS: Final = {types.INT2: 15, types.INT4: 31, types.INT8: 63}


def plain(given: list[Token]) -> list[str]:
    """Tokens as SQLite reads them: schema names of ours gone, strings without escapes."""
    parts: list[str] = []
    skip = False
    for index, token in enumerate(given):
        following = given[index + 1].text if index + 1 < len(given) else ""
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


def closing(given: list[Token], opening: int) -> int:
    depth = 0
    for index in range(opening, len(given)):
        depth += {"(": 1, ")": -1}.get(given[index].text, 0)
        if depth == 0:
            return index
    raise SqlError("42601", "syntax error at end of input")


def split(given: list[Token]) -> list[list[Token]]:
    """At the commas that are in no parentheses."""
    items: list[list[Token]] = [[]]
    depth = 0
    for token in given:
        depth += {"(": 1, ")": -1}.get(token.text, 0)
        if token.text == "," and depth == 0:
            items.append([])
        else:
            items[-1].append(token)
    return items


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


def column(item: list[Token]) -> list[str]:
    """name type constraints -> the same with a type SQLite treats alike, and the checks it lacks."""
    name = item[0].text
    declared, arguments, rest = _declaration(item)
    return [name, *_typed(name, declared, [token.text for token in arguments], rest)]


def declared_column(item: list[Token]) -> Column:
    """The same column as queries know it."""
    return Column(unquote(item[0]), types.oid_of_decltype(_declaration(item)[0]))


def _declaration(item: list[Token]) -> tuple[str, list[Token], list[Token]]:
    """A column's type, what stands in parentheses behind it, and its constraints."""
    size = 2
    while size < len(item) and item[size].text.lower() in _TYPE_WORDS:
        size += 1
    arguments: list[Token] = []
    if size < len(item) and item[size].text == "(":
        end = closing(item, size)
        arguments = item[size + 1 : end]
        size = end + 1
        while size < len(item) and item[size].text.lower() in _TYPE_WORDS:
            size += 1
    if size > len(item) or len(item) < 2:
        raise SqlError("42601", f'syntax error at or near "{item[0].text}"', item[0].at + 1)
    words = [token.text.lower() for token in item[1:size] if token.text not in "()" and token.kind == "word"]
    return " ".join(words), arguments, item[size:]


def _typed(name: str, declared: str, arguments: list[str], rest: list[Token]) -> list[str]:
    constraints = _constraints(rest, types.oid_of_decltype(declared))
    is_key = constraints[:2] == ["primary", "key"] or " primary key" in " " + " ".join(constraints).lower()
    if declared in _SERIALS and not is_key:
        raise SqlError("0A000", f"column {name}: serial is supported for a primary key only")
    if is_key:  # to SQLite that goes without saying for some only
        constraints = [*constraints, "NOT NULL"]
    oid = types.oid_of_decltype(declared)
    if oid == types.NUMERIC:
        raise SqlError(
            "0A000",
            f"column {name}: type numeric is not supported yet",
            hint="use bigint or double precision",
        )
    if oid == 0:
        raise SqlError("42704", f'type "{declared}" does not exist')
    if is_key and oid in _INTEGER_BITS:
        # SQLite's own row number, no second index, and an integer by itself; one that counts never comes again.
        if declared in _SERIALS or "identity" in (token.text.lower() for token in rest):
            at = next(at for at, word in enumerate(constraints) if word.lower() == "key") + 1
            constraints = [*constraints[:at], "AUTOINCREMENT", *constraints[at:]]
        return ["INTEGER", *constraints, *_range_check(name, oid)]
    if oid in _TEXTS_TO_SQLITE:
        declared += " text"  # or it would make a number of 1.50, and of 007
    suffix = f"({', '.join(arguments)})" if arguments else ""
    return [f"{declared}{suffix}", *constraints, *_checks(name, oid, arguments)]


def _checks(name: str, oid: int, arguments: list[str]) -> list[str]:
    """Each is called as PostgreSQL words its violation (session/errors.py)."""
    if oid in _INTEGER_BITS:
        return [*_kind_check(name, oid, "'integer'"), *_range_check(name, oid)]
    if oid in (types.FLOAT4, types.FLOAT8):
        return _kind_check(name, oid, "'real', 'integer'")
    if oid in (types.JSON, types.JSONB):
        return [f'CONSTRAINT "invalid input syntax for type json" CHECK (json_valid({name}))']
    if oid in (types.VARCHAR, types.BPCHAR) and arguments:
        type_name = f"{'character varying' if oid == types.VARCHAR else 'character'}({int(arguments[0])})"
        return [
            f'CONSTRAINT "value too long for type {type_name}" CHECK (length({name}) <= {int(arguments[0])})'
        ]
    return []


def _kind_check(name: str, oid: int, kinds: str) -> list[str]:
    told = f"invalid input syntax for type {types.PLAIN_NAMES[oid]}"
    return [f'CONSTRAINT "{told}" CHECK ({name} IS NULL OR typeof({name}) IN ({kinds}))']


def _range_check(name: str, oid: int) -> list[str]:
    bits = _INTEGER_BITS[oid]
    if bits == 63:
        return []
    told = f"{types.PLAIN_NAMES[oid]} out of range"  # engine/schema.py tells an integer key's type by it
    return [f'CONSTRAINT "{told}" CHECK ({name} BETWEEN {-(1 << bits)} AND {(1 << bits) - 1})']


def _constraints(rest: list[Token], oid: int) -> list[str]:
    """A column's constraints, each part of it one text. A time that is its default becomes one of its type."""
    parts: list[str] = []
    at = 0
    while at < len(rest):
        word = rest[at].text.lower()
        if word == "default" and not (at and rest[at - 1].text.lower() == "set"):
            end = _end_of_default(rest, at + 1)
            parts += ["DEFAULT", f"({_default(rest[at + 1 : end], oid)})"]
        elif word == "generated" and (end := _end_of_identity(rest, at)):
            pass
        else:
            end = at + 1
            while end < len(rest) and (
                rest[end].text.lower() not in _NEXT_CONSTRAINT or rest[end - 1].text.lower() == "set"
            ):
                end = closing(rest, end) + 1 if rest[end].text == "(" else end + 1
            parts += plain(rest[at:end])
        at = end
    return parts


def _default(given: list[Token], oid: int) -> str:
    """A literal as SQLite holds the column's type, or an expression: 'f' is false, and '2024-01-01' midnight."""
    if len(given) == 1 and given[0].kind == "string" and oid in _READ:
        try:
            value = types.decode_text(oid, string_value(given[0].text).encode())
        except types.InvalidValue as error:
            raise SqlError(error.sqlstate, error.message) from None
        return (
            f"X'{value.hex()}'"
            if isinstance(value, bytes)
            else "'" + value.replace("'", "''") + "'"
            if isinstance(value, str)
            else str(value)
        )
    text = source(given)
    if oid in types.INTEGERS and (number := _number(given)) is not None:
        return str(number.quantize(Decimal(1), ROUND_HALF_UP))
    if oid in _TIMES and text.lower() != "null":
        text = f"({text})::{types.type_name(oid)}"
    return expression(text)


def _number(given: list[Token]) -> Decimal | None:
    """A literal, with its sign."""
    try:
        return Decimal("".join(token.text for token in given))
    except InvalidOperation:
        return None


def _end_of_default(rest: list[Token], at: int) -> int:
    """Where the expression ends that begins at `at`."""
    end = at
    while end < len(rest) and (end == at or rest[end].text.lower() not in _NEXT_CONSTRAINT):
        end = closing(rest, end) + 1 if rest[end].text == "(" else end + 1
    if end == at:
        raise SqlError("42601", "syntax error at end of input")
    return end


def _end_of_identity(rest: list[Token], at: int) -> int:
    """GENERATED ... AS IDENTITY (...): SQLite gives numbers to every integer key. 0 for another GENERATED."""
    words = [token.text.lower() for token in rest[at : at + 5]]
    if "identity" not in words:
        return 0
    end = at + words.index("identity") + 1
    if end == len(rest) or rest[end].text != "(":
        return end
    options = [token.text.lower() for token in rest[end : closing(rest, end)]]
    for index, word in enumerate(options):
        value = next((each for each in options[index + 1 :] if each not in ("with", "by")), "")
        if word in ("start", "increment") and value != "1":
            raise SqlError("0A000", f"IDENTITY ({word.upper()} {value}) is not supported: keys count 1, 2, 3")
    return closing(rest, end) + 1


def source(expression_tokens: list[Token]) -> str:
    return " ".join(token.text for token in expression_tokens)
