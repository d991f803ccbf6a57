"""Statements in greenlets: SQLite's callbacks are plain calls, and may wait all the same.

`run` starts a function in a greenlet of its own. Somewhere below it, inside SQLite, a callback calls
`park` with an awaitable: the greenlet stops there, the awaitable is awaited by the task that called
`run`, and the greenlet goes on with its result. A cancelled task throws into the greenlet, so that
SQLite unwinds as from any error of a callback. A statement that never parks costs no task switch.
"""

from collections.abc import Awaitable, Callable
from typing import Any, ParamSpec, TypeVar

import greenlet

P = ParamSpec("P")
T = TypeVar("T")


def park(awaitable: Awaitable[T]) -> T:
    """Wait for the awaitable, from inside a function that `run` started."""
    loop_side = greenlet.getcurrent().parent
    assert loop_side is not None, "a statement that may wait runs inside parking.run"
    result: T = loop_side.switch(awaitable)
    return result


async def run(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call the function in a greenlet; await whatever it parks on."""
    statement = greenlet.greenlet(function)
    result: Any = statement.switch(*args, **kwargs)
    while not statement.dead:
        try:
            value = await result
        except BaseException as error:
            result = statement.throw(error)
        else:
            result = statement.switch(value)
    answer: T = result
    return answer
