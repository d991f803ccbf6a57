"""Cuts SQL text into statements at the semicolons that end one. Pure.

    split("SELECT ';'; SELECT")   -> (["SELECT ';'"], " SELECT")

Semicolons inside quotes, dollar quotes and comments end nothing.
"""

import re
from typing import Final

TOKEN: Final = re.compile(
    r"""
      (?P<string> (?<![\w$])[eE]'(?:[^'\\]|\\.|'')*(?:'|\Z) | '(?:[^']|'')*(?:'|\Z) )
    | (?P<name>   "(?:[^"]|"")*(?:"|\Z) )
    | (?P<line>   --[^\n]* )
    | (?P<block>  /\* )
    | (?P<dollar> (?<![\w$])\$(?:[^\W\d]\w*)?\$ )
    | (?P<end>    ; )
    """,
    re.VERBOSE | re.DOTALL,
)
BLOCK_EDGE: Final = re.compile(r"/\*|\*/")


def split(text: str) -> tuple[list[str], str]:
    """The whole statements, without their semicolon, and the rest that is not ended yet."""
    statements: list[str] = []
    start = position = 0
    while (token := TOKEN.search(text, position)) is not None:
        position = token.end()
        match token.lastgroup:
            case "end":
                statements.append(text[start : token.start()].strip())
                start = position
            case "block":
                position = _end_of_block(text, position)
            case "dollar":
                closing = text.find(token[0], position)
                position = len(text) if closing < 0 else closing + len(token[0])
    return [statement for statement in statements if statement], text[start:]


def is_blank(text: str) -> bool:
    """Whether nothing but space and comments is in it."""
    position = 0
    while (token := TOKEN.search(text, position)) is not None:
        if text[position : token.start()].strip() or token.lastgroup not in ("line", "block"):
            return False
        position = _end_of_block(text, token.end()) if token.lastgroup == "block" else token.end()
    return not text[position:].strip()


def _end_of_block(text: str, position: int) -> int:
    """Block comments nest, as in PostgreSQL."""
    depth = 1
    while depth and (edge := BLOCK_EDGE.search(text, position)) is not None:
        depth += 1 if edge[0] == "/*" else -1
        position = edge.end()
    return len(text) if depth else position
