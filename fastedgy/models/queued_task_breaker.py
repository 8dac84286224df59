"""Circuit breakers: one row each, shared by all processes."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

import sqlalchemy as sa

from fastedgy.models.base import QueueRow, QueueTable, TimeField, columns, model_of, now


class BaseQueuedTaskBreaker(QueueRow):
    """A circuit breaker. Subclass it to add columns."""

    queue_table = QueueTable(
        kind="breakers",
        checks={"state_known": "state IN ('closed', 'open', 'half_open')"},
        storage="fillfactor = 50",
    )

    name: str = columns.TextField(primary_key=True)
    state: str = columns.TextField(default="closed", server_default=sa.text("'closed'"))
    failures: int = columns.IntegerField(default=0, server_default=sa.text("0"))
    successes: int = columns.IntegerField(default=0, server_default=sa.text("0"))
    failure_threshold: int = columns.IntegerField(default=5, server_default=sa.text("5"))
    success_threshold: int = columns.IntegerField(default=2, server_default=sa.text("2"))
    reset_timeout: float = columns.FloatField(default=30, server_default=sa.text("30"))
    opened_at: datetime | None = TimeField(null=True)
    probe: UUID | None = columns.UUIDField(null=True)
    probe_task: UUID | None = columns.UUIDField(null=True)
    probe_run: int | None = columns.IntegerField(null=True)
    probe_until: datetime | None = TimeField(null=True)
    error: str | None = columns.TextField(null=True)
    date_changed: datetime = TimeField(default=now, server_default=sa.text("clock_timestamp()"))
    opened: int = columns.BigIntegerField(default=0, server_default=sa.text("0"))

    class Meta:
        abstract = True


def shipped_model() -> type[Any]:
    """Make the class that stands for the table where the project has none of its own."""

    class QueuedTaskBreaker(BaseQueuedTaskBreaker):
        """A circuit breaker. In the shipped table."""

        __qualname__ = "QueuedTaskBreaker"
        comes_with_fastedgy = True

    return QueuedTaskBreaker


if TYPE_CHECKING:

    class QueuedTaskBreaker(BaseQueuedTaskBreaker):
        """The class that stands for the table: the project's, or else the shipped one."""


def __getattr__(name: str) -> Any:
    if name == "QueuedTaskBreaker":
        return model_of(BaseQueuedTaskBreaker, shipped_model)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
