"""What people do to tasks by hand: cancel, retry, clear."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from uuid import UUID

from asyncpg import Connection, Record, UniqueViolationError

from fastedgy.models.tables import Tables
from fastedgy.store.deadlocks import in_transaction
from fastedgy.store.family import doom, settle
from fastedgy.store.notify import SILENT, Channels, ring, tell
from fastedgy.store.statements import BELONGINGS, HISTORY, LANE, UNHELD, Statement
from fastedgy.store.trees import below, broken

# A task that runs is asked to stop; its worker hears of it at once, or with its next heartbeat.
CANCEL = Statement("""
WITH held AS (
    SELECT id, state FROM $tasks
     WHERE id = ANY ($1::uuid[]) AND state IN ('scheduled', 'waiting', 'enqueued', 'doing')
     ORDER BY id
       FOR NO KEY UPDATE
)
UPDATE $tasks AS task
   SET cancel_requested = true,
       state = CASE WHEN task.state = 'doing' THEN 'doing' ELSE 'cancelled' END,
       date_ended = CASE WHEN task.state = 'doing' THEN NULL ELSE clock_timestamp() END,
       error_type = 'TaskCancelled',
       error_message = $2::text
  FROM held
 WHERE task.id = held.id AND task.state IN ('scheduled', 'waiting', 'enqueued', 'doing')
RETURNING task.id, task.state, task.has_children, task.awaited
""")

# The same row with a fresh budget. Its parents are looked at again: one that came to nothing keeps
# it from running, unless it said that it runs all the same. What it had returned to stand for it is
# no parent: its function runs again, and returns another one. Not so in a tree ($2) that is retried
# as a whole: there it waits for that one, as for every parent.
RETRY = Statement(
    """
WITH held AS (
    SELECT id, on_parent_failure, CASE WHEN NOT $2 THEN stands_for END AS former FROM $tasks
     WHERE id = ANY ($1::uuid[]) AND state IN ('failed', 'cancelled')
     ORDER BY id
       FOR NO KEY UPDATE
), parent AS (
    SELECT link.child_id, link.parent_id, task.state, held.on_parent_failure
      FROM held JOIN $links AS link ON link.child_id = held.id
      JOIN $tasks AS task ON task.id = link.parent_id
     WHERE link.parent_id IS DISTINCT FROM held.former
     ORDER BY task.id
       FOR NO KEY UPDATE OF task
), judged AS (
    SELECT held.id,
           count(parent.parent_id)
               FILTER (WHERE parent.state NOT IN ('done', 'failed', 'cancelled'))::integer AS open,
           count(parent.parent_id) FILTER (WHERE parent.state IN ('failed', 'cancelled')
                                             AND (parent.on_parent_failure <> 'run' OR $2)) AS dead
      FROM held LEFT JOIN parent ON parent.child_id = held.id
     GROUP BY held.id
), parted AS (
    DELETE FROM $links AS link USING held JOIN judged ON judged.id = held.id
     WHERE link.child_id = held.id AND link.parent_id = held.former AND judged.dead = 0
), reopened AS (
    UPDATE $links AS link SET settled = false
      FROM parent JOIN judged ON judged.id = parent.child_id
     WHERE link.parent_id = parent.parent_id AND link.child_id = parent.child_id
       AND parent.state NOT IN ('done', 'failed', 'cancelled') AND judged.dead = 0
), marked AS (
    UPDATE $tasks AS task SET has_children = true
      FROM parent
     WHERE task.id = parent.parent_id AND (parent.state = 'doing' OR NOT task.has_children)
       AND parent.state NOT IN ('done', 'failed', 'cancelled')
)
UPDATE $tasks AS task
   SET state = CASE WHEN judged.open > 0 THEN 'waiting' ELSE 'enqueued' END,
       waiting_on = judged.open,
       attempt = 0, losses = 0, alone = false, run = task.run + 1, cancel_requested = false,
       date_enqueued = clock_timestamp(), date_due = NULL, date_ended = NULL,
       error_type = NULL, error_message = NULL, error_traceback = NULL, result = NULL,
       stands_for = CASE WHEN $2 THEN task.stands_for END,
       history = ($history)
                 || jsonb_build_object(
                      'run', task.run, 'attempt', task.attempt, 'what', task.state,
                      'worker_id', task.worker_id, 'started', task.date_started,
                      'ended', task.date_ended, 'error_type', task.error_type,
                      'error_message', left(task.error_message, 2000))
  FROM judged
 WHERE task.id = judged.id AND judged.dead = 0 AND task.state IN ('failed', 'cancelled')
RETURNING task.id, task.state, task.queue, $lane, task.stands_for
""",
    lane=LANE,
    history=HISTORY,
)

CLEAR = Statement("""
SELECT id FROM $tasks
 WHERE state IN ('enqueued', 'waiting', 'scheduled')
   AND (cardinality($1::text[]) = 0 OR queue = ANY ($1::text[]))
 ORDER BY id LIMIT $2
""")

DELETE = Statement(f"""
WITH gone AS (
    DELETE FROM $tasks WHERE id = ANY ($1::uuid[]) AND state = 'cancelled'
 RETURNING id, state, unique_key
), {BELONGINGS}, {UNHELD}
SELECT count(*)::integer FROM gone
""")


@dataclass(slots=True)
class Cancelled:
    """`ended` are cancelled now; `asked` were running and are told to stop."""

    ended: list[UUID] = field(default_factory=list)
    asked: list[UUID] = field(default_factory=list)


@in_transaction
async def cancel(
    connection: Connection,
    tables: Tables,
    ids: Sequence[UUID],
    *,
    reason: str | None = None,
    tree: bool = False,
    channels: Channels = SILENT,
) -> Cancelled:
    """Cancel tasks that have not ended, and by `on_parent_failure` what waits for them.

    `tree`: with everything below them, also what runs already or would run all the same (see
    `trees.below`). Those that have ended already, or do not exist, are left alone and not in the
    answer.
    """
    if tree:
        ids = await below(connection, tables, ids)
    cancelled = await _cancel(connection, tables, ids, reason or "Cancelled on request.", channels)
    await tell(connection, channels.control, cancelled.asked)
    return cancelled


async def _cancel(
    connection: Connection, tables: Tables, ids: Sequence[UUID], reason: str, channels: Channels
) -> Cancelled:
    rows = await connection.fetch(CANCEL[tables], list(ids), reason)
    ended = [row for row in rows if row["state"] == "cancelled"]
    awaited = [row["id"] for row in ended if row["awaited"]]
    dead = [row["id"] for row in ended if row["has_children"]]
    if dead:
        released = await doom(connection, tables, dead)
        awaited += released.awaited
        await ring(connection, channels.tasks, released.lanes)
    await tell(connection, channels.done, awaited)
    return Cancelled(
        [row["id"] for row in ended], [row["id"] for row in rows if row["state"] == "doing"]
    )


@in_transaction
async def retry(
    connection: Connection,
    tables: Tables,
    ids: Sequence[UUID],
    *,
    tree: bool = False,
    channels: Channels = SILENT,
) -> list[UUID]:
    """Run failed and cancelled tasks again: the same rows, with a fresh budget.

    Returns those that will run. Left alone: tasks in other states, those with a parent that failed
    or was cancelled (retry that one first), and those whose unique key another task holds by now.

    `tree`: with the parents that came to nothing, and everything that did so because of them.
    """
    if tree:
        rows = await _retry_tree(connection, tables, ids, channels)
    else:
        rows = await _retry(connection, tables, ids, tree=False)
    await ring(connection, channels.tasks, {(row["queue"], row["priority"]) for row in rows})
    return [row["id"] for row in rows]


async def _retry(
    connection: Connection, tables: Tables, ids: Sequence[UUID], *, tree: bool
) -> list[Record]:
    rows: list[Record]
    try:
        async with connection.transaction():
            rows = await connection.fetch(RETRY[tables], list(ids), tree)
    except UniqueViolationError:
        # Another task holds the key of one of them: it stays as it is, so that the others can run.
        rows = []
        for id in ids:
            with suppress(UniqueViolationError):
                async with connection.transaction():
                    rows += await connection.fetch(RETRY[tables], [id], tree)
    return rows


async def _retry_tree(
    connection: Connection, tables: Tables, ids: Sequence[UUID], channels: Channels
) -> list[Record]:
    """Generation by generation, so that each task meets parents that are to run again."""
    rows: list[Record] = []
    left = await broken(connection, tables, ids)
    while left and (more := await _retry(connection, tables, left, tree=True)):
        rows += more
        retried = {row["id"] for row in more}
        left = [id for id in left if id not in retried]
        standing = [row["id"] for row in more
                    if row["stands_for"] is not None and row["state"] != "waiting"]  # fmt: skip
        if standing:  # what they had returned was retried before, and is done
            released = await settle(connection, tables, [], standing=standing)
            await tell(connection, channels.done, released.awaited)
            await ring(connection, channels.tasks, released.lanes)
    return rows


async def clear(
    connection: Connection,
    tables: Tables,
    *,
    queues: Sequence[str] = (),
    channels: Channels = SILENT,
) -> int:
    """Delete all tasks that have not started (enqueued, waiting, scheduled); returns how many.

    Whoever waits for one of them gets to know that it is cancelled, as do the descendants in
    other queues, before the rows go.
    """
    total = 0
    while ids := [row["id"] for row in await connection.fetch(CLEAR[tables], list(queues), 10_000)]:
        total += await _clear(connection, tables, ids, channels)
    return total


@in_transaction
async def _clear(
    connection: Connection, tables: Tables, ids: Sequence[UUID], channels: Channels
) -> int:
    cancelled = await _cancel(connection, tables, ids, "Its queue was cleared.", channels)
    deleted: int = await connection.fetchval(DELETE[tables], cancelled.ended)
    return deleted
