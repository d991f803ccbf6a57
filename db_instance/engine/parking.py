"""Statements in greenlets: SQLite's callbacks are plain calls, and may wait all the same.

`run` calls a function in a greenlet. Somewhere below it, inside SQLite, a callback calls `park` with an
awaitable: the greenlet stops there, the awaitable is awaited by the task that called `run`, and the
greenlet goes on with its result. A cancelled task throws into the greenlet, so that SQLite unwinds as
from any error of a callback. A statement that never parks costs no task switch.

A greenlet whose function has returned waits for the next one: a new one costs two memory mappings, as
much as the short statement that it would run.
"""

from collections.abc import Awaitable, Callable
from typing import Any, Final, NamedTuple, ParamSpec, TypeVar

import greenlet

P = ParamSpec("P")
T = TypeVar("T")

_IDLE_MAX: Final = 64


class Outcome(NamedTuple):
    """What the function came to. Anything else that a greenlet hands over is an awaitable."""

    value: Any
    error: BaseException | None


class Waiting(NamedTuple):
    """A call that has come to where it must wait."""

    statement: greenlet.greenlet
    awaitable: Awaitable[Any]


_idle: list[greenlet.greenlet] = []


def _serve(function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    """A greenlet's life: one function after the other."""
    me = greenlet.getcurrent()
    while True:
        try:
            outcome = Outcome(function(*args, **kwargs), None)
        except BaseException as error:
            outcome = Outcome(None, error)
        if len(_idle) >= _IDLE_MAX:
            return outcome
        _idle.append(me)
        del function, args, kwargs
        assert me.parent is not None
        function, args, kwargs = me.parent.switch(outcome)
        del outcome


def park(awaitable: Awaitable[T]) -> T:
    """Wait for the awaitable, from inside a function that `run` started."""
    loop_side = greenlet.getcurrent().parent
    assert loop_side is not None, "a statement that may wait runs inside parking.run"
    result: T = loop_side.switch(awaitable)
    return result


async def run(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call the function in a greenlet; await whatever it parks on."""
    statement = _idle.pop() if _idle else greenlet.greenlet(_serve)
    result: Any = statement.switch(function, args, kwargs)
    if type(result) is not Outcome:
        result = await _finish(statement, result)
    if result.error is not None:
        raise result.error
    answer: T = result.value
    return answer


def begin(function: Callable[..., Any], *args: Any) -> Outcome | Waiting:
    """As `run`, up to where the function first waits, if it does; `finish` does the rest."""
    statement = _idle.pop() if _idle else greenlet.greenlet(_serve)
    result: Any = statement.switch(function, args, {})
    return result if type(result) is Outcome else Waiting(statement, result)


async def finish(begun: Outcome | Waiting) -> Any:
    """What `run` would have returned, or raised."""
    outcome = begun if type(begun) is Outcome else await _finish(*begun)
    if outcome.error is not None:
        raise outcome.error
    return outcome.value


async def _finish(statement: greenlet.greenlet, result: Any) -> Outcome:
    while type(result) is not Outcome:
        try:
            value = await result
        except BaseException as error:
            result = statement.throw(error)
        else:
            result = statement.switch(value)
    return result
