"""A task in a slot of this worker."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

from asyncpg import Record

from fastedgy.queued_task.encoding import loads
from fastedgy.queued_task.functions import TaskFunction
from fastedgy.queued_task.running import TaskRun


@dataclass(frozen=True, slots=True)
class Extra:
    """What few tasks have. The words are those of the table's columns.

    `run_anyway`: it runs also when a parent came to nothing. `has_children`: at the claim.
    """

    takes_results: bool = False
    run_anyway: bool = False
    has_children: bool = False
    breaker: str | None = None
    trace: str | None = None
    signature: str | None = None
    redact: list[str] | None = None


@lru_cache(maxsize=256)
def read_extra(text: str) -> Extra:
    """The column of that name. The children of one parent mostly have the same."""
    return Extra(**loads(text))


class Running(TaskRun):
    """A run as its executor holds it: what the author's code sees of it, and the slot around it.

    `began` and `deadline` are readings of `time.monotonic()`, `timeout` is in seconds. They count
    from the first turn of its asyncio task, and until then from when it got its slot. `enqueued` is
    since when it was due. `cancelling` says why it was told to stop ("timeout", "cancel",
    "interrupt", "suspend"), or that its function has returned and it is not to be stopped any more
    ("finishing"). `overdue`: its outcome was given without waiting for it. `entered`: its asyncio
    task has had a turn. One that is cancelled before runs no code at all, not even that which tells
    of its end.
    """

    __slots__ = ("args", "began", "cancelling", "deadline", "enqueued", "entered", "extra",
                 "kwargs", "overdue", "slot", "target", "task", "timeout")  # fmt: skip

    def __init__(
        self,
        row: Record,
        target: TaskFunction,
        began: float,
        default_timeout: float,
        wake: Callable[[TaskRun], None],
        log_limit: int,
    ) -> None:
        # Not by way of TaskRun's, and the row in one go: this runs for every task.
        (
            self.id,
            self.run,
            self.attempt,
            self.max_retries,
            self.function,
            self.name,
            self.queue,
            self.priority,
            self.enqueued,
            self.args,
            self.kwargs,
            self._context_text,
            timeout,
            _,
            extra,
            _,
        ) = row
        self.extra = read_extra(extra) if extra is not None else None
        self.wake = wake
        self.log_limit = log_limit
        self.buffer = None
        self.context_dirty = False
        self.logs_taken = 0
        self.logs_dropped = 0
        self._context = None
        self._shared = False
        self._logs = []
        self._awake = False
        self.target = target
        self.began = began
        if timeout is None or not timeout > 0:  # a forged row may say anything, also no number
            timeout = target.options.timeout or default_timeout
        self.timeout: float = timeout
        self.deadline = began + self.timeout
        self.slot = -1
        self.task: asyncio.Task[None] | None = None
        self.cancelling: str | None = None
        self.overdue = False
        self.entered = False

    def enter(self, now: float) -> None:
        """Its asyncio task has its first turn."""
        if self.cancelling is None:
            self.deadline += now - self.began
        self.began = now
        self.entered = True

    @property
    def sync(self) -> bool:
        """Whether it runs in a thread, which nobody can stop."""
        return not self.target.is_async

    def suspend(self) -> None:
        """Stop here, at no cost: it goes on in another run, when its journal says so."""
        if self.cancelling is None and self.task is not None:
            self.cancelling = "suspend"
            self.task.cancel()
        elif self.cancelling == "timeout":  # it is being stopped already, and this is why
            self.cancelling = "suspend"

    @property
    def label(self) -> str:
        """What a log line calls it."""
        return f"{self.name} ({self.id})"
