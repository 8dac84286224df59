"""Waiting for many tasks at once: one mark for all, and one read for those that were heard of."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any
from uuid import UUID

from asyncpg import Record

from fastedgy.errors import InvalidTransition, TaskCancelled, TaskNotFound, TaskOutcomeError
from fastedgy.queued_tasks.outcome import ENDED, error_of, in_time, result_of
from fastedgy.queued_tasks.ref import IN_TRANSACTION, QueuedTaskRef
from fastedgy.queued_tasks.service import QueuedTasks
from fastedgy.store import watch

LOOK = 5.0
"""Seconds between two looks at all that have not ended, for a notification that was lost."""
READ = 1_000
"""Results that are read by one statement at most."""


async def written(refs: Iterable[QueuedTaskRef]) -> None:
    """Write those that are not written yet. One round trip for what was added beside each other."""
    for ref in refs:
        if ref._pending is not None:
            await ref


async def wait_all(
    refs: Sequence[QueuedTaskRef], *, timeout: float | None = None, return_exceptions: bool = False
) -> list[Any]:
    """The results of tasks in their order, once all have ended.

    The first failure that becomes known is raised: TaskFailed, TaskCancelled or ResultNotStored.
    `return_exceptions`: nothing is raised, the errors stand in the list. `timeout` is in seconds;
    raises the built-in TimeoutError.
    """
    if not refs:
        return []
    async with in_time(timeout, f"Of {len(refs)} tasks, some have"):
        return await _Wait(refs, return_exceptions).run()


class _Wait:
    def __init__(self, refs: Sequence[QueuedTaskRef], return_exceptions: bool) -> None:
        self._refs = refs
        self._service: QueuedTasks = refs[0]._service
        self._return_exceptions = return_exceptions
        self._found: dict[UUID, Any] = {}
        self._open: set[UUID] = set()

    async def run(self) -> list[Any]:
        service = self._service
        pending = [ref._pending for ref in self._refs if ref._pending is not None]
        if pending and service._in_transaction():
            raise InvalidTransition(IN_TRANSACTION)
        for each in pending:
            each.awaited = True
        waiter = service._waiter()
        await waiter.start(timeout=LOOK)
        await written(self._refs)
        self._open = {ref._id for ref in self._refs if ref._id is not None}
        for ref in self._refs:
            if ref._state == "cancelled":
                self._open.discard(ref._id or UUID(int=0))
                self._take(ref._id or UUID(int=0), _never_written(ref))
        with waiter.watch_all(self._open) as heard:
            await service._repeatedly(
                lambda connection, _: watch.mark_all_awaited(
                    connection, service._tables, list(self._open)
                )
            )
            await self._look(self._open.copy(), first=True)
            pause = 0.02
            while self._open:
                with suppress(TimeoutError):
                    await asyncio.wait_for(heard.wait(), pause if waiter.polls else LOOK)
                everybody = not heard.is_set() or heard.all
                pause = min(2 * pause, 1.0)
                news = heard.take()
                await self._look(self._open.copy() if everybody else news & self._open)
        return [
            self._found[ref._id] if ref._id in self._found else _never_written(ref)
            for ref in self._refs
        ]

    async def _look(self, ids: set[UUID], *, first: bool = False) -> None:
        listed = list(ids)
        for start in range(0, len(listed), READ):
            chunk = listed[start : start + READ]
            rows = await self._rows(chunk)
            missing = set(chunk)
            for row in rows:
                missing.discard(row["id"])
                if row["state"] in ENDED:
                    error = error_of(row)
                    self._take(row["id"], result_of(row) if error is None else error)
            for id in missing:
                if first and self._service._in_transaction():
                    raise InvalidTransition(IN_TRANSACTION)
                if first:
                    raise TaskNotFound(id)
                self._take(id, TaskCancelled(id=id, name="", reason="its row was deleted"))

    async def _rows(self, ids: Sequence[UUID]) -> Sequence[Record]:
        tables = self._service._tables
        return await self._service._repeatedly(
            lambda connection, _: watch.read_outcomes(connection, tables, ids)
        )

    def _take(self, id: UUID, value: Any) -> None:
        if isinstance(value, TaskOutcomeError) and not self._return_exceptions:
            raise value
        self._found[id] = value
        self._open.discard(id)


def _never_written(ref: QueuedTaskRef) -> TaskCancelled:
    return TaskCancelled(id=ref._id or UUID(int=0), name="", reason="before it was written")
