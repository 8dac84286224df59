"""What the listings look like: pure functions from rows to Rich tables and sentences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from itertools import groupby
from typing import Any

from rich.table import Table
from rich.text import Text

from fastedgy.admin.types import NameStats, Overview, QueueInfo
from fastedgy.cli.output import duration, json_line, shown, state_text
from fastedgy.store.audit import AuditEntry
from fastedgy.store.counts import StateCounts
from fastedgy.store.details import LogRow, TaskDetails, began
from fastedgy.store.find import ENDED, TaskRow
from fastedgy.store.overview import WorkerRow, WorkerSummary, worker_summary

LEVEL_STYLES = {"debug": "grey50", "warning": "orange3", "error": "red3", "critical": "bold red3"}

EVERYDAY = frozenset(
    ("claimed", "done", "failed", "retried", "cancelled", "interrupted", "snoozed", "timeouts",
     "handed_back", "promoted", "fired", "pruned", "memory_mb")
)  # fmt: skip
"""Counters of the workers that tell of work, and not of trouble."""

TROUBLES = {
    "unknown": "tasks whose function no module has",
    "refused": "tasks refused as forged or not offered",
    "misfired": "due times of schedules that gave no task of their own",
    "fenced": "outcomes dropped, since the task was taken over",
    "rescued": "tasks taken back from lost workers",
    "log_lines_dropped": "log lines beyond QUEUE_LOG_LIMIT",
    "loop_blocked": "event loop blocked for more than a second",
    "connections_lost": "connections to the database lost",
    "errors": "errors of the worker itself (see its log)",
    "deaf": "workers that hear no notifications and poll",
}


def _table(*headers: str, right: Sequence[str] = ()) -> Table:
    # Without lines: easy on the eye, and `awk` and `grep` work on it.
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for header in headers:
        table.add_column(header, justify="right" if header in right else "left", overflow="fold")
    return table


SENTENCE_STYLES = {"healthy": "", "degraded": "orange3", "unhealthy": "red3"}


def status_sentences(view: Overview) -> list[Text]:
    """How it stands in one sentence, the most serious; and below it what else is not well."""
    lines = [Text(shown(view.sentence), style=SENTENCE_STYLES[view.level])]
    return lines + [Text.assemble("Also: ", shown(reason)) for reason in view.reasons[1:]]


def _number(number: int, *, estimated: bool) -> str:
    """`1,200`, or `~1,200` for an estimate."""
    return f"{'~' if estimated else ''}{number:,}"


def status_table(states: StateCounts, summary: WorkerSummary, *, maximum: int) -> Table:
    """The figures on top of `queue status`. `maximum` is how many processes there may be."""
    table = _table("", "")
    table.show_header = False
    pending = _number(states.counts["enqueued"], estimated="enqueued" in states.estimated)
    table.add_row("Pending Tasks", pending)
    table.add_row("Active Servers", f"{summary.servers:,}")
    table.add_row("Total Workers", f"{summary.processes:,}/{max(maximum, summary.processes):,}")
    table.add_row("Active Workers", f"{summary.active:,}")
    table.add_row("Idle Workers", f"{summary.idle:,}")
    table.add_row("Busy Slots", f"{summary.busy:,}/{summary.slots:,}")
    return table


def state_table(states: StateCounts, *, total: bool = False) -> Table:
    """How many tasks are in each state; estimates with a `~`."""
    table = _table("State", "Tasks", right=["Tasks"])
    for state, number in states.counts.items():
        table.add_row(state_text(state), _number(number, estimated=state in states.estimated))
    if total:
        everything = _number(states.total, estimated=bool(states.estimated))
        table.add_row("total", everything, style="bold")
    return table


def queue_table(queues: Sequence[QueueInfo]) -> Table:
    """The queues, and how many living workers serve each."""
    table = _table("Queue", "Depth", "Oldest", "Workers", "", right=["Depth", "Oldest", "Workers"])
    for queue in queues:
        table.add_row(
            Text(shown(queue.name)),
            _number(queue.depth, estimated=queue.depth_estimated),
            duration(queue.oldest_due_seconds) if queue.depth else "-",
            Text(str(queue.workers), style="" if queue.workers or not queue.depth else "red3"),
            Text("paused" if queue.paused else "", style="orange3"),
        )
    return table


def audit_table(entries: Sequence[AuditEntry]) -> Table:
    """What was done by hand, and by whom."""
    table = _table("When", "Who", "From", "What", "To", "Details")
    for entry in entries:
        table.add_row(
            f"{entry.date.astimezone():%Y-%m-%d %H:%M:%S}",
            Text(shown(entry.actor)),
            entry.source,
            Text(shown(entry.action)),
            Text(shown(entry.target)),
            Text(shown(json_line(entry.details)) if entry.details else "", style="grey50"),
        )
    return table


def in_process_table(counts: Mapping[str, Mapping[str, float]]) -> Table:
    """The in-process tasks of the web processes that have durable ones, by name."""
    right = ["Running", "Done", "Failed", "Mean", "Longest"]
    table = _table("In-process tasks", *right, right=right)
    for name, one in counts.items():
        ended = one.get("done", 0) + one.get("failed", 0)
        table.add_row(
            Text(shown(name)),
            *(f"{one.get(word, 0):,}" for word in ("running", "done", "failed")),
            duration(one.get("seconds", 0) / ended) if ended else "-",
            duration(one.get("longest", 0)),
        )
    return table


def troubles(counters: Mapping[str, int]) -> dict[str, int]:
    """Those of the workers' counters that stay at zero while all is well, in words.

    Names that are not known here count as trouble, so that nothing is hidden.
    """
    return {
        TROUBLES.get(name, shown(name).replace("_", " ")): number
        for name, number in counters.items()
        if name not in EVERYDAY and number
    }


def trouble_table(numbers: Mapping[str, int]) -> Table:
    """What went wrong in the background of the workers since they started."""
    table = _table("In the background", "Times", right=["Times"])
    for what, number in sorted(numbers.items()):
        table.add_row(Text(what), Text(f"{number:,}", style="orange3"))
    return table


def server_rows(workers: Sequence[WorkerRow], *, lease: float) -> list[dict[str, Any]]:
    """The workers by server, as `queue servers --json` gives them."""
    rows = []
    for name, group in groupby(workers, key=lambda worker: worker.server_name):
        own = list(group)
        summary = worker_summary(own, lease=lease)
        rows.append(
            {
                "server": name,
                "status": _status(own, lease),
                "workers": summary.processes,
                "active": summary.active,
                "idle": summary.idle,
                "slots": summary.slots,
                "busy": summary.busy,
                "last_heartbeat": max(worker.last_heartbeat for worker in own),
                "silent_seconds": round(min(worker.silent_for for worker in own), 3),
                "processes": [
                    {
                        "id": worker.id,
                        "pid": worker.pid,
                        "status": _status([worker], lease),
                        "queues": worker.queues or [],
                        "slots": worker.concurrency,
                        "busy": worker.busy,
                        "version": worker.version,
                        "date_started": worker.date_started,
                        "last_heartbeat": worker.last_heartbeat,
                        "counters": worker.counters,
                    }
                    for worker in own
                ],
            }
        )
    return rows


def _status(workers: Sequence[WorkerRow], lease: float) -> str:
    alive = [worker for worker in workers if worker.is_alive(lease)]
    if not alive:
        return "silent"
    return "draining" if all(worker.drains for worker in alive) else "running"


def server_table(rows: Sequence[Mapping[str, Any]], *, processes: bool = False) -> Table:
    """The servers of `server_rows`; with `processes`, each worker process under its server."""
    columns = ("Server", "Status", "Workers", "Active", "Idle", "Slots", "Last Heartbeat")
    table = _table(*columns, right=columns[2:6])
    styles = {"running": "green4", "draining": "orange3", "silent": "red3"}
    for row in rows:
        table.add_row(
            Text(shown(row["server"])),
            Text(row["status"], style=styles[row["status"]]),
            str(row["workers"]),
            str(row["active"]),
            str(row["idle"]),
            f"{row['busy']}/{row['slots']}",
            f"{duration(row['silent_seconds'])} ago",
        )
        for process in row["processes"] if processes else ():
            table.add_row(
                f"  pid {process['pid']}",
                Text(process["status"], style=styles[process["status"]]),
                Text(shown(", ".join(process["queues"]) or "all queues"), style="grey50"),
                "",
                "",
                f"{process['busy']}/{process['slots']}",
            )
    return table


def task_table(tasks: Sequence[TaskRow], *, now: datetime, whole_ids: bool = True) -> Table:
    """A page of tasks. `whole_ids` False: their last digits, which the commands take as well."""
    table = _table("State", "Name", "Queue", "Attempt", "Age", "Took", "Id",
                   right=["Attempt", "Age", "Took"])  # fmt: skip
    table.columns[-1].no_wrap = True
    for task in tasks:
        text = str(task.id)
        table.add_row(
            state_text(task.state),
            Text(shown(task.name)),
            Text(shown(task.queue)),
            str(task.attempt),
            duration(now - (task.date_enqueued or made_at(task))),
            duration(took(task, now=now)),
            text if whole_ids else text[-12:],
        )
    return table


def made_at(task: TaskRow) -> datetime:
    """When the task was made, by its id (a UUIDv7)."""
    try:
        return datetime.fromtimestamp((task.id.int >> 80) / 1000, UTC)
    except (OverflowError, ValueError):  # an id of another kind, written by other hands
        return datetime.fromtimestamp(0, UTC)


def took(task: TaskRow | TaskDetails, *, now: datetime) -> float | None:
    """Seconds that the last run took, or has taken so far; None if it has not begun."""
    start = began(task)
    end = task.date_ended if task.state in ENDED else now
    if start is None or end is None:
        return None
    return max(0.0, (end - start).total_seconds())


def name_table(names: Sequence[NameStats]) -> Table:
    """How the recent tasks of each name ended."""
    table = _table("Name", "Done", "Failed", "p50", "p95", right=["Done", "Failed", "p50", "p95"])
    for name in names:
        p50, p95 = name.duration_ms_p50, name.duration_ms_p95
        table.add_row(
            Text(shown(name.name)),
            f"{name.done:,}",
            Text(f"{name.failed:,}", style="red3" if name.failed else ""),
            duration(None if p50 is None else p50 / 1000),
            duration(None if p95 is None else p95 / 1000),
        )
    return table


def log_line(log: LogRow) -> Text:
    """One log line: time, level, logger and message; further lines of a message are indented."""
    message = shown(log.message, lines=True).rstrip("\n").replace("\n", "\n    ")
    return Text.assemble(
        (f"{log.logged_at.astimezone():%Y-%m-%d %H:%M:%S.%f}"[:-3], "grey50"),
        (f" {log.level.upper():8} ", LEVEL_STYLES.get(log.level, "")),
        (f"{shown(log.logger)}: ", "grey50"),
        message,
    )
