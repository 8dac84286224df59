"""Gates with a rate, and gates whose limits an operator has set. Most gates have no row."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from fastedgy.models.base import QueueRow, QueueTable, TimeField, columns, model_of, now


class BaseQueuedTaskGate(QueueRow):
    """What is known of a gate. Subclass it to add columns."""

    queue_table = QueueTable(kind="gates", storage="fillfactor = 50")

    key: str = columns.TextField(primary_key=True)
    max_running: int | None = columns.IntegerField(null=True)
    rate: float | None = columns.FloatField(null=True)
    next_at: datetime | None = TimeField(null=True)
    date_changed: datetime = TimeField(default=now, server_default=sa.text("clock_timestamp()"))

    class Meta:
        abstract = True


def shipped_model() -> type[Any]:
    """Make the class that stands for the table where the project has none of its own."""

    class QueuedTaskGate(BaseQueuedTaskGate):
        """A gate in the shipped table."""

        __qualname__ = "QueuedTaskGate"
        comes_with_fastedgy = True

    return QueuedTaskGate


if TYPE_CHECKING:

    class QueuedTaskGate(BaseQueuedTaskGate):
        """The class that stands for the table: the project's, or else the shipped one."""


def __getattr__(name: str) -> Any:
    if name == "QueuedTaskGate":
        return model_of(BaseQueuedTaskGate, shipped_model)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
