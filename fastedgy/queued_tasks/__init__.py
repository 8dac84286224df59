"""The producer's side of the queue: `QueuedTasks` writes tasks, `QueuedTaskRef` watches them."""

from fastedgy.queued_tasks.maker import TaskMaker
from fastedgy.queued_tasks.ref import QueuedTaskRef
from fastedgy.queued_tasks.service import QueuedTasks

__all__ = ["QueuedTaskRef", "QueuedTasks", "TaskMaker"]
