"""Schedules: when tasks are made of which function. `fastedgy.scheduler.Scheduler` changes them."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

import sqlalchemy as sa

from fastedgy.models.base import (
    QueueRow,
    QueueTable,
    RowIndex,
    TimeField,
    columns,
    model_of,
    now,
)


def _flag(*, default: bool = False) -> Any:
    return columns.BooleanField(default=default, server_default=sa.text(str(default).lower()))


def _json(empty: type[list[Any]] | type[dict[Any, Any]]) -> Any:
    return columns.JSONField(default=empty, server_default=sa.text(f"'{empty()}'"))


def _count() -> Any:
    return columns.BigIntegerField(default=0, server_default=sa.text("0"))


class BaseQueuedTaskSchedule(QueueRow):  # type: ignore[no-redef] # Pydantic's plugin, for `kwargs`
    """A schedule. Subclass it to add columns. `declared`: code declares it with `@scheduled`."""

    queue_table = QueueTable(
        kind="schedules",
        indexes=(RowIndex("due", ("next_due",), "NOT paused AND next_due IS NOT NULL"),),
        checks={"one_trigger": "num_nonnulls(cron, every, at) = 1"},
        storage="fillfactor = 50",
    )

    name: str = columns.TextField(primary_key=True)
    function: str = columns.TextField()
    args: list[Any] = _json(list)
    kwargs: dict[str, Any] = _json(dict)
    options: dict[str, Any] = _json(dict)
    task: dict[str, Any] = _json(dict)
    signature: str | None = columns.TextField(null=True)
    cron: str | None = columns.TextField(null=True)
    every: float | None = columns.FloatField(null=True)
    at: datetime | None = TimeField(null=True)
    timezone: str = columns.TextField(default="UTC", server_default=sa.text("'UTC'"))
    start_at: datetime | None = TimeField(null=True)
    end_at: datetime | None = TimeField(null=True)
    anchor: datetime = TimeField(default=now, server_default=sa.text("clock_timestamp()"))
    jitter: float = columns.FloatField(default=0, server_default=sa.text("0"))
    misfire_grace: float | None = columns.FloatField(null=True)
    coalesce_missed: bool = _flag(default=True)
    max_instances: int | None = columns.IntegerField(null=True)
    paused: bool = _flag()
    declared: bool = _flag()
    declared_as: dict[str, Any] | None = columns.JSONField(null=True)
    undeclared: datetime | None = TimeField(null=True)
    removed: datetime | None = TimeField(null=True)
    revision: int = columns.IntegerField(default=0, server_default=sa.text("0"))
    next_due: datetime | None = TimeField(null=True)
    last_due: datetime | None = TimeField(null=True)
    last_fired: datetime | None = TimeField(null=True)
    last_task_id: UUID | None = columns.UUIDField(null=True)
    instances: list[UUID] = columns.PGArrayField(
        sa.UUID(), default=list, server_default=sa.text("'{}'")
    )
    fired: int = _count()
    missed: int = _count()
    missed_because: str | None = columns.TextField(null=True)
    error: str | None = columns.TextField(null=True)
    date_created: datetime = TimeField(default=now, server_default=sa.text("clock_timestamp()"))
    date_changed: datetime = TimeField(default=now, server_default=sa.text("clock_timestamp()"))

    class Meta:
        abstract = True


def shipped_model() -> type[Any]:
    """Make the class that stands for the table where the project has none of its own."""

    class QueuedTaskSchedule(BaseQueuedTaskSchedule):
        """A schedule in the shipped table."""

        __qualname__ = "QueuedTaskSchedule"
        comes_with_fastedgy = True

    return QueuedTaskSchedule


if TYPE_CHECKING:

    class QueuedTaskSchedule(BaseQueuedTaskSchedule):  # type: ignore[no-redef] # likewise
        """The class that stands for the table: the project's, or else the shipped one."""


def __getattr__(name: str) -> Any:
    if name == "QueuedTaskSchedule":
        return model_of(BaseQueuedTaskSchedule, shipped_model)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
