"""Guesses which pages a scan wants next, from those that it missed. Pure.

A B-tree's leaves are read in the order of their parent's children, wherever they lie in the file: when two
misses in a row are neighbours there, the next children are worth having, twice as many each time. Where no
parent knows the page (overflow chains), its neighbours in the file take that part.

The page's layout: https://www.sqlite.org/fileformat2.html#b_tree_pages
"""

import struct
from typing import Final

AHEAD_MAX: Final = 64
"""A quarter of a megabyte an answer."""

_FIRST: Final = 4
_INTERIOR: Final = frozenset((2, 5))
"""Types of interior pages: of an index, of a table."""

_HEADER_BYTES: Final = 12
_CELL_COUNT: Final = struct.Struct(">H")
_CHILD: Final = struct.Struct(">I")


def is_interior(page: bytes) -> bool:
    return page[0] in _INTERIOR


def children(page: bytes) -> list[int]:
    """The page numbers below an interior page, in key order. What makes no sense is left out."""
    (count,) = _CELL_COUNT.unpack_from(page, 3)
    count = min(count, (len(page) - _HEADER_BYTES) // 2)
    found = []
    for (at,) in struct.iter_unpack(">H", page[_HEADER_BYTES : _HEADER_BYTES + 2 * count]):
        if at <= len(page) - _CHILD.size:
            found.append(_CHILD.unpack_from(page, at)[0])
    found.append(_CHILD.unpack_from(page, 8)[0])
    return found


class ReadAhead:
    """Of one connection."""

    def __init__(self) -> None:
        self._parent: bytes | None = None
        self._children: list[int] | None = None
        self._at = -1
        """Where among the children the last miss was."""
        self._last_miss = 0
        self._ahead = 0

    def saw_interior(self, page: bytes) -> None:
        if page is not self._parent:
            self._parent = page
            self._children = None

    def on_miss(self, page: int) -> list[int]:
        """The pages to fetch with this one; none for a read that follows no pattern."""
        if self._children is None and self._parent is not None:
            self._children = children(self._parent)
            # The scan came from the children before to the first of these.
            self._at = -1 if self._ahead else -2
        siblings = self._children or []
        try:
            at = siblings.index(page)
        except ValueError:
            return self._in_file(page)
        follows = at == 0 if self._at == -1 else self._at < at <= self._at + self._ahead + 1
        self._at = at
        self._last_miss = page
        return self._next(follows, siblings[at + 1 : at + 1 + AHEAD_MAX])

    def _in_file(self, page: int) -> list[int]:
        follows = self._last_miss < page <= self._last_miss + self._ahead + 2
        self._last_miss = page
        return self._next(follows, list(range(page + 1, page + 1 + AHEAD_MAX)))

    def _next(self, follows: bool, candidates: list[int]) -> list[int]:
        self._ahead = min(AHEAD_MAX, max(_FIRST, 2 * self._ahead)) if follows else 0
        return candidates[: self._ahead]
