"""Functions as tasks: `describe` where they are enqueued, `resolve` where they run."""

from __future__ import annotations

from fastedgy.queued_task.callables import TaskFunction, describe, describe_closure
from fastedgy.queued_task.offered import offer, resolve

__all__ = ["TaskFunction", "describe", "describe_closure", "offer", "resolve"]
