"""What became of something that a client asked for."""

from enum import Enum


class Outcome(Enum):
    OK = "ok"
    """The client was told that it is done."""
    FAILED = "failed"
    """The client was told that it is not done, and never will be."""
    UNKNOWN = "unknown"
    """Nobody told: done or not, and if so at any time from its beginning on."""
