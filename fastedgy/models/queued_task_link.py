"""Which task is the parent of which."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from uuid import UUID

import sqlalchemy as sa

from fastedgy.models.base import QueueRow, QueueTable, RowIndex, columns, model_of


class BaseQueuedTaskLink(QueueRow):
    """A child that starts after its parent is done. Subclass it to add columns."""

    queue_table = QueueTable(
        kind="links",
        indexes=(RowIndex("child", ("child_id",)),),
        storage="fillfactor = 80",
    )

    parent_id: UUID = columns.UUIDField(primary_key=True)
    child_id: UUID = columns.UUIDField(primary_key=True)
    settled: bool = columns.BooleanField(default=False, server_default=sa.text("false"))

    class Meta:
        abstract = True


def shipped_model() -> type[Any]:
    """Make the class that stands for the table where the project has none of its own."""

    class QueuedTaskLink(BaseQueuedTaskLink):
        """A parent link in the shipped table."""

        __qualname__ = "QueuedTaskLink"
        comes_with_fastedgy = True

    return QueuedTaskLink


if TYPE_CHECKING:

    class QueuedTaskLink(BaseQueuedTaskLink):
        """The class that stands for the table: the project's, or else the shipped one."""


def __getattr__(name: str) -> Any:
    if name == "QueuedTaskLink":
        return model_of(BaseQueuedTaskLink, shipped_model)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
