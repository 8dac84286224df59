"""The next 24 hours of the schedules as lanes with a mark for each run: pure functions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import chain, islice, takewhile

from fastedgy.errors import InvalidSchedule
from fastedgy.scheduler.definition import trigger_of
from fastedgy.store.schedules import ScheduleRow

WIDTH = 1440.0
DAY = timedelta(hours=24)
_MOST_MARKS = 144
"""From more runs than this on, a lane is a band: marks would touch."""
_MOST_LANES = 100


@dataclass(frozen=True, slots=True)
class Mark:
    """One run."""

    x: float
    at: datetime


@dataclass(frozen=True, slots=True)
class Lane:
    """A schedule's day. `dense`: the band runs from `marks[0]` to `marks[-1]`, without end."""

    name: str
    marks: list[Mark]
    dense: bool
    words: str


@dataclass(frozen=True, slots=True)
class Day:
    """The lanes of schedules that are due within a day, and the hours below them."""

    lanes: list[Lane]
    hours: list[datetime]
    left_out: int


def lanes_of(rows: Sequence[ScheduleRow], *, now: datetime) -> Day:
    """Draw the day that begins now."""
    until = now + DAY
    lanes = [lane for row in rows if (lane := _lane(row, now, until)) is not None]
    lanes.sort(key=lambda lane: lane.marks[0].x)
    hours = [now + timedelta(hours=hours) for hours in (0, 6, 12, 18, 24)]
    return Day(lanes[:_MOST_LANES], hours, max(0, len(lanes) - _MOST_LANES))


def _lane(row: ScheduleRow, now: datetime, until: datetime) -> Lane | None:
    if row.paused or row.next_due is None or row.next_due > until:
        return None
    try:
        later = trigger_of(row).after(row.next_due)
    except InvalidSchedule:
        return None  # its own row in the list says why
    due = takewhile(lambda at: at <= until, chain([row.next_due], later))
    times = list(islice(due, _MOST_MARKS + 1))
    dense = len(times) > _MOST_MARKS
    marks = [Mark(_x(at, now), at) for at in times]
    if dense:
        marks = [marks[0], Mark(WIDTH, until)]
        return Lane(row.name, marks, dense, f"over {_MOST_MARKS}")
    return Lane(row.name, marks, dense, "once" if len(times) == 1 else f"{len(times)} times")


def _x(at: datetime, now: datetime) -> float:
    return round(min(WIDTH, max(0.0, (at - now).total_seconds() / 60)), 1)
