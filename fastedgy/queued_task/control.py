"""What a task says about its own end: raise one of these, or return it."""

from __future__ import annotations

from datetime import timedelta

from fastedgy.queued_task.backoff import seconds_of


class Control(Exception):
    """The base of `Retry`, `Discard` and `Snooze`."""


class Retry(Control):
    """Try again, spending one of the retries. Without retries left the task has failed.

    `after` is seconds or a timedelta; without it the function's back-off decides. Raised inside
    an `except` block, it keeps that exception as the recorded cause.
    """

    def __init__(self, after: float | timedelta | None = None, reason: str | None = None) -> None:
        super().__init__(after, reason)
        self.after = None if after is None else seconds_of(after)
        self.reason = reason

    def __str__(self) -> str:
        return self.reason or "asked to be retried"


class Discard(Control):
    """End as failed now, whatever is left of the retries: trying again would not help."""

    def __init__(self, reason: str | None = None) -> None:
        super().__init__(reason)
        self.reason = reason

    def __str__(self) -> str:
        return self.reason or "discarded by the task itself"


class Snooze(Control):
    """Run again later without spending a retry: the time has not come.

    `delay` is seconds or a timedelta.
    """

    def __init__(self, delay: float | timedelta, reason: str | None = None) -> None:
        super().__init__(delay, reason)
        self.delay = seconds_of(delay)
        self.reason = reason

    def __str__(self) -> str:
        return self.reason or f"snoozed for {self.delay:g} s"
