"""What is to be written: tasks and cancellations, kept until their route, task or block ends."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from uuid import UUID

from fastedgy.store.newtask import NewTask, Spec

if TYPE_CHECKING:
    from fastedgy.queued_tasks.duplicates import Uniqueness
    from fastedgy.queued_tasks.ref import QueuedTaskRef


Wish = tuple[str | None, bool]
"""How a task is to be cancelled: for which reason, and whether with its whole tree."""


class Pending(NewTask):
    """A task on its way to its row.

    `wanted` are its parents: ids, or refs whose id is known only once their unique key was looked
    at. `unsure`: such refs among its arguments, by the id that stands there for now.
    `in_transaction`: a database transaction of the caller was open when it was added. `buffer`:
    where it was added to. `on_its_way`: it is being written, so it is too late to leave it out.
    """

    __slots__ = ("buffer", "in_transaction", "on_its_way", "ref", "uniqueness", "unsure",
                 "wanted")  # fmt: skip

    def __init__(
        self,
        id: UUID,
        spec: Spec,
        args: str,
        kwargs: str,
        unique_key: str | None,
        uniqueness: Uniqueness,
        wanted: Sequence[UUID | QueuedTaskRef],
        ref: QueuedTaskRef,
    ) -> None:
        # Not by way of NewTask's: this runs for every task that is added.
        self.id = id
        self.spec = spec
        self.args = args
        self.kwargs = kwargs
        self.parents = ()
        self.unique_key = unique_key
        self.awaited = False
        self.context = "{}"
        self.gate = None
        self.takes_results = False
        self.trace = None
        self.signature = None
        self.uniqueness = uniqueness
        self.wanted = wanted
        self.ref = ref
        self.unsure: dict[UUID, QueuedTaskRef] | None = None
        self.in_transaction = False
        self.on_its_way = False
        self.buffer: Buffer | None = None

    def is_simple(self) -> bool:
        """Whether nothing but the row itself is to be written or looked at."""
        return not self.wanted and self.unique_key is None and self.ref._state is None


def running_loop() -> asyncio.AbstractEventLoop | None:
    """The event loop of this thread, if it has one."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


@dataclass(slots=True)
class Buffer:
    """Tasks that will be written together.

    `is_loose`: at no end of anything, but in the background. `unfinished`: a write of what was in
    it that goes on although its caller was cancelled; it returns what went wrong. `loop`: where it
    is written at its end. `origin`: the buffer of another loop that this was taken from. `again`:
    what is in it may be rows already.
    """

    tasks: list[Pending] = field(default_factory=list)
    cancellations: dict[UUID, Wish] = field(default_factory=dict)
    closed: bool = False
    is_loose: bool = False
    unfinished: asyncio.Task[BaseException | None] | None = None
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    loop: asyncio.AbstractEventLoop | None = field(default_factory=running_loop)
    origin: Buffer | None = None
    again: bool = False

    def take(self) -> tuple[list[Pending], dict[UUID, Wish]]:
        """All that is in it; it is empty afterwards."""
        tasks, self.tasks = self.tasks, []
        cancellations, self.cancellations = self.cancellations, {}
        for pending in tasks:
            pending.on_its_way = True
        return tasks, cancellations

    def put_back(self, tasks: list[Pending], cancellations: dict[UUID, Wish]) -> None:
        """What was taken is not being written after all."""
        for pending in tasks:
            pending.on_its_way = False
            pending.buffer = self
        self.tasks[:0] = tasks
        self.cancellations = {**cancellations, **self.cancellations}
        if self.closed:
            self.drop()

    def take_over(self, other: Buffer) -> None:
        """What is in another buffer, which takes nothing more."""
        other.closed = True
        for pending in other.tasks:
            pending.buffer = self
        self.tasks += other.tasks
        self.cancellations |= other.cancellations

    def moved(self) -> Buffer:
        """One for this loop with what is in it, which goes back if it cannot be written here."""
        moved = Buffer(origin=self)
        for pending in self.tasks:
            pending.buffer = moved
        moved.tasks, self.tasks = self.tasks, []
        moved.cancellations, self.cancellations = self.cancellations, {}
        return moved

    def drop(self) -> None:
        """Forget what is in it: the route raised, or the block was undone."""
        tasks, _ = self.take()
        for pending in tasks:
            pending.ref._dropped()

    def close(self) -> None:
        """Forget what is in it, and take nothing more: its route or its block is over."""
        self.closed = True
        self.drop()

    def __bool__(self) -> bool:
        return bool(self.tasks or self.cancellations or self.unfinished)


open_buffer: ContextVar[Buffer | None] = ContextVar("fastedgy_open_buffer", default=None)
"""The buffer of the route, block or task that the running code belongs to."""
