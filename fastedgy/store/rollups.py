"""Rollups: what the workers counted, by minute, by hour and for all time.

Each worker writes the absolute counts of its newest minute, of its hour and of its whole life,
every few seconds, in one statement: repeating it after a lost answer changes nothing, and nobody
ever counts the table. Old minutes are dropped (their hours are there), old hours are merged over
the workers and dropped in the end, and the all-time rows of forgotten workers are merged into one:
the sum over all-time rows never goes backwards.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from uuid import UUID

from asyncpg import Connection

from fastedgy.models.tables import Tables
from fastedgy.store.statements import Statement

MINUTE, HOUR, EVER = 60, 3600, 0
"""The spans of a row, in seconds."""
EVERY_NAME = ""
"""In place of a name: all names of the queue together, so that a history need not add them up."""
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
FORGOTTEN = UUID(int=0)
"""Stands for the workers that are no more."""

BOUNDS = tuple(0.0001 * 2 ** (step / 4) for step in range(121))
"""Upper bounds of the histograms' buckets in seconds: from 0.1 ms to 30 hours, four to the
doubling. One more bucket holds what is longer."""
BUCKETS = len(BOUNDS) + 1

KEEP_MINUTES = 12 * 3600.0
"""Seconds for which rows of minutes are kept."""
MERGE_AFTER = 24 * 3600.0
"""Seconds after which the hours of all workers become one."""


@dataclass(slots=True)
class Tally:
    """How tasks ended: counts, the seconds that those done took, and histograms of how long they
    took and how long all of them had waited.
    """

    done: int = 0
    failed: int = 0
    cancelled: int = 0
    retried: int = 0
    run_seconds: float = 0.0
    runs: list[int] = field(default_factory=lambda: [0] * BUCKETS)
    waits: list[int] = field(default_factory=lambda: [0] * BUCKETS)

    def add(self, other: Tally) -> None:
        """Count what another has counted, too."""
        self.done += other.done
        self.failed += other.failed
        self.cancelled += other.cancelled
        self.retried += other.retried
        self.run_seconds += other.run_seconds
        self.runs = [mine + its for mine, its in zip(self.runs, other.runs, strict=True)]
        self.waits = [mine + its for mine, its in zip(self.waits, other.waits, strict=True)]


@dataclass(frozen=True, slots=True)
class RollupKey:
    """Which row of a worker's: the span in seconds, its start, queue and name."""

    seconds: int
    start: datetime
    queue: str
    name: str


def bucket(seconds: float) -> int:
    """The index of the bucket that a duration belongs to."""
    return bisect_left(BOUNDS, seconds)


def quantile(histogram: Sequence[int], share: float) -> float | None:
    """The duration in seconds that `share` (0 to 1) of those counted do not exceed.

    Within a bucket they are taken to lie evenly: right to a few percent, at worst to 19 %, where
    all of them took the same. None for an empty histogram.
    """
    total = sum(histogram)
    if not total:
        return None
    wanted = share * total
    seen = 0
    for index, number in enumerate(histogram):
        if number and seen + number >= wanted:
            low = BOUNDS[index - 1] if index else 0.0
            high = BOUNDS[index] if index < len(BOUNDS) else BOUNDS[-1]
            return low + (high - low) * max(0.0, wanted - seen) / number
        seen += number
    return BOUNDS[-1]


CLOCK = "SELECT extract(epoch FROM clock_timestamp())::float8"

WRITE = Statement("""
WITH written AS (
    INSERT INTO $rollups (worker_id, seconds, minute, queue, name, done, failed, cancelled, retried,
                          run_seconds, run_histogram, wait_histogram)
    SELECT $1, each.seconds, each.minute, each.queue, each.name, each.done, each.failed,
           each.cancelled, each.retried, each.run_seconds, each.runs::bigint[],
           each.waits::bigint[]
      FROM unnest($2::integer[], $3::timestamptz[], $4::text[], $5::text[], $6::bigint[],
                  $7::bigint[], $8::bigint[], $9::bigint[], $10::float8[], $11::text[],
                  $12::text[])
           AS each (seconds, minute, queue, name, done, failed, cancelled, retried, run_seconds,
                    runs, waits)
        ON CONFLICT (seconds, minute, worker_id, queue, name) DO UPDATE
       SET done = excluded.done, failed = excluded.failed, cancelled = excluded.cancelled,
           retried = excluded.retried, run_seconds = excluded.run_seconds,
           run_histogram = excluded.run_histogram, wait_histogram = excluded.wait_histogram
)
SELECT extract(epoch FROM clock_timestamp())::float8
""")


async def clock(connection: Connection) -> float:
    """The database's clock, in seconds since 1970."""
    seconds: float = await connection.fetchval(CLOCK)
    return seconds


async def write(
    connection: Connection,
    tables: Tables,
    worker_id: UUID,
    rows: Iterable[tuple[RollupKey, Tally]],
) -> float:
    """Write a worker's counts, in place of those that it wrote before; the database's clock."""
    pairs = list(rows)
    keys = [key for key, _ in pairs]
    tallies = [tally for _, tally in pairs]
    seconds: float = await connection.fetchval(
        WRITE[tables],
        worker_id,
        [key.seconds for key in keys],
        [key.start for key in keys],
        [key.queue for key in keys],
        [key.name for key in keys],
        [tally.done for tally in tallies],
        [tally.failed for tally in tallies],
        [tally.cancelled for tally in tallies],
        [tally.retried for tally in tallies],
        [tally.run_seconds for tally in tallies],
        [_array(tally.runs) for tally in tallies],
        [_array(tally.waits) for tally in tallies],
    )
    return seconds


def _array(histogram: list[int]) -> str:
    """As Postgres writes an array, without the zeros at the end."""
    used = max((index for index, number in enumerate(histogram, 1) if number), default=0)
    return f"{{{','.join(map(str, histogram[:used]))}}}"


def sums(column: str) -> str:
    """SQL: the histograms of a group added up. A fixed list of sums, since joining each row with
    its own buckets takes three times as long.
    """
    parts = (f"coalesce(sum({column}[{place}]), 0)::bigint" for place in range(1, BUCKETS + 1))
    return f"ARRAY [{', '.join(parts)}]"


_MERGE = """
WITH old AS (
    DELETE FROM $rollups AS rollup
     WHERE $which AND worker_id <> '00000000-0000-0000-0000-000000000000'
 RETURNING *
), merged AS (
    INSERT INTO $rollups AS rollup (worker_id, seconds, minute, queue, name, done, failed,
                                    cancelled, retried, run_seconds, run_histogram, wait_histogram)
    SELECT '00000000-0000-0000-0000-000000000000', seconds, minute, queue, name,
           sum(done)::bigint, sum(failed)::bigint, sum(cancelled)::bigint, sum(retried)::bigint,
           sum(run_seconds), $runs, $waits
      FROM old GROUP BY seconds, minute, queue, name
        ON CONFLICT (seconds, minute, worker_id, queue, name) DO UPDATE
       SET done = rollup.done + excluded.done, failed = rollup.failed + excluded.failed,
           cancelled = rollup.cancelled + excluded.cancelled,
           retried = rollup.retried + excluded.retried,
           run_seconds = rollup.run_seconds + excluded.run_seconds,
           run_histogram = ARRAY (
               SELECT coalesce(mine, 0) + coalesce(its, 0)
                 FROM unnest(rollup.run_histogram, excluded.run_histogram)
                      WITH ORDINALITY AS pair (mine, its, place) ORDER BY place),
           wait_histogram = ARRAY (
               SELECT coalesce(mine, 0) + coalesce(its, 0)
                 FROM unnest(rollup.wait_histogram, excluded.wait_histogram)
                      WITH ORDINALITY AS pair (mine, its, place) ORDER BY place)
)
SELECT count(*)::integer FROM old
"""
_SUMS = {"runs": sums("run_histogram"), "waits": sums("wait_histogram")}
MERGE_HOURS = Statement(
    _MERGE,
    which="seconds = 3600 AND minute < statement_timestamp() - $1 * interval '1 second'",
    **_SUMS,
)
# A worker that was declared lost may yet come back and write; one whose row is gone does not.
MERGE_WORKERS = Statement(
    _MERGE,
    which="seconds = 0 AND NOT EXISTS (SELECT FROM $workers AS worker "
    "WHERE worker.id = rollup.worker_id)",
    **_SUMS,
)
DROP_OLD = Statement("""
DELETE FROM $rollups
 WHERE (seconds = 60 AND minute < statement_timestamp() - $1 * interval '1 second')
    OR (seconds = 3600 AND minute < statement_timestamp() - $2 * interval '1 second')
""")


async def tidy(connection: Connection, tables: Tables, *, keep_hours: float) -> None:
    """Merge and drop what is old: minutes after half a day, hours after `keep_hours` seconds.

    Workers that do it at once wait for each other's rows and find nothing left.
    """
    await connection.execute(DROP_OLD[tables], KEEP_MINUTES, keep_hours)
    await connection.execute(MERGE_HOURS[tables], MERGE_AFTER)
    await connection.execute(MERGE_WORKERS[tables])
