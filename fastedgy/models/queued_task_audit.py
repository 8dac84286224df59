"""The audit: who changed what by hand."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

import sqlalchemy as sa

from fastedgy.ids import new_id
from fastedgy.models.base import (
    QueueRow,
    QueueTable,
    RowIndex,
    TimeField,
    columns,
    model_of,
    now,
)


class BaseQueuedTaskAudit(QueueRow):
    """One action. Subclass it to add columns."""

    queue_table = QueueTable(kind="audit", indexes=(RowIndex("target", ("target", "date")),))

    id: UUID = columns.UUIDField(primary_key=True, default=new_id)
    date: datetime = TimeField(default=now, server_default=sa.text("clock_timestamp()"))
    actor: str = columns.TextField()
    source: str = columns.TextField()
    action: str = columns.TextField()
    target: str = columns.TextField()
    details: dict[str, Any] = columns.JSONField(default=dict, server_default=sa.text("'{}'"))

    class Meta:
        abstract = True


def shipped_model() -> type[Any]:
    """Make the class that stands for the table where the project has none of its own."""

    class QueuedTaskAudit(BaseQueuedTaskAudit):
        """An action in the shipped table."""

        __qualname__ = "QueuedTaskAudit"
        comes_with_fastedgy = True

    return QueuedTaskAudit


if TYPE_CHECKING:

    class QueuedTaskAudit(BaseQueuedTaskAudit):
        """The class that stands for the table: the project's, or else the shipped one."""


def __getattr__(name: str) -> Any:
    if name == "QueuedTaskAudit":
        return model_of(BaseQueuedTaskAudit, shipped_model)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
