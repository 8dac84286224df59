"""When a schedule is due: a cron expression, a period, or one moment; pure functions of time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import takewhile
from typing import Any

from fastedgy.errors import InvalidSchedule
from fastedgy.scheduler.walltime import cron, instant, zone

SHORTEST = 0.1
"""Seconds of the shortest period."""
LONGEST = 100 * 365 * 86_400.0
_TICK = timedelta(microseconds=1)
_TOLERATED = timedelta(seconds=60)
"""How far `at=` may lie in the past when it is first seen: clocks differ, and code takes time."""


@dataclass(frozen=True, slots=True)
class Trigger:
    """Exactly one of `cron`, `every` (seconds) and `at`, and the window in which it counts.

    `anchor` is where a period without `start` is counted from: the moment at which the schedule was
    first seen. All moments carry a time zone.
    """

    cron: str | None = None
    every: float | None = None
    at: datetime | None = None
    timezone: str = "UTC"
    start: datetime | None = None
    end: datetime | None = None
    anchor: datetime | None = None

    def __post_init__(self) -> None:
        zone(self.timezone)
        given = [name for name in ("cron", "every", "at") if getattr(self, name) is not None]
        if len(given) != 1:
            raise InvalidSchedule(
                f"A schedule has one of cron=, every= and at=; {' and '.join(given) or 'none'} was "
                "given."
            )
        if self.cron is not None:
            cron(self.cron, self.timezone)
        if self.every is not None and not SHORTEST <= self.every <= LONGEST:
            raise InvalidSchedule(
                f"every={self.every:g} s makes no sense: it must be between {SHORTEST} s and 100 "
                "years."
            )
        if self.start is not None and self.end is not None and self.end < self.start:
            raise InvalidSchedule("end= lies before start=.")

    def __str__(self) -> str:
        if self.cron is not None:
            return f"cron {self.cron} ({self.timezone})"
        if self.every is not None:
            return f"every {timedelta(seconds=self.every)}"
        at = self.at or datetime.now(UTC)
        return f"at {at.astimezone(zone(self.timezone)):%Y-%m-%d %H:%M:%S} ({self.timezone})"

    def after(self, moment: datetime) -> Iterator[datetime]:
        """The moments (UTC) at which it is due, from the first after `moment` on."""
        if self.start is not None:
            moment = max(moment, self.start - _TICK)
        due = self._after(moment)
        end = self.end
        return due if end is None else takewhile(lambda found: found <= end, due)

    def next(self, moment: datetime) -> datetime | None:
        """The first moment after `moment` at which it is due; None if there is none."""
        return next(self.after(moment), None)

    def latest(self, moment: datetime) -> datetime | None:
        """The last moment until `moment` (included) at which it was due; None if there is none."""
        if self.end is not None:
            moment = min(moment, self.end)
        found: datetime | None
        if self.cron is not None:
            found = cron(self.cron, self.timezone).latest(moment)
        elif self.every is not None:
            origin, first, period = self._grid()
            number = (moment - origin) // period
            found = origin + number * period if number >= first else None
        else:
            found = self.at if self.at is not None and self.at <= moment else None
        if found is None or (self.start is not None and found < self.start):
            return None
        return found

    def first(self, now: datetime) -> datetime | None:
        """When it is due first if it is first seen, or seen again, `now`."""
        if self.at is not None and self.at > now - _TOLERATED:
            return self.next(self.at - _TICK)
        return self.next(now)

    def _after(self, moment: datetime) -> Iterator[datetime]:
        if self.cron is not None:
            yield from cron(self.cron, self.timezone).after(moment)
        elif self.every is not None:
            origin, first, period = self._grid()
            number = max(first, (moment - origin) // period + 1)
            while True:
                yield origin + number * period
                number += 1
        elif self.at is not None and self.at > moment:
            yield self.at

    def _grid(self) -> tuple[datetime, int, timedelta]:
        """Where the period is counted from, the number of the first moment, and the period."""
        period = timedelta(seconds=self.every or 1)
        if self.start is not None:
            return self.start, 0, period
        if self.anchor is None:
            raise InvalidSchedule("A period without start= needs an anchor to be counted from.")
        return self.anchor, 1, period


def seconds(value: Any, word: str) -> float:
    """A span of time as seconds, from a timedelta or a number. Raises InvalidSchedule."""
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    raise InvalidSchedule(f"{word}={value!r} is no span of time; give seconds or a timedelta.")


def moment(value: Any, word: str, timezone: str) -> datetime:
    """A moment in UTC. Without a zone it is a local time of `timezone`. Raises InvalidSchedule."""
    if not isinstance(value, datetime):
        raise InvalidSchedule(f"{word}={value!r} is no moment; give a datetime.")
    if value.utcoffset() is None:
        return instant(value.replace(tzinfo=None, fold=0), zone(timezone))
    return value.astimezone(UTC)
