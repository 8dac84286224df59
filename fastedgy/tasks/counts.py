"""What in-process tasks count, by name."""

from __future__ import annotations

from dataclasses import dataclass
from types import FunctionType
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from fastedgy.tasks.task import function_name

if TYPE_CHECKING:
    from fastedgy.tasks.task import Task

MOST_NAMES = 1_000
"""Names may be made of ids (`payment_17`). Beyond so many, tasks are counted under the name of
their function."""


@dataclass(slots=True)
class TaskCounts:
    """The tasks of one name since the application started. Durations are seconds, of whole tasks
    with their retries, their error handlers not included.
    """

    scheduled: int = 0
    running: int = 0
    done: int = 0
    failed: int = 0
    cancelled: int = 0
    retried: int = 0
    timeouts: int = 0
    refused: int = 0
    seconds: float = 0.0
    longest: float = 0.0

    @property
    def mean(self) -> float:
        """The mean duration of the tasks that have ended."""
        ended = self.done + self.failed
        return self.seconds / ended if ended else 0.0


class Counts:
    """The counts of all names of one application."""

    def __init__(self) -> None:
        self.by_name: dict[str, TaskCounts] = {}
        # To put a name together takes longer than to look up a function.
        self._by_function: WeakKeyDictionary[FunctionType, TaskCounts] = WeakKeyDictionary()

    def of(self, task: Task[..., Any]) -> TaskCounts:
        """The counts of a task's name, or of its function's when there are too many names."""
        func = task.func
        if task.config.name is not None or type(func) is not FunctionType:
            return self._of(task)
        counts = self._by_function.get(func)
        if counts is None:
            counts = self._by_function[func] = self._of(task)
        return counts

    def _of(self, task: Task[..., Any]) -> TaskCounts:
        name = task.name
        counts = self.by_name.get(name)
        if counts is None:
            if len(self.by_name) >= MOST_NAMES:
                name = function_name(task.func)
                counts = self.by_name.get(name)
            if counts is None:
                counts = self.by_name[name] = TaskCounts()
        return counts
