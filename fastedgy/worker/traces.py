"""What running tasks say: their context and log lines, written a few times a second."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Awaitable, Callable, Iterator, Sequence
from functools import partial
from uuid import UUID

from asyncpg import Connection

from fastedgy.models.tables import Tables
from fastedgy.queued_task.running import TaskRun
from fastedgy.store.traces import Said, append_logs, write_contexts
from fastedgy.worker.counters import Counters
from fastedgy.worker.telling import Telling
from fastedgy.worker.wire import GivenUp, Wire

logger = logging.getLogger("fastedgy.worker")

LINES = 5_000
"""Log lines of one statement at most."""
PAUSE = 0.25
"""Seconds between two writes: ten thousand progress updates a second cost four statements."""


class Traces:
    """A loop beside the completer's, on the same connection.

    What a task said on its way is written before its outcome: who writes either holds `order`.
    """

    def __init__(
        self, wire: Wire, tables: Tables, counters: Counters, given_up: Callable[[], bool]
    ) -> None:
        self._wire = wire
        self._tables = tables
        self._counters = counters
        self._given_up = given_up
        self._loop = asyncio.get_running_loop()
        self._loop_thread = threading.get_ident()
        self._talking: dict[UUID, TaskRun] = {}
        self._bell = asyncio.Event()
        self._stopping = False
        self.order = asyncio.Lock()
        self.telling: Telling | None = None

    def wake(self, run: TaskRun) -> None:
        """A running task has said something. Called in whichever thread it runs."""
        self._talking[run.id] = run
        if threading.get_ident() == self._loop_thread:
            self._bell.set()
        else:
            self._loop.call_soon_threadsafe(self._bell.set)

    def leave(self, id: UUID) -> None:
        """Its outcome takes its last words along."""
        self._talking.pop(id, None)

    def stop(self) -> None:
        """End the loop. What is not written yet goes with the outcomes of those who said it."""
        self._stopping = True
        self._bell.set()

    async def run(self) -> None:
        """Write what running tasks say until `stop`."""
        while not self._stopping:
            await self._bell.wait()
            self._bell.clear()
            try:
                async with self.order:
                    await self._write()
            except GivenUp:
                return
            except Exception:
                self._counters.errors += 1
                logger.exception("Context and logs of running tasks were not written")
            await asyncio.sleep(PAUSE)

    async def append(self, connection: Connection, said: Sequence[Said], *, again: bool) -> None:
        """Write lines, under `order`; `again` if some of them may be there already."""
        for part in _parts(said):
            await append_logs(connection, self._tables, part, again=again)

    async def write_apart(
        self, contexts: Sequence[tuple[UUID, int, str]], said: Sequence[Said]
    ) -> None:
        """Write each by itself, under `order`, as one of them cannot be written."""
        complaint = "What task %s has said cannot be written"
        for context in contexts:
            write = partial(write_contexts, tables=self._tables, contexts=[context])
            await self._try_to(write, complaint, context[0])
        for each in said:
            append = partial(self.append, said=[each], again=True)
            await self._try_to(append, complaint, each.task_id)

    async def _write(self) -> None:
        talking, self._talking = self._talking, {}
        contexts: list[tuple[UUID, int, str]] = []
        said: list[Said] = []
        for run in list(talking.values()):
            context = run.take_context()
            if context is not None:
                contexts.append((run.id, run.run, context))
            lines = said_by(run)
            if lines is not None:
                said.append(lines)
        if not contexts and not said:
            return
        again = False

        async def write(connection: Connection) -> None:
            nonlocal again
            repeated, again = again, True
            if contexts:
                await write_contexts(connection, self._tables, contexts)
            await self.append(connection, said, again=repeated)

        if not await self._try_to(
            write,
            "Context and logs of running tasks could not be written together; trying each alone",
        ):
            await self.write_apart(contexts, said)
        if self.telling is not None and self.telling.active:
            self.telling.said(talking)

    async def _try_to(
        self, write: Callable[[Connection], Awaitable[None]], complaint: str, *about: object
    ) -> bool:
        """Whether it was written. Who gives up says so to whoever called."""
        try:
            await self._wire.run(write, until=self._given_up)
        except GivenUp:
            raise
        except Exception:
            self._counters.errors += 1
            logger.exception(complaint, *about)
            return False
        return True


def said_by(run: TaskRun) -> Said | None:
    """What a run has logged since it was asked last, if anything."""
    first, lines = run.take_logs()
    return Said(run.id, run.run, first, lines) if lines else None


def _parts(said: Sequence[Said]) -> Iterator[list[Said]]:
    """What is said, in parts of `LINES` lines at most."""
    part: list[Said] = []
    room = LINES
    for each in said:
        lines = each.lines
        for start in range(0, len(lines), LINES):
            some = each
            if len(lines) > LINES:
                some = each._replace(first=each.first + start, lines=lines[start : start + LINES])
            if len(some.lines) > room:
                yield part
                part, room = [], LINES
            part.append(some)
            room -= len(some.lines)
    if part:
        yield part
