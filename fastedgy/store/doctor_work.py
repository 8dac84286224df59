"""Work that does not get done: rows which the engine should have moved on, and has not.

Each count stops at `MOST`, so that a look at millions of rows stays cheap. Conditions are told by
`statement_timestamp()`: with `clock_timestamp()` no index could be used for them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from asyncpg import Connection

from fastedgy.models.tables import Tables
from fastedgy.store.conditions import DUE, GATED, READY, SUSPECT
from fastedgy.store.statements import Statement

MOST = 10_000

# From queue to queue, by the index of the lines and by that of the gates.
_WAITING = Statement(f"""
WITH RECURSIVE line AS (
    (SELECT queue FROM $tasks WHERE {READY} ORDER BY queue LIMIT 1)
    UNION ALL
    SELECT (SELECT queue FROM $tasks WHERE {READY} AND queue > line.queue ORDER BY queue LIMIT 1)
      FROM line WHERE line.queue IS NOT NULL
), gated AS (
    (SELECT queue FROM $tasks WHERE {GATED} ORDER BY queue LIMIT 1)
    UNION ALL
    SELECT (SELECT queue FROM $tasks WHERE {GATED} AND queue > gated.queue ORDER BY queue LIMIT 1)
      FROM gated WHERE gated.queue IS NOT NULL
), named AS (
    SELECT queue FROM line WHERE queue IS NOT NULL
    UNION SELECT queue FROM gated WHERE queue IS NOT NULL
    UNION SELECT queue FROM (SELECT queue FROM $tasks WHERE {SUSPECT} LIMIT {MOST}) AS suspect
)
SELECT named.queue,
       (SELECT count(*) FROM (
            SELECT FROM $tasks WHERE {READY} AND queue = named.queue LIMIT {MOST}) AS part)
     + (SELECT count(*) FROM (
            SELECT FROM $tasks WHERE {GATED} AND queue = named.queue LIMIT {MOST}) AS part)
     + (SELECT count(*) FROM (
            SELECT FROM $tasks WHERE {SUSPECT} AND queue = named.queue LIMIT {MOST}) AS part)
           AS tasks
  FROM named
 ORDER BY named.queue
""")
_PAUSED = Statement("""
SELECT name AS queue, date_changed, changed_by FROM $queues WHERE paused ORDER BY name
""")
_OVERDUE = Statement(f"""
SELECT count(*) AS tasks, extract(epoch FROM clock_timestamp() - min(date_due))::float8 AS seconds
  FROM (SELECT date_due FROM $tasks
         WHERE {DUE} AND date_due < statement_timestamp() - $1 * interval '1 second'
         ORDER BY date_due LIMIT {MOST}) AS overdue
""")
# They come back every few seconds, so those due soon are all of them.
_UNKNOWN = Statement(f"""
SELECT function, count(*) AS tasks, min(id::text)::uuid AS example, max(error_message) AS message
  FROM (SELECT id, function, error_type, error_message FROM $tasks
         WHERE state = 'scheduled' AND date_due < statement_timestamp() + interval '15 seconds'
         ORDER BY date_due LIMIT {MOST}) AS soon
 WHERE error_type = 'FunctionNotFound'
 GROUP BY function ORDER BY count(*) DESC, function
""")
_DOING = Statement(f"""
SELECT task.worker_id, count(*) AS tasks, min(task.id::text)::uuid AS example,
       worker.state, worker.server_name, worker.pid,
       extract(epoch FROM clock_timestamp() - worker.last_heartbeat)::float8 AS silent_for
  FROM (SELECT id, worker_id FROM $tasks WHERE state = 'doing' LIMIT {MOST}) AS task
  LEFT JOIN $workers AS worker ON worker.id = task.worker_id
 WHERE worker.id IS NULL OR worker.state NOT IN ('running', 'draining')
    OR worker.last_heartbeat < statement_timestamp() - $1 * interval '1 second'
 GROUP BY task.worker_id, worker.state, worker.server_name, worker.pid, worker.last_heartbeat
 ORDER BY count(*) DESC, task.worker_id
""")
_OVERTIME = Statement(f"""
SELECT count(*) AS tasks, min(id::text)::uuid AS example,
       max(extract(epoch FROM clock_timestamp() - date_started))::float8 AS seconds
  FROM (SELECT id, date_started, timeout FROM $tasks WHERE state = 'doing' LIMIT {MOST}) AS task
 WHERE date_started < statement_timestamp() - (coalesce(timeout, $1) + $2) * interval '1 second'
""")
_SUSPECTS = Statement(f"""
SELECT count(*) AS tasks, min(id::text)::uuid AS example,
       extract(epoch FROM clock_timestamp() - min(date_enqueued))::float8 AS seconds
  FROM (SELECT id, date_enqueued FROM $tasks
         WHERE {SUSPECT} AND date_enqueued < statement_timestamp() - $1 * interval '1 second'
         ORDER BY date_enqueued LIMIT {MOST}) AS suspect
""")
# A waiting task is let go by the end of a parent that has not ended. Where there is none, nothing
# will let it go: forged rows, or a parent deleted by other hands.
_FORSAKEN = Statement(f"""
SELECT count(*) AS tasks, min(id::text)::uuid AS example
  FROM (SELECT id FROM $tasks WHERE state = 'waiting' ORDER BY id LIMIT {MOST}) AS task
  LEFT JOIN LATERAL (
       SELECT true AS there FROM $links AS link JOIN $tasks AS parent ON parent.id = link.parent_id
        WHERE link.child_id = task.id AND NOT link.settled
          AND parent.state NOT IN ('done', 'failed', 'cancelled')
        LIMIT 1  -- keeps the planner from reading all links, of which there may be millions
  ) AS held ON true
 WHERE held.there IS NULL
""")
_OLDEST_ENDED = Statement("""
SELECT state, extract(epoch FROM clock_timestamp() - min(date_ended))::float8 AS age
  FROM (SELECT date_ended, state FROM $tasks ORDER BY id LIMIT 1000) AS oldest
 WHERE state IN ('done', 'failed', 'cancelled')
 GROUP BY state
""")
_SCHEDULES = Statement("""
SELECT name, error, extract(epoch FROM clock_timestamp() - next_due)::float8 AS late
  FROM $schedules
 WHERE error IS NOT NULL
    OR (NOT paused AND next_due < statement_timestamp() - $1 * interval '1 second')
 ORDER BY name LIMIT 100
""")
# Ids are the time at which their producer, or the starter of a worker, made them.
_STAMP = "('x' || substr(replace(id::text, '-', ''), 1, 12))::bit(48)::bigint / 1000.0"
_CLOCKS = Statement(f"""
SELECT 'tasks' AS made, '' AS server, max(ahead) AS ahead FROM (
    SELECT ({_STAMP} - extract(epoch FROM date_created))::float8 AS ahead
      FROM (SELECT id, date_created FROM $tasks ORDER BY id DESC LIMIT 1000) AS newest
     WHERE substr(id::text, 15, 1) = '7') AS task
UNION ALL
SELECT 'workers', server_name, ({_STAMP} - extract(epoch FROM date_started))::float8
  FROM $workers WHERE state IN ('running', 'draining') AND substr(id::text, 15, 1) = '7'
""")


@dataclass(frozen=True, slots=True)
class WaitingQueue:
    """A queue with due tasks. `tasks` counts up to MOST of each kind."""

    queue: str
    tasks: int


@dataclass(frozen=True, slots=True)
class PausedQueue:
    """A queue from which nothing is taken."""

    queue: str
    date_changed: datetime
    changed_by: str | None


@dataclass(frozen=True, slots=True)
class Stuck:
    """So many tasks (up to MOST), one of them, and for how long the oldest of them, in seconds."""

    tasks: int
    example: UUID | None = None
    seconds: float | None = None


@dataclass(frozen=True, slots=True)
class UnknownFunction:
    """A function that was asked for and that no worker had."""

    function: str
    tasks: int
    example: UUID
    message: str | None


@dataclass(frozen=True, slots=True)
class Owner:
    """Who owns running tasks without being alive. All but the id is None for one without a row."""

    worker_id: UUID
    tasks: int
    example: UUID
    state: str | None
    server_name: str | None
    pid: int | None
    silent_for: float | None


@dataclass(frozen=True, slots=True)
class LateSchedule:
    """A schedule that could not fire (`error`), or is `late` by so many seconds."""

    name: str
    error: str | None
    late: float | None


@dataclass(frozen=True, slots=True)
class Clock:
    """By how many seconds a clock is ahead of the database's; negative: behind, or the row was
    written later than its id was made."""

    made: str
    server: str
    ahead: float | None


async def waiting_queues(connection: Connection, tables: Tables) -> list[WaitingQueue]:
    """The queues that have due tasks."""
    return [WaitingQueue(**row) for row in await connection.fetch(_WAITING[tables])]


async def paused_queues(connection: Connection, tables: Tables) -> list[PausedQueue]:
    """The queues that somebody paused."""
    return [PausedQueue(**row) for row in await connection.fetch(_PAUSED[tables])]


async def overdue(connection: Connection, tables: Tables, *, seconds: float) -> Stuck:
    """Scheduled tasks that should have been put into the line so long ago."""
    row = await connection.fetchrow(_OVERDUE[tables], seconds)
    return Stuck(row["tasks"], None, row["seconds"])


async def unknown_functions(connection: Connection, tables: Tables) -> list[UnknownFunction]:
    """Functions that tasks name and no worker that tried them has."""
    return [UnknownFunction(**row) for row in await connection.fetch(_UNKNOWN[tables])]


async def dead_owners(connection: Connection, tables: Tables, *, lease: float) -> list[Owner]:
    """Who owns running tasks, and has ended or been silent for a lease."""
    return [Owner(**row) for row in await connection.fetch(_DOING[tables], lease)]


async def overtime(
    connection: Connection, tables: Tables, *, default: float, grace: float
) -> Stuck:
    """Tasks that have run for longer than their timeout and `grace` seconds more."""
    return Stuck(**await connection.fetchrow(_OVERTIME[tables], default, grace))


async def old_suspects(connection: Connection, tables: Tables, *, seconds: float) -> Stuck:
    """Tasks that have waited so long to run alone."""
    return Stuck(**await connection.fetchrow(_SUSPECTS[tables], seconds))


async def forsaken(connection: Connection, tables: Tables) -> Stuck:
    """Waiting tasks without a parent that could let them go."""
    return Stuck(**await connection.fetchrow(_FORSAKEN[tables]))


async def oldest_ended(connection: Connection, tables: Tables) -> dict[str, float]:
    """How long ago the longest ended of the thousand oldest tasks has ended: seconds, by state."""
    return {row["state"]: row["age"] for row in await connection.fetch(_OLDEST_ENDED[tables])}


async def late_schedules(
    connection: Connection, tables: Tables, *, seconds: float
) -> list[LateSchedule]:
    """Schedules that could not fire, or should have so long ago."""
    return [LateSchedule(**row) for row in await connection.fetch(_SCHEDULES[tables], seconds)]


async def clocks(connection: Connection, tables: Tables) -> Sequence[Clock]:
    """The clocks of those that made the newest tasks, and of those that started workers."""
    return [Clock(**row) for row in await connection.fetch(_CLOCKS[tables])]
