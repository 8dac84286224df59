"""Schedules: functions that run on a timetable, as durable tasks.

    @scheduled(cron="0 2 * * *", timezone="Europe/Paris")
    async def backup() -> None: ...

`Inject(Scheduler)` changes them while everything runs.
"""

from __future__ import annotations

from fastedgy.scheduler.declared import scheduled
from fastedgy.scheduler.schedule import Schedule
from fastedgy.scheduler.service import Scheduler

__all__ = ["Schedule", "Scheduler", "scheduled"]
