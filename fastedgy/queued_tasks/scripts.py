"""Which producer is meant where nobody names one: that of the script or of the application."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fastedgy.errors import NoOpenBuffer
from fastedgy.queued_task.batching import use_producer
from fastedgy.queued_tasks.buffer import Buffer

if TYPE_CHECKING:
    from fastedgy.queued_tasks.service import QueuedTasks


@dataclass(slots=True, eq=False)
class Script:
    """An open `async with` block: what it collects, and what was open around it."""

    buffer: Buffer
    outer: Buffer | None
    around: QueuedTasks | None


open_script: ContextVar[QueuedTasks | None] = ContextVar("fastedgy_open_script", default=None)
"""The producer whose `async with` block is open here. An application's is in the container."""


def open_producer() -> QueuedTasks:
    """The producer of the script that is open here, or the application's. Raises NoOpenBuffer."""
    from fastedgy.dependencies import get_service, has_service  # FastAPI, which scripts do without
    from fastedgy.queued_tasks.service import QueuedTasks

    script = open_script.get()
    if script is None and not has_service(QueuedTasks):
        raise NoOpenBuffer
    return script or get_service(QueuedTasks)


use_producer(open_producer)
