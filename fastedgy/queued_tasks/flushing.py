"""Emptying a buffer: hooks before and after, and a write that is seen to its end."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any
from uuid import UUID

import orjson
from asyncpg import Connection

from fastedgy.queued_task import hooks
from fastedgy.queued_tasks.buffer import Buffer, Pending, Wish, open_buffer
from fastedgy.queued_tasks.writing import without_cancelled, write
from fastedgy.store.newtask import NewTask

if TYPE_CHECKING:
    from fastedgy.queued_tasks.service import QueuedTasks

logger = logging.getLogger("fastedgy.queued_tasks")

_pre_create = hooks.registered("pre_create")
_post_create = hooks.registered("post_create")
"""Empty as long as there are no hooks: looked at for every write."""


class TaskDraft:
    """What `on_pre_create` and `on_post_create` hooks get: the task before and after it is a row.

    `context` (a dict) may be changed in place before the task is written.
    """

    __slots__ = ("context", "function", "id", "name", "priority", "queue")

    def __init__(self, row: NewTask) -> None:
        self.id: UUID = row.id
        self.name = row.spec.name
        self.function = row.spec.function
        self.queue = row.spec.queue
        self.priority = row.spec.priority
        self.context: dict[str, Any] = orjson.loads(row.context)


async def flush(service: QueuedTasks, buffer: Buffer, connection: Connection | None) -> None:
    """Write a buffer, with what hooks add meanwhile; what is on its way from it is waited for.

    On the caller's connection, or without one on the service's own. Then what has begun is seen to
    its end, even if the caller is cancelled, and whoever writes the same buffer next has its error.
    """
    async with buffer.lock:
        while buffer.unfinished is not None:
            error = await asyncio.shield(buffer.unfinished)
            buffer.unfinished = None
            if error is not None:
                raise error
        while buffer:
            tasks, cancellations = buffer.take()
            await _Flush(service, buffer, tasks, cancellations).run(connection)


class _Flush:
    """What was in a buffer at one moment."""

    __slots__ = ("_buffer", "_cancellations", "_drafts", "_service", "_tasks")

    def __init__(
        self,
        service: QueuedTasks,
        buffer: Buffer,
        tasks: list[Pending],
        cancellations: dict[UUID, Wish],
    ) -> None:
        self._service = service
        self._buffer = buffer
        self._tasks = without_cancelled(tasks)
        self._cancellations = cancellations
        self._drafts: Sequence[TaskDraft] = ()

    async def run(self, connection: Connection | None) -> None:
        if _pre_create or _post_create:
            await self._draft()
        try:
            if connection is not None:
                await write(connection, self._service, self._tasks, self._cancellations)
            else:
                self._warn_of_late()
                await self._service._here().commits.write(self._tasks, self._cancellations)
        except asyncio.CancelledError:
            if connection is None:
                # The caller is cancelled, not what it wanted written.
                self._buffer.unfinished = self._service._here().finish(self._finished())
            else:
                self._drop()
            raise
        except BaseException:
            self._drop()
            raise
        if self._drafts:
            await self._run_hooks("post_create")

    async def _finished(self) -> BaseException | None:
        """Write what may be written already. Returns what went wrong."""
        try:
            await self._service._here().commits.write(self._tasks, self._cancellations, again=True)
            if self._drafts:
                await self._run_hooks("post_create")
            if self._buffer.closed:  # nobody comes for what hooks have added
                tasks, cancellations = self._buffer.take()
                await _Flush(self._service, self._buffer, tasks, cancellations).run(None)
        except BaseException as error:
            self._drop()
            logger.exception("Tasks whose enqueueing was cancelled are lost")
            return error
        return None

    async def _draft(self) -> None:
        """Run the hooks that may still change a task."""
        self._drafts = [TaskDraft(pending) for pending in self._tasks]
        try:
            await self._run_hooks("pre_create")
        except BaseException:  # cancelled: a failing hook is logged
            self._buffer.put_back(self._tasks, self._cancellations)
            raise
        for pending, draft in zip(self._tasks, self._drafts, strict=True):
            pending.context = orjson.dumps(draft.context).decode()

    async def _run_hooks(self, kind: hooks.Kind) -> None:
        """What hooks add has a buffer of its own, since they may wait for it while this one is
        being written. The rest of it goes with what comes next.
        """
        outer, own = open_buffer.get(), Buffer()
        open_buffer.set(own)
        try:
            for draft in self._drafts:
                await hooks.run_hooks(kind, draft)
        finally:
            open_buffer.set(outer)
            self._buffer.take_over(own)

    def _drop(self) -> None:
        for pending in self._tasks:
            pending.ref._dropped()

    def _warn_of_late(self) -> None:
        service = self._service
        if not service._in_application:
            return
        late = dict.fromkeys(task.spec.name for task in self._tasks if task.in_transaction)
        if late and not service._in_transaction():
            logger.warning(
                "%s was added inside a database transaction, but is written after it and by itself."
                " To write both or neither, use `await tasks.flush()` in the transaction or `async "
                "with tasks.transaction():`.",
                ", ".join(late),
            )
