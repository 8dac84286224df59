"""One worker process: what it is told, and what it sees of itself."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
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
from fastedgy.store import workers
from fastedgy.store.workers import Pulse
from fastedgy.worker.aside import Aside
from fastedgy.worker.assignment import Assignment
from fastedgy.worker.ending import ORPHANED, ORPHANS_GRACE, REPLACE, Ending
from fastedgy.worker.heartbeat import MARGIN, Heartbeat
from fastedgy.worker.memory import resident
from fastedgy.worker.parts import Parts
from fastedgy.worker.report import Report
from fastedgy.worker.watchdog import Watchdog

logger = logging.getLogger("fastedgy.worker")

SOLO_IDLE = 2.0
"""Seconds without a suspect after which a solo worker has done its work."""
SAY_EVERY = 0.9
"""Seconds between two signs of life to the supervisor, which expects one a second."""
RECONCILE_EVERY = 6
"""Beats between two looks for claims that we do not know (DECISIONS R2)."""


class Worker:
    """Its parts at work, a heartbeat and a watchdog over them, and an end in order."""

    def __init__(
        self, assignment: Assignment, url: str, config: QueuedTaskConfig, tasks: QueuedTasks,
        tables: Tables, report: Report,
    ) -> None:  # fmt: skip
        self.id = assignment.worker_id
        self._assignment = assignment
        self._config = config
        self._tables = tables
        self._report = report
        self._tasks = tasks
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        self._state = "running"
        self._idle_since = time.monotonic()
        self._lease_lost: float | None = None
        self._beats = 0
        self._said = 0.0
        self.parts = parts = Parts(
            assignment, url, config, tables, Firer(tasks),
            flush_added=self._flush_added, may_judge=self._may_judge,
        )  # fmt: skip
        self.heartbeat = Heartbeat(
            lambda: parts.wire("heartbeat", patience=parts.patience),
            self._beat,
            interval=config.heartbeat,
            lease=config.lease,
            on_pulse=lambda pulse: self._from_thread(self._on_pulse, pulse),
            on_tick=self._on_tick,
            on_lease_lost=self._on_lease_lost,
            on_error=self._count_error,
        )
        aside = Aside(parts, report)
        self.watchdog = Watchdog(
            self._loop, parts.executor, parts.counters, on_blocked=aside.hand_on, on_hung=aside.end
        )
        self._ending = Ending(parts, report)
        parts.executor.lease = self.heartbeat
        parts.executor.on_stuck = self.replace
        parts.notifier.on_drain = self._drain_was_asked

    # Life.

    async def run(self) -> int:
        """Work until told to stop; returns the exit code."""
        parts = self.parts
        await parts.claims.run(self._register)
        self.heartbeat.start()
        self.watchdog.start()
        loops = {
            "fetcher": parts.fetcher.run(),
            "completer": parts.completer.run(),
            "traces": parts.completer.traces.run(),
            "rollups": parts.rollups.run(),
        }
        if not self._assignment.solo:
            loops |= {
                "notifier": parts.notifier.run(),
                "telling": parts.telling.run(),
                "maintenance": parts.maintenance.run(),
            }
        looping = {name: self._start(loop, name) for name, loop in loops.items()}
        self._report.tell("ready", worker_id=self.id, tables=asdict(self._tables))
        logger.info("Worker %s is ready", self.id)
        if self._assignment.solo:
            await self._until_no_suspects()
        await self._stop.wait()
        await self._ending.run(looping, self.heartbeat, self.watchdog)
        return self._ending.exit_code

    def _start(self, loop: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        task = asyncio.create_task(loop, name=f"fastedgy {name}")
        task.add_done_callback(self._loop_ended)
        return task

    def _loop_ended(self, task: asyncio.Task[None]) -> None:
        """No loop ends before it is told to. One that does has the process replaced."""
        if not task.cancelled() and task.exception() is not None:
            logger.error("The %s loop died", task.get_name(), exc_info=task.exception())
            self.parts.counters.errors += 1
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
            since = self.parts.fetcher.found_nothing_since
            if since and time.monotonic() - since > SOLO_IDLE and not self.parts.executor.busy:
                self.stop("nothing is left to run alone")
            await asyncio.sleep(0.1)

    # Being told.

    def stop(self, reason: str = "stopped") -> None:
        """First call: drain. Second call: interrupt what runs."""
        if self._stop.is_set():
            self._ending.hurry()
            return
        self._ending.reason = reason
        self._state = "draining"
        logger.info("Worker %s drains: %s", self.id, reason)
        self._report.tell("draining", reason=reason)
        self._stop.set()

    def replace(self, reason: str) -> None:
        """Drain, and ask the supervisor for a fresh process."""
        if not self._stop.is_set():
            self._ending.exit_code = REPLACE
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
        self._ending.grace = ORPHANS_GRACE
        self.stop("its supervisor died")
        self._ending.hurry()

    def continued(self) -> None:
        """SIGCONT, in the loop's thread: before anything else runs, see whether our claims hold."""
        if time.monotonic() >= self.heartbeat.lease_until:
            self._on_lease_lost()
            self.parts.executor.interrupt()

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
            busy=self.parts.executor.busy,
            held=self.parts.executor.held(),
            counters=self.parts.counters.told() | {"memory_mb": resident() // 1_000_000},
            lease=self._config.lease,
        )

    def _count_error(self) -> None:
        self.parts.counters.errors += 1

    def _on_tick(self) -> None:
        executor = self.parts.executor
        # What is claimed and waits counts, too: it shows that more workers would help.
        busy = executor.busy + executor.queued
        now = time.monotonic()
        if busy:
            self._idle_since = now
        if now - self._said >= SAY_EVERY:
            self._said = now
            self._report.tell("beat", busy=busy, idle_for=round(now - self._idle_since, 2))
        self.watchdog.look(now)
        if self._lease_lost is not None and now - self._lease_lost > MARGIN and executor.busy:
            logger.error("A task goes on after the lease is over: the process ends")
            self._report.leave(REPLACE)

    def _on_lease_lost(self) -> None:
        """Others may take our tasks now. In the heartbeat's thread: the loop may be blocked."""
        if self._lease_lost is not None:
            return
        self._lease_lost = time.monotonic()
        logger.error("Worker %s could not renew its lease; it interrupts what it runs", self.id)
        if self.parts.executor.has_sync():
            logger.error("A sync function runs and cannot be interrupted: the process ends")
            self._report.leave(REPLACE)
        self._from_thread(self.parts.executor.interrupt)

    def _on_pulse(self, pulse: Pulse) -> None:
        """What a heartbeat found. In the worker's loop."""
        parts = self.parts
        if not pulse.alive:
            logger.error(
                "Worker %s was declared lost by others; a fresh process takes over", self.id
            )
            if parts.executor.has_sync():
                logger.error("A sync function runs and cannot be interrupted: the process ends")
                self._report.leave(REPLACE)
            parts.executor.interrupt()
            self.replace("it was declared lost")
            self._ending.hurry()
            return
        self._beats += 1
        if self._lease_lost is not None or self._beats % RECONCILE_EVERY == 0:
            self._lease_lost = None
            parts.fetcher.be_unsure()
        parts.executor.resume()
        for id in pulse.cancelled:
            parts.executor.cancel(id)
        if pulse.stale:
            parts.maintenance.rescue_soon()
        if pulse.suspects and not self._assignment.solo:
            self._report.tell("suspects")
        if pulse.next_due is not None and pulse.next_due < self._config.heartbeat:
            parts.maintenance.due_in(pulse.next_due)
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
