"""Fills a table to a given size by COPY, as fast as one client can.

A row is some 400 bytes of text that no compression gets much out of: three quarters of it random, the
rest words. Keys ascend without gaps, so that any of them can be picked by dice.
"""

import base64
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import psycopg

TABLE: Final = "bench_item"
SETUP: Final = f"CREATE TABLE {TABLE} (id bigint PRIMARY KEY, amount bigint NOT NULL, body text NOT NULL)"
RANDOM_BYTES: Final = 225
"""Base64 makes 300 characters of them."""

WORDS: Final = [
    "storage",
    "quorum",
    "segment",
    "redo",
    "log",
    "page",
    "commit",
    "zone",
    "copy",
    "reader",
    "writer",
    "epoch",
    "volume",
]
WORDS_IN_PHRASE: Final = 16
PHRASES: Final = 1000
TRANSACTION_BYTES: Final = 16 << 20
"""One COPY, one transaction: a load in practice comes in pieces, too."""

SEED: Final = 6


@dataclass(frozen=True, slots=True)
class Loaded:
    """What one step of a load added, and how long that took."""

    rows: int
    size_bytes: int
    seconds: float


class Loader:
    def __init__(self) -> None:
        self.rows = 0
        """The keys are 1 to this."""

        self.size_bytes = 0
        """Of the text of all rows: the logical size of the volume."""

        self._dice = random.Random(SEED)
        self._phrases = [" ".join(self._dice.choices(WORDS, k=WORDS_IN_PHRASE)) for _ in range(PHRASES)]

    def load_to(
        self, connection: psycopg.Connection[Any], size_bytes: int, progress: Callable[[int], None]
    ) -> Loaded:
        """Add rows until that much text is in the table; `progress` is told the size after each commit."""
        rows_before, size_before, started_at = self.rows, self.size_bytes, time.monotonic()
        while self.size_bytes < size_bytes:
            with connection.cursor() as cursor, cursor.copy(f"COPY {TABLE} FROM STDIN") as copy:
                for line in self.lines(min(size_bytes, self.size_bytes + TRANSACTION_BYTES)):
                    copy.write(line)
            progress(self.size_bytes)
        seconds = time.monotonic() - started_at
        return Loaded(self.rows - rows_before, self.size_bytes - size_before, seconds)

    def lines(self, up_to_bytes: int) -> Iterator[str]:
        """Rows as COPY takes them, until that much text there has been in all."""
        while self.size_bytes < up_to_bytes:
            self.rows += 1
            line = f"{self.rows}\t{self._dice.getrandbits(40)}\t{self._body()}\n"
            self.size_bytes += len(line)
            yield line

    def _body(self) -> str:
        noise = base64.b64encode(self._dice.randbytes(RANDOM_BYTES)).decode()
        return f"{noise} {self._dice.choice(self._phrases)}"
