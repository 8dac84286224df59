"""A web process as the owner of durable in-process tasks: it beats and writes like a worker.

It claims nothing. Its rows are written by those who schedule the tasks; if it dies, the workers
take them back by the usual rescue.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time
from collections.abc import Coroutine, Iterable
from contextvars import Context
from dataclasses import asdict
from importlib.metadata import version
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from asyncpg import Connection

from fastedgy.errors import DatabaseUnavailable
from fastedgy.ids import new_id
from fastedgy.queued_task.running import TaskRun
from fastedgy.queued_tasks import QueuedTasks
from fastedgy.store import outcomes, recovery, workers
from fastedgy.store.claim import Lane
from fastedgy.store.notify import ring
from fastedgy.store.outcomes import Done, Other, Outcome
from fastedgy.store.workers import Pulse
from fastedgy.tasks.task import is_async
from fastedgy.worker.completer import Completer
from fastedgy.worker.counters import Counters
from fastedgy.worker.heartbeat import Heartbeat
from fastedgy.worker.rollups import Rollups
from fastedgy.worker.verdict import judge, returned
from fastedgy.worker.wire import GivenUp, Wire

if TYPE_CHECKING:
    from fastedgy.tasks.runner import Runner
    from fastedgy.tasks.task import Task

logger = logging.getLogger("fastedgy.worker")

NO_QUEUE = "(in-process)"
"""In place of the queues that it serves. It serves none, and an empty list would mean all."""
LAST_WRITES = 5.0
"""Seconds that the last outcomes may take if the database is away."""
GATHER = 0.005
"""Seconds for which outcomes are gathered. Nobody in this process waits for them, and each commit
of them competes with those that requests wait for. A kill within this time means a second run."""
MOST_TOLD = 100
"""Names whose counts go into the worker's row."""


class WebOwner:
    """The owner of one run of an application; see `fastedgy.tasks.durable.Owner`."""

    def __init__(self, runner: Runner, tasks: QueuedTasks) -> None:
        """To be made in the event loop of the runner."""
        assert tasks._connections is not None
        url, config = tasks._connections.url, tasks.config
        self.id = new_id()
        self._runner = runner
        self._config = config
        self._tables = tables = tasks._tables
        self._channels = channels = tasks._channels
        self._counters = counters = Counters()
        self._loop = asyncio.get_running_loop()
        self._state = "running"
        self._closing = False
        self._lost = False
        self._writes = Wire(url, config, counters, "outcomes")
        self._chores = Wire(url, config, counters, "chores")
        self._completer = Completer(self._writes, tables, channels, counters)
        self._completer.on_lanes = self._ring
        self._rollups = Rollups(self._chores, tables, self.id)
        self._completer.on_written = self._rollups.add
        self._heartbeat = Heartbeat(
            lambda: Wire(url, config, counters, "heartbeat"),
            self._beat,
            interval=config.heartbeat,
            lease=config.lease,
            on_pulse=lambda pulse: self._from_thread(self._on_pulse, pulse),
            on_tick=lambda: None,
            on_lease_lost=lambda: self._from_thread(self._on_lease_lost),
        )
        self._gathered: list[tuple[Outcome, TaskRun]] = []
        self._background: set[asyncio.Task[None]] = set()
        self._loops = [
            asyncio.create_task(self._completer.run(), name="fastedgy outcomes"),
            asyncio.create_task(self._completer.traces.run(), name="fastedgy traces"),
            asyncio.create_task(self._rollups.run(), name="fastedgy rollups"),
        ]
        self._registering: asyncio.Task[None] | None = None
        self._registered = False

    @property
    def lease_until(self) -> float:
        """Until when nobody else runs our tasks, a reading of `time.monotonic()`."""
        return 0.0 if self._lost else self._heartbeat.lease_until

    async def registered(self) -> None:
        """Return when our row is there. Raises DatabaseUnavailable if that takes too long."""
        if self._registered:
            return
        if self._registering is None:
            self._registering = asyncio.create_task(
                self._register(), name="fastedgy register", context=Context()
            )
        await asyncio.shield(self._registering)

    async def _register(self) -> None:
        deadline = time.monotonic() + self._config.enqueue_timeout

        async def register(connection: Connection) -> None:
            await workers.register(
                connection,
                self._tables,
                worker_id=self.id,
                server_name=socket.gethostname(),
                pid=os.getpid(),
                supervisor_id=None,
                queues=[NO_QUEUE],
                concurrency=0,
                version=version("fastedgy"),
            )

        try:
            await self._chores.run(register, until=lambda: time.monotonic() > deadline)
        except GivenUp:
            raise DatabaseUnavailable(
                "The database is away, so that no durable task can be written."
            ) from None
        finally:
            self._registering = None
        if not self._registered:
            self._registered = True
            self._heartbeat.start()
            logger.info("This process owns durable in-process tasks as worker %s", self.id)

    def wake(self, run: TaskRun) -> None:
        """A running task has said something."""
        self._completer.traces.wake(run)

    def ended(
        self,
        task: Task[..., Any],
        *,
        value: Any = None,
        error: BaseException | None = None,
        stopped: str | None = None,
    ) -> None:
        """Write what came of a task, under the claim that its row was written with."""
        run = task.run
        outcome = self._outcome(task, value, error, stopped)
        if run.logs_dropped:
            self._counters.log_lines_dropped += run.logs_dropped
            run.close_logs()
        if not self._gathered:
            self._loop.call_later(GATHER, self._hand_on)
        self._gathered.append((outcome, run))

    def _hand_on(self) -> None:
        gathered, self._gathered = self._gathered, []
        for outcome, run in gathered:
            self._completer.put(outcome, run)

    def _outcome(
        self, task: Task[..., Any], value: Any, error: BaseException | None, stopped: str | None
    ) -> Outcome:
        run = task.run
        claim = (run.id, run.run, task._began or time.monotonic())
        if value is None and error is None and run.attempt == 1:
            return Done(*claim, time.monotonic())
        if stopped in ("shutdown", "interrupt"):
            # Attempts that failed are spent, the one that was interrupted is not.
            return _other(outcomes.interrupted(*claim, time.monotonic()), 2 - run.attempt)
        # What the worker's verdict looks at. The retries were made here, so none is left.
        it: Any = SimpleNamespace(
            id=run.id, run=run.run, name=run.name, began=claim[2], attempt=run.attempt,
            max_retries=-1, target=task._claim._function if task._claim else None,
            cancelling="cancel" if stopped == "cancel" else None, timeout=task.config.seconds,
            extra=None,
        )  # fmt: skip
        if error is None:
            outcome = returned(it, value, self._config).outcome
        else:
            outcome = judge(it, error, self._config).outcome
        # The row counts one attempt so far.
        return outcome if run.attempt == 1 else _other(outcome, outcome.refund + 1 - run.attempt)

    # Life.

    def _beat(self, connection: Connection) -> Coroutine[Any, Any, Pulse]:
        told: dict[str, Any] = self._counters.told()
        names = list(self._runner.counts.by_name.items())[:MOST_TOLD]
        durable = self._runner.durable()
        return workers.beat(
            connection,
            self._tables,
            worker_id=self.id,
            state=self._state,
            busy=len(durable),
            held=[task.run.id for task in durable],
            counters=told | {"in_process": {name: asdict(counts) for name, counts in names}},
            lease=self._config.lease,
        )

    def _from_thread(self, function: Any, *arguments: Any) -> None:
        try:
            self._loop.call_soon_threadsafe(function, *arguments)
        except RuntimeError:  # the loop is closed: the process is ending anyway
            return

    def _on_pulse(self, pulse: Pulse) -> None:
        if not pulse.alive and not self._closing:
            logger.error(
                "Web process %s was declared lost; workers have its durable tasks", self.id
            )
            self._lost = True
            self._interrupt()
            if self._runner.owner is self:
                self._runner.owner = None  # the next durable task gets a new one
                self._in_background(self.close())
            return
        for task in self._runner.find(pulse.cancelled):
            if is_async(task.func):
                self._runner.stop(task, "cancel")

    def _on_lease_lost(self) -> None:
        if self._registered:
            logger.error("Web process %s could not renew its lease", self.id)
            self._interrupt()

    def _interrupt(self) -> None:
        """Others may take our tasks: stop those that can be stopped. A thread cannot; what it comes
        to changes nothing then.
        """
        for task in self._runner.durable():
            if task._claim is not None and task._claim.belongs_to(self):
                self._runner.stop(task, "interrupt")

    def _ring(self, lanes: Iterable[Lane]) -> None:
        found = list(lanes)

        async def tell(connection: Connection) -> None:
            await ring(connection, self._channels.tasks, found)

        self._in_background(self._chores.run(tell, until=lambda: self._closing))

    def _in_background(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(self._logged(work))
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    async def _logged(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except GivenUp:
            logger.warning("The workers were not told of work: the database is away")
        except Exception:
            logger.exception("A chore of durable in-process tasks failed")

    async def close(self) -> None:
        """Write the last outcomes, hand the rest to the workers, and close our row."""
        self._state = "draining"
        self._hand_on()
        self._completer.stop(within=LAST_WRITES)
        await asyncio.wait(self._loops[:1])
        self._rollups.stop(within=LAST_WRITES)
        await asyncio.wait(self._loops[2:])
        self._closing = True
        if self._registering is not None:
            await asyncio.wait([self._registering], timeout=LAST_WRITES)
        if self._registered and not self._lost:
            deadline = time.monotonic() + LAST_WRITES
            try:
                await self._chores.run(self._retire, until=lambda: time.monotonic() > deadline)
            except GivenUp:
                logger.warning("Worker %s was not closed: the database is away", self.id)
        if self._registered:
            await asyncio.to_thread(self._heartbeat.stop)
        await asyncio.wait(self._loops, timeout=2)
        others = self._background - {asyncio.current_task()}
        if others and not self._lost:
            await asyncio.wait(others, timeout=2)
        for wire in (self._writes, self._chores):
            await wire.close()

    async def _retire(self, connection: Connection) -> None:
        taken = await recovery.hand_back(
            connection, self._tables, worker_id=self.id, channels=self._channels
        )
        if taken.total:
            logger.info("%d durable in-process tasks go to the workers", taken.total)
        await workers.retire(
            connection, self._tables, worker_id=self.id, counters=self._counters.told(),
            reason="stopped",
        )  # fmt: skip


def _other(outcome: Outcome, refund: int) -> Other:
    """The same end, which gives back so many attempts (or takes them: below 0)."""
    if isinstance(outcome, Other):
        outcome.refund = refund
        return outcome
    other = Other(outcome.id, outcome.run, outcome.state, outcome.word, outcome.began,
                  outcome.ended, refund=refund)  # fmt: skip
    other.result = outcome.result
    return other
