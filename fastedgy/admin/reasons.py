"""What holds a task that is due, in words: pure functions of what was read."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from fastedgy.admin.explanation import Reason
from fastedgy.store.breakers import Breaker
from fastedgy.store.explain import MOST, Facts, Locker
from fastedgy.store.gates import Head
from fastedgy.store.overview import WorkerRow
from fastedgy.store.queues import QueueSettings
from fastedgy.wording import count, duration, when, written_rate

START = "fastedgy queue start"


# What its queue has against it.


def queue(settings: QueueSettings, now: datetime) -> list[Reason]:
    """A pause and limits of its queue."""
    found = []
    name = settings.name
    if settings.paused:
        by = f" by {settings.changed_by}" if settings.changed_by else ""
        since = duration(now - settings.date_changed)
        found.append(
            Reason(
                "queue_paused", f"Queue {name} was paused{by} {since} ago.",
                f"fastedgy queue resume {name}",
                details={"queue": name, "by": settings.changed_by, "since": settings.date_changed},
            )
        )  # fmt: skip
    most = settings.max_running
    if most is not None and settings.running >= most:
        found.append(
            Reason(
                "queue_limit", f"Queue {name} is full: {settings.running} of {most} run.",
                "It goes on when one of them ends; or raise the limit of the queue.",
                details={"queue": name, "running": settings.running, "limit": most},
            )
        )  # fmt: skip
    if settings.rate is not None and settings.next_at is not None and settings.next_at > now:
        found.append(
            Reason(
                "queue_rate",
                f"Queue {name} starts {written_rate(settings.rate)}: the next one "
                f"{when(settings.next_at, now)}.",
                "Wait, or raise the rate of the queue.",
                details={"queue": name, "rate": settings.rate, "until": settings.next_at},
            )
        )  # fmt: skip
    return found


def service(facts: Facts, workers: Sequence[WorkerRow]) -> list[Reason]:
    """Who would run it. `workers` are the living ones."""
    serving = [worker for worker in workers if worker.serves(facts.queue)]
    details = {"queue": facts.queue, "workers": len(workers)}
    if not workers:
        return [Reason("no_worker", "No worker runs.", START, details=details)]
    if not serving:
        draining = [
            worker
            for worker in workers
            if worker.drains and (not worker.queues or facts.queue in worker.queues)
        ]
        if draining:
            return [
                Reason(
                    "draining",
                    f"Only workers that drain serve queue {facts.queue}: they end their tasks and "
                    "take no more.",
                    f"If no new ones follow them: {START}",
                    details=details | {"draining": len(draining)},
                )
            ]
        others = sorted({name for worker in workers for name in worker.queues or ()})
        return [
            Reason(
                "queue_without_worker",
                f"No worker serves queue {facts.queue}; {count(len(workers), 'worker')} "
                f"{'serves' if len(workers) == 1 else 'serve'} {', '.join(others)}.",
                f"{START} --queues {facts.queue}", details=details | {"served": others},
            )
        ]  # fmt: skip
    if facts.suspect and not any(worker.supervisor_id for worker in workers):
        return [
            Reason(
                "no_supervisor",
                "It may have killed its worker and runs alone next time, in a process that a "
                "supervisor starts for it; no worker here has one.",
                START, details={"losses": facts.losses},
            )
        ]  # fmt: skip
    return []


# What its gate has against it.


def gate(head: Head, now: datetime, before: int) -> list[Reason]:
    """The limit and the rate of its gate; `before`: how many wait there before it."""
    found = []
    key = head.lane.gate
    if head.limit is not None and head.running + before >= head.limit:
        rest = "" if head.running >= head.limit else f", and {count(before, 'task')} before it"
        found.append(
            Reason(
                "gate_limit", f'Limit "{key}": {head.running} of {head.limit} run{rest}.',
                "It goes on when one of them ends.",
                details={"gate": key, "running": head.running, "limit": head.limit,
                         "before": before},
            )
        )  # fmt: skip
    if head.rate is not None and head.next_at is not None and head.next_at > now:
        found.append(
            Reason(
                "gate_rate",
                f'Rate "{key}": {written_rate(head.rate)}, the next one {when(head.next_at, now)}.',
                "Wait, or give the task a higher rate.",
                details={"gate": key, "rate": head.rate, "until": head.next_at},
            )
        )  # fmt: skip
    return found


def breaker(broken: Breaker) -> list[Reason]:
    """A breaker that lets nobody through: it rests, or another task is trying."""
    details = {"breaker": broken.name, "state": broken.state, "seconds": broken.rest}
    if broken.state == "open":
        code, text = "breaker_open", f"is open: the next try is in {duration(broken.rest)}"
    else:
        code, text = "breaker_half_open", "is being tried by another task"
    error = f" ({broken.error})" if broken.error else ""
    return [
        Reason(
            code, f"Breaker {broken.name} {text}{error}.",
            "Repair what it guards; it tries by itself. Resetting the breaker lets all through.",
            details=details,
        )
    ]  # fmt: skip


# Its place.


def free_slots(facts: Facts, workers: Sequence[WorkerRow]) -> int:
    """Slots of living workers that could take it now."""
    return sum(
        max(0, worker.concurrency - worker.busy) for worker in workers if worker.serves(facts.queue)
    )


def line(
    facts: Facts, before: int, expected: float | None, workers: Sequence[WorkerRow], *, held: bool
) -> list[Reason]:
    """Its place in the line, and whether there is room at the end of it. `held`: by something."""
    if not any(worker.serves(facts.queue) for worker in workers):
        return []
    position = before + 1
    place = f"beyond position {MOST:,}" if before >= MOST else f"position {position:,}"
    waited = facts.now - facts.date_enqueued if facts.date_enqueued else None
    details = {
        "position": position,
        "waited_seconds": waited.total_seconds() if waited is not None else None,
        "expected_seconds": expected,
    }
    if facts.suspect:
        return [
            Reason(
                "runs_alone",
                "It may have killed its worker, so it runs alone next time: a supervisor starts a "
                f"process for it with the next heartbeat ({place}).",
                None, holds=False, details=details | {"losses": facts.losses},
            )
        ]  # fmt: skip
    busy = [worker for worker in workers if worker.serves(facts.queue)]
    slots = sum(worker.concurrency for worker in busy)
    if free_slots(facts, workers) <= 0:
        soon = "" if expected is None else f", about {duration(expected)}"
        return [
            Reason(
                "busy", f"All {count(slots, 'slot')} are busy; {place}{soon}.",
                "Wait; or more workers (--workers), or more slots in each (--concurrency).",
                details=details | {"slots": slots},
            )
        ]  # fmt: skip
    soon = "" if not expected else f", about {duration(expected)}"
    return [
        Reason(
            "in_line",
            f"{'Its place' if held else 'Nothing holds it'}: {place} in the line of queue "
            f"{facts.queue}{soon}; it has waited {duration(waited)}.",
            None, holds=False, details=details,
        )
    ]  # fmt: skip


def locked(locker: Locker) -> Reason:
    """A transaction that holds the row."""
    who = f"Session {locker.pid} ({locker.application or 'unnamed'}, {locker.state})"
    if locker.application == "fastedgy worker claims":
        return Reason("claiming", "A worker claims it at this moment.", None, holds=False)
    return Reason(
        "locked",
        f"{who} has held a lock on its row for {duration(locker.seconds)}; claims pass it by.",
        f"Let that transaction end: SELECT pg_terminate_backend({locker.pid})",
        details={"pid": locker.pid, "application": locker.application, "state": locker.state},
    )
