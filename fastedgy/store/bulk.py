"""What people do to many tasks at once, besides cancelling and retrying them (see `actions`)."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any
from uuid import UUID

from asyncpg import Connection, UniqueViolationError

from fastedgy.models.tables import Tables
from fastedgy.store import actions, trees
from fastedgy.store.deadlocks import in_transaction
from fastedgy.store.maintain import DELETED, NOT_NEEDED
from fastedgy.store.notify import Channels, ring
from fastedgy.store.statements import LANE, Statement

# Workers remember how far they have come in each line, so a task that comes into another line goes
# to its end; otherwise it would be found late.
_CHANGE = f"""
WITH held AS (
    SELECT id FROM $tasks
     WHERE id = ANY ($1::uuid[]) AND state IN ('scheduled', 'waiting', 'enqueued')
       AND $column <> $2
     ORDER BY id
       FOR NO KEY UPDATE
)
UPDATE $tasks AS task
   SET $column = $2,
       date_enqueued = CASE WHEN task.state = 'enqueued' THEN clock_timestamp()
                            ELSE task.date_enqueued END
  FROM held
 WHERE task.id = ANY (ARRAY [held.id]) AND task.state IN ('scheduled', 'waiting', 'enqueued')
RETURNING task.id, task.state, task.queue, {LANE}
"""
REPRIORITISE = Statement(_CHANGE, column="priority")
MOVE = Statement(_CHANGE, column="queue")

DELETE = Statement(f"""
WITH old AS (
    SELECT id FROM $tasks AS task
     WHERE id = ANY ($1::uuid[]) AND state IN ('done', 'failed', 'cancelled') AND {NOT_NEEDED}
     ORDER BY id
       FOR UPDATE
), {DELETED}
SELECT id FROM gone
""")

# `state || ''` keeps the planner off the index on cancelled tasks: the ids are what is known. What
# has to wait for a parent, too, is retried like all others, and put off again by LATER.
RESTORE = Statement("""
UPDATE $tasks AS task
   SET state = 'scheduled', waiting_on = 0, cancel_requested = false, date_ended = NULL,
       error_type = NULL, error_message = NULL, error_traceback = NULL
 WHERE id = ANY ($1::uuid[]) AND state || '' = 'cancelled' AND date_due > clock_timestamp()
   AND NOT EXISTS (
       SELECT FROM $links AS link JOIN $tasks AS parent ON parent.id = link.parent_id
        WHERE link.child_id = task.id AND parent.state <> 'done'
          AND NOT (task.on_parent_failure = 'run' AND parent.state IN ('failed', 'cancelled')))
RETURNING id
""")

DUES = Statement("""
SELECT id, date_due FROM $tasks
 WHERE id = ANY ($1::uuid[]) AND state || '' = 'cancelled' AND date_due > clock_timestamp()
""")

LATER = Statement("""
UPDATE $tasks AS task SET date_due = due.at
  FROM unnest($1::uuid[], $2::timestamptz[]) AS due (id, at)
 WHERE task.id = ANY (ARRAY [due.id]) AND task.state || '' = 'waiting'
""")


async def reprioritise(
    connection: Connection, tables: Tables, ids: Sequence[UUID], priority: int, channels: Channels
) -> list[UUID]:
    """Give tasks that have not started another priority; those that got it."""
    return await _change(connection, tables, REPRIORITISE, ids, priority, channels)


async def move(
    connection: Connection, tables: Tables, ids: Sequence[UUID], queue: str, channels: Channels
) -> list[UUID]:
    """Put tasks that have not started into another queue; those that were put there."""
    return await _change(connection, tables, MOVE, ids, queue, channels)


@in_transaction
async def _change(
    connection: Connection,
    tables: Tables,
    statement: Statement,
    ids: Sequence[UUID],
    value: Any,
    channels: Channels,
) -> list[UUID]:
    rows = await connection.fetch(statement[tables], list(ids), value)
    lanes = {(row["queue"], row["priority"]) for row in rows if row["state"] == "enqueued"}
    await ring(connection, channels.tasks, lanes)
    return [row["id"] for row in rows]


@in_transaction
async def delete(connection: Connection, tables: Tables, ids: Sequence[UUID]) -> list[UUID]:
    """Delete ended tasks with their logs; those that are gone."""
    return [row["id"] for row in await connection.fetch(DELETE[tables], list(ids))]


@in_transaction
async def restore(
    connection: Connection, tables: Tables, ids: Sequence[UUID], channels: Channels
) -> list[UUID]:
    """Take cancellations back: scheduled again what is not due yet, the others in the line.

    With what was cancelled because of them. Those whose unique key another task holds by now stay.
    """
    back = await _reschedule(connection, tables, ids)
    concerned = await trees.broken(connection, tables, ids)
    dues = await connection.fetch(DUES[tables], concerned)
    again = await actions.retry(connection, tables, ids, tree=True, channels=channels)
    if dues:
        await connection.execute(
            LATER[tables], [row["id"] for row in dues], [row["date_due"] for row in dues]
        )
    return [*back, *again]


async def _reschedule(connection: Connection, tables: Tables, ids: Sequence[UUID]) -> list[UUID]:
    try:
        async with connection.transaction():
            rows = await connection.fetch(RESTORE[tables], list(ids))
    except UniqueViolationError:
        rows = []
        for id in ids:
            with suppress(UniqueViolationError):
                async with connection.transaction():
                    rows += await connection.fetch(RESTORE[tables], [id])
    return [row["id"] for row in rows]
