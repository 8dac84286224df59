"""Events: what tasks wait for. Sent once, kept for a while, seen by all who wait now or later.

A wait is a row of the steps, and its task is `scheduled` in the meantime. Waking it is a statement
of its own, after the event is committed: it locks nothing that an application's transaction holds,
and may be repeated. What two parties that miss each other by a moment leave behind is found by
the look after an outcome (`wake_tasks`), by the workers' regular looks (`wake_recent`), and by the
task itself, which looks once a day.
"""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from asyncpg import Connection

from fastedgy.models.tables import Tables
from fastedgy.store.claim import Lane
from fastedgy.store.statements import LANE, Statement

TOLD = "event "
"""What a message of the control channel begins with that names an event."""

# The first one counts: who waits for it twice is to find the same.
SEND = Statement("""
WITH sent AS (
    INSERT INTO $events (key, payload) VALUES ($1, $2::jsonb)
    ON CONFLICT (key) DO NOTHING
 RETURNING key
), told AS MATERIALIZED (
    SELECT pg_notify($3::text, $4::text) FROM sent WHERE $3::text IS NOT NULL
)
SELECT EXISTS (SELECT FROM sent), (SELECT count(*) FROM told)
""")

# A row that somebody holds is skipped: the next look finds it. With an error it is `scheduled` for
# a retry, whose time is not to be cut short.
_WAKE = """
WITH woken AS (
    UPDATE $tasks AS task
       SET state = 'enqueued', date_enqueued = clock_timestamp(), date_due = NULL
     WHERE id = ANY (ARRAY (
           SELECT waiting.id FROM $tasks AS waiting
            WHERE waiting.id = ANY (ARRAY ($waiting))
              AND waiting.state || '' = 'scheduled' AND waiting.error_type IS NULL
            ORDER BY waiting.id
              FOR UPDATE SKIP LOCKED))
 RETURNING queue, $lane
)
SELECT DISTINCT queue, priority FROM woken
"""

WAKE_TASKS = Statement(
    _WAKE,
    lane=LANE,
    waiting="""
        SELECT step.task_id FROM $steps AS step
         -- Each event is looked up: a plan must not go through all events instead.
         CROSS JOIN LATERAL (SELECT FROM $events WHERE key = step.event LIMIT 1) AS event
         -- By the primary key, and not by the index of all that wait.
         WHERE step.task_id = ANY ($1::uuid[]) AND step.state || '' = 'waiting'
    """,
)

WAKE_FOR = Statement(
    _WAKE,
    lane=LANE,
    waiting="""
        SELECT step.task_id FROM $steps AS step JOIN $events AS event ON event.key = step.event
         WHERE step.state = 'waiting' AND step.event IS NOT NULL AND step.event = $1
    """,
)

WAKE_RECENT = Statement(
    _WAKE,
    lane=LANE,
    waiting="""
        SELECT step.task_id FROM $steps AS step
         WHERE step.state = 'waiting' AND step.event IS NOT NULL
           AND step.event = ANY (ARRAY (
               SELECT event.key FROM $events AS event
                WHERE event.date_sent > statement_timestamp() - $1 * interval '1 second'))
    """,
)

PRUNE = Statement("""
DELETE FROM $events WHERE key = ANY (ARRAY (
    SELECT key FROM $events
     WHERE date_sent < statement_timestamp() - $1 * interval '1 second'
     ORDER BY date_sent LIMIT $2
       FOR UPDATE SKIP LOCKED))
""")


async def send(
    connection: Connection, tables: Tables, key: str, payload: str, *, channel: str | None
) -> bool:
    """Keep an event, and tell the workers by `channel` once it is committed.

    False: it was sent before, and its first payload holds.
    """
    row = await connection.fetchrow(SEND[tables], key, payload, channel, f"{TOLD}{key}")
    return bool(row[0])


async def wake_tasks(connection: Connection, tables: Tables, ids: Sequence[UUID]) -> set[Lane]:
    """Put those of these tasks into the line whose event was sent; their lanes."""
    return {(row[0], row[1]) for row in await connection.fetch(WAKE_TASKS[tables], list(ids))}


async def wake_for(connection: Connection, tables: Tables, key: str) -> set[Lane]:
    """Put the tasks into the line that wait for this event, if it was sent; their lanes."""
    return {(row[0], row[1]) for row in await connection.fetch(WAKE_FOR[tables], key)}


async def wake_recent(connection: Connection, tables: Tables, *, seconds: float) -> set[Lane]:
    """Put the tasks into the line whose event was sent in the last `seconds`; their lanes."""
    return {(row[0], row[1]) for row in await connection.fetch(WAKE_RECENT[tables], seconds)}


async def prune_events(
    connection: Connection, tables: Tables, *, older_than: float, limit: int = 1_000
) -> int:
    """Delete up to `limit` events that were sent more than `older_than` seconds ago."""
    status = await connection.execute(PRUNE[tables], older_than, limit)
    return int(status.rpartition(" ")[2])
