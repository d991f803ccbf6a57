import csv
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from db_instance.session.copy import read_options
from db_instance.session.copy_format import CopyOptions, CopyReader, CopyWriter, Fields
from db_instance.session.errors import SessionError

TEXT = CopyOptions()
CSV = CopyOptions(csv=True, delimiter=b",", null=b"")
ODD_CSV = CopyOptions(csv=True, delimiter=b"|", null=b"NULL", quote=b"'", escape=b"\\")

values = st.none() | st.text(alphabet="ab\\\t\n\r\",|'NULx.é\b\v", max_size=12).map(str.encode)


def read(options: CopyOptions, data: bytes, portion: int) -> list[Fields]:
    reader = CopyReader(options)
    rows = []
    for at in range(0, len(data), portion):
        rows += reader.feed(data[at : at + portion])
    return rows + reader.finish()


@pytest.mark.parametrize("options", [TEXT, CSV, ODD_CSV], ids=["text", "csv", "odd csv"])
@given(rows=st.lists(st.lists(values, min_size=2, max_size=2), max_size=8), portion=st.integers(1, 50))
def test_what_is_written_reads_back_in_any_portions(
    options: CopyOptions, rows: list[Fields], portion: int
) -> None:
    writer = CopyWriter(options)
    data = b"".join(writer.row(row) for row in rows)
    assert read(options, data, portion) == rows


@given(
    st.lists(st.lists(st.text(alphabet='ab",\n', min_size=1, max_size=8), min_size=2, max_size=2), max_size=8)
)
def test_csv_reads_what_python_writes(rows: list[list[str]]) -> None:
    out = io.StringIO()
    csv.writer(out, quoting=csv.QUOTE_ALL, lineterminator="\n").writerows(rows)
    expected = [[value.encode() for value in row] for row in rows]
    assert read(CSV, out.getvalue().encode(), 7) == expected


@pytest.mark.parametrize(
    ("why", "options", "data", "expected"),
    [
        ("null is backslash N", TEXT, b"\\N\tN\n", [[None, b"N"]]),
        ("escapes", TEXT, b"a\\tb\\x41\\101\\\\\tz\n", [[b"a\tbAA\\", b"z"]]),
        ("escaped delimiter", TEXT, b"a\\\tb\tc\n", [[b"a\tb", b"c"]]),
        ("escaped newline", TEXT, b"a\\\nb\tc\n", [[b"a\nb", b"c"]]),
        ("end marker", TEXT, b"1\t2\n\\.\n3\t4\n", [[b"1", b"2"]]),
        ("no last newline", TEXT, b"1\t2", [[b"1", b"2"]]),
        ("carriage returns", TEXT, b"1\t2\r\n3\t4\r\n", [[b"1", b"2"], [b"3", b"4"]]),
        ("csv null is nothing, empty is quoted", CSV, b',""\n', [[None, b""]]),
        ("csv quote in quotes", CSV, b'"a""b",c\n', [[b'a"b', b"c"]]),
        ("csv newline in quotes", CSV, b'"a\nb",c\n', [[b"a\nb", b"c"]]),
        ("csv quotes within a field", CSV, b'a"b,"c,d\n', [[b"ab,c", b"d"]]),
        ("null is a word", CopyOptions(null=b"NULL"), b"NULL\tNULLS\n1\t\n", [[None, b"NULLS"], [b"1", b""]]),
        ("csv null is a word", ODD_CSV, b"NULL|'NULL'\n1|NULL\n", [[None, b"NULL"], [b"1", None]]),
        ("csv end marker", CSV, b"1,2\n\\.\n3,4\n", [[b"1", b"2"]]),
        ("empty line is one empty field", TEXT, b"\n", [[b""]]),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
@pytest.mark.parametrize("portion", [1, 3, 1000])
def test_reading(why: str, options: CopyOptions, data: bytes, expected: list[Fields], portion: int) -> None:
    assert read(options, data, portion) == expected


def test_a_quote_that_is_never_closed_is_refused_after_as_much_as_a_line_may_be(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("db_instance.session.copy_format.LINE_BYTES_MAX", 1000)
    reader = CopyReader(CopyOptions(csv=True, delimiter=b",", null=b""))
    reader.feed(b'1,"stray\n')
    with pytest.raises(SessionError, match="longer than 1000 bytes"):
        for _ in range(20):
            reader.feed(b"hello, you\n" * 10)


def test_the_lines_of_a_quoted_value_are_looked_at_once_each(monkeypatch: pytest.MonkeyPatch) -> None:
    looked_at = 0
    ends_inside = CopyReader._ends_inside_quotes

    def counting(self: CopyReader, line: bytes, *, inside: bool) -> bool:
        nonlocal looked_at
        looked_at += len(line)
        return ends_inside(self, line, inside=inside)

    monkeypatch.setattr(CopyReader, "_ends_inside_quotes", counting)
    reader = CopyReader(CopyOptions(csv=True, delimiter=b",", null=b""))
    data = b'1,"a\n' + b'b ""c""\n' * 500 + b'd"\n'
    found = [row for at in range(0, len(data), 100) for row in reader.feed(data[at : at + 100])]
    assert found == [[b"1", b"a\n" + b'b "c"\n' * 500 + b"d"]]
    assert looked_at <= len(data)


def test_header_is_skipped() -> None:
    assert read(CopyOptions(csv=True, delimiter=b",", null=b"", header=True), b"a,b\n1,2\n", 3) == [
        [b"1", b"2"]
    ]


def test_unterminated_quotes_are_refused() -> None:
    with pytest.raises(SessionError, match="unterminated"):
        read(CSV, b'"a,b\n', 100)


@pytest.mark.parametrize(
    ("given_", "sqlstate"),
    [
        ({"header": "match"}, "0A000"),
        ({"delimiter": "b"}, "22023"),
        ({"delimiter": "."}, "22023"),
        ({"delimiter": "\\"}, "22023"),
        ({"delimiter": "7"}, "22023"),
    ],
)
def test_options_under_which_values_could_change_places_are_refused(
    given_: dict[str, str], sqlstate: str
) -> None:
    with pytest.raises(SessionError) as told:
        read_options(given_)
    assert told.value.sqlstate == sqlstate


@pytest.mark.parametrize("size", [1, 3, 100])
@pytest.mark.parametrize(
    ("data", "rows"),
    [
        (b'a\\"b",1\nx,2\nc\\"d",3\n', [[b"a\\b", b"1"], [b"x", b"2"], [b"c\\d", b"3"]]),
        (b'"a\\"\nb",1\n', [[b'a"\nb', b"1"]]),
        (b'"a\\\\",1\n"b\\\\\n",2\n', [[b"a\\", b"1"], [b"b\\\n", b"2"]]),
        (b'\\\\"a\n"\\\\,1\n', [[b"\\\\a\n\\\\", b"1"]]),
    ],
)
def test_outside_of_quotes_an_escape_is_a_character(data: bytes, rows: list[Fields], size: int) -> None:
    options = CopyOptions(csv=True, delimiter=b",", null=b"", escape=b"\\")
    assert read(options, data, size) == rows
