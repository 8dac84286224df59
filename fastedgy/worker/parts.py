"""The parts of a worker process that do its work, and which of them hear of which."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastedgy.config import QueuedTaskConfig
from fastedgy.models.tables import Tables
from fastedgy.queued_task.running import TaskRun
from fastedgy.scheduler.firing import Firer
from fastedgy.store import watch
from fastedgy.store.notify import channels_of
from fastedgy.worker.assignment import Assignment
from fastedgy.worker.completer import Completer
from fastedgy.worker.counters import Counters
from fastedgy.worker.executor import Executor
from fastedgy.worker.fetcher import Fetcher
from fastedgy.worker.maintenance import Maintenance
from fastedgy.worker.notifier import Notifier
from fastedgy.worker.report import Board
from fastedgy.worker.results import Results
from fastedgy.worker.rollups import Rollups
from fastedgy.worker.telling import Telling
from fastedgy.worker.wire import Wire


class Parts:
    """Fetcher, executor, completer and what serves them, joined.

    What watches over them is the worker's: heartbeat and watchdog. So are `executor.lease`,
    `executor.on_stuck` and `notifier.on_drain`, which lead there.
    """

    def __init__(
        self,
        assignment: Assignment,
        url: str,
        config: QueuedTaskConfig,
        tables: Tables,
        firer: Firer,
        *,
        flush_added: Callable[[TaskRun], Any],
        may_judge: Callable[[], bool],
    ) -> None:
        """`flush_added` writes what a task has added to the queue, before its own outcome.
        `may_judge`: whether this worker may take others for lost.
        """
        self.url, self.config, self.tables = url, config, tables
        self.worker_id = assignment.worker_id
        self.counters = Counters()
        self.channels = channels_of(config)
        # What is held up for longer could arrive when its premise is no longer true (DECISIONS R3).
        self.patience = min(config.statement_timeout, config.lease / 3)
        self.claims = self.wire("claims")
        self.writes = self.wire("outcomes")
        self.chores = self.wire("chores", patience=self.patience)
        self.completer = Completer(self.writes, tables, self.channels, self.counters)
        self.rollups = Rollups(self.chores, tables, self.worker_id)
        self.results = Results(
            lambda ids: self.claims.run(lambda line: watch.read_results(line, tables, ids)),
            lambda ids: self.claims.run(lambda line: watch.read_plain_results(line, tables, ids)),
        )
        self.executor = Executor(
            config,
            self.counters,
            self.completer,
            Board(assignment.board, assignment.concurrency),
            self.results,
            concurrency=assignment.concurrency,
            flush_added=flush_added,
            solo=assignment.solo,
        )
        self.fetcher = Fetcher(
            self.claims, tables, self.worker_id, config, self.channels, self.counters,
            self.executor, self.completer, assignment.queues, solo=assignment.solo,
        )  # fmt: skip
        self.notifier = Notifier(url, config, self.counters)
        self.maintenance = Maintenance(
            self.chores, tables, self.channels, config, self.counters, firer, may_judge=may_judge
        )
        self.telling = Telling(
            self.chores, config.events_channel if config.use_postgresql_notify else None
        )
        self._join()

    def _join(self) -> None:
        executor, fetcher, completer = self.executor, self.fetcher, self.completer
        executor.on_room = fetcher.room
        completer.on_lanes = fetcher.ring
        completer.served = fetcher.served
        completer.on_due = self.maintenance.due_in
        completer.on_written = self.rollups.add
        completer.on_others = self.results.keep
        completer.on_ended = fetcher.ended
        self.maintenance.on_lanes = fetcher.ring
        self.notifier.on_lanes = fetcher.ring
        self.notifier.on_due = self.maintenance.due_in
        self.notifier.on_event = self.maintenance.event_sent
        self.notifier.on_gates = fetcher.ring_gates
        self.notifier.on_free = fetcher.freed
        self.notifier.on_rules = fetcher.rules_changed
        self.notifier.on_cancel = executor.cancel
        self.notifier.on_schedules = self.maintenance.fire_soon
        self.notifier.on_watch = self.telling.watch
        self.notifier.on_deaf = fetcher.set_deaf
        fetcher.telling = completer.traces.telling = self.telling

    def wire(self, name: str, *, patience: float | None = None) -> Wire:
        """A connection of its own, for `name`."""
        return Wire(self.url, self.config, self.counters, name, patience=patience)
