"""Reading the rollups: how the last minutes, hours and all time went."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from asyncpg import Connection

from fastedgy.models.tables import Tables
from fastedgy.store.rollups import EVERY_NAME, HOUR, MINUTE, Tally, sums
from fastedgy.store.statements import Statement

BY_MINUTES = 2 * HOUR
"""Up to so many seconds, the figures of names are taken from minutes, beyond from hours."""


@dataclass(frozen=True, slots=True)
class Total:
    """All that was ever counted of one name in one queue: never goes backwards."""

    queue: str
    name: str
    tally: Tally


_SUMS = f"""
    sum(done)::bigint AS done, sum(failed)::bigint AS failed, sum(cancelled)::bigint AS cancelled,
    sum(retried)::bigint AS retried, sum(run_seconds) AS run_seconds,
    {sums("run_histogram")} AS runs, {sums("wait_histogram")} AS waits
"""
# Up to a full span before the moment asked for: a span that it lies in is not left out.
_SPAN = "seconds = $1::integer AND minute > statement_timestamp() - $2 * interval '1 second'"
_EACH, _TOGETHER = f"{_SPAN} AND name <> ''", f"{_SPAN} AND name = ''"

NAMES = Statement(f"""
SELECT name, {_SUMS} FROM $rollups WHERE {_EACH}
 GROUP BY name ORDER BY sum(done) + sum(failed) + sum(retried) DESC, name LIMIT $3
""")
ALL = Statement(f"SELECT {_SUMS} FROM $rollups WHERE {_TOGETHER}")
POINTS = Statement(f"""
SELECT minute, {_SUMS} FROM $rollups
 WHERE seconds = $1::integer AND minute >= $2
   AND name = $3 AND ($4::text IS NULL OR queue = $4)
 GROUP BY minute ORDER BY minute
""")
QUEUES = Statement(f"""
SELECT queue, sum(done + failed + cancelled)::bigint AS ended FROM $rollups WHERE {_TOGETHER}
 GROUP BY queue
""")
TOTALS = Statement(f"""
SELECT queue, name, {_SUMS} FROM $rollups WHERE seconds = 0 AND name <> ''
 GROUP BY queue, name ORDER BY queue, name
""")
LAST_HOUR = Statement(f"""
SELECT coalesce(sum(done), 0)::bigint AS done, coalesce(sum(failed), 0)::bigint AS failed
  FROM $rollups WHERE {_TOGETHER}
""")
EVER_RUN = Statement("SELECT DISTINCT queue FROM $rollups WHERE seconds = 0")
NOW = "SELECT clock_timestamp()"


async def names(
    connection: Connection, tables: Tables, *, seconds: float, limit: int
) -> list[tuple[str, Tally]]:
    """What was counted of each name in the last `seconds`, the most frequent names first."""
    span = _span(seconds)
    rows = await _sums(connection, NAMES[tables], span, seconds + span, limit)
    return [(row["name"], _tally(row)) for row in rows]


async def all_names(connection: Connection, tables: Tables, *, seconds: float) -> Tally:
    """What was counted in the last `seconds`."""
    span = _span(seconds)
    [row] = await _sums(connection, ALL[tables], span, seconds + span)
    return _tally(row)


async def points(
    connection: Connection,
    tables: Tables,
    *,
    since: datetime,
    span: int,
    name: str | None = None,
    queue: str | None = None,
) -> dict[datetime, Tally]:
    """What was counted in each minute (`span` 60) or hour (3600) that anything was counted in."""
    rows = await _sums(connection, POINTS[tables], span, since, name or EVERY_NAME, queue)
    return {row["minute"]: _tally(row) for row in rows}


async def ended_by_queue(
    connection: Connection, tables: Tables, *, minutes: int
) -> dict[str, float]:
    """How many tasks of each queue ended, for each of the last whole `minutes` and the present."""
    rows = await connection.fetch(QUEUES[tables], MINUTE, float((minutes + 1) * MINUTE))
    return {row["queue"]: row["ended"] / minutes for row in rows}


async def queues_ever(connection: Connection, tables: Tables) -> set[str]:
    """The queues of which a task has ever ended."""
    return {row["queue"] for row in await connection.fetch(EVER_RUN[tables])}


async def totals(connection: Connection, tables: Tables) -> list[Total]:
    """All that was ever counted, by queue and name."""
    rows = await _sums(connection, TOTALS[tables])
    return [Total(row["queue"], row["name"], _tally(row)) for row in rows]


async def last_hour(connection: Connection, tables: Tables) -> dict[str, int]:
    """How many tasks were done and how many failed for good in the last hour, to the minute."""
    row = await connection.fetchrow(LAST_HOUR[tables], MINUTE, float(HOUR + MINUTE))
    return dict(row)


async def now(connection: Connection) -> datetime:
    """The time by the database's clock."""
    moment: datetime = await connection.fetchval(NOW)
    return moment


async def _sums(connection: Connection, text: str, *values: object) -> list[Any]:
    async with connection.transaction():
        # To compile hundreds of sums takes longer than to add them up, and so does planning them
        # again and again.
        await connection.execute(
            "SET LOCAL jit = off; SET LOCAL plan_cache_mode = force_generic_plan"
        )
        return list(await connection.fetch(text, *values))


def _span(seconds: float) -> int:
    return MINUTE if seconds <= BY_MINUTES else HOUR


def _tally(row: Any) -> Tally:
    return Tally(row["done"] or 0, row["failed"] or 0, row["cancelled"] or 0, row["retried"] or 0,
                 row["run_seconds"] or 0.0, row["runs"], row["waits"])  # fmt: skip
