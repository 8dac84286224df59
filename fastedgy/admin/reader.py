"""`QueueReader`: everything that can be asked of the queue, in one service."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from fastedgy.admin import overview as overviews
from fastedgy.admin import queries, stats
from fastedgy.admin import workers as processes
from fastedgy.admin.doctor import doctor
from fastedgy.admin.explain import explain
from fastedgy.admin.explanation import Explanation
from fastedgy.admin.findings import Finding
from fastedgy.admin.source import Source
from fastedgy.admin.types import (
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
from fastedgy.scheduler.schedule import Schedule, schedule_of
from fastedgy.store import audit, breakers, history, schedules
from fastedgy.store.audit import AuditEntry
from fastedgy.store.breakers import Breaker
from fastedgy.store.history import Total

PATIENCE = 5.0
"""Seconds that a listing without a cursor may look for its tasks."""


class QueueReader(Source):
    """What is asked of the queue; what is done to it has `QueueAdmin`."""

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

    # What others keep.

    async def audit(
        self,
        *,
        target: str | None = None,
        action: str | None = None,
        actor: str | None = None,
        limit: int = 50,
        before: UUID | None = None,
    ) -> Sequence[AuditEntry]:
        """What was done by hand, and by whom, the newest first.

        `target`: of one thing, as in `task:<id>`, `queue:mail`, `schedule:nightly`, `bulk:<id>`,
        `worker:<id>`. `action` and `actor`: a verb and a name, or the beginning of some, as in
        `queue.pause` and `queue.`. `before`: the id of the last entry of the page before.
        """
        async with self.connection() as connection:
            return await audit.list_audit(
                connection, self.tables, target=target, action=action, actor=actor, limit=limit,
                before=before,
            )  # fmt: skip

    async def breakers(self) -> Sequence[Breaker]:
        """The circuit breakers, by name."""
        async with self.connection() as connection:
            return await breakers.list_breakers(connection, self.tables)

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
