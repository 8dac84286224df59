"""Local times as instants, and cron expressions in a time zone.

One rule for both changes of the clock: a local time that does not exist is the first instant after
the gap, one that exists twice is the first of the two. The cron library therefore sees local times
without a zone only; it has rules of its own for those with one.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

from fastedgy.errors import InvalidSchedule

_SECOND = timedelta(seconds=1)
_SHORT = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}


@lru_cache(256)
def zone(name: str) -> ZoneInfo:
    """The time zone of that name. Raises InvalidSchedule."""
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):  # not there, not a name, a folder
        raise InvalidSchedule(
            f"timezone={name!r} is no time zone; give a name such as UTC or Europe/Paris."
        ) from None


def instant(local: datetime, where: ZoneInfo) -> datetime:
    """The moment (in UTC) at which a clock in that zone first shows `local` or something later."""
    first = local.replace(tzinfo=where, fold=0).astimezone(UTC)
    if first.astimezone(where).replace(tzinfo=None, fold=0) == local:
        return first
    # In a gap: by the offset before the change it comes too late, by the one after it too early.
    late, early = first, local.replace(tzinfo=where, fold=1).astimezone(UTC)
    offset = early.astimezone(where).utcoffset()
    while late - early > _SECOND:
        middle = early + timedelta(seconds=(late - early) // _SECOND // 2)
        if middle.astimezone(where).utcoffset() == offset:
            early = middle
        else:
            late = middle
    return late


class Cron:
    """A cron expression in a zone: five fields, or six with seconds in front, or `@daily` etc."""

    def __init__(self, text: str, timezone: str) -> None:
        """Raises InvalidSchedule for what is no cron expression, or never comes."""
        self.zone = zone(timezone)
        self.fields = _SHORT.get(text.strip().lower(), text)
        try:
            # From a year after which all kinds of years follow.
            next(CronSim(self.fields, datetime(2000, 1, 1)))
        except (CronSimError, StopIteration, ValueError) as error:
            reason = str(error) or "it never comes"
            raise InvalidSchedule(
                f"cron={text!r} makes no sense: {reason}. The fields are minute, hour, day of the "
                "month, month and day of the week, as in '30 2 * * mon-fri'."
            ) from None

    def after(self, moment: datetime) -> Iterator[datetime]:
        """The moments (UTC) at which it comes, from the first after `moment` on."""
        local = moment.astimezone(self.zone).replace(tzinfo=None, fold=0)
        last = moment
        for time in _forward(self.fields, local):
            found = instant(time, self.zone)
            # Not what the clock showed an hour ago, nor a second time from the same gap.
            if found > last:
                last = found
                yield found

    def latest(self, moment: datetime) -> datetime | None:
        """The last time that it came until `moment`, which counts."""
        local = moment.astimezone(self.zone)
        begin = local.replace(tzinfo=None, fold=0) + _SECOND
        if local.fold:  # the clock has shown later times already
            begin += (local.replace(fold=0).utcoffset() or timedelta()) - (
                local.utcoffset() or timedelta()
            )
        for time in _backward(self.fields, begin):
            found = instant(time, self.zone)
            if found <= moment:
                return found
        return None


@lru_cache(1024)
def cron(text: str, timezone: str) -> Cron:
    """A cron expression in a zone, worked out once. Raises InvalidSchedule."""
    return Cron(text, timezone)


def _forward(fields: str, local: datetime) -> Iterator[datetime]:
    try:
        yield from CronSim(fields, local)
    except OverflowError:  # the end of time
        return


def _backward(fields: str, local: datetime) -> Iterator[datetime]:
    try:
        yield from CronSim(fields, local, reverse=True)
    except OverflowError:
        return
