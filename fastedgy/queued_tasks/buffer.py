"""What is to be written: tasks and cancellations, kept until their route, task or block ends."""

from __future__ import annotations

import asyncio
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from uuid import UUID

from fastedgy.store.insert import NewTask

if TYPE_CHECKING:
    from fastedgy.queued_tasks.ref import QueuedTaskRef


@dataclass(slots=True)
class Pending:
    """A task on its way to its row.

    `parents` are ids, or refs whose id is known only once their unique key was looked at.
    `in_transaction`: a database transaction of the caller was open when it was added. `buffer`:
    where it was added to. `on_its_way`: it is being written, so it is too late to leave it out.
    """

    row: NewTask
    ref: QueuedTaskRef
    parents: list[UUID | QueuedTaskRef]
    on_duplicate: str = "existing"
    in_transaction: bool = False
    on_its_way: bool = False
    buffer: Buffer | None = None


@dataclass(slots=True)
class Buffer:
    """Tasks that will be written together. Appending is safe from any thread."""

    tasks: list[Pending] = field(default_factory=list)
    cancellations: dict[UUID, str | None] = field(default_factory=dict)
    closed: bool = False
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    def take(self) -> tuple[list[Pending], dict[UUID, str | None]]:
        """All that is in it; it is empty afterwards."""
        tasks, self.tasks = self.tasks, []
        cancellations, self.cancellations = self.cancellations, {}
        for pending in tasks:
            pending.on_its_way = True
        return tasks, cancellations

    def drop(self) -> None:
        """Forget what is in it: the route raised, or the block was undone."""
        tasks, _ = self.take()
        for pending in tasks:
            pending.ref._dropped()

    def __bool__(self) -> bool:
        return bool(self.tasks or self.cancellations)


open_buffer: ContextVar[Buffer | None] = ContextVar("fastedgy_open_buffer", default=None)
"""The buffer of the route, block or task that the running code belongs to."""
