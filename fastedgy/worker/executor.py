"""The executor: runs claimed tasks in slots and turns whatever comes of them into outcomes.

It knows no database. Each task runs in an asyncio task of its own, with a context of its own, so
that nothing one task leaves behind (context variables, an open transaction) reaches the next.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from collections.abc import Callable, Collection
from contextvars import copy_context
from typing import TYPE_CHECKING, Any, Protocol
from uuid import UUID

from asyncpg import Record

from fastedgy.config import QueuedTaskConfig
from fastedgy.queued_task import hooks
from fastedgy.queued_task.middleware import registered, through
from fastedgy.queued_task.running import TaskRun, current
from fastedgy.queued_tasks.buffer import Buffer
from fastedgy.store import outcomes
from fastedgy.store.outcomes import Outcome
from fastedgy.worker.afterwards import Afterwards
from fastedgy.worker.ahead import Ahead
from fastedgy.worker.calling import Caller
from fastedgy.worker.counters import Counters
from fastedgy.worker.guards import guarded
from fastedgy.worker.queued import Queued
from fastedgy.worker.report import Board
from fastedgy.worker.results import Results
from fastedgy.worker.running import Running
from fastedgy.worker.target import CANNOT_RUN, find_target, not_run
from fastedgy.worker.verdict import done_as, judge, left_behind, returned

if TYPE_CHECKING:
    from fastedgy.worker.completer import Completer

logger = logging.getLogger("fastedgy.worker")

SWEEP = 0.1
"""Seconds between two looks for tasks whose time is over. One look for all: a timer per task costs
more than a short task itself."""
STUBBORN = 10.0
"""Seconds after its timeout for which a task may ignore its cancellation."""

_post_run = hooks.registered("post_run")
_middleware = registered()
"""Empty as long as there are no hooks and no middleware: looked at for every task."""

NEVER = float("inf")
"""The deadline of what has outlived its own."""

ENDED = Buffer(closed=True)
"""In place of the buffer of a run that is over: what its stray code adds goes out by itself."""


class Lease(Protocol):
    """Until when this worker's claims count (a reading of `time.monotonic()`)."""

    lease_until: float


class _Unlimited:
    lease_until = float("inf")


class Executor:
    """`concurrency` slots, fed from a queue of claimed tasks."""

    def __init__(
        self,
        config: QueuedTaskConfig,
        counters: Counters,
        completer: Completer,
        board: Board,
        results: Results,
        *,
        concurrency: int,
        flush_added: Callable[[TaskRun], Any],
        solo: bool = False,
    ) -> None:
        """`results`: where those of parents come from. `flush_added` writes what a task has added
        to the queue, before its own outcome.
        """
        self._config = config
        self._counters = counters
        self._completer = completer
        self._wake = completer.traces.wake
        self._board = board
        self._concurrency = concurrency
        self._caller = Caller(concurrency, results)
        self._afterwards = Afterwards(config, flush_added)
        self._solo = solo
        self._queued = Queued()
        self._running: dict[UUID, Running] = {}
        self._loop = asyncio.get_running_loop()
        self._context = copy_context()
        self._ahead = Ahead(concurrency)
        self._sweeping = False
        self.closed = False
        self.lease: Lease = _Unlimited()
        self.on_room: Callable[[], None] = lambda: None
        self.on_stuck: Callable[[str], None] = lambda reason: None
        self._empty = asyncio.Event()
        self._empty.set()

    # What the others ask.

    @property
    def busy(self) -> int:
        """How many tasks run."""
        return len(self._running)

    @property
    def queued(self) -> int:
        """How many are claimed and not started."""
        return len(self._queued)

    def started(self) -> set[UUID]:
        """The ids of all that run here."""
        return set(self._running)

    def known(self) -> set[UUID]:
        """The ids of all that run or are queued here."""
        return self.started() | self._queued.ids()

    def held(self) -> list[UUID]:
        """The same for other threads: one that starts at this moment may be missing, or be there
        twice."""
        return [*self._queued.ids(), *list(self._running)]

    def current(self) -> Running | None:
        """The task whose code the event loop executes at this moment. Asked by other threads.

        An asyncio task that it has started (`gather`, TaskGroup) is known from Python 3.12 on.
        """
        task = asyncio.current_task(self._loop)
        if task is None:
            return None
        for it in list(self._running.values()):
            if it.task is task:
                return it
        if sys.version_info >= (3, 12):
            run = task.get_context().get(current)
            if isinstance(run, Running) and self._running.get(run.id) is run:
                return run
        return None

    def late(self, since: float) -> list[Running]:
        """The async tasks whose time was over then, and that were not given up. Asked by other
        threads. Not those that had no turn yet: their time has not begun.
        """
        return [
            it
            for it in list(self._running.values())
            if it.entered and not it.sync and it.deadline <= since
        ]

    def has_sync(self) -> bool:
        """Whether a sync function runs: it can be ended with its process only. Asked by other
        threads, too.
        """
        return any(it.sync for it in list(self._running.values()))

    def gates_queued(self) -> set[str | None]:
        """The gates of those that are claimed and not started; None: those without."""
        return self._queued.gates()

    def room(self) -> int:
        """How many more tasks to claim now; 0 means wait for `on_room`."""
        now = time.monotonic()
        if self.closed or now >= self.lease.lease_until or self._completer.is_behind:
            return 0
        queued = len(self._queued)
        free = self._concurrency - len(self._running) - queued
        return max(0, free) if self._solo else self._ahead.room(free, queued, now)

    def has_slot(self, beside: int) -> bool:
        """Whether there is a slot for a further task when `beside` others have come, now or in a
        few milliseconds.
        """
        free = self._concurrency - len(self._running) - len(self._queued)
        return not self.closed and (self._ahead.are_short or free > beside)

    # Starting.

    def came(self, number: int, *, gated: bool) -> None:
        """So many tasks were claimed for the room that there was, and are about to be accepted.

        `gated`: some of them through gates.
        """
        self._ahead.came(number, gated=gated, idle=not self._running and not self._queued)

    def accept(self, rows: list[Record], *, first: bool = False) -> None:
        """Take claimed tasks over, in their order; those that there is no slot for wait here.

        `first`: before what waits here already.
        """
        if first:
            self._queued.extendleft(reversed(rows))
        else:
            self._queued.extend(rows)
        self._fill()

    def resume(self) -> None:
        """Start what was claimed before the lease was lost, now that it is ours again."""
        self._fill()

    def _fill(self) -> None:
        queued, running, concurrency = self._queued, self._running, self._concurrency
        if not queued or self.closed:
            return
        now = time.monotonic()
        if now >= self.lease.lease_until:
            return
        while queued and len(running) < concurrency:
            try:
                row = queued.popleft()
            except IndexError:  # another thread was faster, see `take_queue`
                return
            self._start(row, now)

    def _start(self, row: Record, now: float) -> None:
        config = self._config
        try:
            target = find_target(row, config)
        except CANNOT_RUN as error:
            self._completer.put(not_run(row, error, self._counters))
            return
        it = Running(row, target, now, config.task_timeout, self._wake, config.log_limit)
        self._running[it.id] = it
        it.slot = self._board.put(it.id)
        # Not a copy of the context at hand: often that is the one of the task that has just ended.
        it.task = self._loop.create_task(self._run(it), context=self._context.copy())
        if not self._sweeping:
            self._sweeping = True
            self._ahead.begin(now)
            self._empty.clear()
            self._loop.call_later(SWEEP, self._sweep)

    async def _run(self, it: Running) -> None:
        """Run one task in its slot, to its outcome. Never raises."""
        current.set(it)
        it.enter(time.monotonic())
        try:
            if it.cancelling is not None:
                raise asyncio.CancelledError
            if it.extra is not None and it.extra.breaker is not None:
                value = await guarded(it, it.extra.breaker, self._attempt)
            elif _middleware:
                value = await self._attempt(it)
            else:
                value = await self._caller.call(it)
        except BaseException as error:
            # BaseException: what a task raises is the task's, SystemExit and KeyboardInterrupt
            # included. asyncio would let these two tear the worker down.
            verdict = judge(it, error, self._config)
        else:
            if value is None and it.cancelling is None and it.buffer is None and not _post_run:
                self._end(it, done_as(it)(it.id, it.run, it.began, time.monotonic()))
                return
            verdict = returned(it, value, self._config)
        self._end(it, (await self._afterwards.settle(it, verdict)).outcome)

    async def _attempt(self, it: Running) -> Any:
        call = self._caller.call
        return await (through(it, lambda: call(it)) if _middleware else call(it))

    def _end(self, it: Running, outcome: Outcome) -> None:
        """Give the slot back, hand the outcome on, and start the next."""
        it.buffer = ENDED
        if it.overdue:
            return  # its outcome was given when it was left behind
        self._board.free(it.slot)
        del self._running[it.id]
        # Its context holds `it`: without this circle all is freed at once, not by a later look.
        it.task = None
        if it.logs_dropped:
            self._counters.log_lines_dropped += it.logs_dropped
            it.close_logs()
        self._completer.put(outcome, it)
        self._ahead.ended += 1
        self._ahead.worked += outcome.ended - outcome.began
        if self._queued:
            self._fill()
        if not self._running:
            self._board.wipe()
            self._empty.set()
        elif self.closed and self._is_over():
            self._empty.set()
        if len(self._queued) <= self._ahead.low_water:
            self.on_room()

    # Stopping tasks.

    def _sweep(self) -> None:
        """Tell tasks whose time is over; measure the rate; come back while anything runs."""
        now = time.monotonic()
        self._ahead.measure(now)
        for it in list(self._running.values()):
            if now >= it.deadline:
                self._time_is_over(it, now)
        if self._running:
            self._loop.call_later(SWEEP, self._sweep)
        else:
            self._sweeping = False

    def _time_is_over(self, it: Running, now: float) -> None:
        if it.cancelling is None:
            self._counters.timeouts += 1
            self._tell_to_stop(it, "timeout")
        if it.sync:
            # A thread cannot be stopped: its process is replaced, and what it was doing ends with
            # it.
            it.deadline = NEVER
            self.on_stuck(f"the sync function {it.label} outlived its timeout")
        elif now >= it.deadline + STUBBORN:
            it.deadline = NEVER
            self.on_stuck(f"{it.label} ignores its cancellation")
        if self.closed and self._is_over():
            self._empty.set()

    def _tell_to_stop(self, it: Running, why: str) -> None:
        """Interrupt an async function; a sync one cannot be, and is judged when it returns."""
        it.cancelling = why
        if it.entered and not it.sync and it.task is not None:
            it.task.cancel()

    def _is_over(self) -> bool:
        """Whether nothing runs that can be expected to end by itself."""
        return all(it.deadline == NEVER for it in self._running.values())

    def cancel(self, id: UUID) -> None:
        """Stop a running task because somebody asked for it; one that is queued never starts."""
        it = self._running.get(id)
        if it is not None:
            if it.cancelling is None:
                self._tell_to_stop(it, "cancel")
            return
        row = self._queued.take(id)
        if row is not None:
            now = time.monotonic()
            outcome = outcomes.cancelled(id, row["run"], now, now, "Cancelled on request.")
            self._completer.put(outcome)

    def close(self) -> None:
        """Start nothing more; what is queued goes back untouched."""
        self.closed = True
        for outcome in self.take_queue():
            self._completer.put(outcome)

    def give_back(self, queues: Collection[str]) -> None:
        """Hand back what is claimed of these queues and not started, at no loss."""
        for outcome in self._handed_back(self._queued.take_of(queues)):
            self._completer.put(outcome)

    def take_queue(self) -> list[Outcome]:
        """Give up what was claimed ahead; the outcomes hand it back, at no loss. Also called by
        another thread while the event loop is blocked.
        """
        return self._handed_back(self._queued.take_all())

    def _handed_back(self, rows: list[Record]) -> list[Outcome]:
        now = time.monotonic()
        self._counters.handed_back += len(rows)
        return [outcomes.interrupted(row["id"], row["run"], now, now) for row in rows]

    async def drained(self) -> None:
        """Return when nothing runs any more that can be expected to end. Only when closed."""
        while not self._is_over():
            self._empty.clear()
            await self._empty.wait()

    def interrupt(self) -> None:
        """Stop all async tasks: back to the line, their budget untouched. Nothing that runs in a
        thread is waited for any longer: it ends with the process.
        """
        for it in list(self._running.values()):
            if it.sync:
                it.deadline = NEVER
            elif it.cancelling is None:
                self._tell_to_stop(it, "interrupt")

    def leave_behind(self) -> list[tuple[Outcome, TaskRun]]:
        """The outcomes of what does not stop, to be written as the last thing before the process
        ends.
        """
        left: list[tuple[Outcome, TaskRun]] = []
        for it in list(self._running.values()):
            it.overdue = True
            left.append((left_behind(it, self._config), it))
        return left
