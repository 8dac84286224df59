"""Queues with settings of their own: paused, or limited. Most queues have no row."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from fastedgy.models.base import QueueRow, QueueTable, TimeField, columns, model_of, now


class BaseQueuedTaskQueue(QueueRow):
    """What was said of a queue. Subclass it to add columns."""

    queue_table = QueueTable(kind="queues")

    name: str = columns.TextField(primary_key=True)
    paused: bool = columns.BooleanField(default=False, server_default=sa.text("false"))
    max_running: int | None = columns.IntegerField(null=True)
    rate: float | None = columns.FloatField(null=True)
    next_at: datetime | None = TimeField(null=True)
    date_changed: datetime = TimeField(default=now, server_default=sa.text("clock_timestamp()"))
    changed_by: str | None = columns.TextField(null=True)

    class Meta:
        abstract = True


def shipped_model() -> type[Any]:
    """Make the class that stands for the table where the project has none of its own."""

    class QueuedTaskQueue(BaseQueuedTaskQueue):
        """The settings of a queue in the shipped table."""

        __qualname__ = "QueuedTaskQueue"
        comes_with_fastedgy = True

    return QueuedTaskQueue


if TYPE_CHECKING:

    class QueuedTaskQueue(BaseQueuedTaskQueue):
        """The class that stands for the table: the project's, or else the shipped one."""


def __getattr__(name: str) -> Any:
    if name == "QueuedTaskQueue":
        return model_of(BaseQueuedTaskQueue, shipped_model)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
