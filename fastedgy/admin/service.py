"""`QueueAdmin`: everything that can be asked of the queue, and done to it, in one service."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

from asyncpg import Connection

from fastedgy.admin import bulk, drains, trees
from fastedgy.admin import overview as overviews
from fastedgy.admin.doctor import cure
from fastedgy.admin.findings import Cure
from fastedgy.admin.reader import QueueReader
from fastedgy.admin.types import (
    BulkAction,
    BulkPreview,
    BulkProgress,
    Drain,
    QueueChange,
    TaskFilter,
)
from fastedgy.errors import BreakerNotFound, InvalidOption
from fastedgy.store import audit, breakers
from fastedgy.store import queues as queue_rows


class QueueAdmin(QueueReader):
    """Queries and operations of the queue.

    In an application `Inject(QueueAdmin)` or `get_service(QueueAdmin)`; in a script
    `async with QueueAdmin() as admin:`, which connects by `DATABASE_URL`. Nothing that is redacted
    in the rows is in any answer. `actor` is who does something, `source` from where ("python",
    "api", "page", "cli"): both go into the audit.
    """

    # Queues and workers.

    async def pause_queue(self, name: str, *, actor: str, source: str = "python") -> QueueChange:
        """Start no task of this queue, on all workers, until it is resumed; what runs goes on.

        A queue may be paused before it has any task. The answer says where nothing is known of it.
        """
        async with self._noted(f"queue:{name}", "queue.pause", actor, source) as connection:
            change = await overviews.queue_change(connection, self.tables, self.config, name)
            await queue_rows.pause(
                connection, self.tables, name, actor=actor, channels=self.channels
            )
        return change

    async def resume_queue(self, name: str, *, actor: str, source: str = "python") -> QueueChange:
        """Let the tasks of a paused queue start again."""
        async with self._noted(f"queue:{name}", "queue.resume", actor, source) as connection:
            change = await overviews.queue_change(connection, self.tables, self.config, name)
            await queue_rows.resume(
                connection, self.tables, name, actor=actor, channels=self.channels
            )
        return change

    async def set_queue_limits(
        self,
        name: str,
        *,
        max_running: int | None,
        rate: float | None,
        actor: str,
        source: str = "python",
    ) -> QueueChange:
        """Let so many of a queue's tasks run at once, and start in a second; None: no limit.

        Raises InvalidOption for less than one task, and for a rate that is not above 0.
        """
        if max_running is not None and max_running < 1:
            raise InvalidOption(f"max_running= is at least 1, not {max_running}; or pause it.")
        if rate is not None and not 0 < rate < float("inf"):
            raise InvalidOption(f"rate= is above 0, not {rate:g}; or pause the queue.")
        limits = {"max_running": max_running, "rate": rate}
        async with self._noted(f"queue:{name}", "queue.limit", actor, source, limits) as connection:
            change = await overviews.queue_change(connection, self.tables, self.config, name)
            await queue_rows.set_limits(
                connection, self.tables, name, max_running=max_running, rate=rate, actor=actor,
                channels=self.channels,
            )  # fmt: skip
        return change

    async def preview_drain(self, name: str) -> Drain:
        """Who would drain; see `drain`."""
        async with self.connection() as connection:
            return await drains.preview(connection, self.tables, name, lease=self.config.lease)

    async def drain(self, name: str, *, actor: str, source: str = "python") -> Drain:
        """Have workers take no more tasks, end what they run (up to their QUEUE_DRAIN_TIMEOUT; the
        rest goes back to the line), and end.

        `name`: a worker process by its id (or its first or last digits) or `server/pid`, whose
        supervisor starts another one; or a supervisor's id, or a server's name, where the
        supervisors end with their workers. What is asked stands in the workers' rows, so that none
        misses it. Raises WorkerNotFound, AmbiguousId, and InvalidTransition for a web process.
        """
        async with self.connection() as connection, connection.transaction():
            return await drains.drain(
                connection, self.tables, name, lease=self.config.lease, actor=actor, source=source,
                channels=self.channels,
            )  # fmt: skip

    @asynccontextmanager
    async def _noted(
        self,
        target: str,
        action: str,
        actor: str,
        source: str,
        details: Mapping[str, Any] | None = None,
    ) -> AsyncIterator[Connection]:
        """A transaction in which something is done and written down."""
        async with self.connection() as connection, connection.transaction():
            yield connection
            await audit.note(
                connection, self.tables, actor=actor, source=source, action=action,
                target=target, details=details,
            )  # fmt: skip

    # One task, many tasks.

    async def cancel(
        self, id: UUID, *, actor: str, source: str = "python", reason: str | None = None
    ) -> bool:
        """Cancel a task. True: it is cancelled or was asked to stop; False: it had ended.

        This and the following raise TaskNotFound.
        """
        return await bulk.one(self, BulkAction.cancel, id, actor, source, reason=reason)

    async def retry(self, id: UUID, *, actor: str, source: str = "python") -> bool:
        """Run a failed or cancelled task again, the same row. False: it cannot be."""
        return await bulk.one(self, BulkAction.retry, id, actor, source)

    async def reprioritise(
        self, id: UUID, priority: int, *, actor: str, source: str = "python"
    ) -> bool:
        """Give a task that has not started another priority. False: it has started or ended."""
        return await bulk.one(self, BulkAction.reprioritise, id, actor, source, priority=priority)

    async def move(self, id: UUID, queue: str, *, actor: str, source: str = "python") -> bool:
        """Put a task that has not started into another queue. False: it has started or ended."""
        return await bulk.one(self, BulkAction.move, id, actor, source, queue=queue)

    async def delete(self, id: UUID, *, actor: str, source: str = "python") -> bool:
        """Delete the row of an ended task, with its logs. False: it has not ended."""
        return await bulk.one(self, BulkAction.delete, id, actor, source)

    async def preview_tree(self, action: BulkAction | str, id: UUID) -> BulkPreview:
        """What `cancel_tree` ("cancel") or `retry_tree` ("retry") would do. Raises TaskNotFound."""
        async with self.connection() as connection:
            return await trees.preview(connection, self.tables, BulkAction(action), id)

    async def cancel_tree(
        self, id: UUID, *, actor: str, source: str = "python", reason: str | None = None
    ) -> int:
        """Cancel a task and everything below it: what waits for it, and what that waits for, also
        what runs already, or would run all the same. How many were cancelled or asked to stop.
        """
        return await trees.apply(self, BulkAction.cancel, id, actor, source, reason=reason)

    async def retry_tree(self, id: UUID, *, actor: str, source: str = "python") -> int:
        """Retry a task with the parents that came to nothing, and all that did because of them.

        Returns how many run again; the others keep waiting for a parent that cannot, or another
        task holds their unique key by now.
        """
        return await trees.apply(self, BulkAction.retry, id, actor, source)

    async def preview(self, action: BulkAction | str, filter: TaskFilter) -> BulkPreview:
        """What `apply` would do: how many tasks, in which states, queues and names."""
        async with self.connection() as connection:
            return await bulk.preview(connection, self.tables, BulkAction(action), filter)

    def apply(
        self,
        action: BulkAction | str,
        filter: TaskFilter,
        *,
        actor: str,
        source: str = "python",
        priority: int | None = None,
        queue: str | None = None,
        reason: str | None = None,
        chunk: int = 500,
    ) -> AsyncIterator[BulkProgress]:
        """Do something to all tasks that a filter finds, `chunk` of them in each transaction.

        `async for progress in admin.apply("retry", TaskFilter(states=("failed",)), actor="ann"):`.
        Tasks that came to be after the start are left alone, and so are those that are in a state
        that the action has nothing to do with. `priority` is for reprioritise, `queue` for move,
        `reason` for cancel. Stop iterating to stop: each chunk is done or not. Raises InvalidOption
        before anything is done for what does not fit.
        """
        order = bulk.Order(
            BulkAction(action), actor, source, priority=priority, queue=queue, reason=reason
        )
        return bulk.apply(self, order, filter, chunk=chunk)

    def undo(
        self, operation: UUID, *, actor: str, source: str = "python", chunk: int = 500
    ) -> AsyncIterator[BulkProgress]:
        """Take a bulk cancellation back: what it cancelled is in the line again, or scheduled for
        its time, with what was cancelled because of it. Raises InvalidOption, when it is first
        iterated, for an operation that cannot be undone.
        """
        return bulk.undo(self, operation, actor=actor, source=source, chunk=chunk)

    async def reset_breaker(self, name: str, *, actor: str, source: str = "python") -> None:
        """Close a breaker: what it held may run. Raises BreakerNotFound."""
        async with self.connection() as connection:
            closed = await breakers.reset(connection, self.tables, name, actor=actor, source=source)
        if closed is None:
            raise BreakerNotFound(name)

    async def fix(
        self,
        code: str | None = None,
        title: str | None = None,
        *,
        actor: str,
        source: str = "python",
    ) -> Sequence[Cure]:
        """Apply the cures that `doctor` has for what it finds now, those that are safe while
        everything runs: all of them, or those of one kind of finding (`code`), or of one (`title`).

        One that the database refuses has an `error`, and keeps nobody from the others.
        """
        findings = [
            finding
            for finding in await self.doctor()
            if code in (None, finding.code) and title in (None, finding.title)
        ]
        async with self.connection() as connection:
            return await cure(connection, self.tables, findings, actor=actor, source=source)
