"""Durable steps: what a task has done, or waits for. `fastedgy.workflows` makes them."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

import sqlalchemy as sa

from fastedgy.models.base import QueueRow, QueueTable, RowIndex, TimeField, columns, model_of, now


class BaseQueuedTaskStep(QueueRow):
    """A step, a sleep, a wait, a saga or a compensation of a task. Subclass it to add columns."""

    queue_table = QueueTable(
        kind="steps",
        indexes=(RowIndex("event", ("event",), "state = 'waiting' AND event IS NOT NULL"),),
        checks={
            "kind_known": "kind IN ('step', 'sleep', 'event', 'saga', 'compensation')",
            "state_known": "state IN ('doing', 'waiting', 'done', 'failed')",
        },
    )

    date_started: datetime = TimeField(default=now, server_default=sa.text("clock_timestamp()"))
    date_ended: datetime | None = TimeField(null=True)
    date_due: datetime | None = TimeField(null=True)
    task_id: UUID = columns.UUIDField(primary_key=True)
    position: int = columns.IntegerField()
    run: int = columns.IntegerField()
    attempts: int = columns.IntegerField(default=0, server_default=sa.text("0"))
    handled: bool = columns.BooleanField(default=False, server_default=sa.text("false"))
    kind: str = columns.TextField()
    state: str = columns.TextField()
    name: str = columns.TextField(primary_key=True)
    event: str | None = columns.TextField(null=True)
    result: Any = columns.JSONField(null=True)
    error_type: str | None = columns.TextField(null=True)
    error_message: str | None = columns.TextField(null=True)

    class Meta:
        abstract = True


def shipped_model() -> type[Any]:
    """Make the class that stands for the table where the project has none of its own."""

    class QueuedTaskStep(BaseQueuedTaskStep):
        """A step, a sleep, a wait, a saga or a compensation of a task. In the shipped table."""

        __qualname__ = "QueuedTaskStep"
        comes_with_fastedgy = True

    return QueuedTaskStep


if TYPE_CHECKING:

    class QueuedTaskStep(BaseQueuedTaskStep):
        """The class that stands for the table: the project's, or else the shipped one."""


def __getattr__(name: str) -> Any:
    if name == "QueuedTaskStep":
        return model_of(BaseQueuedTaskStep, shipped_model)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
