"""What doctor says of the work: queues without workers, tasks that nobody moves on, workers."""

from __future__ import annotations

from asyncpg import Connection

from fastedgy.admin.doctor_server import clock_finding
from fastedgy.admin.findings import Finding, Severity, Ward
from fastedgy.models.tables import Tables
from fastedgy.store import doctor_work as store
from fastedgy.store.breakers import list_breakers
from fastedgy.store.claim import find_lanes
from fastedgy.store.doctor_work import MOST, Stuck
from fastedgy.store.maintain import DAY, retention
from fastedgy.wording import count, duration

START = "fastedgy queue start"
STARTING = 120.0
"""Seconds that a worker may take from the moment it got its id to its row."""
PRUNE_SLACK = 2 * DAY
"""Seconds beyond the retention until pruning counts as behind."""


async def check_queues(connection: Connection, tables: Tables, ward: Ward) -> list[Finding]:
    """Queues that nobody serves, that are paused, or whose tasks wait for long."""
    findings = []
    lanes = await find_lanes(connection, tables)
    waiting = {queue.queue: queue.tasks for queue in await store.waiting_queues(connection, tables)}
    paused = await store.paused_queues(connection, tables)
    for queue, tasks in waiting.items():
        if any(each.queue == queue for each in paused):
            continue
        serving = [worker for worker in ward.alive if worker.serves(queue)]
        firsts = [first for (name, _), first in lanes.items() if name == queue]
        oldest = (ward.now - min(firsts)).total_seconds() if firsts else 0.0
        if not serving:
            findings.append(_unserved(queue, tasks, oldest, ward))
        elif oldest > ward.thresholds.waiting_seconds:
            findings.append(
                Finding(
                    "long_wait", Severity.warning,
                    f"The oldest task of queue {queue} has waited for {duration(oldest)}.",
                    "More comes in than its workers can do, or their slots are taken by long "
                    "tasks.",
                    f"{_tasks(tasks)} in the line, {count(len(serving), 'worker')} with "
                    f"{sum(worker.busy for worker in serving)} of "
                    f"{sum(worker.concurrency for worker in serving)} slots busy",
                    f"More workers ({START} --queues {queue}), more slots (--concurrency), "
                    "or a queue of their own for long tasks.",
                    details={"queue": queue, "seconds": oldest, "tasks": tasks},
                )
            )  # fmt: skip
    for each in paused:
        tasks = waiting.get(each.queue, 0)
        by = f" by {each.changed_by}" if each.changed_by else ""
        since = (ward.now - each.date_changed).total_seconds()
        findings.append(
            Finding(
                "queue_paused", Severity.warning if tasks else Severity.info,
                f"Queue {each.queue} is paused.",
                f"None of its tasks starts; {_wait(tasks)}.",
                f"Paused{by} {duration(since)} ago.",
                f"fastedgy queue resume {each.queue}",
                details={"queue": each.queue, "tasks": tasks},
            )
        )  # fmt: skip
    return findings


def _unserved(queue: str, tasks: int, oldest: float, ward: Ward) -> Finding:
    served = sorted({name for worker in ward.alive for name in worker.queues or ()})
    draining = sum(worker.drains for worker in ward.alive)
    evidence = f"The oldest has waited for {duration(oldest)}; {_workers(len(ward.alive))} alive"
    if draining:
        evidence += f", {draining} of them draining"
    if served:
        evidence += f", for {', '.join(served)}"
    return Finding(
        "queue_without_worker" if ward.alive else "no_worker", Severity.error,
        f"Queue {queue} has no worker; {_wait(tasks)}.",
        "Nothing of it runs.",
        f"{evidence}.",
        f"{START} --queues {queue}" if ward.alive else START,
        details={"queue": queue, "tasks": tasks, "oldest_seconds": oldest},
    )  # fmt: skip


async def check_tasks(connection: Connection, tables: Tables, ward: Ward) -> list[Finding]:
    """Tasks that the engine should have moved on."""
    limits, config = ward.thresholds, ward.config
    findings = []
    late = await store.overdue(connection, tables, seconds=limits.overdue_seconds)
    if late.tasks:
        findings.append(
            Finding(
                "overdue", Severity.error,
                f"{_tasks(late.tasks)} should have been put into the line "
                f"{duration(late.seconds)} ago.",
                "Workers do that within a second, so none is there, or none gets to it.",
                f"{count(len(ward.alive), 'living worker')}",
                START if not ward.alive else
                "Look at the workers' logs for chores that failed; restart them.",
                details={"tasks": late.tasks, "seconds": late.seconds},
            )
        )  # fmt: skip
    for unknown in await store.unknown_functions(connection, tables):
        findings.append(
            Finding(
                "unknown_function", Severity.warning,
                f"No worker has the function {unknown.function}; {_wait(unknown.tasks)} for one "
                "that does.",
                "They are tried again every few seconds and cost no attempt.",
                unknown.message or "the workers said so",
                "Deploy the release that has it to the workers, or cancel them: "
                f"fastedgy queue cancel {unknown.example}",
                details={"function": unknown.function, "tasks": unknown.tasks,
                         "example": str(unknown.example)},
            )
        )  # fmt: skip
    slow = await store.overtime(
        connection, tables, default=config.task_timeout, grace=limits.overtime_seconds
    )
    if slow.tasks:
        findings.append(
            Finding(
                "overtime", Severity.warning,
                f"{_tasks(slow.tasks)} run beyond their timeout, the longest for "
                f"{duration(slow.seconds)}.",
                "A timeout ends an async function at once; one that goes on runs in a thread, or "
                "ignores its cancellation. Its process is replaced.",
                f"for example {slow.example}",
                f"fastedgy queue explain {slow.example}",
                details=_details(slow),
            )
        )  # fmt: skip
    alone = await store.old_suspects(connection, tables, seconds=limits.overdue_seconds)
    if alone.tasks:
        findings.append(
            Finding(
                "suspects_wait", Severity.warning,
                f"{_tasks(alone.tasks)} that may have killed their workers wait to run alone, the "
                f"longest for {duration(alone.seconds)}.",
                "A supervisor (queue start) starts processes for them; workers that something else "
                "started do not run them.",
                f"for example {alone.example}", START, details=_details(alone),
            )
        )  # fmt: skip
    lost = await store.forsaken(connection, tables)
    if lost.tasks:
        findings.append(
            Finding(
                "forsaken", Severity.error,
                f"{_tasks(lost.tasks)} wait for parents that are not there, or have ended.",
                "Nothing will ever let them go. Rows were written or deleted by other hands.",
                f"for example {lost.example}",
                f"fastedgy queue cancel {lost.example}, then queue retry: that looks at the parents"
                " again.",
                details=_details(lost),
            )
        )  # fmt: skip
    ended = await store.oldest_ended(connection, tables)
    for states, kept in retention(config):
        age = max((ended[state] for state in states if state in ended), default=0.0)
        if age > kept + PRUNE_SLACK:
            setting = "QUEUE_RETENTION_DAYS" if "done" in states else "QUEUE_RETENTION_FAILED_DAYS"
            findings.append(
                Finding(
                    "pruning_behind", Severity.warning,
                    f"There are tasks that ended {duration(age)} ago, and they are kept for "
                    f"{kept / DAY:g} days.",
                    "Workers prune all the time, a little; without workers nobody does.",
                    f"{setting} = {kept / DAY:g}",
                    "fastedgy queue prune",
                    details={"seconds": age},
                )
            )  # fmt: skip
            break
    return findings


async def check_workers(connection: Connection, tables: Tables, ward: Ward) -> list[Finding]:
    """Workers that are silent, deaf, or in trouble."""
    findings = []
    silent = [worker for worker in ward.workers if not worker.is_alive(ward.config.lease)]
    if silent:
        names = ", ".join(f"{worker.server_name}/{worker.pid}" for worker in silent[:5])
        findings.append(
            Finding(
                "silent_workers", Severity.warning,
                f"{count(len(silent), 'worker')} gave no sign of life for more than "
                f"{ward.config.lease:g} s.",
                "Their processes or machines are gone, frozen or cut off. The other workers take "
                "their tasks over within seconds.",
                f"{names}; the last one {duration(min(w.silent_for for w in silent))} ago",
                "Look whether they still run. " + (f"None is left to take over: {START}"
                                                   if not ward.alive else "Nothing else."),
                details={"workers": [str(worker.id) for worker in silent]},
            )
        )  # fmt: skip
    owners = await store.dead_owners(connection, tables, lease=ward.config.lease)
    if owners:
        tasks = sum(owner.tasks for owner in owners)
        findings.append(
            Finding(
                "lost_tasks", Severity.warning if ward.alive else Severity.error,
                f"{_tasks(tasks)} are `doing` under {count(len(owners), 'worker')} that "
                f"{'is' if len(owners) == 1 else 'are'} gone.",
                "A living worker takes them back after its own first lease "
                f"({ward.config.lease:g} s).",
                f"for example {owners[0].example}", START if not ward.alive else "Wait a minute.",
                details={"tasks": tasks, "workers": [str(owner.worker_id) for owner in owners]},
            )
        )  # fmt: skip
    deaf = [worker for worker in ward.alive if worker.counters.get("deaf")]
    if deaf:
        names = ", ".join(f"{worker.server_name}/{worker.pid}" for worker in deaf[:5])
        findings.append(
            Finding(
                "deaf_listeners", Severity.warning,
                f"{count(len(deaf), 'worker')} cannot hear notifications.",
                "They look at the table every QUEUE_POLLING_INTERVAL instead, so tasks are picked "
                "up later, and cancelling takes a heartbeat.",
                names,
                "Behind a pooler in transaction mode set QUEUE_USE_POSTGRESQL_NOTIFY=false, or "
                "give the queue the server's own address. Else the connection is being cut: look "
                "at the workers' logs.",
                details={"workers": [str(worker.id) for worker in deaf]},
            )
        )  # fmt: skip
    return findings + _troubles(ward)


_TROUBLES = {
    "errors": (
        "errors of the workers themselves",
        "A chore, a claim or a write failed for a reason that nobody foresaw. It was tried again.",
        "Look for tracebacks in the workers' logs.",
    ),
    "connections_lost": (
        "connections to the database lost",
        "Each costs a moment; what was under way is repeated.",
        "Look at the server's log, at the network, and at timeouts of a pooler in between.",
    ),
    "loop_blocked": (
        "times an event loop was blocked for more than a second",
        "While it is, nothing else of that process moves: async code that computes, or waits "
        "without await.",
        "The workers' logs name the tasks. Make them sync functions, which run in threads.",
    ),
    "fenced": (
        "outcomes dropped, since their tasks had been taken over",
        "Those functions ran once more elsewhere.",
        "Look for machines that freeze or are cut off, and for QUEUE_LEASE being too short.",
    ),
    "refused": (
        "tasks refused as forged or not offered",
        "They failed without having run.",
        "fastedgy queue list --state failed; decorate the function with @task, or add its package "
        "to QUEUE_TASK_MODULES.",
    ),
    "log_lines_dropped": (
        "log lines dropped beyond QUEUE_LOG_LIMIT",
        "The end of what those tasks said is missing.",
        "Log less in loops, or raise QUEUE_LOG_LIMIT.",
    ),
}


def _troubles(ward: Ward) -> list[Finding]:
    findings = []
    for name, (what, meaning, cure) in _TROUBLES.items():
        by = {
            f"{worker.server_name}/{worker.pid}": number
            for worker in ward.alive
            if (number := worker.counters.get(name)) and isinstance(number, int)
        }
        if by:
            findings.append(
                Finding(
                    f"worker_{name}",
                    Severity.warning if name in ("errors", "loop_blocked") else Severity.info,
                    f"The living workers count {sum(by.values()):,} {what}.", meaning,
                    ", ".join(f"{who}: {number:,}" for who, number in list(by.items())[:5])
                    + " since they started", cure, details=by,
                )
            )  # fmt: skip
    return findings


async def check_clocks(connection: Connection, tables: Tables, ward: Ward) -> list[Finding]:
    """Clocks of producers and of workers' machines, by the ids that they made."""
    findings = []
    limit = ward.thresholds.clock_seconds
    for clock in await store.clocks(connection, tables):
        if clock.ahead is None:
            continue
        if clock.ahead > limit:
            whose = clock.server or "A producer of tasks"
            findings.append(clock_finding(whose, clock.ahead))
        elif clock.made == "workers" and clock.ahead < -STARTING - limit:
            findings.append(clock_finding(clock.server, clock.ahead))
    return findings


async def check_schedules(connection: Connection, tables: Tables, ward: Ward) -> list[Finding]:
    """Schedules that do not fire, and breakers that are open."""
    findings = []
    late = ward.thresholds.overdue_seconds
    for schedule in await store.late_schedules(connection, tables, seconds=late):
        what = (
            f"could not fire: {schedule.error}"
            if schedule.error
            else f"is late by {duration(schedule.late)}"
        )
        findings.append(
            Finding(
                "schedule", Severity.warning if schedule.error or ward.alive else Severity.error,
                f"Schedule {schedule.name} {what.rstrip('.')}.",
                "The tasks that it stands for are not made.",
                schedule.error or f"{count(len(ward.alive), 'living worker')}",
                f"fastedgy schedule show {schedule.name}" if schedule.error or ward.alive else
                START,
                details={"schedule": schedule.name, "late": schedule.late},
            )
        )  # fmt: skip
    for breaker in await list_breakers(connection, tables):
        if breaker.state == "closed":
            continue
        findings.append(
            Finding(
                "breaker_open", Severity.warning,
                f"Breaker {breaker.name} is {breaker.state.replace('_', ' ')}.",
                "What it guards failed too often, so its tasks wait.",
                f"{count(breaker.failures, 'failure')}: {breaker.error or 'no error was kept'}; "
                f"the next try is in {duration(breaker.rest)}",
                "Repair what it guards; it tries by itself. To let all through now, reset it.",
                details={"breaker": breaker.name, "state": breaker.state},
            )
        )  # fmt: skip
    return findings


def _workers(number: int) -> str:
    return f"{count(number, 'worker')} {'is' if number == 1 else 'are'}"


def _tasks(number: int) -> str:
    return f"more than {MOST:,} tasks" if number >= MOST else count(number, "task")


def _wait(number: int) -> str:
    return f"{_tasks(number)} {'waits' if number == 1 else 'wait'}"


def _details(stuck: Stuck) -> dict[str, object]:
    return {"tasks": stuck.tasks, "example": str(stuck.example), "seconds": stuck.seconds}
