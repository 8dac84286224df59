"""Group commit: what several routes or tasks add at the same moment becomes rows in one statement.

Postgres commits transactions that notify one after the other (`PreCommit_Notify` holds a lock of
the whole server until its transaction has ended), so writes beside each other win nothing; one for
all does. Nothing waits that need not: the first writes at once, and whoever comes meanwhile goes
with the next statement.
"""

from __future__ import annotations

import asyncio
from contextvars import Context
from typing import TYPE_CHECKING

from fastedgy.queued_tasks.buffer import Pending
from fastedgy.queued_tasks.writing import Batch, write

if TYPE_CHECKING:
    from fastedgy.queued_tasks.service import QueuedTasks

PATIENCE = 0.1
"""Seconds after which a write that takes long is not waited for any more: it may be stuck."""
SMALL = 100
"""Tasks up to which a write goes with others. A large one would only hold them up."""
MOST = 100
"""Writes that go together at most."""

_Waiting = tuple[list[Pending], "asyncio.Future[bool]"]


class GroupCommit:
    """Writes tasks on the service's own connections, together where several are due at once."""

    __slots__ = ("_service", "_timer", "_under_way", "_waiting", "_writers")

    def __init__(self, service: QueuedTasks) -> None:
        self._service = service
        self._under_way = 0
        self._waiting: list[_Waiting] = []
        self._timer: asyncio.TimerHandle | None = None
        self._writers: set[asyncio.Task[None]] = set()

    async def write(self, batch: Batch, *, again: bool = False) -> None:
        """Write tasks and cancellations. Repeated for up to `QUEUE_ENQUEUE_TIMEOUT` while the
        database is away.

        `again`: it was tried before, so that they may be rows already.
        """
        alone = not batch.simple or batch.cancellations or not 0 < len(batch.tasks) <= SMALL
        if again or alone:
            await self._alone(batch, again=again)
            return
        tried = self._under_way > 0
        if tried and await self._with_others(batch.tasks):
            return
        self._under_way += 1
        try:
            await self._alone(batch, again=tried)
        finally:
            self._under_way -= 1
            self._next()

    async def _alone(self, batch: Batch, *, again: bool) -> None:
        service = self._service
        await service._repeatedly(
            lambda own, repeated: write(own, service, batch, again=again or repeated)
        )

    async def _with_others(self, tasks: list[Pending]) -> bool:
        """Wait for the statement that writes these as well. False: it failed, for whatever reason,
        and each is to be written alone, to have its own error or none.
        """
        turn: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._waiting.append((tasks, turn))
        if self._timer is None:
            self._set_timer()
        return await turn

    def _set_timer(self) -> None:
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(PATIENCE, self._next, context=Context())

    def _next(self) -> None:
        """Write what waits."""
        if self._timer is None:
            return
        self._timer.cancel()
        self._timer = None
        waiting = [each for each in self._waiting if not each[1].done()]  # not the cancelled ones
        waiting, self._waiting = waiting[:MOST], waiting[MOST:]
        if not waiting:
            return
        if self._waiting:
            self._set_timer()
        self._under_way += 1
        # Not in the asyncio task of one of them: its request may be cancelled.
        writer = asyncio.get_running_loop().create_task(
            self._together(waiting), name="fastedgy group commit", context=Context()
        )
        self._writers.add(writer)
        writer.add_done_callback(self._writers.discard)

    async def _together(self, waiting: list[_Waiting]) -> None:
        written = False
        service = self._service
        try:
            async with service._connection() as own:
                together = [task for tasks, _ in waiting for task in tasks]
                await write(own, service, Batch(together, {}, simple=True))
            written = True
        except Exception:
            pass  # each is tried once more by itself: whose fault it is raises it there
        finally:
            self._under_way -= 1
            for _, turn in waiting:
                if not turn.done():
                    turn.set_result(written)
            self._next()
