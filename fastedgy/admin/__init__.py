"""Operating the queue: queries, actions on many tasks, and what is built on them."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fastedgy.admin.api import queue_router
    from fastedgy.admin.auth import Identity, QueueAuth, tokens
    from fastedgy.admin.service import QueueAdmin
    from fastedgy.admin.types import (
        BulkAction,
        BulkPreview,
        BulkProgress,
        Drain,
        Level,
        LogRow,
        NameStats,
        Overview,
        Page,
        Point,
        QueueChange,
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

__all__ = [
    "BulkAction",
    "BulkPreview",
    "BulkProgress",
    "Drain",
    "Identity",
    "Level",
    "LogRow",
    "NameStats",
    "Overview",
    "Page",
    "Point",
    "QueueAdmin",
    "QueueAuth",
    "QueueChange",
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

_PLACES = {
    "Identity": "auth",
    "QueueAdmin": "service",
    "QueueAuth": "auth",
    "queue_router": "api",
    "tokens": "auth",
}
"""The modules of names that are not among the types."""


def __getattr__(name: str) -> Any:
    """Load what is asked for: the types need no FastAPI, and only who mounts it needs the API."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_PLACES.get(name, 'types')}"), name)
