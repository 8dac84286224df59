"""The error handler of a durable in-process task whose last attempt was made by a worker."""

from __future__ import annotations

import logging
import time

from fastedgy.config import QueuedTaskConfig
from fastedgy.errors import FastEdgyError
from fastedgy.queued_task.encoding import loads
from fastedgy.queued_task.functions import resolve
from fastedgy.tasks.config import TaskConfig
from fastedgy.tasks.durable import ON_ERROR
from fastedgy.tasks.performing import handle
from fastedgy.tasks.task import Task
from fastedgy.worker.running import Running

logger = logging.getLogger("fastedgy.worker")


async def call_handler(it: Running, error: BaseException, config: QueuedTaskConfig) -> None:
    """Call what the row names as its error handler, if it does. Raises nothing."""
    path = it.values().get(ON_ERROR)
    if not isinstance(path, str) or not isinstance(error, Exception):
        return
    try:
        handler = resolve(path, config)
        args, kwargs = it.target.rebuild(loads(it.args), loads(it.kwargs))
    except FastEdgyError as problem:
        logger.error("The error handler of %s cannot be called: %s", it.label, problem)
        return
    task: Task[..., object] = Task(
        it.target.call,
        tuple(args),
        kwargs,
        TaskConfig(name=it.name, on_error=handler.call, timeout=it.timeout, durable=True),
    )
    task._run = it
    task.state = "failed"
    # It has as much time as the function had.
    it.cancelling = None
    it.deadline = time.monotonic() + it.timeout
    await handle(task, error)
