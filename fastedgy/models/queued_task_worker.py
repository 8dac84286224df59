"""The worker processes: one row per start of a process."""

from __future__ import annotations

from datetime import datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Any
from uuid import UUID

import sqlalchemy as sa

from fastedgy.models.base import (
    QueueRow,
    QueueTable,
    RowIndex,
    TimeField,
    WordField,
    columns,
    model_of,
    now,
)

ALIVE_WITHIN = timedelta(seconds=30)
"""The default of QUEUE_LEASE: how old the last heartbeat of a living worker may be."""


class QueuedTaskWorkerState(StrEnum):
    """What a worker process says of itself, or was found to be."""

    running = "running"
    draining = "draining"
    stopped = "stopped"
    lost = "lost"


class BaseQueuedTaskWorker(QueueRow):
    """A worker process. Subclass it to add columns."""

    queue_table = QueueTable(
        kind="workers",
        indexes=(RowIndex("alive", ("last_heartbeat",), "state IN ('running', 'draining')"),),
        checks={
            "state_known": "state IN ('running', 'draining', 'stopped', 'lost')",
            "ended_has_end": "state IN ('running', 'draining') OR date_ended IS NOT NULL",
            "drain_known": "drain IN ('worker', 'supervisor')",
        },
        storage="fillfactor = 50",
    )

    id: UUID = columns.UUIDField(primary_key=True)
    server_name: str = columns.TextField()
    pid: int = columns.IntegerField()
    supervisor_id: UUID | None = columns.UUIDField(null=True)
    state: QueuedTaskWorkerState = WordField(
        QueuedTaskWorkerState,
        default=QueuedTaskWorkerState.running,
        server_default=sa.text("'running'"),
    )
    queues: list[str] | None = columns.PGArrayField(sa.Text(), null=True)
    concurrency: int = columns.IntegerField()
    busy: int = columns.IntegerField(default=0, server_default=sa.text("0"))
    version: str = columns.TextField()
    counters: dict[str, Any] = columns.JSONField(default=dict, server_default=sa.text("'{}'"))
    date_started: datetime = TimeField(default=now, server_default=sa.text("clock_timestamp()"))
    last_heartbeat: datetime = TimeField(default=now, server_default=sa.text("clock_timestamp()"))
    date_ended: datetime | None = TimeField(null=True)
    exit_reason: str | None = columns.TextField(null=True)
    drain: str | None = columns.TextField(null=True)
    drain_by: str | None = columns.TextField(null=True)

    class Meta:
        abstract = True

    @property
    def is_running(self) -> bool:
        """Whether the process has not ended, as far as its row knows."""
        return self.state in (QueuedTaskWorkerState.running, QueuedTaskWorkerState.draining)

    @property
    def is_alive(self) -> bool:
        """Whether the process runs and gave a sign of life within ALIVE_WITHIN.

        Compares the database's clock with this machine's: for people to look at. Rescuing is
        decided in the database.
        """
        return self.is_running and now() - self.last_heartbeat < ALIVE_WITHIN

    @property
    def idle(self) -> int:
        """How many slots were free at the last heartbeat."""
        return max(0, self.concurrency - self.busy)


def shipped_model() -> type[Any]:
    """Make the class that stands for the table where the project has none of its own."""

    class QueuedTaskWorker(BaseQueuedTaskWorker):
        """A worker process in the shipped table."""

        __qualname__ = "QueuedTaskWorker"
        comes_with_fastedgy = True

    return QueuedTaskWorker


if TYPE_CHECKING:

    class QueuedTaskWorker(BaseQueuedTaskWorker):
        """The class that stands for the table: the project's, or else the shipped one."""


def __getattr__(name: str) -> Any:
    if name == "QueuedTaskWorker":
        return model_of(BaseQueuedTaskWorker, shipped_model)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
