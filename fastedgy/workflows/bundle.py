"""What chains and groups have in common: several tasks, watched and stopped as one."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Self
from uuid import UUID

from fastedgy.errors import InvalidArguments
from fastedgy.queued_tasks.maker import TaskMaker
from fastedgy.queued_tasks.ref import QueuedTaskRef
from fastedgy.queued_tasks.scripts import open_producer
from fastedgy.queued_tasks.service import QueuedTasks
from fastedgy.queued_tasks.waiting import written
from fastedgy.store import actions, watch
from fastedgy.store.find import STATES

Maker = QueuedTasks | TaskMaker


@dataclass(frozen=True, slots=True)
class Progress:
    """How far several tasks have come. `running` have started, `waiting` have not."""

    total: int
    waiting: int
    running: int
    done: int
    failed: int
    cancelled: int

    @property
    def ended(self) -> int:
        """How many have ended, one way or the other."""
        return self.done + self.failed + self.cancelled

    @property
    def fraction(self) -> float:
        """The part that has ended, from 0 to 1."""
        return self.ended / self.total if self.total else 1.0


class Bundle:
    """Several tasks. `refs` are all of them, in the order in which they were added."""

    def __init__(self, refs: Sequence[QueuedTaskRef]) -> None:
        self.refs = list(refs)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {len(self.refs)} tasks>"

    def __len__(self) -> int:
        return len(self.refs)

    def __iter__(self) -> Iterator[QueuedTaskRef]:
        return iter(self.refs)

    def __getitem__(self, place: int) -> QueuedTaskRef:
        return self.refs[place]

    def __await__(self) -> Generator[Any, None, Self]:
        return self._written().__await__()

    async def counts(self) -> dict[str, int]:
        """How many of the tasks are in each state; all states are there, also those with 0."""
        counts = dict.fromkeys(STATES, 0)
        ids = await self._ids()
        if ids:
            service = self.refs[0]._service
            async with service._connection() as connection:
                counts |= await watch.count_states(connection, service._tables, ids)
        counts["cancelled"] += sum(ref._state == "cancelled" for ref in self.refs)
        return counts

    async def progress(self) -> Progress:
        """How far they have come."""
        counts = await self.counts()
        return Progress(
            total=len(self.refs),
            waiting=counts["scheduled"] + counts["waiting"] + counts["enqueued"],
            running=counts["doing"],
            done=counts["done"],
            failed=counts["failed"],
            cancelled=counts["cancelled"],
        )

    async def cancel(self, reason: str | None = None, *, tree: bool = False) -> int:
        """Cancel those that have not ended; returns how many. `tree` as for one task's `cancel`."""
        ids = await self._ids()
        if not ids:
            return 0
        service = self.refs[0]._service
        async with service._connection() as connection:
            done = await actions.cancel(
                connection, service._tables, ids, reason=reason, tree=tree,
                channels=service._channels,
            )  # fmt: skip
        return len(done.ended) + len(done.asked)

    async def retry(self) -> int:
        """Run those again that came to nothing, and what did so because of them; how many."""
        ids = await self._ids()
        if not ids:
            return 0
        service = self.refs[0]._service
        async with service._connection() as connection:
            return len(
                await actions.retry(
                    connection, service._tables, ids, tree=True, channels=service._channels
                )
            )

    async def _written(self) -> Self:
        await written(self.refs)
        return self

    async def _ids(self) -> list[UUID]:
        await written(self.refs)
        return [ref._id for ref in self.refs if ref._id is not None and ref._state is None]


def maker_of(given: tuple[Any, ...]) -> tuple[Maker, tuple[Any, ...]]:
    """Who makes the tasks, and the rest: it may stand before them (`tasks`, `tasks.task(…)`)."""
    if given and isinstance(given[0], QueuedTasks | TaskMaker):
        return given[0], given[1:]
    return open_producer(), given


def add(maker: Maker, call: Any, *result: Any) -> QueuedTaskRef:
    """Add one call: a function, a tuple of one and its arguments, or a partial.

    `result`: what it gets before the arguments of a tuple, and after those of a partial.
    """
    func: Callable[..., Any]
    if isinstance(call, tuple):
        if not call:
            raise InvalidArguments("An empty tuple is no call: write (function, argument, …).")
        func, arguments = call[0], call[1:]
        if isinstance(func, partial):
            return maker.add_task(func.func, *func.args, *result, *arguments, **func.keywords)
        return maker.add_task(func, *result, *arguments)
    if isinstance(call, partial):
        return maker.add_task(call.func, *call.args, *result, **call.keywords)
    return maker.add_task(call, *result)
