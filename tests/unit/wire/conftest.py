from collections.abc import Callable, Mapping
from typing import Any

import uvloop

from tests.harness.sql_server import commit_timeout_s, server_settings, sql

__all__ = ["commit_timeout_s", "server_settings", "sql"]


def pytest_asyncio_loop_factories(config: Any, item: Any) -> Mapping[str, Callable[[], Any]]:
    """The loop that services run on."""
    return {"uvloop": uvloop.new_event_loop}
