"""What to make of the end of a function: a value, a control word, an exception, a cancellation."""

from __future__ import annotations

import asyncio
import logging
import time
import traceback
from dataclasses import dataclass
from typing import Any

from fastedgy.config import QueuedTaskConfig
from fastedgy.errors import SagaCompensated, WorkflowError
from fastedgy.queued_task.control import Control, Discard, Retry, Snooze
from fastedgy.queued_task.encoding import NotEncodable, clean, dumps, excess
from fastedgy.queued_task.failures import message_of, type_of
from fastedgy.store import outcomes
from fastedgy.store.outcomes import Done, DoneParent, Outcome, Standing
from fastedgy.worker.running import Running

logger = logging.getLogger("fastedgy.worker")

LONGEST_MESSAGE = 10_000
LONGEST_TRACEBACK = 50_000
"""Characters. A traceback of infinite recursion has a million; its ends tell the story."""


class Misfit(Exception):
    """The row's arguments do not fit the function, or cannot be had. Trying again would not help.

    `kind` is what the row says as the type of the error.
    """

    def __init__(self, message: str, kind: str = "InvalidArguments") -> None:
        super().__init__(message)
        self.kind = kind


@dataclass(slots=True)
class Verdict:
    """An outcome, and what hooks are told of it. `kind` is "done" only if the function returned."""

    kind: str
    outcome: Outcome
    value: Any = None
    error: BaseException | None = None


def returned(it: Running, value: Any, config: QueuedTaskConfig) -> Verdict:
    """The function came back with a value."""
    if it.cancelling is not None and it.cancelling in ("timeout", "cancel", "suspend"):
        # It took note of its cancellation in its own way: what was asked for holds all the same.
        return judge(it, asyncio.CancelledError(), config)
    if isinstance(value, Control):
        return judge(it, value, config)
    if (journal := getattr(it, "journal", None)) is not None:
        value = journal.conclude(value)
    now = time.monotonic()
    done = done_as(it)
    if value is None:
        return Verdict("done", done(it.id, it.run, it.began, now))
    if hasattr(type(value), "__queued_task__"):
        return Verdict("done", Standing(it.id, it.run, it.began, now, it.id), value)
    try:
        text = dumps(value)
        if too_much := excess(config.max_result_size, text):
            raise NotEncodable("", f"has {too_much}. Store it elsewhere and return where it is")
    except BaseException as error:  # `default` methods are the task's own code
        why = f"the result was not stored: {_message(error)}"
        logger.warning("Task %s (%s) is done, but %s", it.name, it.id, why)
        return Verdict(
            "done", outcomes.done_without_result(it.id, it.run, it.began, now, why), value
        )
    return Verdict("done", done(it.id, it.run, it.began, now, text), value)


def done_as(it: Running) -> type[Done]:
    """What it is when its function has returned: others may wait for it."""
    extra = it.extra
    return Done if extra is None or not extra.has_children else DoneParent


def judge(it: Running, error: BaseException, config: QueuedTaskConfig) -> Verdict:
    """The function ended with an exception, or was made to end."""
    now = time.monotonic()
    claim = (it.id, it.run, it.began, now)
    if it.cancelling in ("interrupt", "finishing") and not isinstance(error, Control):
        # Whatever it made of its cancellation, it was ours.
        return Verdict("interrupted", outcomes.interrupted(*claim), error=error)
    if it.cancelling == "cancel":
        outcome = outcomes.cancelled(*claim, "Cancelled on request, while it ran.")
        return Verdict("cancelled", outcome, error=error)
    if it.cancelling == "timeout" and isinstance(error, asyncio.CancelledError):
        error = TimeoutError(f"The task did not end within {it.timeout:g} s.")
        outcome = _failure(it, error, now, config, "TaskTimeout")
        return Verdict("failed", outcome, error=error)
    if it.cancelling == "suspend":
        return Verdict("suspended", outcomes.suspended(*claim, it.journal.resume_in), error=error)
    if isinstance(error, SagaCompensated):
        return returned(it, error.result, config)
    if isinstance(error, Snooze):
        return Verdict("snoozed", outcomes.snoozed(*claim, error.delay), error=error)
    if isinstance(error, Discard):
        outcome = outcomes.failed(*claim, "Discard", _message(error))
    elif isinstance(error, Retry):
        cause = error.__cause__ or error.__context__
        word = "Retry" if cause is None else _type(cause)
        outcome = _failure(it, cause or error, now, config, word, error.after)
    elif _is_final(error) or not it.target.retries(error):
        outcome = outcomes.failed(*claim, _type(error), _message(error), _traceback(error))
    else:
        outcome = _failure(it, error, now, config, _type(error))
    return Verdict("failed", outcome, error=error)


def tell(it: Running, verdict: Verdict) -> None:
    """Say in the process's own log that an attempt has failed, and with its last one why."""
    outcome = verdict.outcome
    assert isinstance(outcome, outcomes.Other)
    what = f"{outcome.error_type}: {(outcome.error_message or '').partition(chr(10))[0][:500]}"
    if outcome.state != "failed":
        logger.warning(
            "Task %s (%s) failed in attempt %d of %d, and is tried again in %.3g s: %s",
            it.name, it.id, it.attempt, it.max_retries + 1, outcome.delay or 0.0, what,
        )  # fmt: skip
        return
    # The text that is in the row: an exception of the task's own may not be printable at all.
    trace = "" if outcome.error_traceback is None else f"\n{outcome.error_traceback.rstrip()}"
    logger.error(
        "Task %s (%s) has failed, in attempt %d of %d: %s%s",
        it.name, it.id, it.attempt, it.max_retries + 1, what, trace,
    )  # fmt: skip


def left_behind(it: Running, config: QueuedTaskConfig) -> Outcome:
    """What is written of a run that ends with its process, just before that does.

    It must not run again while the process lives: it is due a second from now at the earliest.
    """
    now = time.monotonic()
    if it.cancelling is None or it.cancelling in ("interrupt", "finishing"):
        return outcomes.interrupted(it.id, it.run, it.began, now, delay=1.0)
    outcome = judge(it, asyncio.CancelledError(), config).outcome
    if isinstance(outcome, outcomes.Other) and outcome.state in ("enqueued", "scheduled"):
        outcome.state = "scheduled"
        outcome.delay = max(1.0, outcome.delay or 0.0)
    return outcome


def _failure(
    it: Running,
    error: BaseException,
    now: float,
    config: QueuedTaskConfig,
    error_type: str,
    after: float | None = None,
) -> Outcome:
    """Another attempt if there is one left, else the end."""
    message, trace = _message(error), _traceback(error)
    if it.attempt > it.max_retries:
        return outcomes.failed(it.id, it.run, it.began, now, error_type, message, trace)
    delay = it.target.delay_before_retry(it.attempt, config) if after is None else after
    return outcomes.retry(it.id, it.run, it.began, now, delay, error_type, message, trace)


def _is_final(error: BaseException) -> bool:
    """Whether trying again could not help."""
    return isinstance(error, Misfit) or (isinstance(error, WorkflowError) and error.final)


def _type(error: BaseException | None) -> str:
    return error.kind if isinstance(error, Misfit) else type_of(error)


def _message(error: BaseException) -> str:
    return message_of(error, LONGEST_MESSAGE)


def _traceback(error: BaseException) -> str | None:
    if error.__traceback__ is None and error.__cause__ is None:
        return None
    try:
        text = "".join(traceback.format_exception(error))
    except BaseException as broken:  # the task's own code, and nothing it does may harm us
        return f"(its traceback cannot be printed: {type(broken).__name__})"
    if len(text) > LONGEST_TRACEBACK:
        half = LONGEST_TRACEBACK // 2
        text = f"{text[:half]}\n… {len(text) - 2 * half:,} characters …\n{text[-half:]}"
    return clean(text)
