"""A task in a slot of this worker."""

from __future__ import annotations

import asyncio

from asyncpg import Record

from fastedgy.queued_task.functions import TaskFunction
from fastedgy.queued_task.running import TaskRun


class Running:
    """One task in a slot."""

    __slots__ = ("began", "cancelling", "deadline", "function", "overdue", "row", "run", "slot",
                 "sync", "task", "timeout")  # fmt: skip

    def __init__(
        self, row: Record, run: TaskRun, function: TaskFunction, began: float, timeout: float
    ) -> None:
        self.row = row
        self.run = run
        self.function = function
        self.began = began
        self.timeout = timeout
        self.deadline = began + timeout
        self.slot = -1
        self.task: asyncio.Task[None] | None = None
        self.cancelling: str | None = None
        """Why it was told to stop: "timeout", "cancel" or "interrupt"."""
        self.sync = not function.is_async
        self.overdue = False

    @property
    def label(self) -> str:
        """What a log line calls it."""
        return f"{self.run.name} ({self.run.id})"
