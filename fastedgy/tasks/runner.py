"""The runner: the in-process tasks of one running application, from their start to their end."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import anyio

from fastedgy.errors import TaskBacklogFull, TaskCancelled, TasksNotRunning
from fastedgy.tasks.config import TaskConfig
from fastedgy.tasks.counts import Counts
from fastedgy.tasks.performing import perform
from fastedgy.tasks.task import Task, is_async

if TYPE_CHECKING:
    from fastedgy.tasks.durable import Owner

logger = logging.getLogger("fastedgy.tasks")

THREADS = 40
"""Sync tasks at a time. Their threads are not those of sync routes, which never wait for tasks."""
FIRST_STATEMENT = 1.0
"""Seconds that a response waits at most until the sync tasks before it have begun."""
LAST_CHANCE = 1.0
"""Seconds that tasks get after the shutdown's deadline to end on their cancellation."""


@dataclass(slots=True)
class Lane:
    """The tasks of one name with a limit: `reserved` are scheduled for a moment to come."""

    running: int = 0
    reserved: int = 0
    waiting: deque[Task[..., Any]] = field(default_factory=deque)


class Runner:
    """Starts tasks, counts them, and ends them in order. One for each run of an application.

    All of it happens in the event loop, but for `durable`; `call` brings what other threads want
    there.
    """

    def __init__(self, config: TaskConfig) -> None:
        self.config = config
        self.counts = Counts()
        self.threads = anyio.CapacityLimiter(THREADS)
        self.owner: Owner | None = None
        self.closing = False
        self.deferred = 0
        self.loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._running: set[Task[..., Any]] = set()
        self._lanes: dict[str, Lane] = {}
        self._changed: set[asyncio.Future[None]] = set()

    # What schedulers ask for.

    def call(self, function: Callable[[Task[..., Any]], None], task: Task[..., Any]) -> None:
        """Call one of this runner's methods in its event loop, from any thread."""
        if self.is_here():
            function(task)
            return
        answer: Future[None] = Future()

        def answered() -> None:
            try:
                function(task)
                answer.set_result(None)
            except BaseException as error:
                answer.set_exception(error)

        try:
            self.loop.call_soon_threadsafe(answered)
        except RuntimeError:
            raise TasksNotRunning(task.name) from None
        answer.result()

    def is_here(self) -> bool:
        """Whether the calling thread is that of the event loop."""
        return threading.get_ident() == self._thread

    def start(self, task: Task[..., Any]) -> None:
        """Start a task now, or as soon as there is a place for it. Raises TaskBacklogFull."""
        limit = task.config.limit
        if limit is None:
            self._launch(task)
            return
        lane = self._lanes.setdefault(task.name, Lane())
        if lane.running < limit:
            lane.running += 1
            self._launch(task)
            return
        self._check_backlog(task, lane, len(lane.waiting))
        task.state = "waiting"
        lane.waiting.append(task)

    def reserve(self, task: Task[..., Any]) -> None:
        """Take note of a task whose moment is to come. Raises TaskBacklogFull."""
        limit = task.config.limit
        if limit is not None:
            lane = self._lanes.setdefault(task.name, Lane())
            ahead = lane.running + len(lane.waiting) + lane.reserved
            if ahead >= limit:
                self._check_backlog(task, lane, ahead - limit)
            lane.reserved += 1
        self.deferred += 1

    def release(self, task: Task[..., Any]) -> None:
        """The moment of a reserved task has come, or never will."""
        if task.config.limit is not None:
            self._lanes[task.name].reserved -= 1
        self.deferred -= 1

    def start_all(self, tasks: Iterable[Task[..., Any]]) -> None:
        """Start tasks that were reserved. Their place is theirs: the backlog was asked before."""
        for task in tasks:
            self.release(task)
            limit = task.config.limit
            if limit is not None and self._lanes[task.name].running >= limit:
                task.state = "waiting"
                self._lanes[task.name].waiting.append(task)
                continue
            if limit is not None:
                self._lanes[task.name].running += 1
            self._launch(task)

    async def start_before_response(self, tasks: list[Task[..., Any]]) -> None:
        """Start tasks, and return when those that have a place have run their first statement."""
        told: list[asyncio.Future[None]] = []
        for task in tasks:
            if not is_async(task.func) and self.threads.available_tokens > len(told):
                task._in_thread = self.loop.create_future()
                told.append(task._in_thread)
        self.start_all(tasks)
        # The loop is first come, first served: each of them has its first step before this goes on.
        await asyncio.sleep(0)
        begun = [future for future in told if not future.done()]
        if begun:
            await asyncio.wait(begun, timeout=FIRST_STATEMENT)

    def drop(self, task: Task[..., Any], reason: str) -> None:
        """A task that will never start."""
        self._cancel_unstarted(task, reason)

    # What the tests and the metrics ask.

    def unfinished(self) -> list[str]:
        """The names of all tasks that are not over."""
        waiting = [task.name for lane in self._lanes.values() for task in lane.waiting]
        return [task.name for task in self._running] + waiting

    async def settled(self, timeout: float) -> None:
        """Return when no task is left, those included that wait for the end of an open request.

        Raises TimeoutError, naming what is left, after `timeout` seconds.
        """
        deadline = time.monotonic() + timeout
        while self._running or self.deferred:
            left = deadline - time.monotonic()
            if left <= 0 or not await self._change(left):
                names = ", ".join(sorted(self.unfinished())) or "those of open requests"
                raise TimeoutError(f"In-process tasks are not over after {timeout:g} s: {names}.")

    async def _change(self, seconds: float) -> bool:
        """Wait until a task has ended. False: none did in so many seconds."""
        changed: asyncio.Future[None] = self.loop.create_future()
        self._changed.add(changed)
        try:
            done, _ = await asyncio.wait((changed,), timeout=seconds)
        finally:
            self._changed.discard(changed)
        return bool(done)

    # The end.

    async def close(self) -> None:
        """Cancel plain tasks; wait for shielded ones, up to the deadline; say what was given up."""
        self.closing = True
        for lane in self._lanes.values():
            for task in [task for task in lane.waiting if not task.config.shielded]:
                lane.waiting.remove(task)
                self._cancel_unstarted(task, "the application shut down")
        for task in list(self._running):
            if not task.config.shielded:
                self.stop(task, "shutdown")
        await self._emptied(self.config.shutdown_seconds)
        if self._running or any(lane.waiting for lane in self._lanes.values()):
            logger.error(
                "In-process tasks were given up, as they did not end within %g s of the shutdown: "
                "%s",
                self.config.shutdown_seconds,
                ", ".join(sorted(self.unfinished())),
            )
            for lane in self._lanes.values():
                while lane.waiting:
                    self._cancel_unstarted(lane.waiting.popleft(), "the application shut down")
            for task in list(self._running):
                self.stop(task, "shutdown")
            await self._emptied(LAST_CHANCE)
        if self.owner is not None:
            await self.owner.close()

    async def _emptied(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while self._running and (left := deadline - time.monotonic()) > 0:
            await self._change(left)

    def stop(self, task: Task[..., Any], why: str) -> None:
        """Cancel a running task."""
        task._stopping = task._stopping or why
        if task._asyncio is not None:
            # Not at once: a coroutine that is cancelled before its first step never runs at all.
            self.loop.call_soon(task._asyncio.cancel)

    def find(self, ids: Iterable[Any]) -> list[Task[..., Any]]:
        """Running tasks by the ids of their runs."""
        wanted = set(ids)
        return [task for task in self._running if task._run is not None and task._run.id in wanted]

    def durable(self) -> list[Task[..., Any]]:
        """The running tasks that have rows. Asked by other threads, too."""
        return [task for task in list(self._running) if task._claim is not None]

    # One task.

    def _launch(self, task: Task[..., Any]) -> None:
        if self.closing and not task.config.shielded:
            self._give_place(task)
            self._cancel_unstarted(task, "the application shut down")
            return
        counts = task._counts
        if counts is None:
            counts = task._counts = self.counts.of(task)
        counts.scheduled += 1
        counts.running += 1
        task._runner = self
        self._running.add(task)
        task._asyncio = self.loop.create_task(self._run(task), context=task._context)

    async def _run(self, task: Task[..., Any]) -> None:
        began = task._began = time.monotonic()
        try:
            await perform(task)
        except BaseException:  # `perform` raises nothing; if it did, the server should not end
            logger.exception("The in-process task %s could not end", task.name)
            task._settle("failed", error=TasksNotRunning(task.name))
        finally:
            self._ended(task, time.monotonic() - began)

    def _ended(self, task: Task[..., Any], seconds: float) -> None:
        self._running.discard(task)
        task._asyncio = None
        counts = task._counts
        if counts is not None:
            counts.running -= 1
            if task.state == "cancelled":
                counts.cancelled += 1
            else:
                counts.seconds += seconds
                if seconds > counts.longest:
                    counts.longest = seconds
                if task.state == "done":
                    counts.done += 1
                else:
                    counts.failed += 1
        self._give_place(task)
        if self._changed:
            self._tell()

    def _give_place(self, task: Task[..., Any]) -> None:
        if task.config.limit is None:
            return
        lane = self._lanes[task.name]
        lane.running -= 1
        if lane.waiting:
            lane.running += 1
            self._launch(lane.waiting.popleft())
        elif not lane.running and not lane.reserved:
            del self._lanes[task.name]

    def _cancel_unstarted(self, task: Task[..., Any], reason: str) -> None:
        task._settle(
            "cancelled", error=TaskCancelled(id=task.run.id, name=task.name, reason=reason)
        )
        if task._claim is not None:
            task._claim.dropped("shutdown" if self.closing else None)
        self._tell()

    def _tell(self) -> None:
        for changed in self._changed:
            if not changed.done():
                changed.set_result(None)

    def _check_backlog(self, task: Task[..., Any], lane: Lane, waiting: int) -> None:
        backlog = task.config.backlog
        if backlog is not None and waiting >= backlog:
            self.counts.of(task).refused += 1
            raise TaskBacklogFull(task.name, waiting, task.config.limit or 0)
