"""The tasks: one row is one call of one function to be made.

`QueuedTask` is the class that stands for the table: the project's subclass of `BaseQueuedTask`, or
else the shipped one. Rows are written by the queue itself; this class is for reading them, and for
columns of the project's own.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Any
from uuid import UUID

import sqlalchemy as sa

from fastedgy.ids import new_id
from fastedgy.models import queued_task_link, queued_task_log
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


class QueuedTaskState(StrEnum):
    """The state of a task, as it is in the row."""

    scheduled = "scheduled"
    waiting = "waiting"
    enqueued = "enqueued"
    doing = "doing"
    done = "done"
    failed = "failed"
    cancelled = "cancelled"


class OnParentFailure(StrEnum):
    """What becomes of a task whose parent failed or was cancelled for good."""

    cancel = "cancel"
    run = "run"
    fail = "fail"


FINISHED = frozenset({QueuedTaskState.done, QueuedTaskState.failed, QueuedTaskState.cancelled})


def _integer(default: int) -> Any:
    return columns.IntegerField(default=default, server_default=sa.text(str(default)))


def _no() -> Any:
    return columns.BooleanField(default=False, server_default=sa.text("false"))


def _json(empty: type[list[Any]] | type[dict[Any, Any]]) -> Any:
    return columns.JSONField(default=empty, server_default=sa.text(f"'{empty()}'"))


class BaseQueuedTask(QueueRow):  # type: ignore[no-redef] # Pydantic's plugin, for `kwargs`
    """A task. Subclass it to add columns: each nullable or with a server_default."""

    queue_table = QueueTable(
        kind="tasks",
        indexes=(
            RowIndex(
                "ready",
                ("queue", "priority DESC", "date_enqueued"),
                "state = 'enqueued' AND NOT alone AND gate IS NULL",
            ),
            RowIndex(
                "gated",
                ("queue", "gate", "priority DESC", "date_enqueued"),
                "state = 'enqueued' AND NOT alone AND gate IS NOT NULL",
            ),
            RowIndex("standing", ("stands_for",), "state = 'waiting' AND stands_for IS NOT NULL"),
            RowIndex(
                "gate_taken",
                ("gate",),
                "state = 'doing' AND gate IS NOT NULL",
                deduplicated=False,
            ),
            RowIndex("suspect", ("date_enqueued",), "state = 'enqueued' AND alone"),
            RowIndex("scheduled", ("date_due",), "state = 'scheduled'"),
            RowIndex("waiting", ("id",), "state = 'waiting'"),
            RowIndex("doing", ("worker_id",), "state = 'doing'", deduplicated=False),
            RowIndex("failed", ("date_ended",), "state = 'failed'"),
            RowIndex("cancelled", ("date_ended",), "state = 'cancelled'"),
            RowIndex(
                "unique_key",
                ("unique_key",),
                "unique_key IS NOT NULL AND state IN ('scheduled', 'waiting', 'enqueued', 'doing')",
                unique=True,
            ),
        ),
        checks={
            "state_known": "state = ANY ('{scheduled,waiting,enqueued,doing,done,failed,"
            "cancelled}')",
            "scheduled_is_due": "state <> 'scheduled' OR date_due IS NOT NULL",
            "waiting_on_parents": "state <> 'waiting' OR waiting_on > 0",
            "enqueued_in_line": "state <> 'enqueued' OR date_enqueued IS NOT NULL",
            "doing_has_owner": "state <> 'doing' OR (worker_id IS NOT NULL "
            "AND date_started IS NOT NULL)",
            "ended_has_end": "state <> ALL ('{done,failed,cancelled}') OR date_ended IS NOT NULL",
            "on_parent_failure_known": "on_parent_failure = ANY ('{cancel,run,fail}')",
        },
        storage=(
            "fillfactor = 60, autovacuum_vacuum_scale_factor = 0.02, "
            "autovacuum_vacuum_cost_delay = 0, autovacuum_analyze_scale_factor = 0.05"
        ),
    )

    date_created: datetime = TimeField(default=now, server_default=sa.text("clock_timestamp()"))
    date_due: datetime | None = TimeField(null=True)
    date_enqueued: datetime | None = TimeField(
        null=True, default=now, server_default=sa.text("clock_timestamp()")
    )
    date_started: datetime | None = TimeField(null=True)
    date_ended: datetime | None = TimeField(null=True)
    timeout: float | None = columns.FloatField(null=True)
    id: UUID = columns.UUIDField(primary_key=True, default=new_id)
    worker_id: UUID | None = columns.UUIDField(null=True)
    run: int = _integer(0)
    attempt: int = _integer(0)
    max_retries: int = _integer(3)
    losses: int = _integer(0)
    priority: int = _integer(0)
    waiting_on: int = _integer(0)
    alone: bool = _no()
    has_children: bool = _no()
    awaited: bool = _no()
    cancel_requested: bool = _no()
    auto_remove: bool = _no()
    state: QueuedTaskState = WordField(
        QueuedTaskState, default=QueuedTaskState.enqueued, server_default=sa.text("'enqueued'")
    )
    queue: str = columns.TextField(default="default", server_default=sa.text("'default'"))
    name: str = columns.TextField()
    function: str = columns.TextField()
    args: list[Any] = _json(list)
    kwargs: dict[str, Any] = _json(dict)
    context: dict[str, Any] = _json(dict)
    result: Any = columns.JSONField(null=True)
    on_parent_failure: OnParentFailure = WordField(
        OnParentFailure, default=OnParentFailure.cancel, server_default=sa.text("'cancel'")
    )
    unique_key: str | None = columns.TextField(null=True)
    error_type: str | None = columns.TextField(null=True)
    error_message: str | None = columns.TextField(null=True)
    error_traceback: str | None = columns.TextField(null=True)
    history: list[dict[str, Any]] = _json(list)
    closure: bytes | None = columns.BinaryField(null=True)
    takes_results: bool = _no()
    gate_limit: int | None = columns.IntegerField(null=True)
    gate_rate: float | None = columns.FloatField(null=True)
    gate: str | None = columns.TextField(null=True)
    breaker: str | None = columns.TextField(null=True)
    stands_for: UUID | None = columns.UUIDField(null=True)
    schedule: str | None = columns.TextField(null=True)
    redact: list[str] | None = columns.PGArrayField(sa.Text(), null=True)
    trace: str | None = columns.TextField(null=True)
    signature: str | None = columns.TextField(null=True)

    class Meta:
        abstract = True

    @property
    def is_finished(self) -> bool:
        """Whether the task has ended: done, failed or cancelled."""
        return self.state in FINISHED

    @property
    def is_active(self) -> bool:
        """Whether the task is still to run, or runs now."""
        return not self.is_finished

    @property
    def can_be_restarted(self) -> bool:
        """Whether `queue retry` takes it: failed or cancelled."""
        return self.state in (QueuedTaskState.failed, QueuedTaskState.cancelled)

    @property
    def can_be_cancelled(self) -> bool:
        """Whether it has not ended."""
        return not self.is_finished

    @property
    def execution_time(self) -> timedelta | None:
        """How long the last run took, or has taken so far. None before the first."""
        if self.date_started is None:
            return None
        if self.state == QueuedTaskState.doing:
            return now() - self.date_started
        return self.date_ended - self.date_started if self.date_ended is not None else None

    async def parents(self) -> list[Any]:
        """The tasks that this one starts after, the oldest first."""
        links = await queued_task_link.QueuedTaskLink.query.filter(child_id=self.id)
        return await self._oldest_first([link.parent_id for link in links])

    async def children(self) -> list[Any]:
        """The tasks that start after this one, the oldest first."""
        links = await queued_task_link.QueuedTaskLink.query.filter(parent_id=self.id)
        return await self._oldest_first([link.child_id for link in links])

    async def logs(self) -> list[Any]:
        """What the task logged in all its runs, in order."""
        model = queued_task_log.QueuedTaskLog
        return list(await model.query.filter(task_id=self.id).order_by("run", "seq"))

    async def _oldest_first(self, ids: list[UUID]) -> list[Any]:
        if not ids:
            return []
        tasks = type(self).query.filter(id__in=ids).order_by("date_created", "id")
        return list(await tasks)


def shipped_model() -> type[Any]:
    """Make the class that stands for the table where the project has none of its own."""

    class QueuedTask(BaseQueuedTask):
        """A task in the shipped table."""

        __qualname__ = "QueuedTask"
        comes_with_fastedgy = True

    return QueuedTask


if TYPE_CHECKING:

    class QueuedTask(BaseQueuedTask):  # type: ignore[no-redef] # likewise
        """The class that stands for the table: the project's, or else the shipped one."""


def __getattr__(name: str) -> Any:
    if name == "QueuedTask":
        return model_of(BaseQueuedTask, shipped_model)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
