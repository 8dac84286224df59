"""What can be said of an in-process task, and of all tasks of an application."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from datetime import timedelta
from difflib import get_close_matches
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeAlias, TypedDict

from fastedgy.errors import InvalidOption
from fastedgy.queued_task.backoff import Exponential, Policy, policy, seconds_of

if TYPE_CHECKING:
    from fastedgy.tasks.task import Task

TaskErrorHandler: TypeAlias = (
    "Callable[[Task[..., Any], Exception], Awaitable[Any]] | Callable[[Task[..., Any], Exception], "
    "Any]"
)
"""What `on_error=` takes: a sync or async function of the task and its exception."""

FIRST_RETRIES = Exponential(base=1, factor=2, max=60)
"""1 s, 2 s, 4 s … up to a minute, each minus up to 10 %: a process that serves requests is not kept
waiting for as long as a queue would."""
SHUTDOWN_TIMEOUT = 30.0


class TaskWords(TypedDict, total=False):
    """The options of `tasks.task(…)`. None is the same as leaving it out."""

    name: str | None
    shield: bool | None
    on_error: TaskErrorHandler | None
    timeout: float | timedelta | None
    retries: int | None
    backoff: float | timedelta | Iterable[float] | Policy | None
    limit: int | None
    backlog: int | None
    durable: bool | None


@dataclass(frozen=True, slots=True)
class TaskConfig:
    """The options of one task, or the defaults of all tasks of an application.

    - `name`: what the task is called in logs and metrics. Default: `module.function`.
    - `shield`: at shutdown, wait for the task and its error handler instead of cancelling them.
    - `on_error`: a function of the task and its exception, called when the last attempt failed.
    - `timeout`: seconds or a timedelta of one attempt. Default: none. A sync function cannot be
      interrupted: its thread goes on, and what it returns is ignored.
    - `retries`: n means 1 + n attempts. Default: 0. `backoff`: seconds before a retry, a list of
      them, or a function of the attempt. Default: 1, 2, 4 … up to 60 s, minus up to 10 %.
    - `limit`: how many tasks of this name run at once. `backlog`: how many may wait for such a
      place; beyond that `schedule` raises TaskBacklogFull. Default: no limit, no bound.
    - `durable`: a row says what the task does, so that a worker takes it over if this process dies.
    - `shutdown_timeout`: seconds that shielded tasks get to end when the application stops. For the
      application only. Default: 30.

    Raises InvalidOption on values that make no sense.
    """

    name: str | None = None
    shield: bool | None = None
    on_error: TaskErrorHandler | None = None
    timeout: float | timedelta | None = None
    retries: int | None = None
    backoff: float | timedelta | Iterable[float] | Policy | None = None
    limit: int | None = None
    backlog: int | None = None
    durable: bool | None = None
    shutdown_timeout: float | timedelta | None = None

    def __post_init__(self) -> None:
        for name, check in _CHECKS.items():
            value = getattr(self, name)
            if value is None:
                continue
            try:
                object.__setattr__(self, name, check(value))
            except ValueError as error:
                raise InvalidOption(f"{name}={value!r} makes no sense: {error}.") from None

    @property
    def shielded(self) -> bool:
        """Whether a shutdown waits for the task."""
        return self.shield is True

    @property
    def seconds(self) -> float | None:
        """The time limit of one attempt."""
        return self.timeout  # type: ignore[return-value]  # a number since it was checked

    @property
    def shutdown_seconds(self) -> float:
        """For how long a shutdown waits."""
        given = self.shutdown_timeout
        return SHUTDOWN_TIMEOUT if given is None else given  # type: ignore[return-value]

    def delay_before_retry(self, attempt: int) -> float:
        """Seconds to wait after failed attempt number `attempt` (1, 2, …)."""
        given: Policy = FIRST_RETRIES if self.backoff is None else self.backoff  # type: ignore[assignment]
        return seconds_of(given(attempt))

    def merge(self, other: TaskConfig) -> TaskConfig:
        """A new one: what is not None in `other` counts, else what this one says."""
        merged = object.__new__(TaskConfig)
        for name in _NAMES:
            value = getattr(other, name)
            object.__setattr__(merged, name, getattr(self, name) if value is None else value)
        return merged

    def with_words(self, words: Mapping[str, Any]) -> TaskConfig:
        """This one with the options given to `tasks.task(…)`. Raises InvalidOption on unknown ones.

        The same words give the same object: most come from one place in the code, again and again.
        """
        try:
            # With their types, as 1 and True are the same key.
            return _with_words(self, tuple(words.items()), tuple(map(type, words.values())))
        except TypeError as error:
            if isinstance(error, InvalidOption):
                raise
            return self.merge(_of_call(words))  # a value that cannot be hashed, a list for instance


def _of_call(words: Mapping[str, Any]) -> TaskConfig:
    for word in words:
        if word not in _OF_A_CALL:
            raise InvalidOption(_unknown(word))
    return TaskConfig(**words)


@lru_cache(maxsize=1024)
def _with_words(
    base: TaskConfig, words: tuple[tuple[str, Any], ...], types: tuple[type, ...]
) -> TaskConfig:
    return base.merge(_of_call(dict(words)))


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError("it must be text")
    return value


def _yes_or_no(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError("it must be True or False")
    return value


def _callable(value: Any) -> Any:
    if not callable(value) or isinstance(value, type):
        raise ValueError("it must be a function of the task and its exception")
    return value


def _integer(least: int) -> Callable[[Any], int]:
    def check(value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ValueError(f"it must be an integer of at least {least}")
        return value

    return check


def _above_zero(value: Any) -> float:
    seconds = seconds_of(value)
    if seconds == 0:
        raise ValueError("it must be above 0")
    return seconds


_CHECKS: dict[str, Callable[[Any], Any]] = {
    "name": _text,
    "shield": _yes_or_no,
    "on_error": _callable,
    "timeout": _above_zero,
    "retries": _integer(0),
    "backoff": policy,
    "limit": _integer(1),
    "backlog": _integer(0),
    "durable": _yes_or_no,
    "shutdown_timeout": seconds_of,
}
_NAMES = tuple(field.name for field in fields(TaskConfig))
_OF_A_CALL = frozenset(_NAMES) - {"shutdown_timeout"}
# Words of the queue, and of other systems.
_ELSEWHERE = {
    "max_retries": "retries",
    "attempts": "retries",
    "time_limit": "timeout",
    "shielded": "shield",
    "concurrency": "limit",
    "max_concurrency": "limit",
}


def _unknown(word: str) -> str:
    if word == "shutdown_timeout":
        return (
            "tasks.task(): shutdown_timeout= belongs to the application; give it to "
            "add_tasks(app, config=TaskConfig(shutdown_timeout=…))."
        )
    near = _ELSEWHERE.get(word) or next(iter(get_close_matches(word, _OF_A_CALL, 1)), None)
    hint = f" Did you mean {near}=?" if near else ""
    return (
        f"tasks.task() has no option {word}=.{hint} There are: {', '.join(sorted(_OF_A_CALL))}. "
        "What waits for later or for another task is for the queue: QueuedTasks."
    )
