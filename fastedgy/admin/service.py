"""`QueueAdmin`: everything that can be asked of the queue, and done to it, in one service."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any
from uuid import UUID

from asyncpg import Connection

from fastedgy.admin import bulk, queries, stats
from fastedgy.admin import overview as overviews
from fastedgy.admin import workers as processes
from fastedgy.admin.doctor import doctor
from fastedgy.admin.explain import explain
from fastedgy.admin.explanation import Explanation
from fastedgy.admin.findings import Finding
from fastedgy.admin.source import Source
from fastedgy.admin.types import (
    BulkAction,
    BulkPreview,
    BulkProgress,
    LogRow,
    NameStats,
    Overview,
    Page,
    Point,
    QueueInfo,
    StateCounts,
    Stats,
    TaskDetails,
    TaskFilter,
    TaskSummary,
    Tree,
    WorkerInfo,
)
from fastedgy.errors import BreakerNotFound, InvalidOption
from fastedgy.scheduler.schedule import Schedule, schedule_of
from fastedgy.store import audit, breakers, history, schedules
from fastedgy.store import queues as queue_rows
from fastedgy.store.audit import AuditEntry
from fastedgy.store.breakers import Breaker
from fastedgy.store.history import Total

PATIENCE = 5.0
"""Seconds that a listing without a cursor may look for its tasks."""


class QueueAdmin(Source):
    """Queries and operations of the queue.

    In an application `Inject(QueueAdmin)` or `get_service(QueueAdmin)`; in a script
    `async with QueueAdmin() as admin:`, which connects by `DATABASE_URL`. Nothing that is redacted
    in the rows is in any answer. `actor` is who does something, `source` from where ("python",
    "api", "page", "cli"): both go into the audit.
    """

    # Tasks.

    async def list_tasks(
        self,
        filter: TaskFilter | None = None,
        *,
        limit: int = 50,
        cursor: str | None = None,
        oldest_first: bool = False,
    ) -> Page[TaskSummary]:
        """Tasks that a filter finds, from the newest on; `cursor` is `next` of the page before.

        Raises InvalidOption for a state that does not exist and for a cursor that is none.
        """
        async with self.connection() as connection:
            return await queries.list_tasks(
                connection, self.tables, filter, limit=limit, cursor=cursor,
                oldest_first=oldest_first,
            )  # fmt: skip

    async def get_recent_tasks(self, limit: int = 50) -> Sequence[TaskSummary]:
        """The tasks that were made last, the newest first."""
        return (await self.list_tasks(limit=limit)).items

    async def get_tasks_by_status(self, status: str, limit: int = 50) -> Sequence[TaskSummary]:
        """The newest tasks in one state. Raises InvalidOption for one that does not exist."""
        return await self._first(TaskFilter(states=(status,)), limit)

    async def get_tasks_in_range(
        self, start: datetime, end: datetime, limit: int = 50
    ) -> Sequence[TaskSummary]:
        """Tasks that were made from `start` on and before `end`, the newest first."""
        wanted = TaskFilter(created_after=start, created_before=end)
        return await self._first(wanted, limit)

    async def _first(self, filter: TaskFilter, limit: int) -> Sequence[TaskSummary]:
        """A page that nobody can turn: worth looking for a little longer."""
        async with self.connection() as connection:
            page = await queries.list_tasks(
                connection, self.tables, filter, limit=limit, seconds=PATIENCE
            )
        return page.items

    async def get_running_tasks(self, limit: int = 50) -> Sequence[TaskSummary]:
        """What runs now, the longest-running first."""
        async with self.connection() as connection:
            return await queries.running_tasks(connection, self.tables, limit=limit)

    async def find_id(self, text: str) -> UUID:
        """The id that `text` is, or is the first or last digits of (four at least).

        Raises TaskNotFound, and AmbiguousId where more than one task fits.
        """
        async with self.connection() as connection:
            return await queries.find_id(connection, self.tables, text)

    async def get_task_details(self, id: UUID) -> TaskDetails:
        """All about one task, redacted. Raises TaskNotFound."""
        async with self.connection() as connection:
            return await queries.task_details(connection, self.tables, id)

    async def get_task_logs(
        self,
        id: UUID,
        *,
        after: tuple[int, int] = (-1, -1),
        limit: int = 1000,
        level: str | None = None,
    ) -> Sequence[LogRow]:
        """Log lines in their order, those after (run, seq); `level`: this serious at least."""
        async with self.connection() as connection:
            return await queries.task_logs(
                connection, self.tables, id, after=after, limit=limit, level=level
            )

    async def get_tree(self, id: UUID, *, limit: int = 1000) -> Tree:
        """A task with its ancestors and descendants, up to `limit` of each. Raises TaskNotFound."""
        async with self.connection() as connection:
            return await queries.tree(connection, self.tables, id, limit=limit)

    async def explain(self, id: UUID) -> Explanation:
        """Why a task does not run now, and what to do. Raises TaskNotFound."""
        async with self.connection() as connection:
            return await explain(connection, self.tables, id, self.config)

    # Figures.

    async def count_states(self) -> StateCounts:
        """How many tasks are in each state: exact while they are few, else marked estimates."""
        async with self.connection() as connection:
            return await stats.count_states(connection, self.tables)

    async def count_tasks(self, filter: TaskFilter, *, limit: int = 10_000) -> int:
        """How many tasks a filter finds, counted up to `limit`."""
        async with self.connection() as connection:
            return await queries.count_tasks(connection, self.tables, filter, limit=limit)

    async def get_stats(self, hours: float = 24) -> Stats:
        """How the last hours went, and each name in them. See `names` for what is counted."""
        async with self.connection() as connection:
            return await stats.get_stats(connection, self.tables, hours=hours)

    async def names(self, hours: float = 1, *, limit: int = 200) -> Sequence[NameStats]:
        """How the runs of each name ended, the most frequent names first.

        From what the workers counted: a few seconds behind at most, to the minute for up to two
        hours, then to the hour.
        """
        async with self.connection() as connection:
            return await stats.names(connection, self.tables, hours=hours, limit=limit)

    async def throughput(
        self, minutes: int = 60, *, name: str | None = None, queue: str | None = None
    ) -> Sequence[Point]:
        """The history in equal steps, the oldest first, without gaps: minutes for up to six hours,
        else hours. Of one name or queue if given.
        """
        async with self.connection() as connection:
            return await stats.throughput(
                connection, self.tables, minutes=minutes, name=name, queue=queue
            )

    async def overview(self) -> Overview:
        """The queue in one look: a sentence, states, queues, workers, the slowest and failing."""
        async with self.connection() as connection:
            return await overviews.overview_of(connection, self.tables, self.config)

    # Workers and queues.

    async def workers(self, *, tasks: int = 100) -> Sequence[WorkerInfo]:
        """The worker processes, by server, each with up to `tasks` of what it runs."""
        async with self.connection() as connection:
            return await processes.list_workers(
                connection, self.tables, lease=self.config.lease, tasks=tasks
            )

    async def queues(self) -> Sequence[QueueInfo]:
        """The queues that have tasks, workers or settings, by name."""
        async with self.connection() as connection:
            return await overviews.list_queues(connection, self.tables, self.config)

    async def pause_queue(self, name: str, *, actor: str, source: str = "python") -> None:
        """Start no task of this queue, on all workers, until it is resumed; what runs goes on."""
        async with self._noted(f"queue:{name}", "queue.pause", actor, source) as connection:
            await queue_rows.pause(
                connection, self.tables, name, actor=actor, channels=self.channels
            )

    async def resume_queue(self, name: str, *, actor: str, source: str = "python") -> None:
        """Let the tasks of a paused queue start again."""
        async with self._noted(f"queue:{name}", "queue.resume", actor, source) as connection:
            await queue_rows.resume(
                connection, self.tables, name, actor=actor, channels=self.channels
            )

    async def set_queue_limits(
        self,
        name: str,
        *,
        max_running: int | None,
        rate: float | None,
        actor: str,
        source: str = "python",
    ) -> None:
        """Let so many of a queue's tasks run at once, and start in a second; None: no limit.

        Raises InvalidOption for less than one task, and for a rate that is not above 0.
        """
        if max_running is not None and max_running < 1:
            raise InvalidOption(f"max_running= is at least 1, not {max_running}; or pause it.")
        if rate is not None and not 0 < rate < float("inf"):
            raise InvalidOption(f"rate= is above 0, not {rate:g}; or pause the queue.")
        limits = {"max_running": max_running, "rate": rate}
        async with self._noted(f"queue:{name}", "queue.limit", actor, source, limits) as connection:
            await queue_rows.set_limits(
                connection, self.tables, name, max_running=max_running, rate=rate, actor=actor,
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

    # What others keep.

    async def audit(
        self, *, target: str | None = None, limit: int = 50, before: UUID | None = None
    ) -> Sequence[AuditEntry]:
        """What was done by hand, and by whom, the newest first.

        `target`: of one thing, as in `task:<id>`, `queue:mail`, `schedule:nightly`, `bulk:<id>`.
        """
        async with self.connection() as connection:
            return await audit.list_audit(
                connection, self.tables, target=target, limit=limit, before=before
            )

    async def breakers(self) -> Sequence[Breaker]:
        """The circuit breakers, by name."""
        async with self.connection() as connection:
            return await breakers.list_breakers(connection, self.tables)

    async def reset_breaker(self, name: str, *, actor: str, source: str = "python") -> None:
        """Close a breaker: what it held may run. Raises BreakerNotFound."""
        async with self.connection() as connection:
            closed = await breakers.reset(connection, self.tables, name, actor=actor, source=source)
        if closed is None:
            raise BreakerNotFound(name)

    async def schedules(self) -> Sequence[Schedule]:
        """The schedules, by name. They are changed by `fastedgy.scheduler.Scheduler`."""
        async with self.connection() as connection:
            rows = await schedules.list_schedules(connection, self.tables)
        return [schedule_of(row) for row in rows if row.removed is None]

    async def totals(self) -> Sequence[Total]:
        """All that the workers ever counted, by queue and name: never goes backwards."""
        async with self.connection() as connection:
            return await history.totals(connection, self.tables)

    async def doctor(self) -> Sequence[Finding]:
        """What is wrong, or soon will be: each with its meaning, the evidence and the cure."""
        async with self.connection() as connection:
            other = self.connection if self._own is None else None
            return await doctor(connection, self.tables, self.config, connect=other)
