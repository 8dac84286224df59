"""Deadlocks: of two transactions that wait for each other's rows, the database undoes one.

What is done to many tasks at once takes their rows in the order of the ids; workers write outcomes
in the order in which the tasks ended. Workers try again by themselves, and this is for the others.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import wraps
from typing import Concatenate, ParamSpec, TypeVar

from asyncpg import Connection, DeadlockDetectedError

P = ParamSpec("P")
T = TypeVar("T")

TRIES = 5


def in_transaction(
    function: Callable[Concatenate[Connection, P], Awaitable[T]],
) -> Callable[Concatenate[Connection, P], Awaitable[T]]:
    """Run a function in a transaction, or in a savepoint of the caller's.

    When the database undoes it because of a deadlock, it is run again, five times at most. It needs
    no pause: whoever it met has what it wanted by then.
    """

    @wraps(function)
    async def run(connection: Connection, /, *args: P.args, **kwargs: P.kwargs) -> T:
        left = TRIES
        while True:
            try:
                async with connection.transaction():
                    return await function(connection, *args, **kwargs)
            except DeadlockDetectedError:
                left -= 1
                if not left:
                    raise

    return run
