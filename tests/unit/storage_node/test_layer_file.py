"""Layer files: what was written is found again, and any damage is noticed or does no harm."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage_node.layers.layer_file import KIND_DELTA, KIND_IMAGE, LayerReader, LayerWriter
from tests.simulation.sim_disk import SimDisk
from volume.errors import CorruptPage, UnknownFormat
from volume.ids import Lsn, PageNumber

Pages = dict[int, tuple[int, bytes]]

pages = st.dictionaries(
    st.integers(1, 2000),
    st.tuples(st.integers(1, 99), st.binary(min_size=1, max_size=40)),
    min_size=1,
    max_size=30,
)


def _write(pages: Pages, kind: int = KIND_DELTA) -> bytes:
    disk = SimDisk(random.Random(1))
    file = disk.open("layer", create=True)
    writer = LayerWriter(file, kind, Lsn(3), Lsn(99))
    for page, (lsn, blob) in sorted(pages.items()):
        writer.add(PageNumber(page), Lsn(lsn), blob)
    writer.finish()
    return disk.read_all("layer")


def _open(content: bytes) -> LayerReader:
    disk = SimDisk(random.Random(1))
    disk.open("layer", create=True).append(content)
    return LayerReader(disk.open("layer"), "layer")


def _all(reader: LayerReader) -> Pages:
    return {entry.page: (entry.lsn, reader.blob(entry)) for entry in reader.entries()}


def _check_round_trip(pages: Pages, asked: range) -> None:
    content = _write(pages, KIND_IMAGE)
    reader = _open(content)
    assert (reader.kind, reader.lsn_from, reader.lsn_to) == (KIND_IMAGE, 3, 99)
    assert (reader.page_count, reader.size_bytes) == (len(pages), len(content))
    assert (reader.first_page, reader.last_page) == (min(pages), max(pages))
    assert [entry.page for entry in reader.entries()] == sorted(pages)
    assert _all(reader) == pages
    for page in asked:
        entry = reader.find(PageNumber(page))
        assert (None if entry is None else (entry.lsn, reader.blob(entry))) == pages.get(page)


@settings(max_examples=60, deadline=None)
@given(pages, st.integers(0, 1990))
def test_pages_come_back_and_others_do_not(pages: Pages, start: int) -> None:
    _check_round_trip(pages, range(start, start + 12))
    _check_round_trip(pages, range(min(pages) - 1, min(pages) + 3))


@pytest.mark.parametrize("count", [1, 126, 127, 128, 254, 255, 1000])
@pytest.mark.parametrize("apart", [1, 3])
def test_many_pages_fill_many_blocks(count: int, apart: int) -> None:
    pages = {5 + apart * index: (index + 1, b"%d" % index) for index in range(count)}
    _check_round_trip(pages, range(apart * count + 8))


def test_blobs_larger_than_what_is_written_at_once() -> None:
    pages = {page: (page, bytes([page]) * 700_000) for page in (1, 2, 3)}
    _check_round_trip(pages, range(5))


def test_every_flipped_bit_is_noticed_or_harmless() -> None:
    pages: Pages = {2: (7, b"two"), 3: (8, b"three"), 9: (9, b"nine" * 9)}
    content = _write(pages)
    noticed = 0
    for at in range(len(content)):
        # The index block is mostly padding: one bit of each byte will do there.
        for bit in range(8) if content[at] else (at % 8,):
            flipped = bytearray(content)
            flipped[at] ^= 1 << bit
            try:
                reader = _open(bytes(flipped))
                found = _all(reader)
                one_by_one = {
                    page: (entry.lsn, reader.blob(entry))
                    for page in range(11)
                    if (entry := reader.find(PageNumber(page))) is not None
                }
            except (CorruptPage, UnknownFormat):
                noticed += 1
                continue
            if at in _count_of_block(content):
                continue  # test_a_rotten_count_is_noticed
            assert found == one_by_one == pages, f"byte {at} bit {bit}"
            unchecked = range(10, 32)  # test_a_rotten_header_is_noticed
            assert at in unchecked or (reader.kind, reader.lsn_from, reader.lsn_to) == (KIND_DELTA, 3, 99)
    assert noticed > 4000


def _count_of_block(content: bytes) -> range:
    """Where the last index block tells its number of entries: it ends before sparse index and footer."""
    end = len(content) - 48 - 4
    return range(end - 8, end - 4)


def test_a_rotten_count_is_noticed() -> None:
    pages: Pages = {2: (7, b"two"), 9: (9, b"nine")}
    content = bytearray(_write(pages))
    content[_count_of_block(content)[0]] = 1
    with pytest.raises(CorruptPage):
        assert _all(_open(bytes(content))) == pages


def test_a_rotten_header_is_noticed() -> None:
    content = bytearray(_write({2: (7, b"two")}))
    content[16] ^= 1
    with pytest.raises(CorruptPage):
        assert _open(bytes(content)).lsn_from == 3


@settings(max_examples=60, deadline=None)
@given(pages, st.data())
def test_a_file_cut_short_or_grown_is_refused(pages: Pages, data: st.DataObject) -> None:
    content = _write(pages)
    for wrong in (content[: data.draw(st.integers(0, len(content) - 1))], content + b"\0"):
        with pytest.raises(CorruptPage):
            _open(wrong)


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=200))
def test_garbage_is_no_layer(blob: bytes) -> None:
    with pytest.raises((CorruptPage, UnknownFormat)):
        _open(blob)


@pytest.mark.parametrize(
    ("why", "at", "value", "refused"),
    [
        ("of another format", 8, 9, UnknownFormat),
        ("of another kind of file", 0, 0, CorruptPage),
        ("whose end is another's", -1, 0, CorruptPage),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_file_is_refused(why: str, at: int, value: int, refused: type[Exception]) -> None:
    content = bytearray(_write({1: (1, b"x")}))
    content[at] = value
    with pytest.raises(refused):
        _open(bytes(content))


def test_pages_are_written_in_order() -> None:
    writer = LayerWriter(SimDisk(random.Random(1)).open("layer", create=True), KIND_DELTA, Lsn(0), Lsn(1))
    writer.add(PageNumber(2), Lsn(1), b"x")
    with pytest.raises(AssertionError):
        writer.add(PageNumber(2), Lsn(1), b"x")
