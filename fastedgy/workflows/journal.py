"""The journal of a run: what its task has done in earlier runs, and what it does in this one.

A task with steps is run from its start each time. What it did before is read once, and given back
without doing it again; what is new is written under the run's claim before and after it is done.
The place of a call among the others of its task is part of what is compared, so that another order
of steps in another release is seen before anything is run.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from asyncpg import Connection

from fastedgy.errors import (
    InvalidStep,
    StepResultNotStored,
    StepsChanged,
    TaskTakenOver,
)
from fastedgy.models.tables import Tables
from fastedgy.queued_task.control import Discard, Snooze
from fastedgy.queued_task.encoding import NotEncodable
from fastedgy.queued_task.failures import type_of
from fastedgy.queued_task.logs import getLogger
from fastedgy.queued_task.running import TaskRun
from fastedgy.queued_tasks.buffer import Buffer
from fastedgy.queued_tasks.service import QueuedTasks
from fastedgy.store import steps
from fastedgy.store.outage import is_outage
from fastedgy.workflows import engine
from fastedgy.workflows.engine import Work, in_step
from fastedgy.workflows.pauses import Pauses
from fastedgy.workflows.records import ONCE, Call, Known, Tries, check_name

logger = getLogger("fastedgy.workflows")

LOOK_AGAIN = 86_400.0
"""Seconds after which a task that waits for an event looks by itself, should nobody have told."""
NOT_STORED = "StepResultNotStored"


class Journal:
    """One for each run with steps.

    `result`: what the task returns if its function returns nothing. `unwound`: a saga was left
    before its end.
    """

    def __init__(self, run: TaskRun, service: QueuedTasks) -> None:
        self.run = run
        self.service = service
        self.pauses = Pauses(run)
        self.result: Any = None
        self.unwound = False
        self._known: dict[str, Known] = {}
        self._places: dict[int, str] = {}
        self._called: set[str] = set()
        self._named: dict[str, int] = {}
        self._next = 0
        self._failed: list[str] = []
        self._loading = asyncio.Lock()
        # The first claim of a task is its run 1: there is nothing to read.
        self._loaded = run.run == 1
        if run.buffer is None:
            run.buffer = Buffer()  # so that its end is looked at, see `conclude`

    # Calls, in the order in which they are made.

    def call(self, name: str, kind: str) -> Call:
        """Take a call down. To be called where the user calls: that is its place.

        Raises InvalidStep.
        """
        check_name(name)
        if name in self._called:
            raise InvalidStep(
                f"{self.run.name} has two steps named {name!r}. A step is known by its name: give "
                f'each its own, in a loop for instance f"{name}-{{number}}".'
            )
        if self.service._in_transaction():
            raise InvalidStep(
                f"The step {name!r} was called inside an open transaction. It is remembered at once"
                " and by itself, also if that transaction is undone: open it in the step's function"
            )
        self._called.add(name)
        main = getattr(self.run, "task", None)
        if main is not None and asyncio.current_task() is not main:
            return Call(name, kind, 0)
        self._next += 1
        handled, self._failed = tuple(self._failed), []
        return Call(name, kind, self._next, handled)

    def unnamed(self, word: str) -> str:
        """A name for what the user gives none: `sleep`, `sleep 2`, …"""
        number = self._named[word] = self._named.get(word, 0) + 1
        return word if number == 1 else f"{word} {number}"

    async def known(self, call: Call) -> Known | None:
        """What the table has of this call. Raises StepsChanged."""
        await self._load()
        known = self._known.get(call.name)
        if known is not None and known.kind != call.kind:
            raise self._changed(f"{call.name!r} was a {known.kind}, and is a {call.kind} now")
        if call.position == 0:
            return known
        if known is not None and known.position not in (0, call.position):
            raise self._changed(
                f"{call.name!r} was number {known.position}, and is number {call.position} now"
            )
        there = self._places.get(call.position)
        if known is None and there is not None:
            raise self._changed(f"number {call.position} was {there!r}, and is {call.name!r} now")
        return known

    def stored(self, prefix: str) -> list[Known]:
        """What the table has of steps whose names begin so."""
        return [known for known in self._known.values() if known.name.startswith(prefix)]

    def _changed(self, what: str) -> StepsChanged:
        return StepsChanged(f"{self.run.name} ({self.run.id})", what)

    async def _load(self) -> None:
        if not self._loaded:
            async with self._loading:
                await self._read()

    async def _read(self) -> None:
        if not self._loaded:

            async def load(connection: Connection, tables: Tables) -> Any:
                return await steps.load(connection, tables, self.run.id)

            for row in await engine.repeated(self.service, load):
                known = Known(**row)
                self._known[known.name] = known
                if known.position:
                    self._places[known.position] = known.name
            self._loaded = True

    # Steps.

    async def make(
        self,
        call: Call,
        func: Callable[..., Any],
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        tries: Tries = ONCE,
    ) -> Any:
        """Make a step, unless it was made: then what it came to.

        A step that failed, and after which the flow went on, fails in the same way again.
        """
        known = await self.known(call)
        if known is not None and known.state == "done":
            return self._given(known, func)
        if known is not None and known.state == "failed" and known.handled:
            raise engine.rebuild_error(
                call.name, known.error_type or "Exception", known.error_message or ""
            )
        while known is not None and known.state == "waiting" and known.left > 0:
            await self.pauses.suspend(known.left)
        # One that has failed to the end, and is made again all the same, has all its tries again.
        before = 0 if known is None or known.state == "failed" else known.attempts
        self.pauses.begin_work()
        try:
            return await self._make(call, func, args, kwargs, tries, before)
        finally:
            self.pauses.end_work()

    async def _make(
        self,
        call: Call,
        func: Callable[..., Any],
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        tries: Tries,
        before: int,
    ) -> Any:
        await self._write(
            lambda connection, tables: steps.begin(
                connection, tables, self.run.id, self.run.run, name=call.name, kind=call.kind,
                position=call.position, attempts=before, handled=call.handled,
            )
        )  # fmt: skip
        step = in_step.set(call.name)
        try:
            value, stopped, added = await engine.call_collecting(func, args, kwargs)
        except Snooze:
            raise
        except Exception as error:
            await self._fail(call, error, before + 1, tries)
            raise
        except asyncio.CancelledError:
            if getattr(self.run, "cancelling", None) == "timeout" and tries is not ONCE:
                await self._time_out(call, before + 1, tries)
            raise
        finally:
            in_step.reset(step)
        try:
            known = await self._done(call, value, before + 1, added)
        except Exception as error:
            if is_outage(error):
                await self.pauses.suspend_in_step(1.0)
            raise
        if stopped:
            raise asyncio.CancelledError
        return self._given(known, func)

    async def _done(self, call: Call, value: Any, attempts: int, added: Buffer) -> Known:
        known = Known(call.name, call.kind, "done", call.position, attempts)
        if call.kind == "compensation":
            value = None  # nobody reads it
        try:
            known.result = engine.encode(value, self.service.config.max_result_size)
        except NotEncodable as error:
            known.error_type, known.error_message = NOT_STORED, str(error)
        except Exception as error:  # `default` methods and models are the task's own code
            known.error_type, known.error_message = NOT_STORED, engine.message_of(error)

        async def write(connection: Connection, tables: Tables) -> float | None:
            return await steps.end(
                connection, tables, self.run.id, self.run.run, name=call.name, state="done",
                attempts=attempts, result=known.result, error_type=known.error_type,
                error_message=known.error_message,
            )  # fmt: skip

        if added:
            known.ended = await engine.to_the_end(self._done_with(added, write))
        else:
            known.ended = await engine.to_the_end(self._write(write))
        self._known[call.name] = known
        return known

    async def _done_with(self, added: Buffer, write: Work[float | None]) -> float:
        """Note a step, and the tasks that it has added, in one transaction.

        Not repeated while the database is away: the run ends there, and the step is made again.
        """
        service = self.service
        try:
            async with service._connection() as connection, connection.transaction():
                ended = await write(connection, service._tables)
                if ended is None:
                    raise self._taken_over()
                await service._write(added, connection)
                return ended
        except BaseException:
            added.drop()
            raise

    async def _fail(self, call: Call, error: Exception, attempts: int, tries: Tries) -> None:
        """Note a failure. Ends the run instead of returning when the step is to be tried again."""
        if isinstance(error, Discard):
            tries = ONCE
        delay = await self._note_failure(
            call, type_of(error), engine.message_of(error), attempts, tries
        )
        if delay is not None:
            await self.pauses.suspend_in_step(delay)
        self._failed.append(call.name)

    async def _time_out(self, call: Call, attempts: int, tries: Tries) -> None:
        """Note that the task's time was over in this step, which is then tried again, if it may."""
        delay = await self._note_failure(
            call, "TaskTimeout", "The task did not end in time.", attempts, tries
        )
        if delay is not None:
            self.pauses.put_off(delay)

    async def _note_failure(
        self, call: Call, error_type: str, message: str, attempts: int, tries: Tries
    ) -> float | None:
        delay = tries.delay(attempts) if attempts <= tries.retries else None
        await engine.to_the_end(
            self._write(
                lambda connection, tables: steps.end(
                    connection, tables, self.run.id, self.run.run, name=call.name,
                    state="failed" if delay is None else "waiting", attempts=attempts,
                    error_type=error_type, error_message=message, again_in=delay,
                )
            )
        )  # fmt: skip
        if delay is not None:
            logger.warning(
                "%s failed, and is tried again in %.3g s: %s: %s",
                call.name, delay, error_type, message,
            )  # fmt: skip
        return delay

    def _given(self, known: Known, func: Callable[..., Any]) -> Any:
        if known.error_type == NOT_STORED:
            raise StepResultNotStored(known.name, known.error_message or "")
        return engine.decode(known.result, func)

    # Notes of a saga.

    async def note(
        self, call: Call, state: str, *, result: Any = None, error: tuple[str, str] | None = None
    ) -> None:
        """Note what a saga has come to, whatever becomes of the run meanwhile."""

        async def write(connection: Connection, tables: Tables) -> float | None:
            async with connection.transaction():
                held = await steps.begin(
                    connection, tables, self.run.id, self.run.run, name=call.name, kind=call.kind,
                    position=call.position, attempts=0, handled=[*call.handled, *self._failed],
                )  # fmt: skip
                return held and await steps.end(
                    connection, tables, self.run.id, self.run.run, name=call.name, state=state,
                    attempts=1, result=None if result is None else engine.encode(result, 2**31),
                    error_type=error[0] if error else None,
                    error_message=error[1] if error else None,
                )  # fmt: skip

        await engine.to_the_end(self._write(write))
        self._failed.clear()

    # Waits.

    async def wait(self, call: Call, *, event: str | None, seconds: float | None) -> Any:
        """Wait for a time or an event; the run ends here, and another one goes on.

        Raises TimeoutError when an event has not come.
        """
        known = await self.known(call)
        if known is not None and known.event != event:
            raise self._changed(f"{call.name!r} waited for {known.event!r}, and now for {event!r}")
        if known is None:
            await self._write(
                lambda connection, tables: steps.wait(
                    connection, tables, self.run.id, self.run.run, name=call.name, kind=call.kind,
                    position=call.position, event=event, seconds=seconds, handled=call.handled,
                )
            )  # fmt: skip
        state = None if known is None else known.state
        result = None if known is None else known.result
        while state not in ("done", "failed"):
            looked = await engine.repeated(
                self.service,
                lambda connection, tables: steps.look(
                    connection, tables, self.run.id, self.run.run, name=call.name
                ),
            )
            if not looked.held:
                raise self._taken_over()
            state, result = looked.state, looked.result
            if state is None:
                left = LOOK_AGAIN if looked.remaining is None else looked.remaining
                await self.pauses.suspend(left if event is None else min(left, LOOK_AGAIN))
        if state == "failed":
            raise TimeoutError(f"The event {event!r} did not come in time.")
        return engine.decode(result)

    # What is common.

    async def _write(self, work: Work[Any]) -> Any:
        """A write under the claim. Raises TaskTakenOver when that is gone."""
        written = await engine.repeated(self.service, work)
        if written is None or written is False:
            raise self._taken_over()
        return written

    def _taken_over(self) -> TaskTakenOver:
        return TaskTakenOver(f"{self.run.name} ({self.run.id})")

    @property
    def resume_in(self) -> float:
        """Seconds after which a suspended run is to be followed by the next."""
        return self.pauses.resume_in

    def conclude(self, value: Any) -> Any:
        """What the task returns, when its function has returned `value`."""
        if self._loaded and not self.unwound:
            missing = [
                known.name for known in self._known.values()
                if known.name not in self._called and known.kind != "compensation"
            ]  # fmt: skip
            if missing:
                logger.warning(
                    "%s ended without these steps, which an earlier run has begun: %s. Was it "
                    "changed meanwhile?", self.run.name, ", ".join(missing),
                )  # fmt: skip
        return self.result if value is None else value
