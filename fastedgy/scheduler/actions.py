"""What is done to schedules at run time: each in one transaction with its audit and its bell."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from typing import Any
from uuid import UUID

from asyncpg import Connection

from fastedgy.errors import DuplicateTask, InvalidSchedule, ScheduleExists, ScheduleNotFound
from fastedgy.queued_tasks import QueuedTasks
from fastedgy.scheduler.definition import (
    TIMES,
    Call,
    Terms,
    begin,
    check_name,
    put_terms,
    said_of,
    trigger_of,
    words_of,
)
from fastedgy.scheduler.firing import after, before, by_hand
from fastedgy.scheduler.schedule import Schedule, schedule_of
from fastedgy.scheduler.walltime import zone
from fastedgy.store import audit, schedules
from fastedgy.store.firing import fire
from fastedgy.store.schedules import ScheduleRow


@dataclass(frozen=True, slots=True)
class Hand:
    """Whose hand it is, and where it comes from: what the audit says."""

    actor: str = "application"
    source: str = "python"


class Desk:
    """One connection, and what actions on it need to know."""

    def __init__(self, connection: Connection, service: QueuedTasks, hand: Hand) -> None:
        self.connection = connection
        self.service = service
        self.tables = service._tables
        self.hand = hand

    async def note(self, verb: str, name: str, details: Mapping[str, Any] | None = None) -> None:
        """Write an action into the audit, and have the workers look."""
        await audit.note(
            self.connection, self.tables, actor=self.hand.actor, source=self.hand.source,
            action=f"schedule.{verb}", target=f"schedule:{name}", details=details,
        )  # fmt: skip
        await schedules.tell_workers(self.connection, self.service._channels.control)

    @asynccontextmanager
    async def locked(self, name: str) -> AsyncIterator[tuple[ScheduleRow, datetime]]:
        """A schedule's row, which nobody else changes or fires meanwhile, and the time."""
        async with self.connection.transaction():
            row = await schedules.get(self.connection, self.tables, name, lock=True)
            if row is None:
                raise ScheduleNotFound(name)
            yield row, await schedules.clock(self.connection)

    async def save(self, row: ScheduleRow) -> None:
        """Write what was changed in a locked row."""
        await schedules.save(self.connection, self.tables, row)


async def find(desk: Desk, name: str) -> ScheduleRow:
    """One row. Raises ScheduleNotFound."""
    row = await schedules.get(desk.connection, desk.tables, name)
    if row is None:
        raise ScheduleNotFound(name)
    return row


async def listed(desk: Desk, *, removed: bool) -> list[Schedule]:
    """All schedules, by name."""
    rows = await schedules.list_schedules(desk.connection, desk.tables)
    return [schedule_of(row) for row in rows if removed or row.removed is None]


async def add(desk: Desk, name: str, call: Call, terms: Terms) -> Schedule:
    """A new schedule. Raises ScheduleExists, InvalidSchedule and what `add_task` raises."""
    row = ScheduleRow(check_name(name), "")
    call.put_into(row, desk.service)
    put_terms(row, terms)
    async with desk.connection.transaction():
        begin(row, await schedules.clock(desk.connection))
        if row.next_due is None:
            raise InvalidSchedule(f"The schedule {name!r} would never fire: {trigger_of(row)}.")
        if not await schedules.add(desk.connection, desk.tables, row):
            raise ScheduleExists(name)
        await desk.note("add", name, words_of(row))
    return schedule_of(await find(desk, name))


async def pause(desk: Desk, name: str) -> Schedule:
    """No further tasks until `resume`."""
    async with desk.locked(name) as (row, _):
        _check_there(row)
        if not row.paused:
            row.paused = True
            await desk.save(row)
            await desk.note("pause", name)
    return schedule_of(row)


async def resume(desk: Desk, name: str) -> Schedule:
    """Go on with the next due time from now. Brings back what was removed, too."""
    async with desk.locked(name) as (row, now):
        if row.undeclared is not None:
            raise InvalidSchedule(
                f"The schedule {name!r} was declared by code that is gone: {row.function}. Declare "
                "it again, or remove it."
            )
        if row.paused or row.removed is not None:
            details = {"was": "removed" if row.removed else "paused"}
            row.paused, row.removed = False, None
            row.next_due = _next_due(row, now)
            await desk.save(row)
            await desk.note("resume", name, details)
    return schedule_of(row)


async def reschedule(
    desk: Desk, name: str, words: Mapping[str, Any], call: Call | None
) -> Schedule:
    """Change some of what was said. What is not in `words` stays as it is."""
    async with desk.locked(name) as (row, now):
        _check_there(row)
        was = words_of(row)
        terms = _changed_terms(row, words)
        put_terms(row, terms)
        if call is not None:
            call.put_into(row, desk.service)
        if any(word in words for word in TIMES):
            begin(row, now)
            if row.next_due is None:
                raise InvalidSchedule(f"The schedule {name!r} would never fire: {trigger_of(row)}.")
        row.error = None
        await desk.save(row)
        changed = {
            key: {"from": was[key], "to": value}
            for key, value in words_of(row).items()
            if was[key] != value
        }
        await desk.note("reschedule", name, changed)
    return schedule_of(row)


async def remove(desk: Desk, name: str) -> None:
    """Delete it. One that code declares leaves a note behind, so that no start brings it back."""
    async with desk.locked(name) as (row, now):
        _check_there(row)
        details = words_of(row)
        if row.declared and row.undeclared is None:
            row.removed, row.next_due = now, None
            await desk.save(row)
        else:
            await schedules.delete(desk.connection, desk.tables, name)
        await desk.note("remove", name, details)


async def run_now(desk: Desk, name: str) -> UUID:
    """One task now, whatever the timetable and `max_instances` say; also while paused.

    Raises DuplicateTask if its unique key is held by another task.
    """
    async with desk.locked(name) as (row, now):
        _check_there(row)
        drafts = await before([by_hand(row, now, desk.service)])
        made = [each for each, _ in drafts]
        channel = desk.service._channels.tasks
        fired = await fire(desk.connection, desk.tables, made, channel=channel, by_hand=True)
        ids = fired.ids.get(name)
        if not ids:
            raise DuplicateTask(str(row.task.get("unique_key")), None)
        await desk.note("run", name, {"task": str(ids[0])})
        await after(drafts, fired)
    return ids[0]


async def preview(desk: Desk, name: str, n: int) -> list[datetime]:
    """The next `n` due times, in the schedule's zone. Of a paused one: if it were resumed now."""
    row = await find(desk, name)
    now = await schedules.clock(desk.connection)
    trigger = trigger_of(row)
    if row.paused or row.next_due is None:
        first = _next_due(row, now) if row.paused else None
    else:
        first = row.next_due
    if first is None or n < 1:
        return []
    dues = [first, *islice(trigger.after(first), n - 1)]
    return [due.astimezone(zone(row.timezone)) for due in dues]


def _next_due(row: ScheduleRow, now: datetime) -> datetime | None:
    """Where a row that was paused goes on. One moment that passed meanwhile is not lost by that."""
    if row.at is not None and row.last_due is None:
        late = (now - row.at).total_seconds()
        missed = row.misfire_grace is not None and late > row.misfire_grace
        return None if missed else row.at
    return trigger_of(row).next(now)


def _check_there(row: ScheduleRow) -> None:
    if row.removed is not None:
        raise ScheduleNotFound(row.name)


def _changed_terms(row: ScheduleRow, words: Mapping[str, Any]) -> Terms:
    """A row's terms with what `words` say instead. A new kind of timetable replaces the old one."""
    said = said_of(row)
    if any(words.get(kind) is not None for kind in ("cron", "every", "at")):
        said |= dict.fromkeys(("cron", "every", "at"))
    return Terms.of(said | dict(words))
