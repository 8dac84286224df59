"""One run of a task, as its worker and the author's own code see it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any
from uuid import UUID

from fastedgy.errors import CannotWait
from fastedgy.queued_task.encoding import NotEncodable, dumps, loads

logger = logging.getLogger("queued_task")

# level, time.monotonic(), name of the logger, message, info as JSON text or None
LogRecord = tuple[str, float, str, str, str | None]


class TaskRun:
    """A run of a task in this process.

    `attempt` counts from 1 and `max_retries` says how many follow the first; `run` tells this run
    from all others of the task. The author's code changes context and logs from the event loop or
    from threads. The worker's writer collects them by `take_context` and `take_logs` after `wake`
    was called: once until the next collection, in whichever thread the change was made. `journal`
    is what workflows keep of it; the attribute is missing in tasks without steps.
    """

    __slots__ = (
        "_awake",
        "_context",
        "_context_text",
        "_logs",
        "_shared",
        "attempt",
        "buffer",
        "context_dirty",
        "function",
        "id",
        "journal",
        "log_limit",
        "logs_dropped",
        "logs_taken",
        "max_retries",
        "name",
        "priority",
        "queue",
        "run",
        "wake",
    )

    def __init__(
        self,
        id: UUID,
        run: int = 1,
        attempt: int = 1,
        max_retries: int = 0,
        name: str = "",
        function: str = "",
        queue: str = "default",
        context: str = "{}",
        wake: Callable[[TaskRun], None] | None = None,
        log_limit: int = 10_000,
        priority: int = 0,
    ) -> None:
        self.id = id
        self.run = run
        self.attempt = attempt
        self.max_retries = max_retries
        self.name = name
        self.function = function
        self.queue = queue
        self.priority = priority
        self.wake = wake
        self.log_limit = log_limit
        self.journal: Any
        self.buffer: Any = None  # what the task adds to the queue, kept by the producer's room
        self.context_dirty = False
        self.logs_taken = 0
        self.logs_dropped = 0
        self._context_text = context
        self._context: dict[str, Any] | None = None
        self._shared = False
        self._logs: list[LogRecord] = []
        self._awake = False

    def __repr__(self) -> str:
        return f"<TaskRun {self.name} {self.id}, attempt {self.attempt}>"

    @property
    def sync(self) -> bool:
        """Whether its function runs in a thread."""
        return False

    def suspend(self) -> None:
        """Stop here, to go on in another run. Raises CannotWait where no worker runs it."""
        raise CannotWait(self.name)

    @property
    def retries_left(self) -> int:
        """How many more attempts there are after this one."""
        return max(0, self.max_retries + 1 - self.attempt)

    @property
    def is_last_attempt(self) -> bool:
        """Whether a failure of this attempt is final."""
        return self.attempt > self.max_retries

    @property
    def context(self) -> dict[str, Any]:
        """The context itself. Changes to it are written at the next collection."""
        self._shared = True
        return self.values()

    @context.setter
    def context(self, values: dict[str, Any]) -> None:
        self.replace_context(values)

    @property
    def logs(self) -> list[LogRecord]:
        """The lines that are not collected yet, oldest first."""
        return self._logs

    def values(self) -> dict[str, Any]:
        """The context for reading; `context` is for those who may change it."""
        values = self._context
        if values is None:
            loaded = loads(self._context_text)
            values = self._context = loaded if isinstance(loaded, dict) else {}
        return values

    def replace_context(self, values: dict[str, Any], *, commit: bool = True) -> None:
        """Put other values in place of the whole context. They must be JSON's own types."""
        self._context = values
        if commit:
            self.touch()
        else:
            self.context_dirty = True

    def touch(self) -> None:
        """Note that the context has changed, and wake the writer if it sleeps."""
        self.context_dirty = True
        if not self._awake:
            self._rouse()

    def log(self, level: str, name: str, message: str, info: str | None = None) -> None:
        """Add a line to the task's logs; beyond `log_limit` lines it is counted and dropped."""
        logs = self._logs
        if len(logs) + self.logs_taken >= self.log_limit:
            self.logs_dropped += 1
            return
        logs.append((level, time.monotonic(), name, message, info))
        if not self._awake:
            self._rouse()

    @property
    def is_log_full(self) -> bool:
        """Whether the next line would be dropped."""
        return self.logs_taken + len(self._logs) >= self.log_limit

    def is_pending(self) -> bool:
        """Whether there is anything to collect."""
        return self.context_dirty or bool(self._logs) or self._shared

    def take_context(self) -> str | None:
        """The context as JSON text if it has to be written, else None."""
        self._awake = False
        if not (self.context_dirty or self._shared):
            return None
        changed, self.context_dirty = self.context_dirty, False
        try:
            text = dumps(self.values())
        except Exception as error:  # also what a value's own code raises while it is encoded
            logger.error(
                "The context of task %s (%s) is not stored: %s", self.name, self.id, error,
                exc_info=not isinstance(error, NotEncodable),
            )  # fmt: skip
            return None
        if text == self._context_text and not changed:
            return None
        self._context_text = text
        return text

    def take_logs(self) -> tuple[int, list[LogRecord]]:
        """The number of lines collected before, and those that have come since.

        Copies and deletes in place: a thread may be adding a line at this very moment.
        """
        self._awake = False
        logs = self._logs
        first = self.logs_taken
        if not logs:
            return first, []
        taken = logs[:]
        self.logs_taken = first + len(taken)
        del logs[: len(taken)]
        return first, taken

    def close_logs(self) -> None:
        """Say in a last line how many were dropped. Call it once, when the run has ended."""
        if self.logs_dropped:
            message = (
                f"{self.logs_dropped:,} further lines of this run were dropped: QUEUE_LOG_LIMIT is "
                f"{self.log_limit:,}."
            )
            self._logs.append(("warning", time.monotonic(), "queued_task", message, None))
            self.logs_dropped = 0

    def _rouse(self) -> None:
        self._awake = True
        if self.wake is not None:
            self.wake(self)


current: ContextVar[TaskRun | None] = ContextVar("fastedgy_current_task", default=None)
