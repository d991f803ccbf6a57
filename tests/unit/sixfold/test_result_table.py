from sixfold.result_table import aligned


def test_a_result_is_aligned_as_psql_does() -> None:
    rows = [["1", "one", None], ["200", "größer", "x"]]
    assert list(aligned(["id", "name", "note"], rows, [True, False, False])) == [
        " id  |  name  | note",
        "-----+--------+------",
        "   1 | one    |",
        " 200 | größer | x",
        "(2 rows)",
    ]


def test_wide_letters_take_two_places() -> None:
    assert list(aligned(["c", "d"], [["日本", "x"]], [False, False])) == [
        "  c   | d",
        "------+---",
        " 日本 | x",
        "(1 row)",
    ]


def test_a_terminal_is_told_nothing_by_the_data() -> None:
    assert list(aligned(["c"], [["a\x1b[31m\nb"]], [False]))[2] == r" a\x1b[31m\nb"


def test_no_rows() -> None:
    assert list(aligned(["c"], [], [False])) == [" c", "---", "(0 rows)"]
