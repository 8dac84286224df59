"""Firing: a worker's turn at the schedules that are due."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

import orjson
from asyncpg import Connection

from fastedgy.errors import FastEdgyError
from fastedgy.ids import new_ids
from fastedgy.queued_task import hooks
from fastedgy.queued_task.encoding import clean
from fastedgy.queued_tasks import QueuedTasks
from fastedgy.queued_tasks.flushing import TaskDraft
from fastedgy.scheduler.definition import signature_for, spec_of
from fastedgy.scheduler.plan import delayed, plan
from fastedgy.store import firing as store
from fastedgy.store.firing import Fired, Firing, NewRun
from fastedgy.store.newtask import NewTask
from fastedgy.store.outage import is_outage
from fastedgy.store.schedules import ScheduleRow

logger = logging.getLogger("fastedgy.scheduler")

AT_ONCE = 100
"""Schedules of one round."""
LEAVE_ALONE = 60.0
"""Seconds for which this worker leaves a schedule alone that it cannot read, or fire."""
LONGEST_TROUBLE = 2_000


@dataclass(slots=True)
class Round:
    """What one look came to. `next_in`: seconds until the next look; None: nothing is planned."""

    fired: int = 0
    missed: int = 0
    lanes: set[tuple[str, int]] = field(default_factory=set)
    next_in: float | None = None


class Firer:
    """Looks what is due and fires it. Any number of workers may do it at the same time."""

    def __init__(self, service: QueuedTasks) -> None:
        self._service = service
        self._unreadable: dict[str, float] = {}

    async def round(self, connection: Connection) -> Round:
        """Fire what is due, up to 100 schedules."""
        tables = self._service._tables
        now = time.monotonic()
        self._unreadable = {name: at for name, at in self._unreadable.items() if at > now}
        rows, clock = await store.look(
            connection, tables, limit=AT_ONCE, without=list(self._unreadable)
        )
        if clock is None:
            return Round()
        due = [row for row in rows if row.next_due is not None and row.next_due <= clock]
        firings = []
        for row in due:
            made = await self._made(connection, row, clock)
            if made is not None:
                firings.append(made)
        fired = Fired()
        if firings:
            drafts, fired = await self._fire(connection, firings)
            await after(drafts, fired)
            _tell(fired)
        nexts = [row.next_due for row in rows if row.next_due is not None and row.next_due > clock]
        nexts += [made.next_due for made in firings if made.next_due is not None]
        return Round(
            fired=sum(map(len, fired.ids.values())),
            missed=sum(number for number, _ in fired.missed.values()),
            lanes=fired.lanes,
            next_in=self._next_in(nexts, clock, full=len(due) == AT_ONCE),
        )

    async def _made(
        self, connection: Connection, row: ScheduleRow, clock: datetime
    ) -> Firing | None:
        """What a schedule gives; None for one that cannot be read here, which says so itself."""
        try:
            return firing_of(row, clock, self._service)
        except Exception as error:  # whatever stands in a row holds up no other one
            await self._leave_alone(connection, row, error)
            return None

    async def _fire(
        self, connection: Connection, firings: list[Firing]
    ) -> tuple[list[tuple[Firing, list[TaskDraft]]], Fired]:
        """Fire these together; one by one where one of them, or a hook, does not let them."""
        tables, channel = self._service._tables, self._service._channels.tasks
        try:
            drafts = await before(firings)
            made = [each for each, _ in drafts]
            return drafts, await store.fire(connection, tables, made, channel=channel)
        except Exception as error:
            if is_outage(error):
                raise
            if len(firings) == 1:
                await self._leave_alone(connection, firings[0].row, error)
                return [], Fired()
        every, fired = [], Fired()
        for each in firings:
            drafts, one = await self._fire(connection, [each])
            every += drafts
            fired.add(one)
        return every, fired

    async def _leave_alone(
        self, connection: Connection, row: ScheduleRow, error: Exception
    ) -> None:
        self._unreadable[row.name] = time.monotonic() + LEAVE_ALONE
        why = str(error) if isinstance(error, FastEdgyError) else f"{type(error).__name__}: {error}"
        logger.error("The schedule %s cannot be fired: %s", row.name, why)
        await store.note_trouble(
            connection, self._service._tables, row.name, clean(why, LONGEST_TROUBLE)
        )

    def _next_in(self, nexts: list[datetime], clock: datetime, *, full: bool) -> float | None:
        if full:
            return 0.0
        seconds = [(found - clock).total_seconds() for found in nexts]
        if self._unreadable:
            seconds.append(LEAVE_ALONE)
        return max(0.0, min(seconds)) if seconds else None


def firing_of(row: ScheduleRow, clock: datetime, service: QueuedTasks) -> Firing:
    """The tasks of a due row. Raises InvalidSchedule for an unreadable one."""
    made = plan(row, row.next_due or clock, clock)
    runs = [
        _run(row, id, delayed(due, row.jitter), due, service)
        for id, due in zip(new_ids(len(made.dues)), made.dues, strict=True)
    ]
    return Firing(row, runs, made.last_due, made.next_due, made.missed, made.because)


def by_hand(row: ScheduleRow, clock: datetime, service: QueuedTasks) -> Firing:
    """One task now, whatever the timetable says, which goes on as it was."""
    [id] = new_ids(1)
    return Firing(row, [_run(row, id, clock, None, service)], row.last_due, row.next_due)


def _run(
    row: ScheduleRow, id: UUID, at: datetime, due: datetime | None, service: QueuedTasks
) -> NewRun:
    signature = signature_for(row, id, service.config.signing_keys)
    return NewRun(id, at, store.context_of(row.name, due), signature)


# A project's hooks see these tasks like any others.


async def before(firings: list[Firing]) -> list[tuple[Firing, list[TaskDraft]]]:
    """Run the hooks that may still change a task's context."""
    if not hooks.any_hooks("pre_create") and not hooks.any_hooks("post_create"):
        return [(made, []) for made in firings]
    found = []
    for made in firings:
        drafts, runs = [], []
        for run in made.runs:
            draft = _draft(made.row, run)
            await hooks.run_hooks("pre_create", draft)
            drafts.append(draft)
            runs.append(NewRun(run.id, run.at, orjson.dumps(draft.context).decode(), run.signature))
        changed = Firing(made.row, runs, made.last_due, made.next_due, made.missed, made.because)
        found.append((changed, drafts))
    return found


async def after(drafts: list[tuple[Firing, list[TaskDraft]]], fired: Fired) -> None:
    """Run the hooks that want to know of new tasks."""
    for made, ready in drafts:
        ids = fired.ids.get(made.row.name, ())
        for draft in ready:
            if draft.id in ids:
                await hooks.run_hooks("post_create", draft)


def _draft(row: ScheduleRow, run: NewRun) -> TaskDraft:
    task: Any = NewTask(run.id, spec_of(row), row.args, row.kwargs, context=run.context)
    return TaskDraft(task)


def _tell(fired: Fired) -> None:
    for name, (number, because) in fired.missed.items():
        logger.warning(
            "%d due time%s of the schedule %s gave no task: %s",
            number, "" if number == 1 else "s", name, because,
        )  # fmt: skip
