"""The options of a task: `@task(…)` gives a function its defaults, `tasks.task(…)` those of one."""

from __future__ import annotations

import inspect
import string
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime, timedelta
from difflib import get_close_matches
from typing import Any, Literal, TypeVar, overload

from fastedgy.errors import InvalidFunction, InvalidOption
from fastedgy.queued_task.backoff import Policy, policy, seconds_of
from fastedgy.queued_task.encoding import fault_of
from fastedgy.queued_task.rates import rate_of

# Where `@task` leaves the options on the function.
MARK = "__fastedgy_task__"

F = TypeVar("F", bound=Callable[..., Any])
Errors = type[BaseException] | tuple[type[BaseException], ...]

_INT4 = 2**31 - 1


@dataclass(frozen=True, slots=True)
class TaskOptions:
    """What was said about how a task is to run. None: nothing was said, the default holds.

    Durations are seconds. `backoff`, `retry_on`, `no_retry_on` and `redact` belong to the function
    and are not in the row; a worker reads them where it resolves the function.
    """

    name: str | None = None
    queue: str | None = None
    priority: int | None = None
    delay: float | None = None
    at: datetime | None = None
    max_retries: int | None = None
    timeout: float | None = None
    backoff: Policy | None = None
    retry_on: tuple[type[BaseException], ...] | None = None
    no_retry_on: tuple[type[BaseException], ...] | None = None
    unique_key: str | None = None
    on_duplicate: str | None = None
    on_parent_failure: str | None = None
    auto_remove: bool | None = None
    redact: frozenset[str] | None = None
    limit: int | None = None
    per: str | None = None
    rate: float | None = None
    breaker: str | None = None
    unique_for: float | None = None
    unique_while: str | None = None

    @classmethod
    def of_function(cls, words: Mapping[str, Any]) -> TaskOptions:
        """Check the options of `@task(…)`. Raises InvalidOption."""
        return cls(**_checked(words, "@task", _CHECKS))

    @classmethod
    def of_call(cls, words: Mapping[str, Any]) -> TaskOptions:
        """Check the options of `tasks.task(…)`, which are of one task. Raises InvalidOption."""
        return cls(**_checked(words, "tasks.task", _CALL_CHECKS))

    def merge(self, other: TaskOptions) -> TaskOptions:
        """These options, overridden by what `other` says."""
        if other is NO_OPTIONS:
            return self
        if self is NO_OPTIONS:
            return other
        said = {name: value for name in _FIELDS if (value := getattr(other, name)) is not None}
        if "delay" in said:
            said["at"] = None
        elif "at" in said:
            said["delay"] = None
        return replace(self, **said)


_FIELDS = tuple(field.name for field in fields(TaskOptions))
NO_OPTIONS = TaskOptions()


@overload
def task(func: F, /) -> F: ...


@overload
def task(
    *,
    name: str | None = None,
    queue: str | None = None,
    channel: str | None = None,
    priority: int | None = None,
    delay: float | timedelta | None = None,
    at: datetime | None = None,
    max_retries: int | None = None,
    timeout: float | timedelta | None = None,
    backoff: float | timedelta | Iterable[float] | Policy | None = None,
    retry_on: Errors | None = None,
    no_retry_on: Errors | None = None,
    unique_key: str | None = None,
    unique_for: float | timedelta | None = None,
    unique_while: Literal["unfinished", "waiting"] | None = None,
    on_duplicate: Literal["existing", "replace", "error"] | None = None,
    limit: int | None = None,
    per: str | None = None,
    rate: str | float | None = None,
    breaker: str | None = None,
    on_parent_failure: Literal["cancel", "run", "fail"] | None = None,
    auto_remove: bool | None = None,
    redact: str | Iterable[str] | None = None,
) -> Callable[[F], F]: ...


def task(func: Any = None, /, **words: Any) -> Any:
    """Offer a function to the workers as a task, with the defaults of its options.

    Works bare and with options; the function itself stays as it is. All options are optional:

    - `name`: what the task is called in lists and metrics. Default: `module.function`.
    - `queue` (or `channel`): the lane it waits in. Default: `default`.
    - `priority`: higher runs first. Default: 0.
    - `delay`: seconds or a timedelta before it is due. `at`: the time when it is due, with a zone.
    - `max_retries`: n means 1 + n calls. Default: QUEUE_MAX_RETRIES.
    - `timeout`: seconds or a timedelta of one call. Default: QUEUE_TASK_TIMEOUT.
    - `backoff`: seconds before a retry, a list of them, or a function of the attempt (1, 2, …).
    - `retry_on`: retry these exceptions only. `no_retry_on`: never retry these; it wins.
    - `unique_key`: as long as a task with this key has not ended, no second one is written. Names
      of parameters in braces are filled: `"report:{report_id}"`.
    - `unique_for`: seconds or a timedelta for which the key counts at least, counted from when the
      task was added, should it end before. `unique_while`: `"unfinished"` (the default), or
      `"waiting"`: a task that has started keeps no other out.
    - `on_duplicate`: `"existing"` (the ref is that of the task there is), `"replace"` (the task
      there is, if it has not started, becomes this call) or `"error"`.
    - `limit`: so many of them run at once, on all workers together. `rate`: so many start, such as
      `"10/s"`, `"100/m"` or `"5/h"`; a number is per second. `per`: what the limit and the rate are
      counted for, such as `"customer:{customer_id}"`. Default: all tasks of this name.
    - `breaker`: the circuit breaker that guards it; while that is open, it stays in the line.
    - `on_parent_failure`: `"cancel"`, `"run"` or `"fail"`. Default: `"cancel"`.
    - `auto_remove`: delete the row when the task is done, unless it has children, has logged an
      error, or somebody waits for it.
    - `redact`: parameters whose values are not shown.

    Raises InvalidOption on unknown options and impossible values.
    """
    options = TaskOptions.of_function(words) if words else NO_OPTIONS

    def mark(func: F) -> F:
        _mark(func, options)
        return func

    if func is None:
        return mark
    return mark(func)


def options_of(func: Any) -> TaskOptions | None:
    """What `@task` said about a function; None when it is not decorated."""
    options = getattr(func, MARK, None)
    return options if isinstance(options, TaskOptions) else None


def _mark(func: Any, options: TaskOptions) -> None:
    if isinstance(func, str):
        raise InvalidOption(f"@task({func!r}): options are given by name, as in @task(queue=…).")
    if inspect.isclass(func) or isinstance(func, staticmethod | classmethod) or not callable(func):
        raise InvalidFunction(f"@task is for functions; {func!r} is none.")
    parameters = inspect.signature(func).parameters
    where = f"@task of {getattr(func, '__qualname__', func)}"
    for option in ("unique_key", "per"):
        template = getattr(options, option)
        for name in _placeholders(option, template, where):
            if name not in parameters:
                raise InvalidOption(
                    f"{where}: {option}={template!r} names {name!r}, which is no parameter."
                )
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    for name in () if takes_any else sorted(options.redact or ()):
        if name not in parameters:
            raise InvalidOption(f"{where}: redact= names {name!r}, which is no parameter.")
    try:
        setattr(func, MARK, options)
    except (AttributeError, TypeError):
        raise InvalidFunction(f"@task is for Python functions; {func!r} is none.") from None


def _placeholders(option: str, key: str | None, where: str) -> list[str]:
    """The parameters that a key such as `"report:{report_id}"` is made of."""
    if key is None:
        return []
    try:
        parts = [field for _, field, _, _ in string.Formatter().parse(key) if field is not None]
    except ValueError as error:
        raise InvalidOption(f"{where}: {option}={key!r} is no template: {error}.") from None
    names = [part.split(".")[0].split("[")[0] for part in parts]
    if not all(name.isidentifier() for name in names):
        raise InvalidOption(
            f"{where}: {option}={key!r} must name parameters in its braces; {{{{ is a brace."
        )
    return names


def _checked(
    words: Mapping[str, Any], where: str, checks: Mapping[str, Callable[[Any], Any]]
) -> dict[str, Any]:
    options: dict[str, Any] = {}
    for word, value in words.items():
        name = "queue" if word == "channel" else word
        check = checks.get(name)
        if check is None:
            raise InvalidOption(_unknown(word, where, checks))
        if value is None:
            continue
        if name in options:
            raise InvalidOption(f"{where}: queue= and channel= are the same option; give one.")
        try:
            options[name] = check(value)
        except ValueError as error:
            raise InvalidOption(
                f"{where}: {word}={_shown(value)} makes no sense: {error}."
            ) from None
    if "delay" in options and "at" in options:
        raise InvalidOption(f"{where}: delay= and at= say the same thing; give one of them.")
    return options


def _shown(value: Any) -> str:
    text = ascii(value)
    return text if len(text) <= 200 else f"{text[:200]}…"


# Words of other systems, for the error message.
_ELSEWHERE = {
    "countdown": "delay",
    "eta": "at",
    "run_at": "at",
    "schedule_at": "at",
    "retries": "max_retries",
    "max_attempts": "max_retries",
    "attempts": "max_retries",
    "time_limit": "timeout",
    "queueing_lock": "unique_key",
    "lock": "unique_key",
    "task_name": "name",
    "retry_delay": "backoff",
    "concurrency": "limit",
    "max_concurrency": "limit",
    "concurrency_limit": "limit",
    "max_instances": "limit",
    "rate_limit": "rate",
    "throttle": "rate",
    "concurrency_key": "per",
    "unique_period": "unique_for",
}


def _unknown(word: str, where: str, checks: Mapping[str, Any]) -> str:
    if word in _CHECKS:
        return (
            f"{where}: {word}= belongs to the function; write @task({word}=…) above its definition."
        )
    if word == "parent":
        return f"{where}: parent= belongs to add_task(func, …, parent=…)."
    known = [*checks, "channel"]
    near = _ELSEWHERE.get(word) or next(iter(get_close_matches(word, known, 1)), None)
    hint = f" Did you mean {near}=?" if near in checks or near == "channel" else ""
    return f"{where} has no option {word}=.{hint} There are: {', '.join(sorted(checks))}."


def _text(longest: int) -> Callable[[Any], str]:
    def check(value: Any) -> str:
        if not isinstance(value, str):
            raise ValueError("it must be text")
        if not value.strip():
            raise ValueError("it must not be empty")
        if len(value) > longest:
            raise ValueError(f"it has {len(value)} characters, at most {longest} are allowed")
        reason = fault_of(value)
        if reason is not None:
            raise ValueError(reason)
        return str.__str__(value)

    return check


def _queue(value: Any) -> str:
    name = _text(100)(value)
    if name != name.strip() or "," in name or not name.isprintable():
        raise ValueError(
            "a queue's name has no comma, no line break and no space at its ends, since "
            "QUEUE_QUEUES is a list of them"
        )
    return name


def _integer(least: int) -> Callable[[Any], int]:
    def check(value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int):
            raise ValueError("it must be an integer")
        if not least <= value <= _INT4:
            raise ValueError(f"it must be between {least} and {_INT4}")
        return int(value)

    return check


def _timeout(value: Any) -> float:
    seconds = seconds_of(value)
    if seconds == 0:
        raise ValueError("it must be above 0")
    return seconds


def _at(value: Any) -> datetime:
    if not isinstance(value, datetime):
        raise ValueError("it must be a datetime")
    if value.utcoffset() is None:
        raise ValueError("it has no time zone; write datetime(…, tzinfo=…)")
    try:
        value.astimezone(UTC)
    except OverflowError:
        raise ValueError("there is no such moment in UTC") from None
    return value


def _errors(value: Any) -> tuple[type[BaseException], ...]:
    classes = tuple(value) if isinstance(value, tuple | list | set | frozenset) else (value,)
    for item in classes:
        if not (isinstance(item, type) and issubclass(item, BaseException)):
            raise ValueError("it must be an exception class, or a tuple of them")
    return classes


def _one_of(*words: str) -> Callable[[Any], str]:
    def check(value: Any) -> str:
        if not isinstance(value, str) or value not in words:
            raise ValueError(f"it must be one of {', '.join(words)}")
        return value

    return check


def _yes_or_no(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError("it must be True or False")
    return value


def _redact(value: Any) -> frozenset[str]:
    names = frozenset([value] if isinstance(value, str) else value if _is_group(value) else [None])
    if not all(isinstance(name, str) and name for name in names):
        raise ValueError("it must be names of parameters")
    return names


def _is_group(value: Any) -> bool:
    return isinstance(value, list | tuple | set | frozenset)


_CHECKS: dict[str, Callable[[Any], Any]] = {
    "name": _text(200),
    "queue": _queue,
    "priority": _integer(-_INT4 - 1),
    "delay": seconds_of,
    "at": _at,
    "max_retries": _integer(0),
    "timeout": _timeout,
    "backoff": policy,
    "retry_on": _errors,
    "no_retry_on": _errors,
    "unique_key": _text(500),
    "unique_for": _timeout,
    "unique_while": _one_of("unfinished", "waiting"),
    "on_duplicate": _one_of("existing", "replace", "error"),
    "limit": _integer(1),
    "per": _text(300),
    "rate": rate_of,
    "breaker": _text(200),
    "on_parent_failure": _one_of("cancel", "run", "fail"),
    "auto_remove": _yes_or_no,
    "redact": _redact,
}
_OF_THE_FUNCTION = ("backoff", "retry_on", "no_retry_on", "redact")
_CALL_CHECKS = {name: check for name, check in _CHECKS.items() if name not in _OF_THE_FUNCTION}
