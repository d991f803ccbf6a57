"""Guesses which pages a scan wants next, from those that it missed. Pure.

A B-tree's leaves are read in the order of their parent's children, wherever they lie in the file: when two
misses in a row are neighbours there, the next children are worth having, twice as many each time. Once they are
as many as may be, the first of them is a mark: when the scan comes to it, the children after them are worth
having too, so that they are on their way while the scan still works (as in Linux:
https://lwn.net/Articles/888715/). Where no parent knows the page (overflow chains), its neighbours in the file
take that part, without a mark.

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
        self._interrupted = 0
        """As `_ahead` was at the end of the children, when a page was missed that may be their parent's neighbour."""
        self.mark = 0
        """The page whose reading calls for `on_mark`; 0: none."""
        self._asked_for = 0
        """So many of the children were asked for."""

    def saw_interior(self, page: bytes) -> None:
        if page is not self._parent:
            self._parent = page
            self._children = None
            self.mark = 0
            self._ahead = max(self._ahead, self._interrupted)
            self._interrupted = 0

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
        found = self._next(follows, siblings[at + 1 : at + 1 + AHEAD_MAX])
        self._asked_for = at + 1 + len(found)
        self.mark = found[0] if len(found) == AHEAD_MAX else 0
        return found

    def on_mark(self) -> list[int]:
        """The scan has come to the mark: the pages to fetch while it goes on."""
        siblings = self._children
        assert self.mark
        assert siblings is not None
        found = siblings[self._asked_for : self._asked_for + AHEAD_MAX]
        self._at = siblings.index(self.mark)
        self._asked_for += len(found)
        self.mark = found[0] if found else 0
        return found

    def _in_file(self, page: int) -> list[int]:
        follows = self._last_miss < page <= self._last_miss + self._ahead + 2
        self._last_miss = page
        self.mark = 0
        at_the_end = self._children is not None and self._asked_for >= len(self._children)
        self._interrupted = self._ahead if at_the_end else 0
        return self._next(follows, list(range(page + 1, page + 1 + AHEAD_MAX)))

    def _next(self, follows: bool, candidates: list[int]) -> list[int]:
        self._ahead = min(AHEAD_MAX, max(_FIRST, 2 * self._ahead)) if follows else 0
        return candidates[: self._ahead]
