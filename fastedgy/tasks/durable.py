"""`durable=True`: a row that says what a task does, so that a worker takes it over if we die.

The row is written in state `doing`, with this process as its owner: no worker touches it as long as
this process gives signs of life (`Owner`, which the engine's room implements).
"""

from __future__ import annotations

import asyncio
import importlib
import logging
import time
from contextvars import Context
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Protocol
from uuid import UUID

import orjson

from fastedgy.dependencies import get_service, has_service
from fastedgy.errors import ConfigurationError, TaskCancelled
from fastedgy.ids import new_id
from fastedgy.queued_task.control import Snooze
from fastedgy.queued_task.functions import TaskFunction, describe
from fastedgy.queued_task.running import TaskRun
from fastedgy.queued_task.signing import sign
from fastedgy.queued_tasks import QueuedTaskRef, QueuedTasks
from fastedgy.queued_tasks.buffer import Buffer, Pending
from fastedgy.queued_tasks.duplicates import USUAL
from fastedgy.store.newtask import Spec
from fastedgy.tasks.config import TaskConfig

if TYPE_CHECKING:
    from fastedgy.tasks.runner import Runner
    from fastedgy.tasks.task import Task

logger = logging.getLogger("fastedgy.tasks")

ON_ERROR = "fastedgy.on_error"
"""Where in the row's context the import name of the error handler is: the last attempt may be made
by a worker."""
ENGINE = "fastedgy.worker.web"
"""Where owners are made. Imported when the first durable task needs one: the engine's room stands
above this one."""


LAST_WRITE = 5.0
"""Seconds for which a task that is stopped waits for its row, if that is being written."""


class Owner(Protocol):
    """This process as one that runs tasks with rows: it beats, and writes what becomes of them."""

    id: UUID

    @property
    def lease_until(self) -> float:
        """Until when nobody else runs our tasks, a reading of `time.monotonic()`."""

    async def registered(self) -> None:
        """Return when our row is there, without which others would take our tasks for orphans.

        Raises DatabaseUnavailable when that takes longer than `QUEUE_ENQUEUE_TIMEOUT`.
        """

    def wake(self, run: TaskRun) -> None:
        """A running task has said something."""

    def ended(
        self, task: Task[..., Any], *, value: Any = None, error: BaseException | None = None,
        stopped: str | None = None,
    ) -> None:  # fmt: skip
        """Write what came of a task. `stopped`: why it was told to stop."""

    async def close(self) -> None:
        """Write what is left, and hand everything else to the workers."""


def owner_of(runner: Runner) -> Owner:
    """This process's owner. Made with the first durable task, in the runner's event loop."""
    if runner.owner is None:
        if not has_service(QueuedTasks):
            raise ConfigurationError(
                "durable=True needs the queue, which this application does not have. Make it a "
                "FastEdgy, or call install_queue(app)."
            )
        make = importlib.import_module(ENGINE).WebOwner
        # Its loops outlive the request that happens to need them first, and whatever that one has
        # in its context.
        runner.owner = Context().run(make, runner, get_service(QueuedTasks))
    return runner.owner


@lru_cache(maxsize=1024)
def _spec(function: TaskFunction, config: TaskConfig, owner: UUID) -> Spec:
    """What the rows of tasks from one place in the code have in common."""
    options = function.options
    return Spec(
        config.name or function.name,
        function.path,
        queue=options.queue or "default",
        priority=options.priority or 0,
        max_retries=config.retries or 0,
        timeout=config.seconds,
        owner=owner,
    )


class Claim:
    """A task's row, and this process's hold on it."""

    __slots__ = ("_function", "_owner", "_pending", "_ref", "_service", "_task")

    def __init__(self, task: Task[..., Any], owner: Owner) -> None:
        """Raises InvalidFunction and InvalidArguments like `QueuedTasks.add_task`."""
        service = get_service(QueuedTasks)
        config = task.config
        function = describe(task.func)
        handler = None if config.on_error is None else describe(config.on_error).path
        args, kwargs = function.bind(task.args, task.kwargs)
        spec = _spec(function, config, owner.id)
        context = "{}" if handler is None else orjson.dumps({ON_ERROR: handler}).decode()
        run = task._run = TaskRun(
            new_id(),
            run=1,
            max_retries=spec.max_retries,
            name=spec.name,
            function=function.path,
            queue=spec.queue,
            context=context,
            log_limit=service.config.log_limit,
            priority=spec.priority,
        )
        self._task = task
        self._owner = owner
        self._function: TaskFunction = function
        self._service = service
        self._ref = QueuedTaskRef(service, run.id)
        self._pending = Pending(run.id, spec, args, kwargs, None, USUAL, (), self._ref)
        self._pending.context = context
        if keys := service.config.signing_keys:
            self._pending.signature = sign(keys, run.id, spec.function, args, kwargs)
        self._ref._pending = self._pending

    # Its row.

    def join_route(self) -> None:
        """Have the row written with the route's other rows."""
        self._service._add([self._pending])

    async def ready(self) -> bool:
        """Write the row, if it is not there yet. False: the task is not to run here."""
        task, ref = self._task, self._ref
        try:
            if ref._pending is not None:
                await self._owner.registered()
                if self._pending.buffer is None:
                    self._pending.buffer = Buffer([self._pending])
                await self._service._write(self._pending.buffer)
        except asyncio.CancelledError:
            # Written or not: what the workers are handed at the end is what is in the table, so
            # that a write that goes on is waited for.
            buffer = self._pending.buffer
            if buffer is not None and buffer.unfinished is not None:
                await asyncio.wait([buffer.unfinished], timeout=LAST_WRITE)
            self._settle(task._stopping)
            return False
        except Exception as error:
            logger.exception(
                "The durable task %s could not be written, and does not run", task.name
            )
            task._settle("failed", error=error)
            return False
        if ref._state is not None:
            self._settle(None)
            return False
        if time.monotonic() >= self._owner.lease_until:
            logger.error("%s goes to a worker: this process could not renew its lease", task.name)
            self._settle("interrupt")
            self.cancelled("interrupt", asyncio.CancelledError())
            return False
        task.run.wake = self._owner.wake
        return True

    def _settle(self, why: str | None) -> None:
        reason = "its row was never written" if why is None else "a worker takes it over"
        task = self._task
        task._settle(
            "cancelled", error=TaskCancelled(id=task.run.id, name=task.name, reason=reason)
        )

    def belongs_to(self, owner: Any) -> bool:
        """Whether this owner's row is the one that the task counts on."""
        return self._owner is owner

    # What came of it.

    def done(self, value: Any) -> None:
        """The function returned."""
        self._owner.ended(self._task, value=value)

    def failed(self, error: BaseException) -> None:
        """The last attempt failed, and its handler has ended."""
        self._owner.ended(self._task, error=error)

    def cancelled(self, why: str | None, error: BaseException) -> None:
        """It was told to stop, or raised CancelledError by itself."""
        if why is None:
            self._owner.ended(self._task, error=error)
        else:
            self._owner.ended(self._task, error=error, stopped=why)

    def dropped(self, why: str | None) -> None:
        """It never starts here. Only a row that was flushed early needs to be told."""
        if self._ref._pending is not None:
            if why is None:
                self._ref._state = "cancelled"  # a flush that is to come leaves it out
            return
        if self._ref._state is None:
            self.cancelled(why or "cancel", asyncio.CancelledError())

    def goes_elsewhere(self, error: Exception) -> bool:
        """Whether a worker goes on with it, later."""
        return isinstance(error, Snooze)

    def retries(self, error: Exception) -> bool:
        """Whether `@task` says that this exception is one to try again after."""
        return self._function.retries(error)
