"""What a producer has for each event loop: what nobody's end will write, and who writes."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any

from fastedgy.queued_tasks.buffer import Buffer
from fastedgy.queued_tasks.group_commit import GroupCommit
from fastedgy.queued_tasks.waiter import Waiter

if TYPE_CHECKING:
    from fastedgy.queued_tasks.service import QueuedTasks

logger = logging.getLogger("fastedgy.queued_tasks")


class Here:
    """A producer in one event loop. Futures, locks and connections belong to theirs, and a sync
    task that calls `asyncio.run` has another one than its worker.
    """

    def __init__(self, service: QueuedTasks, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.loose = Buffer(is_loose=True)
        self.commits = GroupCommit(service)
        self._service = service
        self._waiter: Waiter | None = None
        self._writing: asyncio.Task[None] | None = None
        self._unfinished: set[asyncio.Task[BaseException | None]] = set()

    def write_soon(self) -> None:
        """Write what is loose, in the background."""
        if self._writing is None or self._writing.done():
            self._writing = self.loop.create_task(
                self._write_loose(), name="fastedgy background enqueue"
            )

    def finish(
        self, work: Coroutine[Any, Any, BaseException | None]
    ) -> asyncio.Task[BaseException | None]:
        """See a write to its end, even if whoever wants it is cancelled."""
        task = self.loop.create_task(work, name="fastedgy enqueue")
        self._unfinished.add(task)
        task.add_done_callback(self._unfinished.discard)
        return task

    def waiter(self, url: str) -> Waiter:
        """Who hears of the end of tasks."""
        if self._waiter is None:
            self._waiter = Waiter(url, self._service.config)
        return self._waiter

    async def close(self) -> None:
        """Return when nothing is on its way any more."""
        await asyncio.sleep(0)  # what a thread has added a moment ago
        while under_way := self._under_way():
            await asyncio.gather(*under_way, return_exceptions=True)
        waiter, self._waiter = self._waiter, None
        if waiter is not None:
            await waiter.close()

    def _under_way(self) -> list[asyncio.Task[Any]]:
        writing = self._writing
        own: list[asyncio.Task[Any]] = [] if writing is None or writing.done() else [writing]
        return [*own, *self._unfinished]

    async def _write_loose(self) -> None:
        try:
            while self.loose:
                try:
                    await self._service._write(self.loose)
                except Exception:
                    logger.exception("Tasks that were added outside a route and a task are lost")
        finally:
            # Before anybody else's turn: a task that is added from here on needs a new writer.
            self._writing = None
