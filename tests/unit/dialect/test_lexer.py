"""Statements are split at semicolons that separate them, and at no other."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from db_instance.dialect import SqlError, split_statements
from db_instance.dialect.lexer import string_value, tokens

_TEXT = st.text(alphabet="ab;'\"$-/*\\ \n", max_size=6)


def _dollars(text: str) -> str:
    return "$" + "$" + text.replace("$", "") + "$" + "$"


_PIECES = st.one_of(
    st.sampled_from(["select", "x1", "1.5", "$1", "::", "(", ")", "<=", "->>"]),
    _TEXT.map(lambda text: "'" + text.replace("'", "''") + "'"),
    _TEXT.map(lambda text: "E'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"),
    _TEXT.map(lambda text: '"' + text.replace('"', '""') + '"'),
    _TEXT.map(_dollars),
    _TEXT.map(lambda text: f"$tag${text}$tag$"),
)
_SPACES = st.sampled_from([" ", "\n", " -- a; b\n", " /* ; */ ", " /* a /* ; */ b; */ "])
_statements = st.lists(
    st.lists(st.tuples(_PIECES, _SPACES), min_size=1, max_size=5).map(
        lambda parts: "".join(piece + space for piece, space in parts)
    ),
    max_size=4,
)


def _bare(statement: str) -> str:
    """Without what stands before the first token and behind the last."""
    found = tokens(statement)
    return statement[found[0].at : found[-1].at + len(found[-1].text)]


@settings(max_examples=150, deadline=None)
@given(_statements)
def test_statements_put_together_come_apart_again(statements: list[str]) -> None:
    found = split_statements(";".join(statements))
    assert [[t.text for t in tokens(each)] for each in found] == [
        [t.text for t in tokens(s)] for s in statements
    ]
    assert found == [each for one in found for each in split_statements(one)], "once is enough"
    among_empty_ones = split_statements(";;" + ";; ".join(statements) + ";/* */;")
    assert among_empty_ones == [*map(_bare, found)], "empty ones are none"


@settings(max_examples=100, deadline=None)
@given(_TEXT)
def test_a_string_means_what_was_quoted(text: str) -> None:
    assert string_value("'" + text.replace("'", "''") + "'") == text
    assert string_value("E'" + text.replace("\\", "\\\\").replace("'", "''") + "'") == text
    assert string_value(f"$tag${text}$tag$") == text


@settings(max_examples=150, deadline=None)
@given(st.text(alphabet="aE;'\"$-/*\\ \n1.", max_size=14))
def test_any_text_is_split_or_refused_with_a_position(text: str) -> None:
    try:
        found = tokens(text)
    except SqlError as error:
        refused = error
    else:
        assert all(text[token.at :].startswith(token.text) for token in found)
        return
    assert refused.sqlstate == "42601"
    assert refused.position is not None and 1 <= refused.position <= len(text)


@pytest.mark.parametrize(
    ("why", "sql", "position"),
    [
        ("a string that never ends", "select 'abc", 8),
        ("a name that never ends", 'select "abc', 8),
        ("a comment that never ends", "select /* /* */ 1", 8),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_refused(why: str, sql: str, position: int) -> None:
    with pytest.raises(SqlError) as raised:
        split_statements(sql + ";")
    assert (raised.value.sqlstate, raised.value.position) == ("42601", position)


@pytest.mark.parametrize(
    ("escaped", "meant"),
    [(r"E'\n\t\\'", "\n\t\\"), (r"E'\x41\u00e4\101'", "AäA"), (r"E'it\'s'", "it's"), ("'a\\n'", "a\\n")],
)
def test_escapes(escaped: str, meant: str) -> None:
    assert string_value(escaped) == meant
