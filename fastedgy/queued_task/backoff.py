"""How long a failed task waits before its next attempt. Everything here is seconds."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

# What `@task(backoff=…)` comes down to: failed attempt (1, 2, …) in, seconds out.
Policy = Callable[[int], float]

CENTURY = 100 * 365 * 86_400.0
"""The longest of all times. A timestamp far beyond it is none in Postgres, and none in Python."""


def backoff(
    attempt: int,
    base: float = 5,
    factor: float = 4,
    max: float = 1800,  # noqa: A002 - the word of the setting, QUEUE_RETRY_BACKOFF_MAX
    jitter: float = 0.1,
    *,
    rand: Callable[[], float] = random.random,
) -> float:
    """Seconds to wait after failed attempt number `attempt` (1, 2, …).

    5 s, 20 s, 80 s, 320 s, 1,280 s, then 30 min for good, each minus up to 10 % (`jitter`), so
    that tasks which failed together do not come back together.
    """
    try:
        seconds = min(base * factor ** (attempt - 1), max)
    except OverflowError:  # after some hundred attempts
        seconds = max
    return seconds * (1 - jitter * rand())


@dataclass(frozen=True, slots=True)
class Exponential:
    """`base` seconds after the first failure, `factor` times as long after each further one."""

    base: float = 5
    factor: float = 4
    max: float = 1800
    jitter: float = 0.1

    def __call__(self, attempt: int) -> float:
        return backoff(attempt, self.base, self.factor, self.max, self.jitter)


@dataclass(frozen=True, slots=True)
class Linear:
    """`step` seconds after the first failure, one step more after each further one."""

    step: float
    max: float = 1800
    jitter: float = 0.1

    def __call__(self, attempt: int) -> float:
        return min(self.step * attempt, self.max) * (1 - self.jitter * random.random())


@dataclass(frozen=True, slots=True)
class Constant:
    """The same number of seconds after every failure."""

    seconds: float
    jitter: float = 0.0

    def __call__(self, attempt: int) -> float:
        return self.seconds * (1 - self.jitter * random.random())


@dataclass(frozen=True, slots=True)
class Steps:
    """One number of seconds for each failure; the last one for all that follow."""

    steps: tuple[float, ...]
    jitter: float = 0.0

    def __call__(self, attempt: int) -> float:
        step = self.steps[min(attempt, len(self.steps)) - 1]
        return step * (1 - self.jitter * random.random())


def seconds_of(value: Any) -> float:
    """A duration as people write it (seconds, or a timedelta) in seconds.

    Raises ValueError when it is neither, negative, not finite or more than 100 years.
    """
    if isinstance(value, timedelta):
        value = value.total_seconds()
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{value!r} is neither a number of seconds nor a timedelta")
    try:
        seconds = float(value)
    except OverflowError:
        seconds = math.inf
    if not math.isfinite(seconds) or seconds < 0:
        raise ValueError(f"{value!r} is not a finite, positive number of seconds")
    if seconds > CENTURY:
        raise ValueError(f"{value!r} is more than 100 years")
    return seconds


def policy(value: Any) -> Policy:
    """What `backoff=` was given as a function of the attempt.

    Takes seconds or a timedelta (always the same), a sequence of them (one for each attempt), one
    of the classes above, or any function of the attempt. Raises ValueError on anything else.
    """
    if isinstance(value, str | bytes | bool):
        raise ValueError(f"{value!r} is not a back-off")
    if isinstance(value, type):
        raise ValueError(f"give a back-off, not its class: {value.__name__}(…)")
    if callable(value):
        function: Policy = value
        return function
    if isinstance(value, Sequence):
        if not value:
            raise ValueError("an empty list has no seconds to wait")
        return Steps(tuple(seconds_of(step) for step in value))
    return Constant(seconds_of(value))
