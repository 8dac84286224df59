"""Why a task is in a state in which no claim sees it, in words: pure functions of what was read."""

from __future__ import annotations

from collections.abc import Sequence

from fastedgy.admin.explanation import Explanation, Reason
from fastedgy.config import QueuedTaskConfig
from fastedgy.store.explain import Facts, OpenParent, OwnerRow
from fastedgy.store.overview import WorkerRow
from fastedgy.store.steps import StepRow
from fastedgy.wording import count, duration, first_line, when

START = "fastedgy queue start"
UNKNOWN = "FunctionNotFound"
"""The error type of an outcome that says: this worker does not have the function."""


def scheduled(facts: Facts, own: Sequence[StepRow], workers: Sequence[WorkerRow]) -> list[Reason]:
    """Until when it sleeps, and what for."""
    assert facts.date_due is not None, "a CHECK of the table"
    at = when(facts.date_due, facts.now)
    details = {"due": facts.date_due}
    waiting = [step for step in own if step.state == "waiting"]
    if facts.error_type == UNKNOWN:
        return [_unknown(facts, at, workers)]
    if facts.error_type is not None:
        return [
            Reason(
                "retry",
                f"Attempt {facts.attempt} of {facts.max_retries + 1} failed ({facts.error_type}"
                f"{first_line(facts.error_message)}); the next one is {at}.",
                "Wait, and repair the cause meanwhile.",
                details=details | {"attempt": facts.attempt, "error_type": facts.error_type},
            )
        ]  # fmt: skip
    if waiting:
        return [_step(waiting[0], facts)]
    if facts.due:
        late = duration(facts.now - facts.date_due)
        return [
            Reason(
                "due", f"It has been due for {late}; a worker puts it into the line within a "
                "second.",
                START if not workers else None, details=details,
            )
        ]  # fmt: skip
    if _last_word(facts) == "snoozed":
        return [Reason("snoozed", f"It asked to run later: {at}.", None, details=details)]
    return [Reason("scheduled", f"It is scheduled: {at}.", None, details=details)]


def _unknown(facts: Facts, at: str, workers: Sequence[WorkerRow]) -> Reason:
    serving = {str(worker.id) for worker in workers if worker.serves(facts.queue)}
    tried = {
        str(entry.get("worker_id")) for entry in facts.history if entry.get("what") == "unknown"
    } & serving
    who = f"None of the {count(len(serving), 'live worker')} that tried it has"
    if len(tried) == len(serving):
        who = "No live worker has"
    elif tried:
        who = f"{len(tried)} of {count(len(serving), 'live worker')} tried it, and none has"
    return Reason(
        "unknown_function",
        f"{who} the function {facts.function}; it is tried again {at}.",
        f"Deploy the release that has it to the workers, or fastedgy queue cancel {facts.id}",
        details={
            "function": facts.function, "tried": len(tried), "serving": len(serving),
            "message": facts.error_message, "due": facts.date_due,
        },
    )  # fmt: skip


def _step(step: StepRow, facts: Facts) -> Reason:
    details = {"step": step.name, "due": step.date_due, "event": step.event}
    due = step.date_due or facts.date_due
    at = when(due, facts.now) if due is not None else ""
    if step.kind == "event":
        end = f"; at the latest it goes on {at}" if step.date_due is not None else ""
        return Reason(
            "event", f"It waits for the event {step.event} in its step {step.name}{end}.",
            f"send_event({step.event!r}, …) wakes it.", details=details,
        )  # fmt: skip
    if step.kind == "sleep":
        return Reason("sleep", f"It sleeps in its step {step.name}: it wakes {at}.",
                      details=details)  # fmt: skip
    return Reason(
        "step_retry",
        f"Its step {step.name} failed {count(step.attempts, 'time')} ({step.error_type or 'error'}"
        f"{first_line(step.error_message)}); it is tried again {at}.",
        details=details | {"attempts": step.attempts},
    )  # fmt: skip


def parents(facts: Facts, found: Sequence[OpenParent], number: int) -> Reason:
    """What it waits for."""
    details = {
        "parents": [{"id": each.id, "name": each.name, "state": each.state} for each in found],
        "number": number,
    }
    if not found:
        return Reason(
            "forsaken",
            f"It waits for {count(facts.waiting_on, 'parent')}, and there is none that could still "
            "end: nothing will let it go.",
            f"fastedgy queue cancel {facts.id}, then queue retry: that looks at the parents again.",
            details=details,
        )  # fmt: skip
    missing = [each for each in found if each.name is None]
    if missing and len(missing) == number:
        return Reason(
            "parent_missing",
            f"Its parent {missing[0].id} is not in the table: nothing will let it go.",
            f"fastedgy queue cancel {facts.id}, then queue retry: that looks at the parents again.",
            details=details,
        )  # fmt: skip
    if facts.stands_for is not None:
        other = found[0]
        return Reason(
            "stands_for",
            f"It has returned the task {other.name} ({other.id}, {other.state}), and ends as that "
            "does.",
            f"fastedgy queue explain {other.id}", details=details,
        )  # fmt: skip
    named = [f"{each.name} ({each.id}, {each.state})" for each in found]
    rest = number - len(named)
    listed = ", ".join(named) if rest else " and ".join(named)
    return Reason(
        "parents",
        f"It waits for {count(number, 'parent')}: {listed}"
        + (f", and {rest:,} more." if rest else "."),
        f"fastedgy queue tree {facts.id}", details=details,
    )  # fmt: skip


def beyond(why: Explanation) -> Reason:
    """Of all that it waits for, what is at the beginning."""
    return Reason(
        "ancestor", f"At the beginning is {why.name} ({why.id}, {why.state}): {why.sentence}",
        f"fastedgy queue explain {why.id}", holds=False,
        details={"id": why.id, "reasons": [reason.code for reason in why.reasons]},
    )  # fmt: skip


def running(
    facts: Facts, owner: OwnerRow | None, own: Sequence[StepRow], config: QueuedTaskConfig, *,
    others: int,
) -> list[Reason]:  # fmt: skip
    """Who runs it, for how long, and what is odd about that."""
    assert facts.date_started is not None, "a CHECK of the table"
    took = (facts.now - facts.date_started).total_seconds()
    found = []
    gone = owner is None or owner.state not in ("running", "draining")
    if gone or (owner is not None and owner.silent_for >= config.lease):
        name = owner.name if owner else str(facts.worker_id)
        what = "is gone" if gone or owner is None else (
            f"gave no sign of life for {duration(owner.silent_for)}")  # fmt: skip
        found.append(
            Reason(
                "worker_lost",
                f"Its worker {name} {what}; a living one takes it back within about "
                f"{config.lease + 2 * config.heartbeat:g} s.",
                None if others else f"No other worker runs: {START}",
                details={"worker": name, "reason": owner.exit_reason if owner else None},
            )
        )  # fmt: skip
        return found
    assert owner is not None
    if facts.cancel_requested:
        found.append(
            Reason(
                "cancelling", f"Its worker {owner.name} was asked to cancel it.",
                "A function in a thread goes on until it returns.", holds=False,
            )
        )  # fmt: skip
    limit = facts.timeout or config.task_timeout
    if took > limit:
        found.append(
            Reason(
                "overtime",
                f"It has run for {duration(took)} on worker {owner.name}, and its timeout is "
                f"{duration(limit)}.",
                "A function in a thread cannot be stopped: its process is replaced soon.",
                holds=False, details={"seconds": took, "timeout": limit},
            )
        )  # fmt: skip
    if owner.state == "draining":
        found.append(
            Reason(
                "worker_drains",
                f"Its worker {owner.name} drains: what does not end within "
                f"{config.drain_timeout:g} s goes back into the line.",
                None, holds=False,
            )
        )  # fmt: skip
    step = next((each for each in own if each.state == "doing"), None)
    where = f", in its step {step.name}" if step else ""
    what = f"The web process {owner.name} runs it itself" if owner.is_web else (
        f"Worker {owner.name} runs it")  # fmt: skip
    found.append(
        Reason(
            "running",
            f"{what}: attempt {facts.attempt} of {facts.max_retries + 1}, for {duration(took)}"
            f"{where}.",
            None, holds=False, details={"worker": owner.name, "seconds": took},
        )
    )  # fmt: skip
    return found


_FAILED_CURES = {
    "FunctionRefused": "Decorate the function with @task, or add its package to "
    "QUEUE_TASK_MODULES; then",
    "ParentFailed": "Retry the parent first; then",
    "WorkerLost": "Find out how it kills its process (memory, a crash in C); then",
}


def ended(facts: Facts) -> Reason:
    """How it ended."""
    retry = f"fastedgy queue retry {facts.id}"
    why = f"{facts.error_type or 'no reason was kept'}{first_line(facts.error_message)}"
    details = {"error_type": facts.error_type, "attempt": facts.attempt}
    if facts.state == "done":
        return Reason("done", "It is done.", None, holds=False, details=details)
    if facts.state == "cancelled":
        return Reason("cancelled", f"It was cancelled: {facts.error_message or 'on request'}",
                      retry, holds=False, details=details)  # fmt: skip
    cure = f"{_FAILED_CURES.get(facts.error_type or '', 'Repair the cause; then')} {retry}"
    return Reason(
        "failed",
        f"It failed for good after {count(facts.attempt, 'attempt')} ({why}).", cure,
        holds=False, details=details,
    )  # fmt: skip


def _last_word(facts: Facts) -> str | None:
    return str(facts.history[-1].get("what")) if facts.history else None
