"""`Scheduler`: the service that looks at schedules and changes them while everything runs."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from typing import Any

from fastedgy.queued_tasks import QueuedTaskRef, QueuedTasks
from fastedgy.scheduler import actions
from fastedgy.scheduler.actions import Desk, Hand
from fastedgy.scheduler.definition import UNSET, Call, Terms, Unset
from fastedgy.scheduler.schedule import Schedule, schedule_of
from fastedgy.store import audit
from fastedgy.store.audit import AuditEntry


class Scheduler:
    """Schedules at run time, from any process: `Inject(Scheduler)` or `get_service(Scheduler)`.

    Every change is a row, obeyed by all workers within a second, and noted in the audit with
    `actor`. Methods that name a schedule raise ScheduleNotFound.
    """

    def __init__(self, tasks: QueuedTasks) -> None:
        self._tasks = tasks
        self._hand = Hand()

    def acting_for(self, actor: str, source: str = "python") -> Scheduler:
        """The same service, whose changes are noted as this person's: a user's name, say."""
        other = Scheduler(self._tasks)
        other._hand = Hand(actor, source)
        return other

    async def add(
        self,
        func: Callable[..., Any],
        *,
        cron: str | None = None,
        every: float | timedelta | None = None,
        at: datetime | None = None,
        timezone: str = "UTC",
        name: str | None = None,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        options: Mapping[str, Any] | None = None,
        coalesce: bool = True,
        misfire_grace: float | timedelta | Unset | None = UNSET,
        max_instances: int | None = 1,
        jitter: float | timedelta = 0,
        start: datetime | None = None,
        end: datetime | None = None,
    ) -> Schedule:
        """Add a schedule. The words are those of `scheduled`.

        Raises ScheduleExists if the name is taken, InvalidSchedule for terms that make no sense or
        never come, and what `add_task` raises for the function, its arguments and its options.
        """
        words = {
            "cron": cron, "every": every, "at": at, "timezone": timezone, "coalesce": coalesce,
            "misfire_grace": misfire_grace, "max_instances": max_instances, "jitter": jitter,
            "start": start, "end": end,
        }  # fmt: skip
        call = Call(func, args, kwargs, options)
        named = f"{func.__module__}.{func.__qualname__}" if name is None else name
        async with self._desk() as desk:
            return await actions.add(desk, named, call, Terms.of(words))

    async def get(self, name: str) -> Schedule:
        """One schedule."""
        async with self._desk() as desk:
            return schedule_of(await actions.find(desk, name))

    async def list(self, *, removed: bool = False) -> list[Schedule]:
        """All schedules, by name; with `removed`, also declared ones that somebody removed."""
        async with self._desk() as desk:
            return await actions.listed(desk, removed=removed)

    async def pause(self, name: str) -> Schedule:
        """Let it give no tasks until it is resumed. Tasks that are there already stay."""
        async with self._desk() as desk:
            return await actions.pause(desk, name)

    async def resume(self, name: str) -> Schedule:
        """Go on with the next due time from now; what was due meanwhile gives nothing.

        One moment (`at`) that passed while it was paused fires now. Also brings back a declared
        schedule that was removed.
        """
        async with self._desk() as desk:
            return await actions.resume(desk, name)

    async def reschedule(
        self,
        name: str,
        *,
        cron: str | Unset = UNSET,
        every: float | timedelta | Unset = UNSET,
        at: datetime | Unset = UNSET,
        timezone: str | Unset = UNSET,
        start: datetime | Unset | None = UNSET,
        end: datetime | Unset | None = UNSET,
        jitter: float | timedelta | Unset = UNSET,
        misfire_grace: float | timedelta | Unset | None = UNSET,
        coalesce: bool | Unset = UNSET,
        max_instances: int | Unset | None = UNSET,
        func: Callable[..., Any] | None = None,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> Schedule:
        """Change some of its terms; what is not given stays. A new timetable starts from now.

        With `func`, its call is replaced as a whole: function, arguments and options. Raises
        InvalidSchedule, and then nothing is changed.
        """
        given = {
            "cron": cron, "every": every, "at": at, "timezone": timezone, "start": start,
            "end": end, "jitter": jitter, "misfire_grace": misfire_grace, "coalesce": coalesce,
            "max_instances": max_instances,
        }  # fmt: skip
        words = {word: value for word, value in given.items() if value is not UNSET}
        call = None if func is None else Call(func, args, kwargs, options)
        async with self._desk() as desk:
            return await actions.reschedule(desk, name, words, call)

    async def remove(self, name: str) -> None:
        """Delete it. One that code declares stays removed at the next start, until `resume`."""
        async with self._desk() as desk:
            await actions.remove(desk, name)

    async def run_now(self, name: str) -> QueuedTaskRef:
        """Run it once now, also while it is paused; its timetable goes on as it was.

        Raises DuplicateTask if its unique key is held by another task.
        """
        async with self._desk() as desk:
            return self._tasks.ref(await actions.run_now(desk, name))

    async def preview(self, name: str, n: int = 5) -> Sequence[datetime]:
        """The next `n` due times, in its time zone; fewer if it ends before.

        Of a paused schedule: those that it had if it were resumed now.
        """
        async with self._desk() as desk:
            return await actions.preview(desk, name, n)

    async def history(self, name: str | None = None, *, limit: int = 50) -> Sequence[AuditEntry]:
        """Who changed what, newest first; of one schedule or of all."""
        async with self._desk() as desk:
            return await audit.list_audit(
                desk.connection, desk.tables, target=name and f"schedule:{name}",
                action="schedule.", limit=limit,
            )  # fmt: skip

    @asynccontextmanager
    async def _desk(self) -> AsyncIterator[Desk]:
        async with self._tasks._connection() as connection:
            yield Desk(connection, self._tasks, self._hand)
