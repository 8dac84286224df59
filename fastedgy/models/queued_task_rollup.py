"""What the workers counted: how many tasks of each name ended how, and how long they took.

A row is a minute (`seconds` 60), an hour (3600), or all time (0, from 1970 on) of one worker, queue
and name. The name '' is all names of the queue together: leave it out of sums. Histograms count by
the bounds of `fastedgy.store.rollups.BOUNDS`; the entries that are missing at their ends are zeros.
The worker 00000000-0000-0000-0000-000000000000 stands for those that are forgotten.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

import sqlalchemy as sa

from fastedgy.models.base import QueueRow, QueueTable, TimeField, columns, model_of


def _count() -> Any:
    return columns.BigIntegerField(default=0, server_default=sa.text("0"))


def _histogram() -> Any:
    return columns.PGArrayField(sa.BigInteger(), default=list, server_default=sa.text("'{}'"))


class BaseQueuedTaskRollup(QueueRow):
    """The ends of one name's tasks in a span of time. Subclass it to add columns."""

    queue_table = QueueTable(kind="rollups", storage="fillfactor = 50")

    seconds: int = columns.IntegerField(primary_key=True, autoincrement=False)
    minute: datetime = TimeField(primary_key=True)
    worker_id: UUID = columns.UUIDField(primary_key=True)
    queue: str = columns.TextField(primary_key=True)
    name: str = columns.TextField(primary_key=True)
    done: int = _count()
    failed: int = _count()
    cancelled: int = _count()
    retried: int = _count()
    run_seconds: float = columns.FloatField(default=0, server_default=sa.text("0"))
    run_histogram: list[int] = _histogram()
    wait_histogram: list[int] = _histogram()

    class Meta:
        abstract = True


def shipped_model() -> type[Any]:
    """Make the class that stands for the table where the project has none of its own."""

    class QueuedTaskRollup(BaseQueuedTaskRollup):
        """What the workers counted, in the shipped table."""

        __qualname__ = "QueuedTaskRollup"
        comes_with_fastedgy = True

    return QueuedTaskRollup


if TYPE_CHECKING:

    class QueuedTaskRollup(BaseQueuedTaskRollup):
        """The class that stands for the table: the project's, or else the shipped one."""


def __getattr__(name: str) -> Any:
    if name == "QueuedTaskRollup":
        return model_of(BaseQueuedTaskRollup, shipped_model)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
