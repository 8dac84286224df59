"""What an attempt came to: one constructor per way out of `doing`.

An outcome is made by the executor, which knows no database, and written by the completer, which
knows no functions. It carries the claim (`id` and `run`) under which alone it may be written.
"""

from __future__ import annotations

from typing import Any
from uuid import UUID


class Outcome:
    """The end of one run.

    `state` is the state that the row gets; `word` says why in the row's history. `began` and
    `ended` are readings of `time.monotonic()`; `delay` is seconds until the next run; `result` and
    `context` are JSON, None where there is nothing to write. `of` is the run whose end it is, where
    one was started.
    """

    __slots__ = ("began", "context", "ended", "id", "of", "result", "run")

    word: str
    state: str
    delay: float | None = None
    refund = 0
    error_type: str | None = None
    error_message: str | None = None
    error_traceback: str | None = None

    def __init__(
        self, id: UUID, run: int, began: float, ended: float, result: str | None = None
    ) -> None:
        self.id = id
        self.run = run
        self.began = began
        self.ended = ended
        self.result = result
        self.context: str | None = None
        self.of: Any = None

    def __repr__(self) -> str:
        return f"<Outcome {self.word} of task {self.id}, run {self.run}>"


class Done(Outcome):
    """The function returned. Lean, since it is what nearly all tasks come to."""

    __slots__ = ()
    word = state = "done"


class DoneParent(Done):
    """The function returned, in a task that others wait for."""

    __slots__ = ()


class Standing(Outcome):
    """The function returned another task, `by`, whose end will be this one's."""

    __slots__ = ("by",)
    word = "stands"
    state = "waiting"

    def __init__(self, id: UUID, run: int, began: float, ended: float, by: UUID) -> None:
        super().__init__(id, run, began, ended)
        self.by = by


class Other(Outcome):
    """Every other end, and a result that could not be stored."""

    __slots__ = ("delay", "error_message", "error_traceback", "error_type", "refund", "state",
                 "word")  # fmt: skip

    def __init__(
        self,
        id: UUID,
        run: int,
        state: str,
        word: str,
        began: float,
        ended: float,
        *,
        delay: float | None = None,
        refund: int = 0,
        error_type: str | None = None,
        error_message: str | None = None,
        error_traceback: str | None = None,
    ) -> None:
        super().__init__(id, run, began, ended)
        self.state = state
        self.word = word
        self.delay = delay
        self.refund = refund
        self.error_type = error_type
        self.error_message = error_message
        self.error_traceback = error_traceback


def done_without_result(id: UUID, run: int, began: float, ended: float, why: str) -> Outcome:
    """The function returned what JSON cannot hold: its work counts, its result does not."""
    return Other(id, run, "done", "done", began, ended, error_type="ResultNotStored",
                   error_message=why)  # fmt: skip


def failed(
    id: UUID, run: int, began: float, ended: float, error_type: str, message: str,
    traceback: str | None = None,
) -> Outcome:  # fmt: skip
    """No attempts left, or told not to retry."""
    return Other(id, run, "failed", "failed", began, ended, error_type=error_type,
                   error_message=message, error_traceback=traceback)  # fmt: skip


def retry(
    id: UUID, run: int, began: float, ended: float, delay: float, error_type: str, message: str,
    traceback: str | None = None,
) -> Outcome:  # fmt: skip
    """The attempt failed and there are more; the next one in `delay` seconds."""
    return Other(id, run, _later(delay), "retry", began, ended, delay=delay,
                   error_type=error_type, error_message=message,
                   error_traceback=traceback)  # fmt: skip


def snoozed(id: UUID, run: int, began: float, ended: float, delay: float) -> Outcome:
    """The task asked to run later. Costs no attempt."""
    return Other(id, run, _later(delay), "snoozed", began, ended, delay=delay, refund=1)


def suspended(id: UUID, run: int, began: float, ended: float, delay: float) -> Outcome:
    """The task sleeps, or waits for an event. Costs no attempt."""
    return Other(id, run, _later(delay), "suspended", began, ended, delay=delay, refund=1)


def unknown(id: UUID, run: int, began: float, ended: float, delay: float, message: str) -> Outcome:
    """This worker does not have the function; another release may. Costs no attempt."""
    return Other(id, run, "scheduled", "unknown", began, ended, delay=delay, refund=1,
                   error_type="FunctionNotFound", error_message=message)  # fmt: skip


def interrupted(id: UUID, run: int, began: float, ended: float, delay: float = 0.0) -> Outcome:
    """The worker stopped first: back to the line, the attempt given back."""
    return Other(id, run, _later(delay), "interrupted", began, ended, delay=delay, refund=1)


def cancelled(id: UUID, run: int, began: float, ended: float, reason: str) -> Outcome:
    """Cancelled while it ran."""
    return Other(id, run, "cancelled", "cancelled", began, ended, error_type="TaskCancelled",
                   error_message=reason)  # fmt: skip


def _later(delay: float) -> str:
    return "scheduled" if delay > 0 else "enqueued"
