"""What tasks logged while they ran."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any
from uuid import UUID

from fastedgy.models.base import QueueRow, QueueTable, TimeField, WordField, columns, model_of


class QueuedTaskLogLevel(StrEnum):
    """How serious a record is, in logging's words."""

    debug = "debug"
    info = "info"
    warning = "warning"
    error = "error"
    critical = "critical"


class BaseQueuedTaskLog(QueueRow):
    """A record that a task logged; `seq` counts within the run. Subclass it to add columns."""

    queue_table = QueueTable(
        kind="logs",
        checks={"level_known": "level IN ('debug', 'info', 'warning', 'error', 'critical')"},
    )

    logged_at: datetime = TimeField()
    task_id: UUID = columns.UUIDField(primary_key=True)
    run: int = columns.IntegerField(primary_key=True, autoincrement=False)
    seq: int = columns.IntegerField(primary_key=True, autoincrement=False)
    level: QueuedTaskLogLevel = WordField(QueuedTaskLogLevel)
    logger: str = columns.TextField()
    message: str = columns.TextField()
    info: dict[str, Any] | None = columns.JSONField(null=True)

    class Meta:
        abstract = True


def shipped_model() -> type[Any]:
    """Make the class that stands for the table where the project has none of its own."""

    class QueuedTaskLog(BaseQueuedTaskLog):
        """A log record in the shipped table."""

        __qualname__ = "QueuedTaskLog"
        comes_with_fastedgy = True

    return QueuedTaskLog


if TYPE_CHECKING:

    class QueuedTaskLog(BaseQueuedTaskLog):
        """The class that stands for the table: the project's, or else the shipped one."""


def __getattr__(name: str) -> Any:
    if name == "QueuedTaskLog":
        return model_of(BaseQueuedTaskLog, shipped_model)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
