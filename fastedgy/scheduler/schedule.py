"""`Schedule`: what people see of a row."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import orjson

from fastedgy.errors import InvalidSchedule
from fastedgy.scheduler.definition import trigger_of, words_of
from fastedgy.scheduler.walltime import zone
from fastedgy.store.redaction import REDACTED
from fastedgy.store.schedules import ScheduleRow


@dataclass(frozen=True, slots=True)
class Schedule:
    """A schedule at the moment at which it was read. Moments are in its own time zone.

    `state`: `active`, `paused`, `over` (it has no due time any more), `undeclared` (the code that
    declared it is gone) or `removed`. `changed`: what an operator changed of what code declares.
    `missed` counts due times that gave no task, `missed_because` is why the last one did not.
    """

    name: str
    function: str
    state: str
    trigger: str
    next_due: datetime | None
    last_due: datetime | None
    last_fired: datetime | None
    last_task_id: UUID | None
    fired: int
    missed: int
    missed_because: str | None
    error: str | None
    cron: str | None
    every: float | None
    at: datetime | None
    timezone: str
    start: datetime | None
    end: datetime | None
    jitter: float
    misfire_grace: float | None
    coalesce: bool
    max_instances: int | None
    declared: bool
    date_created: datetime | None
    date_changed: datetime | None
    args: list[Any] = field(default_factory=list)
    kwargs: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    changed: list[str] = field(default_factory=list)

    @property
    def paused(self) -> bool:
        """Whether somebody paused it."""
        return self.state == "paused"


def schedule_of(row: ScheduleRow) -> Schedule:
    """What a row says."""
    where: ZoneInfo | None
    try:
        where, trigger = zone(row.timezone), str(trigger_of(row))
    except InvalidSchedule as error:
        where, trigger = None, str(error)

    def local(moment: datetime | None) -> datetime | None:
        return moment and moment.astimezone(where)

    args, kwargs = shown_arguments(row)
    return Schedule(
        name=row.name, function=row.function, state=state_of(row), trigger=trigger,
        next_due=None if row.paused else local(row.next_due), last_due=local(row.last_due),
        last_fired=local(row.last_fired), last_task_id=row.last_task_id, fired=row.fired,
        missed=row.missed, missed_because=row.missed_because, error=row.error, cron=row.cron,
        every=row.every, at=local(row.at), timezone=row.timezone, start=local(row.start_at),
        end=local(row.end_at), jitter=row.jitter, misfire_grace=row.misfire_grace,
        coalesce=row.coalesce_missed, max_instances=row.max_instances, declared=row.declared,
        date_created=local(row.date_created), date_changed=local(row.date_changed),
        args=args, kwargs=kwargs, options=row.options, changed=changed_in(row),
    )  # fmt: skip


def state_of(row: ScheduleRow) -> str:
    """One word for what becomes of a row."""
    if row.removed is not None:
        return "removed"
    if row.undeclared is not None:
        return "undeclared"
    if row.paused:
        return "paused"
    return "over" if row.next_due is None else "active"


def changed_in(row: ScheduleRow) -> list[str]:
    """In what a row differs from its declaration."""
    if row.declared_as is None:
        return []
    now = words_of(row)
    return [name for name, value in row.declared_as.items() if now.get(name) != value]


def shown_arguments(row: ScheduleRow) -> tuple[list[Any], dict[str, Any]]:
    """The arguments for people: what `@task(redact=…)` names is hidden."""
    hidden = row.task.get("redact")
    args, kwargs = orjson.loads(row.args), orjson.loads(row.kwargs)
    hidden = hidden if isinstance(hidden, list) else []
    args = args if isinstance(args, list) else [args]  # a forged row
    kwargs = kwargs if isinstance(kwargs, dict) else {}
    return (
        [REDACTED if str(place) in hidden else value for place, value in enumerate(args)],
        {name: REDACTED if name in hidden else value for name, value in kwargs.items()},
    )
