"""The names of the queue's tables, as its SQL and its migrations use them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Tables:
    """One name per kind of row. The defaults are those of the shipped models."""

    tasks: str = "queued_tasks"
    links: str = "queued_task_links"
    logs: str = "queued_task_logs"
    workers: str = "queued_task_workers"
    queues: str = "queued_task_queues"
    gates: str = "queued_task_gates"
    breakers: str = "queued_task_breakers"
    steps: str = "queued_task_steps"
    events: str = "queued_task_events"
    keys: str = "queued_task_keys"
    schedules: str = "queued_task_schedules"
    audit: str = "queued_task_audit"
    rollups: str = "queued_task_rollups"

    def __hash__(self) -> int:
        # It is looked up for every statement; that of all names takes ten times as long.
        return hash(self.tasks)
