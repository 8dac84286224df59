"""What the author of a task imports."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from fastedgy.config import QueuedTaskConfig
from fastedgy.queued_task.backoff import Constant, Exponential, Linear, Steps, backoff
from fastedgy.queued_task.batching import enqueue_id_range_tasks, iter_with_cursor
from fastedgy.queued_task.context import (
    TaskContext,
    clear_context,
    get_context,
    get_current_task,
    get_full_context,
    set_context,
    set_current_task,
    set_full_context,
)
from fastedgy.queued_task.control import Discard, Retry, Snooze
from fastedgy.queued_task.hooks import (
    clear_all_hooks,
    on_post_create,
    on_post_run,
    on_pre_create,
    on_pre_run,
)
from fastedgy.queued_task.logs import getLogger
from fastedgy.queued_task.middleware import add_middleware, middleware, remove_middleware
from fastedgy.queued_task.options import TaskOptions, task
from fastedgy.queued_task.running import TaskRun

if TYPE_CHECKING:
    from fastedgy.models.queued_task import QueuedTaskState

__all__ = [
    "Constant",
    "Discard",
    "Exponential",
    "Linear",
    "QueuedTaskConfig",
    "QueuedTaskRef",
    "QueuedTaskState",
    "Retry",
    "Snooze",
    "Steps",
    "TaskContext",
    "TaskOptions",
    "TaskRun",
    "add_middleware",
    "backoff",
    "clear_all_hooks",
    "clear_context",
    "enqueue_id_range_tasks",
    "getLogger",
    "get_context",
    "get_current_task",
    "get_full_context",
    "iter_with_cursor",
    "middleware",
    "on_post_create",
    "on_post_run",
    "on_pre_create",
    "on_pre_run",
    "remove_middleware",
    "set_context",
    "set_current_task",
    "set_full_context",
    "task",
]

# Imported when first asked for: the models need Edgy, and the producer stands above this room.
_ELSEWHERE = {
    "QueuedTaskState": "fastedgy.models.queued_task",
    "QueuedTaskRef": "fastedgy.queued_tasks",
}


def __getattr__(name: str) -> Any:
    if name not in _ELSEWHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_ELSEWHERE[name]), name)
    globals()[name] = value
    return value
