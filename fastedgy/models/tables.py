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
