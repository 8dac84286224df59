"""Figures: states, names, the last hours. From counts that are capped and from the rollups."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from asyncpg import Connection

from fastedgy.admin.types import NameStats, Point, StateCounts, Stats
from fastedgy.errors import InvalidOption
from fastedgy.models.tables import Tables
from fastedgy.store import counts, history
from fastedgy.store.rollups import HOUR, MINUTE, Tally, quantile

POINTS_OF_MINUTES = 6 * 60
"""A history of up to so many minutes is in minutes, a longer one in hours."""
LONGEST = 366 * 24 * 60
"""Minutes that a history may have."""


async def count_states(connection: Connection, tables: Tables) -> StateCounts:
    """How many tasks are in each state."""
    return await counts.count_states(connection, tables)


async def names(
    connection: Connection, tables: Tables, *, hours: float, limit: int = 200
) -> list[NameStats]:
    """How the runs of each name ended in the last hours, the most frequent names first."""
    _refuse_empty(hours)
    found = await history.names(connection, tables, seconds=hours * HOUR, limit=limit)
    return [_name_stats(name, tally) for name, tally in found]


async def get_stats(connection: Connection, tables: Tables, *, hours: float) -> Stats:
    """The last hours: all names together and each."""
    _refuse_empty(hours)
    tally = await history.all_names(connection, tables, seconds=hours * HOUR)
    whole = _name_stats("", tally)
    states = await count_states(connection, tables)
    return Stats(
        hours=hours,
        done=whole.done,
        failed=whole.failed,
        retried=whole.retried,
        cancelled=whole.cancelled,
        running=states.counts["doing"],
        duration_ms_mean=whole.duration_ms_mean,
        duration_ms_p50=whole.duration_ms_p50,
        duration_ms_p95=whole.duration_ms_p95,
        duration_ms_p99=whole.duration_ms_p99,
        wait_ms_p50=whole.wait_ms_p50,
        wait_ms_p95=whole.wait_ms_p95,
        wait_ms_p99=whole.wait_ms_p99,
        states=states,
        names=await names(connection, tables, hours=hours),
    )


async def throughput(
    connection: Connection,
    tables: Tables,
    *,
    minutes: int,
    name: str | None = None,
    queue: str | None = None,
) -> Sequence[Point]:
    """The history in steps of a minute or an hour, the oldest first, without gaps."""
    if not 1 <= minutes <= LONGEST:
        raise InvalidOption(f"A history has 1 to {LONGEST:,} minutes, not {minutes:,}.")
    span = MINUTE if minutes <= POINTS_OF_MINUTES else HOUR
    now = await history.now(connection)
    last = _floor(now, span)
    steps = -(-minutes * MINUTE // span)
    since = last - timedelta(seconds=span * (steps - 1))
    found = await history.points(connection, tables, since=since, span=span, name=name, queue=queue)
    moments = [since + timedelta(seconds=span * step) for step in range(steps)]
    return [_point(moment, span, found.get(moment, Tally())) for moment in moments]


def _refuse_empty(hours: float) -> None:
    if not 0 < hours <= LONGEST / 60:
        raise InvalidOption(
            f"hours must be more than 0 and at most {LONGEST // 60:,}, not {hours}."
        )


def _floor(moment: datetime, span: int) -> datetime:
    seconds = int(moment.timestamp())
    return datetime.fromtimestamp(seconds - seconds % span, moment.tzinfo)


def _ms(histogram: Sequence[int], share: float) -> float | None:
    seconds = quantile(histogram, share)
    return None if seconds is None else round(seconds * 1000, 3)


def _mean(tally: Tally) -> float | None:
    return round(1000 * tally.run_seconds / tally.done, 3) if tally.done else None


def _name_stats(name: str, tally: Tally) -> NameStats:
    return NameStats(
        name=name,
        done=tally.done,
        failed=tally.failed,
        retried=tally.retried,
        cancelled=tally.cancelled,
        duration_ms_mean=_mean(tally),
        duration_ms_p50=_ms(tally.runs, 0.5),
        duration_ms_p95=_ms(tally.runs, 0.95),
        duration_ms_p99=_ms(tally.runs, 0.99),
        wait_ms_p50=_ms(tally.waits, 0.5),
        wait_ms_p95=_ms(tally.waits, 0.95),
        wait_ms_p99=_ms(tally.waits, 0.99),
    )


def _point(moment: datetime, span: int, tally: Tally) -> Point:
    return Point(
        minute=moment,
        seconds=span,
        done=tally.done,
        failed=tally.failed,
        retried=tally.retried,
        cancelled=tally.cancelled,
        run_ms_mean=_mean(tally),
        run_ms_p50=_ms(tally.runs, 0.5),
        run_ms_p95=_ms(tally.runs, 0.95),
        wait_ms_p50=_ms(tally.waits, 0.5),
        wait_ms_p95=_ms(tally.waits, 0.95),
        wait_ms_p99=_ms(tally.waits, 0.99),
    )
