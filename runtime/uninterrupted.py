"""Work that goes on to its end, whoever stops waiting for it."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


async def uninterrupted(work: Coroutine[Any, Any, T]) -> T:
    """What the work returns or raises. A request whose client goes away is cancelled; half of what it changes
    would be worse than nothing: a promise that is kept in memory, and not on the disk."""
    task = asyncio.ensure_future(work)
    task.add_done_callback(_look_at)
    return await asyncio.shield(task)


def _look_at(task: "asyncio.Future[Any]") -> None:
    """Its error is the caller's, if there is one still: what failed says so by its own state."""
    if not task.cancelled():
        task.exception()
