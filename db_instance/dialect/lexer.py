"""PostgreSQL's tokens, as far as statements are split and utility commands are told apart by them."""

import re
from typing import Final, NamedTuple

from db_instance.dialect.statement import SqlError


class Token(NamedTuple):
    kind: str
    """word, name ("quoted"), string, number, param, symbol."""
    text: str
    at: int


_TOKEN: Final = re.compile(
    r"""
    (?P<space>\s+|--[^\n]*)
  | (?P<comment>/\*)
  | (?P<string>[eE]'(?:[^'\\]|\\.|'')*'|[bBxXnN]?'(?:[^']|'')*'|(?P<dollar>\$(?:[^\W\d]\w*)?\$).*?(?P=dollar))
  | (?P<name>"(?:[^"]|"")*")
  | (?P<param>\$\d+)
  | (?P<number>(?:\d[\d_]*\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)
  | (?P<word>[^\W\d][\w$]*)
  | (?P<symbol>::|<=|>=|<>|!=|\|\||->>|->|[^\s\w])
    """,
    re.VERBOSE | re.DOTALL,
)


def tokens(sql: str) -> list[Token]:
    """All tokens, without space and comments. Raises SqlError for what never ends."""
    found = []
    at = 0
    while at < len(sql):
        match = _TOKEN.match(sql, at)
        if match is None:
            raise SqlError("42601", f'syntax error at or near "{sql[at : at + 20]}"', at + 1)
        if match["comment"]:
            at = _comment_end(sql, at)
            continue
        kind = match.lastgroup or ""
        kind = "string" if kind == "dollar" else kind
        if kind == "symbol" and match[0] in "'\"":
            raise SqlError("42601", "unterminated quoted string", at + 1)
        if kind != "space":
            found.append(Token(kind, match[0], at))
        at = match.end()
    return found


def _comment_end(sql: str, start: int) -> int:
    """Comments nest."""
    depth = 0
    for match in re.finditer(r"/\*|\*/", sql[start:]):
        depth += 1 if match[0] == "/*" else -1
        if depth == 0:
            return start + match.end()
    raise SqlError("42601", "unterminated /* comment", start + 1)


def split_statements(sql: str) -> list[str]:
    """The statements between semicolons, without empty ones."""
    if ";" not in sql:
        return [sql] if sql.strip() and tokens(sql) else []
    statements = []
    start: int | None = None
    end = 0
    for token in tokens(sql):
        if token.text == ";" and token.kind == "symbol":
            if start is not None:
                statements.append(sql[start:end])
            start = None
            continue
        start = token.at if start is None else start
        end = token.at + len(token.text)
    if start is not None:
        statements.append(sql[start:end])
    return statements


def unquote(token: Token) -> str:
    """A name or string as it is meant."""
    if token.kind == "name":
        return token.text[1:-1].replace('""', '"')
    if token.kind == "string":
        return string_value(token.text)
    return token.text.lower() if token.kind == "word" else token.text


_ESCAPES: Final = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f"}


def string_value(text: str) -> str:
    if text.startswith("$"):
        size = text.index("$", 1) + 1
        return text[size:-size]
    if text[0] in "eE":
        body = text[2:-1].replace("''", "'")
        return re.sub(r"\\(x[0-9a-fA-F]{1,2}|u[0-9a-fA-F]{4}|[0-7]{1,3}|.)", _unescape, body, flags=re.DOTALL)
    return text[text.index("'") + 1 : -1].replace("''", "'")


def _unescape(match: re.Match[str]) -> str:
    code = match[1]
    if code[0] in "xu" and len(code) > 1:
        return chr(int(code[1:], 16))
    if code[0] in "01234567":
        return chr(int(code, 8) & 0xFF)
    return _ESCAPES.get(code, code)
