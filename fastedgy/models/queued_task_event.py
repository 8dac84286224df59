"""Events: what `send_event` has sent and `wait_for_event` waits for."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from fastedgy.models.base import QueueRow, QueueTable, RowIndex, TimeField, columns, model_of, now


class BaseQueuedTaskEvent(QueueRow):
    """An event that was sent. Subclass it to add columns."""

    queue_table = QueueTable(
        kind="events",
        indexes=(RowIndex("sent", ("date_sent",)),),
    )

    key: str = columns.TextField(primary_key=True)
    payload: Any = columns.JSONField(null=True)
    date_sent: datetime = TimeField(default=now, server_default=sa.text("clock_timestamp()"))

    class Meta:
        abstract = True


def shipped_model() -> type[Any]:
    """Make the class that stands for the table where the project has none of its own."""

    class QueuedTaskEvent(BaseQueuedTaskEvent):
        """An event that was sent. In the shipped table."""

        __qualname__ = "QueuedTaskEvent"
        comes_with_fastedgy = True

    return QueuedTaskEvent


if TYPE_CHECKING:

    class QueuedTaskEvent(BaseQueuedTaskEvent):
        """The class that stands for the table: the project's, or else the shipped one."""


def __getattr__(name: str) -> Any:
    if name == "QueuedTaskEvent":
        return model_of(BaseQueuedTaskEvent, shipped_model)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
