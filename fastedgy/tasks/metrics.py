"""What an application's in-process tasks have come to."""

from __future__ import annotations

from fastapi import FastAPI

from fastedgy.tasks.counts import TaskCounts
from fastedgy.tasks.install import runner_of


def task_counts(app: FastAPI) -> dict[str, TaskCounts]:
    """The counts and durations of an application's tasks by their names, since it started.

    Raises FastAPITasksUninitializedAppError unless it runs and has in-process tasks.
    """
    return dict(runner_of(app).counts.by_name)
