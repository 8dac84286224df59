"""Middleware: code of the application around every attempt of every task, in the worker."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol, TypeVar

from fastedgy.queued_task.running import TaskRun


class CallNext(Protocol):
    """Goes on to the next middleware, and in the end to the function; gives back its result.

    It may be given the task, which changes nothing.
    """

    def __call__(self, task: TaskRun | None = None, /) -> Awaitable[Any]: ...


Middleware = Callable[[TaskRun, CallNext], Awaitable[Any]]
M = TypeVar("M", bound=Middleware)

_stack: list[Middleware] = []


def middleware(function: M) -> M:
    """Put `async def function(task, call_next)` around every attempt. Also as a decorator.

    The one that was given first is outermost. What it returns is the task's result, and what it
    raises the task's error: `return await call_next(task)` leaves both as they are. It runs in the
    worker's event loop, inside the task: its time counts, and a cancellation reaches it, too.

    Raises TypeError for anything else than an async function of two arguments. Giving the same one
    twice changes nothing.
    """
    if not inspect.iscoroutinefunction(function) and not inspect.iscoroutinefunction(
        getattr(function, "__call__", None)  # noqa: B004 - an object with an async __call__
    ):
        raise TypeError(f"Task middleware is `async def` with (task, call_next), not {function!r}.")
    try:
        inspect.signature(function).bind(None, None)
    except TypeError as error:
        raise TypeError(f"Task middleware takes (task, call_next): {function!r}: {error}") from None
    if all(known is not function for known in _stack):
        _stack.append(function)
    return function


def add_middleware(*functions: Middleware) -> None:
    """Put several around every attempt, the first of them outermost, inside those given before."""
    for function in functions:
        middleware(function)


def put_first(function: Middleware) -> None:
    """Put one around all others, also around those that were given before."""
    remove_middleware(function)
    _stack.insert(0, function)


def remove_middleware(function: Middleware) -> None:
    """Take one out again. One that is not there is no error."""
    _stack[:] = [known for known in _stack if known is not function]


def registered() -> Sequence[Middleware]:
    """All of them, as they are at any time: for who asks often whether there are any."""
    return _stack


async def through(task: TaskRun, call: Callable[[], Awaitable[Any]]) -> Any:
    """Make a call with all middleware around it."""
    stack = tuple(_stack)

    def onward(place: int) -> CallNext:
        async def call_next(given: TaskRun | None = None, /) -> Any:
            if place == len(stack):
                return await call()
            return await stack[place](task, onward(place + 1))

        return call_next

    return await onward(0)()
