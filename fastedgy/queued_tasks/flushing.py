"""Emptying a buffer: hooks before and after, and a write that is seen to its end."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any
from uuid import UUID

import orjson
from asyncpg import Connection

from fastedgy.errors import FastEdgyError, InvalidContext
from fastedgy.queued_task import hooks
from fastedgy.queued_task.encoding import NotEncodable, dumps
from fastedgy.queued_tasks.buffer import Buffer, open_buffer, running_loop
from fastedgy.queued_tasks.writing import batch_of, write
from fastedgy.store.newtask import NewTask

if TYPE_CHECKING:
    from fastedgy.queued_tasks.service import QueuedTasks

logger = logging.getLogger("fastedgy.queued_tasks")

_pre_create = hooks.registered("pre_create")
_post_create = hooks.registered("post_create")
"""Empty as long as there are no hooks: looked at for every write."""

LOOP_ENDED = "The event loop ended in which tasks were being written."


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
    if connection is None and buffer.loop not in (None, running_loop()):
        buffer = buffer.moved()
    async with buffer.lock:
        while buffer.unfinished is not None:
            error = await _end_of(buffer.unfinished, buffer)
            if error is not None and not buffer.is_loose:  # there it is somebody else's
                raise error
        while buffer:
            one = _Flush(service, buffer)
            if connection is not None:
                await one.on(connection)
            elif _pre_create or _post_create:
                # Hooks are not cut off in the middle either.
                buffer.unfinished = service._here().finish(one.to_the_end())
                try:
                    error = await _end_of(buffer.unfinished, buffer)
                except asyncio.CancelledError:
                    one.abandoned = True
                    raise
                if error is not None:
                    raise error
            else:
                await one.run()


async def _end_of(
    writing: asyncio.Task[BaseException | None], buffer: Buffer
) -> BaseException | None:
    if writing.get_loop() is not running_loop():
        buffer.unfinished = None
        return FastEdgyError(LOOP_ENDED)
    error = await asyncio.shield(writing)
    buffer.unfinished = None
    return error


class _Flush:
    """What is in a buffer now. `abandoned`: who wanted it written was cancelled."""

    __slots__ = ("_batch", "_buffer", "_drafts", "_service", "abandoned")

    def __init__(self, service: QueuedTasks, buffer: Buffer) -> None:
        self._service = service
        self._buffer = buffer
        self._batch = batch_of(*buffer.take())
        self._drafts: Sequence[TaskDraft] = ()
        self.abandoned = False

    async def on(self, connection: Connection) -> None:
        """Write it on the caller's connection, hooks included."""
        try:
            self._buffer.take_over(await self._draft())
            await write(connection, self._service, self._batch)
        except BaseException:
            self._drop()
            raise
        self._buffer.take_over(await self._run_hooks("post_create"))

    async def run(self) -> None:
        """Write it. No hooks: where there are none, it takes no asyncio task of its own."""
        try:
            self._warn_of_late()
            await self._write(again=self._buffer.again)
        except asyncio.CancelledError:
            # The caller is cancelled, not what it wanted written.
            self.abandoned = True
            origin = self._buffer.origin
            if origin is None:
                finishing = self.to_the_end(again=True)
                self._buffer.unfinished = self._service._here().finish(finishing)
            else:  # this loop may be about to end; that one's end sees to it
                origin.again = True
                origin.put_back(self._batch.tasks, self._batch.cancellations)
            raise
        except BaseException:
            self._drop()
            raise

    async def to_the_end(self, *, again: bool = False) -> BaseException | None:
        """Write it, with hooks and what they add. Returns what went wrong.

        `again`: it may be written already.
        """
        added = Buffer()
        try:
            added = await self._draft()
            self._warn_of_late()
            await self._write(again=again or self._buffer.again)
            await flush(self._service, added, None)
            await flush(self._service, await self._run_hooks("post_create"), None)
        except asyncio.CancelledError:
            self._drop()
            added.drop()
            logger.error("Tasks are lost: %s", LOOP_ENDED)
            return FastEdgyError(LOOP_ENDED)
        except BaseException as error:
            self._drop()
            added.drop()
            if self.abandoned:
                logger.exception("Tasks whose enqueueing was cancelled are lost")
            return error
        return None

    async def _write(self, *, again: bool) -> None:
        await self._service._here().commits.write(self._batch, again=again)

    async def _draft(self) -> Buffer:
        """Run the hooks that may still change a task. Returns what they have added."""
        if not (_pre_create or _post_create):
            return Buffer()
        self._drafts = [TaskDraft(pending) for pending in self._batch.tasks]
        added = await self._run_hooks("pre_create")
        for pending, draft in zip(self._batch.tasks, self._drafts, strict=True):
            try:
                pending.context = dumps(draft.context)
            except NotEncodable as error:
                raise InvalidContext(
                    f"{draft.name}: the context that on_pre_create hooks have left: {error}."
                ) from None
        return added

    async def _run_hooks(self, kind: hooks.Kind) -> Buffer:
        """Returns the buffer of what they have added: one of its own, since they may wait for it
        while this one is being written.
        """
        outer, own = open_buffer.get(), Buffer()
        open_buffer.set(own)
        try:
            for draft in self._drafts:
                await hooks.run_hooks(kind, draft)
        finally:
            open_buffer.set(outer)
        return own

    def _drop(self) -> None:
        for pending in self._batch.tasks:
            pending.ref._dropped()

    def _warn_of_late(self) -> None:
        service = self._service
        if not service._in_application:
            return
        late = dict.fromkeys(task.spec.name for task in self._batch.tasks if task.in_transaction)
        if late and not service._in_transaction():
            logger.warning(
                "%s was added inside a database transaction, but is written after it and by itself."
                " To write both or neither, use `await tasks.flush()` in the transaction or `async "
                "with tasks.transaction():`.",
                ", ".join(late),
            )
