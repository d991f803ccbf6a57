"""What happened, in order. Two runs of a seed are the same if their digests are."""

import asyncio
import hashlib
from collections import Counter
from collections.abc import MutableMapping
from typing import Any

import structlog


class Trace:
    def __init__(self, *, echo: bool = False) -> None:
        self.events = 0
        self.logged: Counter[str] = Counter()
        """How often the services logged what, by level and name."""
        self.bugs: list[str] = []
        """Events that no run may have."""
        self._digest = hashlib.sha256()
        self._echo = echo

    def note(self, event: str, **fields: Any) -> None:
        self.events += 1
        try:
            now = asyncio.get_running_loop().time()
        except RuntimeError:
            now = -1.0
        line = f"{now:12.6f} {event} " + " ".join(f"{key}={value}" for key, value in fields.items())
        self._digest.update(line.encode())
        if self._echo:
            print(line)

    @property
    def digest(self) -> str:
        return self._digest.hexdigest()

    def capture_events(self) -> None:
        """From now on what the services log is part of the trace."""
        structlog.configure(processors=[self._take], wrapper_class=structlog.BoundLogger)

    def _take(self, _logger: Any, level: str, event: MutableMapping[str, Any]) -> Any:
        name = event.pop("event")
        error = event.pop("exc_info", None)
        if name == "rpc.bug" or isinstance(error, BaseException):
            self.bugs.append(f"{name}: {error!r}")
        self.logged[f"{level}:{name}"] += 1
        self.note(f"{level}:{name}", **event)
        raise structlog.DropEvent


def stop_capturing() -> None:
    structlog.reset_defaults()
