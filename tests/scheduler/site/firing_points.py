"""The steps of firing, and a way to kill this process at one of them.

Imported by the application under test, with a step's name in FIRING_CRASH_AT. Nothing in the engine
knows of this: the functions at the named places are wrapped here.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from functools import wraps
from typing import Any

from asyncpg import Connection

from fastedgy.scheduler import firing as scheduler
from fastedgy.scheduler.firing import Firer
from fastedgy.store import firing

# What is wrapped, and whether the process dies before it, in it or after it.
POINTS: dict[str, tuple[Any, str, str]] = {
    "read, nothing planned": (scheduler, "plan", "before"),
    "planned, nothing sent": (firing, "fire", "before"),
    "sent, the answer not awaited": (firing, "fire", "in"),
    "written, the answer unread": (firing, "fire", "after"),
    "the answer read, nobody told": (Firer, "round", "after"),
}


def die() -> None:
    """As the kernel would have it: nothing is flushed, nothing is caught."""
    os.kill(os.getpid(), signal.SIGKILL)


def plant(point: str) -> None:
    """Have this process die there, as soon as something is due."""
    place, name, when = POINTS[point]
    original: Callable[..., Any] = getattr(place, name)
    if when == "before":
        setattr(place, name, lambda *args, **kwargs: die())
        return

    @wraps(original)
    async def wrapped(*args: Any, **kwargs: Any) -> Any:
        if when == "in":
            _die_after_sending()
        made = await original(*args, **kwargs)
        if name != "round" or made.fired:
            die()
        return made

    setattr(place, name, wrapped)


def _die_after_sending() -> None:
    """The statement is on its way to the server, and nobody is there to read the answer."""
    prepared = Connection._get_statement

    async def found(self: Any, query: str, *args: Any, **kwargs: Any) -> Any:
        statement = await prepared(self, query, *args, **kwargs)
        if "wanted AS" in query:
            asyncio.get_running_loop().call_later(0.001, die)
        return statement

    Connection._get_statement = found
