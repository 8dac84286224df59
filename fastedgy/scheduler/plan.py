"""What a schedule that is due gives: pure functions of the row and the time."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import chain, islice, takewhile

from fastedgy.scheduler.definition import trigger_of
from fastedgy.store.schedules import ScheduleRow

COUNTED = 1_000
"""Missed due times beyond these are left out without being counted."""
AT_ONCE = 100
"""Tasks that one schedule gives at a time; a backlog takes several rounds."""
COALESCED = "coalesced"
TOO_LATE = "too late"


@dataclass(frozen=True, slots=True)
class Plan:
    """The due times that give a task, the one after them, and how many are left out, and why."""

    dues: list[datetime]
    last_due: datetime
    next_due: datetime | None
    missed: int = 0
    because: str | None = None


def plan(row: ScheduleRow, due: datetime, now: datetime) -> Plan:
    """What a row whose due time has come gives. Raises InvalidSchedule for an unreadable one."""
    trigger = trigger_of(row)
    earliest = None
    if row.misfire_grace is not None:
        earliest = now - timedelta(seconds=row.misfire_grace)
    if row.coalesce_missed:
        last = trigger.latest(now) or due
        last = max(last, due)
        before = takewhile(lambda found: found < last, chain([due], trigger.after(due)))
        missed = sum(1 for _ in islice(before, COUNTED))
        following = trigger.next(max(last, now))
        if earliest is not None and last < earliest:
            return Plan([], last, following, missed + 1, TOO_LATE)
        return Plan([last], last, following, missed, COALESCED if missed else None)
    missed = 0
    if earliest is not None and due < earliest:
        old = takewhile(lambda found: found < earliest, chain([due], trigger.after(due)))
        missed = sum(1 for _ in islice(old, COUNTED))
        late = trigger.latest(earliest)
        following = trigger.next(earliest - timedelta(microseconds=1))
        if following is None or following > now:
            return Plan([], late or due, following, missed, TOO_LATE)
        due = following
    times = takewhile(lambda found: found <= now, chain([due], trigger.after(due)))
    dues = list(islice(times, AT_ONCE))
    following = trigger.next(dues[-1])
    return Plan(dues, dues[-1], following, missed, TOO_LATE if missed else None)


def delayed(
    due: datetime, jitter: float, rand: Callable[[float, float], float] = random.uniform
) -> datetime:
    """When the task of a due time starts: up to `jitter` seconds later."""
    return due + timedelta(seconds=rand(0, jitter)) if jitter else due
