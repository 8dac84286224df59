"""The steps between a claim and its outcome, and a way to kill this process at one of them.

Imported by an application under test, with the name of a step in the environment variable CRASH_AT.
Nothing in the engine knows of this: the functions at the named places are wrapped here.
"""

from __future__ import annotations

import inspect
import os
import signal
from collections.abc import Callable
from functools import wraps
from typing import Any

from fastedgy.store import claim, recovery, workers
from fastedgy.worker import completer, traces
from fastedgy.worker.calling import Caller
from fastedgy.worker.executor import Executor
from fastedgy.worker.worker import Worker

LAST_WORDS = "the last lines of a parent are written, its outcome not"

# What is wrapped, and whether the process dies before or after it.
POINTS: dict[str, tuple[Any, str, str]] = {
    "before the claim": (claim, "claim", "before"),
    "claimed, the answer unread": (claim, "claim", "after"),
    "the answer read, nothing started": (Executor, "accept", "before"),
    "started, the function not called": (Caller, "call", "before"),
    "the function returned": (Caller, "call", "after"),
    "what it added is written": (Worker, "_flush_added", "after"),
    "before the outcome is kept": (Executor, "_end", "before"),
    "before the outcome is written": (completer.Completer, "_write", "before"),
    "its log lines are written": (traces, "append_logs", "after"),
    LAST_WORDS: (completer, "finish_any", "before"),
    "outcomes written, the answer unread": (completer, "finish_done", "after"),
    "drained, not handed back": (recovery, "hand_back", "before"),
    "handed back, not retired": (workers, "retire", "before"),
    "retired": (workers, "retire", "after"),
}


def die() -> None:
    """As the kernel would have it: nothing is flushed, nothing is caught."""
    os.kill(os.getpid(), signal.SIGKILL)


def worth_dying(value: Any) -> bool:
    """Not at a claim that found nothing."""
    return not (isinstance(value, list) and not value)


def plant(point: str) -> None:
    """Have this process die there."""
    place, name, when = POINTS[point]
    original: Callable[..., Any] = getattr(place, name)

    if inspect.iscoroutinefunction(original):

        @wraps(original)
        async def wrapped(*args: Any, **kwargs: Any) -> Any:
            if when == "before":
                die()
            value = await original(*args, **kwargs)
            if worth_dying(value):
                die()
            return value

    else:

        @wraps(original)
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            if when == "before":
                die()
            return original(*args, **kwargs)

    setattr(place, name, wrapped)
