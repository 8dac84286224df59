"""Hooks: functions of the application that are called at four moments of every task.

A hook that fails is logged and changes nothing: neither the task nor the hooks after it.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeVar

logger = logging.getLogger("queued_task")

Kind = Literal["pre_create", "post_create", "pre_run", "post_run"]
H = TypeVar("H", bound=Callable[..., Any])

# The hook, and the keywords of its moment that it takes (None: all of them).
_hooks: dict[str, list[tuple[Callable[..., Any], frozenset[str] | None]]] = {
    "pre_create": [],
    "post_create": [],
    "pre_run": [],
    "post_run": [],
}


def on_pre_create(hook: H) -> H:
    """Call `hook(task)` before a task is written; it may change `task.context`."""
    return _register("pre_create", hook)


def on_post_create(hook: H) -> H:
    """Call `hook(task)` after a task was written."""
    return _register("post_create", hook)


def on_pre_run(hook: H) -> H:
    """Call `hook(task)` in the worker before each attempt, inside the task."""
    return _register("pre_run", hook)


def on_post_run(hook: H) -> H:
    """Call `hook(task, result=None, error=None)` after each attempt, inside the task.

    `error` is what ended the run if no result did: an exception, but also the `Retry`, `Snooze` or
    `asyncio.CancelledError` of one that goes on later. A hook may leave out what it does not need.
    """
    return _register("post_run", hook)


def clear_all_hooks() -> None:
    """Forget all hooks; for tests."""
    for hooks in _hooks.values():
        hooks.clear()


def any_hooks(kind: Kind) -> bool:
    """Whether there are hooks for that moment."""
    return bool(_hooks[kind])


def registered(kind: Kind) -> Sequence[object]:
    """The hooks of a moment, as they are at any time: for who asks often whether there are any."""
    return _hooks[kind]


async def run_hooks(kind: Kind, *args: Any, **keywords: Any) -> None:
    """Call the hooks of a moment, one after another in the order of their registration."""
    for hook, takes in tuple(_hooks[kind]):
        fitting = keywords if takes is None else {k: v for k, v in keywords.items() if k in takes}
        try:
            answer = hook(*args, **fitting)
            if inspect.isawaitable(answer):
                await answer
        except Exception:
            logger.exception("The hook %s (on_%s) failed", _name_of(hook), kind)


def _register(kind: Kind, hook: H) -> H:
    if not callable(hook) or isinstance(hook, type):
        raise TypeError(f"@on_{kind} is for functions, not for {hook!r}")
    if all(known is not hook for known, _ in _hooks[kind]):
        _hooks[kind].append((hook, _keywords_of(hook)))
    return hook


def _keywords_of(hook: Callable[..., Any]) -> frozenset[str] | None:
    try:
        parameters = inspect.signature(hook).parameters.values()
    except (TypeError, ValueError):
        return None
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return None
    by_name = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return frozenset(p.name for p in parameters if p.kind in by_name)


def _name_of(hook: Callable[..., Any]) -> str:
    return getattr(hook, "__qualname__", None) or type(hook).__name__
