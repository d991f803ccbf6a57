"""One event is one line: a name "noun.verb" and fields. JSON in the service's log file."""

import logging
import sys
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Any, Final

import structlog

_FILE_BYTES_MAX: Final = 32 * 1024 * 1024
_FILES_KEPT: Final = 3


def configure(service: str, path: Path | None = None, level: int = logging.INFO) -> None:
    """Send this process's events to a file; without one, to standard error."""
    handler: logging.Handler
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        handler = RotatingFileHandler(path, maxBytes=_FILE_BYTES_MAX, backupCount=_FILES_KEPT)
    else:
        handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level)
    structlog.configure(
        processors=[
            structlog.stdlib.add_log_level,
            structlog.processors.TimeStamper(fmt="iso"),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.stdlib.LoggerFactory(),
    )
    structlog.contextvars.clear_contextvars()
    logging.getLogger("service").debug(service)


def get_logger(name: str) -> Any:
    """The logger of one module."""
    return structlog.get_logger(name)
