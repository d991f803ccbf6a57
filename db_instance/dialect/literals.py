"""Takes the literals out of a statement, so that texts which differ only in them are translated once. Pure.

    take_literals("UPDATE t SET a = a + 5 WHERE id = 7")
    # -> Shape("UPDATE t SET a = a + $1 WHERE id = $2", ("5", "7"), ...)

Clients that use the simple protocol write their values into the text. Only literals whose place says what
they are for are taken: behind an operator or a comma, in what follows WHERE, SET or VALUES. Those that
decide what a statement means stay (ORDER BY 1, LIMIT 5, interval '1 day', '...'::date), and so do all in a
statement that has parameters already.
"""

import re
from typing import Final, NamedTuple

from db_instance.dialect.lexer import string_value


class Shape(NamedTuple):
    sql: str
    """The text with $1, $2, ... in place of literals."""
    values: tuple[str, ...]
    is_number: tuple[bool, ...]


LITERALS_TEXT_MAX: Final = 4000
_LITERALS_MAX: Final = 200
DIGITS_MAX: Final = 18
"""Longer integers may not fit 64 bits; what SQLite makes of them is decided where they stand."""
_STARTS: Final = re.compile(r"\s*(?:select|insert|update|delete)\b", re.IGNORECASE)
_PIECE: Final = re.compile(
    r"""
    (?P<string>'(?:[^']|'')*')
  | (?P<float>(?<![\w.$])(?:\d+\.?\d*|\.\d+)[eE][+-]?\d+)
  | (?P<number>(?<![\w.$])\d+(?![\w.]))
  | (?P<word>[^\W\d][\w$]*)
  | (?P<operator><=|>=|<>|!=|[=<>+\-*,(])
  | (?P<space>\s+)
  | (?P<other>"(?:[^"]|"")*"|::|\|\||.)
    """,
    re.VERBOSE | re.DOTALL,
)
_OPENS: Final = frozenset(("where", "set"))
_CLOSES: Final = frozenset(
    [
        "order",
        "group",
        "limit",
        "having",
        "returning",
        "union",
        "intersect",
        "except",
        "offset",
        "for",
        "select",
        "from",
        "join",
        "on",
        "window",
        "fetch",
        "conflict",
        "do",
    ]
)
_PLAIN: Final = re.compile(r"'(?:[^']|'')*'|(?<![\w.$])\d+(?![\w.])")
_NOT_PLAIN: Final = re.compile(r'["$\\]|--|/\*')
"""Where literals cannot be told from other things that simply."""
_AND: Final = frozenset(("and", "or", "between", "like", "in"))


def take_literals(sql: str) -> Shape | None:
    """None if nothing is to be gained, or it is not certain that the meaning stays."""
    if len(sql) > LITERALS_TEXT_MAX or not _STARTS.match(sql):
        return None
    if "$" in sql or "--" in sql or "/*" in sql or "\\" in sql:
        return None
    parts: list[str] = []
    values: list[str] = []
    is_number: list[bool] = []
    # In a query, VALUES has columns of its own, whose types its literals decide.
    opens = _OPENS | {"values"} if sql.lstrip()[:1] in "iI" else _OPENS
    opened = False
    before = ""
    for match in _PIECE.finditer(sql):
        kind, text = match.lastgroup, match[0]
        if kind == "space":
            parts.append(text)
            continue
        if kind == "word":
            word = text.lower()
            opened = word in opens or (opened and word not in _CLOSES)
            before = "operator" if word in _AND else "word"
        elif kind in ("string", "number") and opened and before == "operator":
            if sql.startswith("::", match.end()) or (kind == "number" and len(text) > DIGITS_MAX):
                return None
            values.append(text if kind == "number" else string_value(text))
            is_number.append(kind == "number")
            text = f"${len(values)}"
            before = "literal"
        else:
            before = kind or ""
        parts.append(text)
    if not values or len(values) > _LITERALS_MAX:
        return None
    return Shape("".join(parts), tuple(values), tuple(is_number))


def plain_shape(sql: str) -> str | None:
    """The text without any of its literals, at one pass: equal for texts that differ in these only.

    None if literals cannot be told from other things that simply.
    """
    return None if _NOT_PLAIN.search(sql) else _PLAIN.sub("\0", sql)


def plain_literals(sql: str) -> list[str]:
    """The literals of a text with a plain shape, as they are written."""
    return _PLAIN.findall(sql)
