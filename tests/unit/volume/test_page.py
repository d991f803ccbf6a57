"""A page's checksum and the difference of two versions of it."""

from hypothesis import given
from hypothesis import strategies as st

from volume.limits import PAGE_SIZE_BYTES
from volume.page import ZERO_PAGE, checksum, xor_pages

pages = st.integers(0, 2**32).map(lambda seed: seed.to_bytes(8, "little") * (PAGE_SIZE_BYTES // 8))


@given(pages, pages)
def test_applying_the_difference_to_either_gives_the_other(one: bytes, other: bytes) -> None:
    difference = xor_pages(one, other)
    assert xor_pages(one, difference) == other
    assert xor_pages(other, difference) == one


def test_a_page_does_not_differ_from_itself() -> None:
    page = b"sixfold!" * (PAGE_SIZE_BYTES // 8)
    assert xor_pages(page, page) == ZERO_PAGE
    assert xor_pages(page, ZERO_PAGE) == page


def test_the_checksum_is_crc32c() -> None:
    # The check value of the catalogue of CRC algorithms.
    assert checksum(b"123456789") == 0xE3069283
