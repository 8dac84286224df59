"""The completer: writes what came of tasks, in as few statements as the load allows.

While one statement is under way, outcomes pile up, and the next statement takes them all: an idle
worker writes at once, a busy one in hundreds, and nobody ever waits for a timer.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from uuid import UUID

from asyncpg import Connection

from fastedgy.models.tables import Tables
from fastedgy.queued_task.running import TaskRun
from fastedgy.store.claim import Lane
from fastedgy.store.finish import Finished, finish_any
from fastedgy.store.notify import Channels, Free, tell_free
from fastedgy.store.outcomes import Done, Other, Outcome
from fastedgy.store.returned import finish_done
from fastedgy.store.traces import Said
from fastedgy.worker.counters import Counters
from fastedgy.worker.traces import LINES, Traces, said_by
from fastedgy.worker.wire import GivenUp, Wire

logger = logging.getLogger("fastedgy.worker")

BATCH = 1_000
"""Outcomes of one statement at most."""
MOST_UNWRITTEN = 2 * BATCH
"""Outcomes that may wait before their worker claims no more tasks: it would only hold more of them
in memory, and run more of them again if it died."""

_COUNTED = {
    "done": "done",
    "failed": "failed",
    "retry": "retried",
    "snoozed": "snoozed",
    "suspended": "snoozed",
    "interrupted": "interrupted",
    "cancelled": "cancelled",
}


class Completer:
    """Outcomes, each with the last words of its run; what is said before is for `traces`."""

    def __init__(self, wire: Wire, tables: Tables, channels: Channels, counters: Counters) -> None:
        self._wire = wire
        self._tables = tables
        self._channels = channels
        self._counters = counters
        self._outcomes: list[Outcome] = []
        self._ended: dict[UUID, TaskRun] = {}
        self._writing: list[Outcome] = []
        self._bell = asyncio.Event()
        self._stopping = False
        self._deadline: float | None = None
        self.traces = Traces(wire, tables, counters, self._given_up)
        self.on_lanes: Callable[[Iterable[Lane]], None] = lambda lanes: None
        self.served: Callable[[], Sequence[str] | None] = lambda: ()
        self.on_due: Callable[[float], None] = lambda seconds: None
        self.on_written: Callable[[Sequence[Outcome], Sequence[Outcome]], None]
        self.on_written = lambda batch, fenced: None
        self.on_others: Callable[[Sequence[Outcome], Sequence[Outcome]], None]
        self.on_others = lambda others, fenced: None
        self.on_ended: Callable[[Sequence[Outcome]], Free | None] = lambda batch: None

    # Told by the executor.

    def put(self, outcome: Outcome, run: TaskRun | None = None) -> None:
        """Take an outcome, with the run whose last words belong to it."""
        outcome.of = run
        if run is not None and run.is_pending():
            self._ended[outcome.id] = run
            self.traces.leave(outcome.id)
        self._outcomes.append(outcome)
        self._bell.set()

    # Asked by others.

    def known(self) -> set[UUID]:
        """The tasks whose outcomes are on their way."""
        return {outcome.id for outcome in self._outcomes} | {
            outcome.id for outcome in self._writing
        }

    @property
    def is_behind(self) -> bool:
        """Whether tasks end faster than their outcomes are written."""
        return len(self._outcomes) + len(self._writing) > MOST_UNWRITTEN

    def unwritten(self) -> list[Outcome]:
        """The outcomes whose writing is not confirmed. Writing one twice does no harm."""
        return [*self._writing, *self._outcomes]

    def stop(self, *, within: float) -> None:
        """Write what is left, for at most `within` seconds if the database is away, and end."""
        self._stopping = True
        self._deadline = time.monotonic() + within
        self._bell.set()
        self.traces.stop()

    # The loop.

    async def run(self) -> None:
        """Write outcomes until `stop`."""
        while True:
            if not self._outcomes:
                self._bell.clear()
                if self._stopping:
                    return
                await self._bell.wait()
                continue
            batch = self._outcomes[:BATCH]
            del self._outcomes[:BATCH]
            self._writing = batch
            said = self._last_words(batch)
            try:
                await self._write(batch, said)
            except GivenUp:
                logger.error(
                    "The outcomes of %d tasks were not written: the database is away. Their rows "
                    "are taken back by others when this worker's lease is over.",
                    len(batch) + len(self._outcomes),
                )
                self._outcomes.clear()
            except Exception:
                self._counters.errors += 1
                logger.exception("Outcomes could not be written together; trying one by one")
                await self._write_singly(batch, said)
            finally:
                self._writing = []

    async def _write(self, batch: Sequence[Outcome], said: Sequence[Said]) -> None:
        # Held until the answer is there: what a task said on its way is written before its outcome,
        # also when the connection is lost in between.
        async with self.traces.order:
            await self._write_in_order(batch, said)

    async def _write_in_order(self, batch: Sequence[Outcome], said: Sequence[Said]) -> None:
        simple = [outcome for outcome in batch if type(outcome) is Done]
        others = [outcome for outcome in batch if type(outcome) is not Done]
        together, apart = _parted(said, others)

        tries = 0

        async def write(connection: Connection) -> Finished | None:
            nonlocal tries
            tries += 1
            await self.traces.append(connection, apart, again=tries > 1)
            rest: Sequence[Outcome] = others
            if simple and not await finish_done(
                connection, self._tables, simple, together, channels=self._channels
            ):
                rest = batch
                await self.traces.append(connection, together, again=True)
            if rest:
                return await finish_any(
                    connection, self._tables, rest, channels=self._channels, served=self.served()
                )
            return None

        # The failure of a task cancels all that waits for it, however much that is.
        finished = await self._wire.run(write, until=self._given_up, may_be_large=True)
        self._count(len(simple), others)
        self.on_written(batch, finished.fenced if finished is not None else ())
        if finished is not None:
            self.on_others(others, finished.fenced)
        if (telling := self.traces.telling) is not None and telling.active:
            telling.ended(batch)
        if free := self.on_ended(batch):
            await self._wire.run(
                lambda connection: tell_free(connection, self._channels.control, free),
                until=self._given_up,
            )
        if finished is not None:
            self._consequences(finished)
        if tries > 1:
            # What was written by a try whose answer was lost has perhaps set tasks free.
            self.on_lanes(())

    def _count(self, simple: int, others: list[Outcome]) -> None:
        counters = self._counters
        counters.done += simple
        for outcome in others:
            name = _COUNTED.get(outcome.word)
            if name is not None:
                setattr(counters, name, getattr(counters, name) + 1)

    async def _write_singly(self, batch: Sequence[Outcome], said: Sequence[Said]) -> None:
        """One of them cannot be written; find it, so that the others can.

        The lines go first and by themselves: no outcome is to depend on them.
        """
        async with self.traces.order:
            await self.traces.write_apart([], said)
        for outcome in batch:
            try:
                await self._write([outcome], [])
            except GivenUp:
                raise
            except Exception as error:
                self._counters.errors += 1
                logger.exception("The outcome of task %s cannot be written", outcome.id)
                plain = Other(
                    outcome.id, outcome.run, "failed", "failed", outcome.began, outcome.ended,
                    error_type="OutcomeNotStored",
                    error_message=f"Its outcome ({outcome.word}) could not be written: "
                    f"{type(error).__name__}.",
                )  # fmt: skip
                with suppress(Exception):  # logged above; then the lease of this worker decides
                    await self._write([plain], [])

    def _last_words(self, batch: Sequence[Outcome]) -> list[Said]:
        """What their runs have said and nobody has written: contexts go into the outcomes, lines
        are returned.
        """
        words: list[Said] = []
        if self._ended:
            for outcome in batch:
                run = self._ended.pop(outcome.id, None)
                if run is not None:
                    outcome.context = run.take_context()
                    said = said_by(run)
                    if said is not None:
                        words.append(said)
        return words

    def _consequences(self, finished: Finished) -> None:
        if finished.fenced:
            self._counters.fenced += len(finished.fenced)
            logger.warning(
                "%d outcomes changed nothing, since their tasks were taken over: %s",
                len(finished.fenced),
                ", ".join(str(outcome.id) for outcome in finished.fenced[:5]),
            )
        lanes = finished.released.lanes | finished.again
        if lanes:
            self.on_lanes(lanes)
        if finished.next_due is not None:
            self.on_due(finished.next_due)

    def _given_up(self) -> bool:
        return self._deadline is not None and time.monotonic() >= self._deadline


def _parted(
    said: Sequence[Said], others: Sequence[Outcome]
) -> tuple[Sequence[Said], Sequence[Said]]:
    """What can be written in one statement with the simple outcomes of a batch, and what is to be
    written before: all if it is much, else only what those of `others` have said.
    """
    if sum([len(each.lines) for each in said]) > LINES:
        return [], said
    if not others:
        return said, []
    ids = {outcome.id for outcome in others}
    return (
        [each for each in said if each.task_id not in ids],
        [each for each in said if each.task_id in ids],
    )
