import pytest
from hypothesis import given
from hypothesis import strategies as st

from sixfold.statements import is_blank, split


@pytest.mark.parametrize(
    ("why", "text", "statements", "rest"),
    [
        ("two, and a rest",          "SELECT 1; SELECT 2; SEL",      ["SELECT 1", "SELECT 2"], " SEL"),
        ("empty ones are left out",  ";;  ; SELECT 1;",              ["SELECT 1"], ""),
        ("in a string",              "SELECT 'a;''b';",              ["SELECT 'a;''b'"], ""),
        ("a backslash ends nothing", r"SELECT '\'; SELECT 2;",       [r"SELECT '\'", "SELECT 2"], ""),
        ("an E string escapes it",   r"SELECT E'\';' ; SELECT 2;",   [r"SELECT E'\';'", "SELECT 2"], ""),
        ("in a name",                'SELECT ";" FROM t;',           ['SELECT ";" FROM t'], ""),
        ("in a line comment",        "SELECT 1 -- a;b\n+ 2;",        ["SELECT 1 -- a;b\n+ 2"], ""),
        ("in a nested comment",      "SELECT /* a; /* b; */ c; */1;", ["SELECT /* a; /* b; */ c; */1"], ""),
        ("in dollar quotes",         "SELECT $$a;b$$, $x$;$$;$x$;",  ["SELECT $$a;b$$, $x$;$$;$x$"], ""),
        ("a parameter is no quote",  "SELECT $1; SELECT a$b; c$b;",  ["SELECT $1", "SELECT a$b", "c$b"], ""),
        ("an open string goes on",   "SELECT 'a; b",                 [], "SELECT 'a; b"),
        ("an open comment goes on",  "SELECT 1 /* ; ",               [], "SELECT 1 /* ; "),
        ("open dollar quotes go on", "SELECT $$ ; ",                 [], "SELECT $$ ; "),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_statements_end_at_their_semicolon(why: str, text: str, statements: list[str], rest: str) -> None:
    assert split(text) == (statements, rest)


@given(st.text(alphabet="a;'\"$-/*\nE\\ ", max_size=40))
def test_any_text_is_cut_without_losing_a_letter(text: str) -> None:
    statements, rest = split(text)
    together = "".join([*statements, rest])
    assert [char for char in text if char not in "; \n"] == [char for char in together if char not in "; \n"]


@given(st.text(alphabet="a;'$-/*\n ", max_size=30), st.text(alphabet="a;'$-/*\n ", max_size=30))
def test_a_prompt_sees_the_same_statements_line_by_line(first: str, second: str) -> None:
    begun, rest = split(first + "\n")
    ended, _ = split(rest + second + "\n")
    assert begun + ended == split(f"{first}\n{second}\n")[0]


@pytest.mark.parametrize(
    ("text", "expected"),
    [("", True), (" \n", True), ("-- a\n /* b */ ", True), ("/* open", True), ("a", False), ("''", False)],
)
def test_blank(text: str, expected: bool) -> None:
    assert is_blank(text) is expected
