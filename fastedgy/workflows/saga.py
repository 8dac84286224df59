"""Sagas: steps that are undone, one by one and in reverse, when a later one fails."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from types import TracebackType
from typing import Any, Self

from fastedgy.errors import (
    CompensationFailed,
    InvalidStep,
    SagaCompensated,
    StepsChanged,
    TaskTakenOver,
)
from fastedgy.queued_task.backoff import Exponential, Policy, policy
from fastedgy.queued_task.control import Retry, Snooze
from fastedgy.queued_task.failures import type_of
from fastedgy.queued_task.logs import getLogger
from fastedgy.workflows import engine
from fastedgy.workflows.entry import journal_of
from fastedgy.workflows.journal import Journal
from fastedgy.workflows.records import Call, Tries

logger = getLogger("fastedgy.workflows")

Backoff = float | timedelta | Iterable[float] | Policy
Compensation = Callable[..., Any] | tuple[Any, ...]


class _Result:
    def __repr__(self) -> str:
        return "Saga.RESULT"


class _Unwind(BaseException):
    """Leaves the block of a saga that is being undone. Nothing but the saga catches it."""


_NOBODY_MAY = (StepsChanged, TaskTakenOver, CompensationFailed)
"""After these a saga is neither gone on with nor undone, until somebody has seen to it."""


@dataclass(slots=True)
class _Made:
    """A step that was made: how to undo it, and when it ended by the database's clock."""

    name: str
    compensate: Compensation | None
    result: Any
    ended: float


class Saga:
    """Steps that are undone when a later one fails.

        async with Saga("payment") as saga:
            await saga.step("reserve", reserve, order, compensate=(release, order))
            await saga.step("charge", charge, order, compensate=(refund, order))

    When the block raises, the steps that were finished are compensated, the last one first, and
    the task ends as `done` with `{"status": "compensated", "compensations": [names], "error": …}`:
    by SagaCompensated, which a task may catch to go on. A saga that went through has the result
    `{"status": "completed"}`, if the task returns nothing else.

    Raising `Retry` in the block is no failure as long as the task has attempts left; being stopped,
    cancelled or killed is none, either: the next run goes on where this one was.
    """

    RESULT = _Result()
    """In the arguments of a compensation: what its step returned."""

    def __init__(
        self,
        name: str,
        *,
        step_retries: int = 0,
        compensation_retries: int = 10,
        backoff: Backoff | None = None,
    ) -> None:
        """`step_retries`: how often a step is tried again before that counts as its failure;
        `compensation_retries`: the same for each compensation. Each try is a run of its own, which
        costs none of the task's attempts. `backoff`: seconds between two, as in `@task(backoff=…)`.
        """
        for word, value in (
            ("step_retries", step_retries),
            ("compensation_retries", compensation_retries),
        ):
            if isinstance(value, bool) or not isinstance(value, int) or value < 0:
                raise InvalidStep(f"Saga({name!r}, {word}={value!r}): it must be 0 or more.")
        try:
            delay = Exponential() if backoff is None else policy(backoff)
        except ValueError as error:
            raise InvalidStep(f"Saga({name!r}, backoff={backoff!r}): {error}.") from None
        self.name = name
        self.status = "running"
        self.result: dict[str, Any] | None = None
        self._tries = Tries(step_retries, delay)
        self._undo_tries = Tries(compensation_retries, delay)
        self._journal: Journal | None = None
        self._call: Call | None = None
        self._made: list[_Made] = []
        self._error: tuple[str, str] | None = None
        self._at_work = 0
        self._rest = asyncio.Event()

    def step(
        self,
        name: str,
        func: Callable[..., Any],
        /,
        *args: Any,
        compensate: Compensation | None = None,
        **kwargs: Any,
    ) -> Awaitable[Any]:
        """A step of this saga, as `step` makes it; its name is one among those of the saga.

        `compensate` undoes it: a function without arguments, or a tuple of a function and its
        arguments, in which `Saga.RESULT` stands for what the step returned. It may be called more
        than once, as after a crash.
        """
        journal = self._opened()
        if compensate is not None:
            undo = compensate[0] if isinstance(compensate, tuple) and compensate else compensate
            if not callable(undo):
                raise InvalidStep(
                    f"compensate={compensate!r} of the step {name!r}: give a function, or a tuple "
                    "of a function and its arguments."
                )
        call = journal.call(f"{self.name}.{name}", "step")
        return self._step(journal, call, name, func, args, kwargs, compensate)

    async def _step(
        self, journal: Journal, call: Call, name: str, func: Callable[..., Any],
        args: Sequence[Any], kwargs: dict[str, Any], compensate: Compensation | None,
    ) -> Any:  # fmt: skip
        if self._error is not None:
            # It is being undone: only what was done before is gone through once more.
            known = await journal.known(call)
            if known is None or not (
                known.state == "done" or (known.state == "failed" and known.handled)
            ):
                raise _Unwind
        self._at_work += 1
        self._rest.clear()
        try:
            value = None
            try:
                value = await journal.make(call, func, args, kwargs, self._tries)
            finally:
                made = await journal.known(call)
                if made is not None and made.state == "done":
                    self._made.append(_Made(name, compensate, value, made.ended or 0.0))
            return value
        finally:
            self._at_work -= 1
            if not self._at_work:
                self._rest.set()

    async def __aenter__(self) -> Self:
        journal = self._journal = journal_of("Saga")
        call = self._call = journal.call(self.name, "saga")
        known = await journal.known(call)
        if known is not None and known.state == "failed":
            journal.unwound = True
            if known.result is not None:
                self.status, self.result = "compensated", engine.decode(known.result)
                raise SagaCompensated(self.name, self.result or {})
            self._error = (known.error_type or "Exception", known.error_message or "")
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        journal = self._opened()
        assert self._call is not None
        undoing = self._error is not None
        if not undoing and error is None:
            self.status, self.result = "completed", {"status": "completed"}
            journal.result = self.result
            return False
        if error is not None and self._goes_on(error, undoing=undoing):
            return False
        if self._error is None:
            assert error is not None
            await self._give_up(journal, self._call, error)
        while self._at_work:  # steps beside the one that failed
            await self._rest.wait()
        compensations = await self._compensate(journal)
        error_type, message = self._error or ("Exception", "")
        self.result = {
            "status": "compensated",
            "compensations": compensations,
            "error": f"{error_type}: {message}" if message else error_type,
        }
        await journal.note(self._call, "failed", result=self.result, error=(error_type, message))
        self.status = "compensated"
        raise SagaCompensated(self.name, self.result) from (
            error if isinstance(error, Exception) else None
        )

    def _goes_on(self, error: BaseException, *, undoing: bool) -> bool:
        """Whether this is no failure of the saga: another run goes on with it, or nobody may."""
        assert self._journal is not None
        run = self._journal.run
        if isinstance(error, asyncio.CancelledError):
            # That the time of this run is over is a failure of what took so long.
            return undoing or getattr(run, "cancelling", None) != "timeout"
        if undoing and not isinstance(error, _NOBODY_MAY):
            return False
        if isinstance(error, Retry):
            return not run.is_last_attempt
        if isinstance(error, BaseExceptionGroup):
            return error.subgroup(_NOBODY_MAY) is not None
        return isinstance(error, (*_NOBODY_MAY, Snooze, GeneratorExit))

    async def _give_up(self, journal: Journal, call: Call, error: BaseException) -> None:
        """Note that the saga failed: from here on it is undone, whatever happens."""
        timed_out = isinstance(error, asyncio.CancelledError)
        if timed_out:
            self._error = ("TaskTimeout", "The task did not end in time.")
        else:
            self._error = (type_of(error), engine.message_of(error))
        journal.unwound = True
        journal.run.buffer.drop()
        await journal.note(call, "failed", error=self._error)
        logger.warning("The saga %s failed, and is undone: %s: %s", self.name, *self._error)
        if timed_out:
            # There is no time left in this run: the next one does it.
            journal.pauses.put_off(0.0)
            raise asyncio.CancelledError

    async def _compensate(self, journal: Journal) -> list[str]:
        """Undo what was made, the last first; the names of the steps that were undone."""
        missing = {
            known.name for known in journal.stored(f"{self.name}.")
            if known.kind == "step" and known.state == "done"
        } - {f"{self.name}.{made.name}" for made in self._made}  # fmt: skip
        if missing:
            raise StepsChanged(
                f"{journal.run.name} ({journal.run.id})",
                f"{', '.join(sorted(missing))} is to be undone, and is not reached any more",
            )
        undone = []
        for made in sorted(self._made, key=lambda one: one.ended, reverse=True):
            if made.compensate is None:
                continue
            func, args = _undo(made)
            call = Call(f"{self.name}.{made.name} (undo)", "compensation", 0)
            try:
                await journal.make(call, func, args, {}, self._undo_tries)
            except (TaskTakenOver, StepsChanged):
                raise
            except asyncio.CancelledError:
                if getattr(journal.run, "cancelling", None) != "timeout":
                    raise
                raise CompensationFailed(self.name, made.name, "it did not end in time") from None
            except Exception as error:
                reason = f"{type_of(error)}: {engine.message_of(error)}"
                raise CompensationFailed(self.name, made.name, reason) from error
            logger.info("The step %s of the saga %s is undone", made.name, self.name)
            undone.append(made.name)
        return undone

    def _opened(self) -> Journal:
        if self._journal is None:
            raise InvalidStep(
                f"The saga {self.name!r} is not open: `async with Saga({self.name!r}) as saga:`."
            )
        return self._journal


def _undo(made: _Made) -> tuple[Callable[..., Any], list[Any]]:
    if not isinstance(made.compensate, tuple):
        assert made.compensate is not None
        return made.compensate, []
    func, *args = made.compensate
    return func, [made.result if arg is Saga.RESULT else arg for arg in args]
