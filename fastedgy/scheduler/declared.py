"""`@scheduled`: schedules that code declares. They are compared with the rows at each start."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, TypeVar

from fastedgy.errors import InvalidFunction, InvalidSchedule
from fastedgy.queued_task.options import options_of, task
from fastedgy.scheduler.definition import UNSET, Call, Terms, Unset, check_name

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class Declaration:
    """One `@scheduled`."""

    name: str
    call: Call
    terms: Terms


_declared: dict[str, Declaration] = {}


def declarations() -> dict[str, Declaration]:
    """What the modules imported so far declare, by name."""
    return dict(_declared)


def scheduled(
    *,
    cron: str | None = None,
    every: float | timedelta | None = None,
    at: datetime | None = None,
    timezone: str = "UTC",
    name: str | None = None,
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    options: Mapping[str, Any] | None = None,
    coalesce: bool = True,
    misfire_grace: float | timedelta | Unset | None = UNSET,
    max_instances: int | None = 1,
    jitter: float | timedelta = 0,
    start: datetime | None = None,
    end: datetime | None = None,
) -> Callable[[F], F]:
    """Run a function on a timetable, as durable tasks. Exactly one of `cron`, `every`, `at`.

    - `cron`: five fields (`"30 2 * * mon-fri"`), six with seconds in front, or `@daily` and its
      like. `every`: seconds or a timedelta, counted from `start`, else from when the schedule was
      first seen. `at`: one moment.
    - `timezone`: of `cron`, and of moments without one. Default: UTC. A local time that does not
      exist fires at the first instant after the gap; one that exists twice fires once, the first
      time.
    - `name`: what it is called everywhere. Default: `module.function`; a function with several
      schedules needs it for each.
    - `args`, `kwargs`: of the function. `options`: of its tasks, as for `tasks.task(…)`.
    - `coalesce`: of several due times that were missed, only the last gives a task. Default: yes.
    - `misfire_grace`: seconds or a timedelta after which a missed due time gives no task any more;
      None: however late. Default: 60 s; for `at`, None.
    - `max_instances`: so many of its tasks may be unfinished at once; a due time that would make
      more gives none. None: any number. Default: 1.
    - `jitter`: each task waits up to so many seconds more, at random.
    - `start`, `end`: no due time before and after.

    The function becomes a task, if `@task` has not made it one. What an operator changed at run
    time stays changed. Raises InvalidSchedule at once.
    """
    words = {
        "cron": cron, "every": every, "at": at, "timezone": timezone, "coalesce": coalesce,
        "misfire_grace": misfire_grace, "max_instances": max_instances, "jitter": jitter,
        "start": start, "end": end,
    }  # fmt: skip
    terms = Terms.of(words)
    if name is not None:
        check_name(name)

    def declare(func: F) -> F:
        if not callable(func) or not hasattr(func, "__qualname__"):
            raise InvalidFunction(f"@scheduled is for functions; {func!r} is none.")
        own = name or f"{func.__module__}.{func.__qualname__}"
        known = _declared.get(own)
        if known is not None and not _again(known.call.func, func):
            raise InvalidSchedule(
                f"Two schedules are called {own!r}. Give each its own with @scheduled(name=…)."
            )
        if options_of(func) is None:
            task(func)
        _declared[own] = Declaration(own, Call(func, args, kwargs, options), terms)
        return func

    return declare


def _again(known: Any, func: Any) -> bool:
    """Whether it is the same place in the code, of a module that is imported once more."""
    same = (known.__module__, known.__qualname__) == (func.__module__, func.__qualname__)
    return same and known is not func
