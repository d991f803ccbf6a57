from pathlib import Path

from runtime import disk
from runtime.disk import FromTheMedium, RealDisk


def test_a_file_read_from_the_medium_is_the_same_file(tmp_path: Path) -> None:
    content = bytes(range(256)) * 9_000  # a bit more than two windows
    file = RealDisk(tmp_path).open("f", create=True)
    file.append(content)
    forgotten: list[tuple[int, int]] = []
    file.forget = lambda offset, size: forgotten.append((offset, size))  # type: ignore[method-assign]
    anew = FromTheMedium(file)
    window = disk._WINDOW_BYTES
    assert anew.size == len(content)
    for offset, size in [
        (0, 10),
        (5, 10),
        (window - 5, 10),
        (2 * window - 1, 2),
        (len(content) - 3, 10),
        (0, 0),
    ]:
        assert anew.read(offset, size) == content[offset : offset + size]
    assert forgotten == [(0, window), (window, window), (2 * window, window)], "each window once"
    anew.close()


def test_what_was_written_and_never_synced_is_not_forgotten(tmp_path: Path) -> None:
    file = RealDisk(tmp_path).open("f", create=True)
    file.append(b"x" * 100_000)
    assert FromTheMedium(file).read(0, 100_000) == b"x" * 100_000
    file.close()
