"""Keys that are kept: of effects that happened, and of tasks that are unique for a time."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

import sqlalchemy as sa

from fastedgy.models.base import QueueRow, QueueTable, RowIndex, TimeField, columns, model_of, now


class BaseQueuedTaskKey(QueueRow):
    """A key, who holds it, and until when. Subclass it to add columns."""

    queue_table = QueueTable(
        kind="keys",
        indexes=(RowIndex("expires", ("date_expires",), "date_expires IS NOT NULL"),),
        checks={
            "kind_known": "kind IN ('idempotent', 'unique')",
            "state_known": "state IN ('doing', 'done')",
        },
    )

    kind: str = columns.TextField(primary_key=True)
    key: str = columns.TextField(primary_key=True)
    task_id: UUID | None = columns.UUIDField(null=True)
    run: int | None = columns.IntegerField(null=True)
    state: str = columns.TextField()
    result: Any = columns.JSONField(null=True)
    date_created: datetime = TimeField(default=now, server_default=sa.text("clock_timestamp()"))
    date_expires: datetime | None = TimeField(null=True)

    class Meta:
        abstract = True


def shipped_model() -> type[Any]:
    """Make the class that stands for the table where the project has none of its own."""

    class QueuedTaskKey(BaseQueuedTaskKey):
        """A key, who holds it, and until when. In the shipped table."""

        __qualname__ = "QueuedTaskKey"
        comes_with_fastedgy = True

    return QueuedTaskKey


if TYPE_CHECKING:

    class QueuedTaskKey(BaseQueuedTaskKey):
        """The class that stands for the table: the project's, or else the shipped one."""


def __getattr__(name: str) -> Any:
    if name == "QueuedTaskKey":
        return model_of(BaseQueuedTaskKey, shipped_model)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
