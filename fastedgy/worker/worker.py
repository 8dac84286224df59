"""One worker process: its parts, and the order in which they start and stop."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import sys
import threading
import time
from collections.abc import Coroutine
from dataclasses import asdict
from importlib.metadata import version
from typing import Any

from asyncpg import Connection

from fastedgy import migrate
from fastedgy.config import QueuedTaskConfig
from fastedgy.models.tables import Tables
from fastedgy.queued_task.running import TaskRun
from fastedgy.queued_tasks.service import QueuedTasks
from fastedgy.scheduler.firing import Firer
from fastedgy.store import watch, workers
from fastedgy.store.finish import finish_any
from fastedgy.store.notify import channels_of
from fastedgy.store.outcomes import Outcome
from fastedgy.store.workers import Pulse
from fastedgy.worker.assignment import Assignment
from fastedgy.worker.completer import Completer
from fastedgy.worker.counters import Counters
from fastedgy.worker.executor import Executor
from fastedgy.worker.fetcher import Fetcher
from fastedgy.worker.heartbeat import MARGIN, Heartbeat
from fastedgy.worker.maintenance import Maintenance
from fastedgy.worker.memory import resident
from fastedgy.worker.notifier import Notifier
from fastedgy.worker.report import Board, Report
from fastedgy.worker.results import Results
from fastedgy.worker.rollups import Rollups
from fastedgy.worker.telling import Telling
from fastedgy.worker.watchdog import Watchdog
from fastedgy.worker.wire import GivenUp, Wire

logger = logging.getLogger("fastedgy.worker")

DRAINED = 0
REPLACE = 3
"""Exit codes: ended as asked; wants to be replaced by a fresh process."""
ORPHANED = 4.5
"""Seconds in which a worker whose supervisor died hands everything back and ends."""
SOLO_IDLE = 2.0
"""Seconds without a suspect after which a solo worker has done its work."""
SAY_EVERY = 0.9
"""Seconds between two signs of life to the supervisor, which expects one a second."""
GRACE = 5.0
"""Seconds that interrupted tasks get to end."""
ORPHANS_GRACE = 1.5
"""The same where the supervisor died: the hand-back must fit into the time until ORPHANED."""
RECONCILE_EVERY = 6
"""Beats between two looks for claims that we do not know (DECISIONS R2)."""
LAST_WRITES = 5.0
"""Seconds that the last outcomes may take if the database is away."""
COUNTED_FIRST = 1.0
"""Seconds that what was counted may take before the outcomes of what ends with the process."""
PARTING = 0.5
"""Seconds between these outcomes and the end: a second after them their tasks may run elsewhere."""


class Worker:
    """Fetcher, executor, completer, notifier, heartbeat and maintenance, joined."""

    def __init__(
        self, assignment: Assignment, url: str, config: QueuedTaskConfig, tasks: QueuedTasks,
        tables: Tables, report: Report,
    ) -> None:  # fmt: skip
        self.id = assignment.worker_id
        self._assignment = assignment
        self._url = url
        self._config = config
        self._tables = tables
        self._report = report
        self._tasks = tasks
        self._counters = counters = Counters()
        self._channels = channels = channels_of(config)
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        self._hurry = asyncio.Event()
        self._exit_code = DRAINED
        self._reason = "stopped"
        self._state = "running"
        self._idle_since = time.monotonic()
        self._lease_lost: float | None = None
        self._beats = 0
        self._grace = GRACE
        self._said = 0.0
        # What is held up for longer could arrive when its premise is no longer true (DECISIONS R3).
        patience = min(config.statement_timeout, config.lease / 3)
        self._claims = Wire(url, config, counters, "claims")
        self._writes = Wire(url, config, counters, "outcomes")
        self._chores = Wire(url, config, counters, "chores", patience=patience)
        self.completer = Completer(self._writes, tables, channels, counters)
        self.rollups = Rollups(self._chores, tables, self.id)
        claims = self._claims
        self._results = Results(
            lambda ids: claims.run(lambda line: watch.read_results(line, tables, ids)),
            lambda ids: claims.run(lambda line: watch.read_plain_results(line, tables, ids)),
        )
        self.executor = Executor(
            config,
            counters,
            self.completer,
            Board(assignment.board, assignment.concurrency),
            self._results,
            concurrency=assignment.concurrency,
            flush_added=self._flush_added,
            solo=assignment.solo,
        )
        self.fetcher = Fetcher(
            self._claims, tables, self.id, config, channels, counters, self.executor,
            self.completer, assignment.queues, solo=assignment.solo,
        )  # fmt: skip
        self.notifier = Notifier(url, config, counters)
        self.maintenance = Maintenance(
            self._chores, tables, channels, config, counters, Firer(tasks),
            may_judge=self._may_judge,
        )  # fmt: skip
        self.heartbeat = Heartbeat(
            lambda: Wire(url, config, counters, "heartbeat", patience=patience),
            self._beat,
            interval=config.heartbeat,
            lease=config.lease,
            on_pulse=lambda pulse: self._from_thread(self._on_pulse, pulse),
            on_tick=self._on_tick,
            on_lease_lost=self._on_lease_lost,
            on_error=self._count_error,
        )
        self.telling = Telling(
            self._chores, config.events_channel if config.use_postgresql_notify else None
        )
        self.watchdog = Watchdog(
            self._loop, self.executor, counters, on_blocked=self._on_blocked, on_hung=self._on_hung
        )
        self._join()

    def _join(self) -> None:
        executor, fetcher, completer = self.executor, self.fetcher, self.completer
        executor.lease = self.heartbeat
        executor.on_room = fetcher.room
        executor.on_stuck = self.replace
        completer.on_lanes = fetcher.ring
        completer.served = fetcher.served
        completer.on_due = self.maintenance.due_in
        completer.on_written = self.rollups.add
        completer.on_others = self._results.keep
        completer.on_ended = fetcher.ended
        self.maintenance.on_lanes = fetcher.ring
        self.notifier.on_lanes = fetcher.ring
        self.notifier.on_due = self.maintenance.due_in
        self.notifier.on_event = self.maintenance.event_sent
        self.notifier.on_gates = fetcher.ring_gates
        self.notifier.on_free = fetcher.freed
        self.notifier.on_rules = fetcher.rules_changed
        self.notifier.on_cancel = executor.cancel
        self.notifier.on_drain = self._drain_was_asked
        self.notifier.on_schedules = self.maintenance.fire_soon
        self.notifier.on_watch = self.telling.watch
        fetcher.telling = completer.traces.telling = self.telling
        self.notifier.on_deaf = fetcher.set_deaf

    # Life.

    async def run(self) -> int:
        """Work until told to stop; returns the exit code."""
        await self._claims.run(self._register)
        self.heartbeat.start()
        self.watchdog.start()
        loops = [
            self._loops(self.fetcher.run(), "fetcher"),
            self._loops(self.completer.run(), "completer"),
            self._loops(self.completer.traces.run(), "traces"),
            self._loops(self.rollups.run(), "rollups"),
        ]
        if not self._assignment.solo:
            loops += [
                self._loops(self.notifier.run(), "notifier"),
                self._loops(self.telling.run(), "telling"),
                self._loops(self.maintenance.run(), "maintenance"),
            ]
        self._report.tell("ready", worker_id=self.id, tables=asdict(self._tables))
        logger.info("Worker %s is ready", self.id)
        if self._assignment.solo:
            await self._until_no_suspects()
        await self._stop.wait()
        await self._drain(loops)
        return self._exit_code

    def _loops(self, loop: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        task = asyncio.create_task(loop, name=f"fastedgy {name}")
        task.add_done_callback(self._loop_ended)
        return task

    def _loop_ended(self, task: asyncio.Task[None]) -> None:
        """No loop ends before it is told to. One that does has the process replaced."""
        if not task.cancelled() and task.exception() is not None:
            logger.error("The %s loop died", task.get_name(), exc_info=task.exception())
            self._counters.errors += 1
            self.replace(f"its {task.get_name()} loop died")

    async def _register(self, connection: Connection) -> None:
        await migrate.check(connection)
        await workers.register(
            connection,
            self._tables,
            worker_id=self.id,
            server_name=socket.gethostname(),
            pid=os.getpid(),
            supervisor_id=self._assignment.supervisor_id,
            queues=self._assignment.queues,
            concurrency=self._assignment.concurrency,
            version=version("fastedgy"),
        )

    async def _until_no_suspects(self) -> None:
        while not self._stop.is_set():
            since = self.fetcher.found_nothing_since
            if since and time.monotonic() - since > SOLO_IDLE and not self.executor.busy:
                self.stop("nothing is left to run alone")
            await asyncio.sleep(0.1)

    # Being told.

    def stop(self, reason: str = "stopped") -> None:
        """First call: drain. Second call: interrupt what runs."""
        if self._stop.is_set():
            self._hurry.set()
            return
        self._reason = reason
        self._state = "draining"
        logger.info("Worker %s drains: %s", self.id, reason)
        self._report.tell("draining", reason=reason)
        self._stop.set()

    def replace(self, reason: str) -> None:
        """Drain, and ask the supervisor for a fresh process."""
        if not self._stop.is_set():
            self._exit_code = REPLACE
            logger.warning("Worker %s is to be replaced: %s", self.id, reason)
            self.stop(reason)

    def _drain_was_asked(self, workers: list[str]) -> None:
        """An operator has asked these to drain. What counts is in our row: the next beat has it."""
        if str(self.id) in workers:
            self.heartbeat.soon()

    def _asked_to_drain(self, what: str, by: str) -> None:
        """Our row says that we are to drain. A whole supervisor is told, and tells all its workers;
        with each beat again, also by who drains already: one report may be lost.
        """
        reason = f"{by} asked for it"
        if what == "supervisor" and self._assignment.report is not None:
            self._report.tell("dissolve", reason=reason)
        elif not self._stop.is_set():
            self.stop(reason)

    def orphaned(self) -> None:
        """The supervisor is gone: hand everything back and end, soon."""
        logger.warning("The supervisor is gone; worker %s hands its tasks back and ends", self.id)
        threading.Timer(ORPHANED, self._report.leave, (REPLACE,)).start()
        self._grace = ORPHANS_GRACE
        self.stop("its supervisor died")
        self._hurry.set()

    def continued(self) -> None:
        """SIGCONT, in the loop's thread: before anything else runs, see whether our claims hold."""
        if time.monotonic() >= self.heartbeat.lease_until:
            self._on_lease_lost()
            self.executor.interrupt()

    # Ending.

    async def _drain(self, loops: list[asyncio.Task[None]]) -> None:
        """The order is the contract: no new claims; running tasks end, or are interrupted at the
        deadline; their outcomes are written; only then do the heartbeats stop.
        """
        self.fetcher.stop()
        self.maintenance.stop()
        self.notifier.stop()
        await asyncio.wait(loops[:1])
        self.executor.close()
        await self._running_end(self._config.drain_timeout)
        if self.executor.busy:
            self.executor.interrupt()
            await self._running_end(self._grace, hurried=False)
        left = self.executor.leave_behind()
        self.completer.stop(within=LAST_WRITES)
        await asyncio.wait(loops[1:3])
        self.telling.stop()
        if left:
            await self._end_with_process(left, loops[3])
        await self._write_counts(loops[3])
        try:
            deadline = time.monotonic() + LAST_WRITES
            await self._claims.run(self._retire, until=lambda: time.monotonic() > deadline)
        except GivenUp:
            logger.warning("The row of worker %s was not closed: the database is away", self.id)
        self.heartbeat.stop()
        self.watchdog.stop()
        self._results.close()
        await asyncio.wait(loops, timeout=2)
        for wire in (self._claims, self._writes, self._chores):
            await wire.close()
        logger.info("Worker %s has ended: %s", self.id, self._reason)

    async def _running_end(self, seconds: float, *, hurried: bool = True) -> None:
        """Wait until nothing runs, for so many seconds, or until told to hurry."""
        ended = asyncio.ensure_future(self.executor.drained())
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
        self.rollups.stop(within=LAST_WRITES)
        await asyncio.wait((counting,), timeout=patience)

    async def _end_with_process(
        self, left: list[tuple[Outcome, TaskRun]], counting: asyncio.Task[None]
    ) -> None:
        """What runs in threads ends with the process, so this is the last thing it does: what may
        take long comes before it, and what comes after it is left to the supervisor if it does.
        """
        await self._write_counts(counting, patience=COUNTED_FIRST)
        completer = Completer(self._writes, self._tables, self._channels, self._counters)
        completer.on_written = self.rollups.add
        for outcome, run in left:
            completer.put(outcome, run)
        completer.stop(within=LAST_WRITES)
        logger.warning(
            "Worker %s ends with %d tasks that did not stop: %s",
            self.id, len(left), ", ".join(run.name for _, run in left),
        )  # fmt: skip
        sys.stdout.flush()
        sys.stderr.flush()
        await completer.run()
        parting = [asyncio.create_task(self._claims.run(self._retire, until=lambda: True))]
        if counting.done():  # these outcomes are to be counted as well
            self.rollups.stop(within=0)
            parting.append(asyncio.create_task(self.rollups.run()))
        # Not cancelled when the time is over: that would wait for a frozen connection's answer.
        await asyncio.wait(parting, timeout=PARTING)
        self._report.leave(REPLACE if self._exit_code == REPLACE else DRAINED)

    async def _retire(self, connection: Connection) -> None:
        await workers.hand_back(
            connection, self._tables, worker_id=self.id, channels=self._channels
        )
        await workers.retire(
            connection, self._tables, worker_id=self.id, counters=self._counters.told(),
            reason=self._reason,
        )  # fmt: skip

    # From other threads.

    def _from_thread(self, function: Any, *arguments: Any) -> None:
        try:
            self._loop.call_soon_threadsafe(function, *arguments)
        except RuntimeError:  # the loop is closed: the process is ending anyway
            return

    def _beat(self, connection: Connection) -> Coroutine[Any, Any, Pulse]:
        return workers.beat(
            connection,
            self._tables,
            worker_id=self.id,
            state=self._state,
            busy=self.executor.busy,
            counters=self._counters.told() | {"memory_mb": resident() // 1_000_000},
            lease=self._config.lease,
        )

    def _count_error(self) -> None:
        self._counters.errors += 1

    def _on_tick(self) -> None:
        # What is claimed and waits counts, too: it shows that more workers would help.
        busy = self.executor.busy + self.executor.queued
        now = time.monotonic()
        if busy:
            self._idle_since = now
        if now - self._said >= SAY_EVERY:
            self._said = now
            self._report.tell("beat", busy=busy, idle_for=round(now - self._idle_since, 2))
        self.watchdog.look(now)
        if self._lease_lost is not None and now - self._lease_lost > MARGIN and self.executor.busy:
            logger.error("A task goes on after the lease is over: the process ends")
            self._report.leave(REPLACE)

    def _on_lease_lost(self) -> None:
        """Others may take our tasks now. In the heartbeat's thread: the loop may be blocked."""
        if self._lease_lost is not None:
            return
        self._lease_lost = time.monotonic()
        logger.error("Worker %s could not renew its lease; it interrupts what it runs", self.id)
        if self.executor.has_sync():
            logger.error("A sync function runs and cannot be interrupted: the process ends")
            self._report.leave(REPLACE)
        self._from_thread(self.executor.interrupt)

    def _on_blocked(self) -> None:
        """The loop has been blocked for long: what waits behind the blocker goes elsewhere."""
        outcomes = self.executor.take_queue()
        if outcomes:
            write = self._write_aside(outcomes)
            threading.Thread(target=asyncio.run, args=(write,), daemon=True).start()

    def _on_hung(self) -> None:
        """The loop will not move again: write what became of its tasks from here, and end."""
        outcomes = [outcome for outcome, _ in self.executor.leave_behind()]
        outcomes += self.executor.take_queue() + self.completer.unwritten()

        def write_and_end() -> None:
            try:
                asyncio.run(self._write_aside(outcomes, within=LAST_WRITES))
            except Exception:
                logger.exception("The outcomes of a hanging worker were not written")
            self._report.leave(REPLACE)

        threading.Thread(target=write_and_end, daemon=True).start()

    async def _write_aside(self, outcomes: list[Outcome], *, within: float | None = None) -> None:
        """Write outcomes on a connection of their own, while the loop cannot."""
        wire = Wire(self._url, self._config, self._counters, "hand-back")
        deadline = None if within is None else time.monotonic() + within
        await wire.run(
            lambda connection: finish_any(
                connection, self._tables, outcomes, channels=self._channels
            ),
            until=lambda: deadline is not None and time.monotonic() > deadline,
        )
        await wire.close()

    def _on_pulse(self, pulse: Pulse) -> None:
        """What a heartbeat found. In the worker's loop."""
        if not pulse.alive:
            logger.error(
                "Worker %s was declared lost by others; a fresh process takes over", self.id
            )
            if self.executor.has_sync():
                logger.error("A sync function runs and cannot be interrupted: the process ends")
                self._report.leave(REPLACE)
            self.executor.interrupt()
            self.replace("it was declared lost")
            self._hurry.set()
            return
        self._beats += 1
        if self._lease_lost is not None or self._beats % RECONCILE_EVERY == 0:
            self._lease_lost = None
            self.fetcher.be_unsure()
        self.executor.resume()
        for id in pulse.cancelled:
            self.executor.cancel(id)
        if pulse.stale:
            self.maintenance.rescue_soon()
        if pulse.suspects and not self._assignment.solo:
            self._report.tell("suspects")
        if pulse.next_due is not None and pulse.next_due < self._config.heartbeat:
            self.maintenance.due_in(pulse.next_due)
        if pulse.drain is not None:
            self._asked_to_drain(pulse.drain, pulse.drain_by or "somebody")
        self._check_memory()

    def _check_memory(self) -> None:
        limit = self._config.worker_max_rss
        if limit and resident() > limit * 1_000_000:
            used = resident() // 1_000_000
            self.replace(f"it uses {used} MB (QUEUE_WORKER_MAX_RSS is {limit})")

    def _may_judge(self) -> bool:
        since = self.heartbeat.steady_since
        return since is not None and time.monotonic() - since >= self._config.lease

    async def _flush_added(self, run: TaskRun) -> None:
        """Write what a task has added to the queue."""
        await self._tasks._write(run.buffer)
