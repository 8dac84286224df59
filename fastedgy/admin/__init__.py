"""Operating the queue: queries, actions on many tasks, and what is built on them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fastedgy.admin.auth import Identity, QueueAuth, tokens
from fastedgy.admin.service import QueueAdmin
from fastedgy.admin.types import (
    BulkAction,
    BulkPreview,
    BulkProgress,
    Level,
    LogRow,
    NameStats,
    Overview,
    Page,
    Point,
    QueueInfo,
    RunningTask,
    StateCounts,
    Stats,
    TaskDetails,
    TaskFilter,
    TaskSummary,
    Tree,
    WorkerInfo,
    WorkerSummary,
)

if TYPE_CHECKING:
    from fastedgy.admin.api import queue_router

__all__ = [
    "BulkAction",
    "BulkPreview",
    "BulkProgress",
    "Identity",
    "Level",
    "LogRow",
    "NameStats",
    "Overview",
    "Page",
    "Point",
    "QueueAdmin",
    "QueueAuth",
    "QueueInfo",
    "RunningTask",
    "StateCounts",
    "Stats",
    "TaskDetails",
    "TaskFilter",
    "TaskSummary",
    "Tree",
    "WorkerInfo",
    "WorkerSummary",
    "queue_router",
    "tokens",
]


def __getattr__(name: str) -> Any:
    """The router with all that it mounts is loaded by those only who mount it."""
    if name == "queue_router":
        from fastedgy.admin.api import queue_router

        return queue_router
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
