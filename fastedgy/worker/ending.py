"""How a worker process ends. The order is the contract."""

from __future__ import annotations

import asyncio
import logging
import sys
import time

from asyncpg import Connection

from fastedgy.queued_task.running import TaskRun
from fastedgy.store import recovery, workers
from fastedgy.store.outcomes import Outcome
from fastedgy.worker.completer import Completer
from fastedgy.worker.heartbeat import Heartbeat
from fastedgy.worker.parts import Parts
from fastedgy.worker.report import Report
from fastedgy.worker.watchdog import Watchdog
from fastedgy.worker.wire import GivenUp

logger = logging.getLogger("fastedgy.worker")

DRAINED = 0
REPLACE = 3
"""Exit codes: ended as asked; wants to be replaced by a fresh process."""
GRACE = 5.0
"""Seconds that interrupted tasks get to end."""
ORPHANS_GRACE = 1.5
"""The same where the supervisor died: the hand-back must fit into the time until ORPHANED."""
ORPHANED = 4.5
"""Seconds in which a worker whose supervisor died hands everything back and ends."""
LAST_WRITES = 5.0
"""Seconds that the last outcomes may take if the database is away."""
COUNTED_FIRST = 1.0
"""Seconds that what was counted may take before the outcomes of what ends with the process."""
PARTING = 0.5
"""Seconds between these outcomes and the end: a second after them their tasks may run elsewhere."""


class Ending:
    """No new claims; running tasks end, or are interrupted at the deadline; their outcomes are
    written; only then do the heartbeats stop.
    """

    def __init__(self, parts: Parts, report: Report) -> None:
        self._parts = parts
        self._report = report
        self._hurry = asyncio.Event()
        self.exit_code = DRAINED
        self.reason = "stopped"
        self.grace = GRACE

    def hurry(self) -> None:
        """Interrupt what runs, instead of waiting for it."""
        self._hurry.set()

    async def run(
        self, loops: dict[str, asyncio.Task[None]], heartbeat: Heartbeat, watchdog: Watchdog
    ) -> None:
        """End the `loops`, which have their names, and all that there is."""
        parts = self._parts
        parts.fetcher.stop()
        parts.maintenance.stop()
        parts.notifier.stop()
        await asyncio.wait((loops["fetcher"],))
        parts.executor.close()
        await self._running_end(parts.config.drain_timeout)
        if parts.executor.busy:
            parts.executor.interrupt()
            await self._running_end(self.grace, hurried=False)
        left = parts.executor.leave_behind()
        parts.completer.stop(within=LAST_WRITES)
        await asyncio.wait((loops["completer"], loops["traces"]))
        parts.telling.stop()
        if left:
            await self._end_with_process(left, loops["rollups"])
        await self._write_counts(loops["rollups"])
        try:
            deadline = time.monotonic() + LAST_WRITES
            await parts.claims.run(self._retire, until=lambda: time.monotonic() > deadline)
        except GivenUp:
            logger.warning(
                "The row of worker %s was not closed: the database is away", parts.worker_id
            )
        heartbeat.stop()
        watchdog.stop()
        parts.results.close()
        await asyncio.wait(loops.values(), timeout=2)
        for wire in (parts.claims, parts.writes, parts.chores):
            await wire.close()
        logger.info("Worker %s has ended: %s", parts.worker_id, self.reason)

    async def _running_end(self, seconds: float, *, hurried: bool = True) -> None:
        """Wait until nothing runs, for so many seconds, or until told to hurry."""
        ended = asyncio.ensure_future(self._parts.executor.drained())
        hurry = asyncio.ensure_future(self._hurry.wait())
        try:
            await asyncio.wait(
                (ended, hurry) if hurried else (ended,),
                timeout=seconds,
                return_when=asyncio.FIRST_COMPLETED,
            )
        finally:
            ended.cancel()
            hurry.cancel()

    async def _write_counts(
        self, counting: asyncio.Task[None], *, patience: float | None = None
    ) -> None:
        self._parts.rollups.stop(within=LAST_WRITES)
        await asyncio.wait((counting,), timeout=patience)

    async def _end_with_process(
        self, left: list[tuple[Outcome, TaskRun]], counting: asyncio.Task[None]
    ) -> None:
        """What runs in threads ends with the process, so this is the last thing it does: what may
        take long comes before it, and what comes after it is left to the supervisor if it does.
        """
        parts = self._parts
        await self._write_counts(counting, patience=COUNTED_FIRST)
        completer = Completer(parts.writes, parts.tables, parts.channels, parts.counters)
        completer.on_written = parts.rollups.add
        for outcome, run in left:
            completer.put(outcome, run)
        completer.stop(within=LAST_WRITES)
        logger.warning(
            "Worker %s ends with %d tasks that did not stop: %s",
            parts.worker_id, len(left), ", ".join(run.name for _, run in left),
        )  # fmt: skip
        sys.stdout.flush()
        sys.stderr.flush()
        await completer.run()
        parting = [asyncio.create_task(parts.claims.run(self._retire, until=lambda: True))]
        if counting.done():  # these outcomes are to be counted as well
            parts.rollups.stop(within=0)
            parting.append(asyncio.create_task(parts.rollups.run()))
        # Not cancelled when the time is over: that would wait for a frozen connection's answer.
        await asyncio.wait(parting, timeout=PARTING)
        self._report.leave(REPLACE if self.exit_code == REPLACE else DRAINED)

    async def _retire(self, connection: Connection) -> None:
        parts = self._parts
        await recovery.hand_back(
            connection, parts.tables, worker_id=parts.worker_id, channels=parts.channels
        )
        await workers.retire(
            connection, parts.tables, worker_id=parts.worker_id, counters=parts.counters.told(),
            reason=self.reason,
        )  # fmt: skip
