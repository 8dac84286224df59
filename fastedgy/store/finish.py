"""Finishing: the one door out of `doing`.

Every write here names the claim it is made under (`id` and `run`). The run number grows at each
claim and at each rescue, so a worker that lost its task changes nothing.

`state || ''` keeps the planner off the partial index on running tasks: it would walk all of them,
once per outcome. The rows are to be found by the primary key, one by one: so does `= ANY (ARRAY
[…])`, without which a plan made while the table was nearly empty walks the whole key instead, until
the next ANALYZE (seen: seconds for one statement).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from uuid import UUID

from asyncpg import Connection, Record

from fastedgy.models.tables import Tables
from fastedgy.store.family import Released, doom, settle
from fastedgy.store.notify import Channels, ring, tell
from fastedgy.store.outcomes import Outcome
from fastedgy.store.statements import HISTORY, Statement

# The hot one: functions that returned, in tasks that nobody waits for as a parent. A task that got
# a child meanwhile does not match (the check is repeated on the row as it is once its lock is had),
# and goes through FINISH_ANY.
FINISH_DONE = Statement("""
WITH ended AS (
    UPDATE $tasks AS task
       SET state = 'done', losses = 0, alone = false,
           result = outcome.result,
           context = coalesce(outcome.context, task.context),
           date_started = clock_timestamp() - outcome.began * interval '1 second',
           date_ended = clock_timestamp() - outcome.ended * interval '1 second',
           error_type = NULL, error_message = NULL, error_traceback = NULL
      FROM unnest($1::uuid[], $2::integer[], $3::jsonb[], $4::jsonb[], $5::float8[], $6::float8[])
           AS outcome (id, run, result, context, began, ended)
     WHERE task.id = ANY (ARRAY [outcome.id]) AND task.run = outcome.run
       AND task.state || '' = 'doing' AND NOT task.has_children AND NOT task.auto_remove
 RETURNING task.id, task.awaited
), told AS MATERIALIZED (
    SELECT pg_notify($7::text, string_agg(id::text, ','))
      FROM (SELECT id, row_number() OVER () / 200 AS part FROM ended
             WHERE awaited AND $7::text IS NOT NULL) AS awaited
     GROUP BY part
)
SELECT (SELECT count(*) FROM ended), (SELECT count(*) FROM told)
""")

FINISH_ANY = Statement(
    """
UPDATE $tasks AS task
   SET state = final.state,
       -- A run that was interrupted has proved nothing: suspicion stays.
       losses = CASE WHEN outcome.word = 'interrupted' THEN task.losses ELSE 0 END,
       alone = task.alone AND outcome.word = 'interrupted',
       result = outcome.result,
       context = coalesce(outcome.context, task.context),
       attempt = task.attempt - outcome.refund,
       date_started = final.began,
       date_ended = CASE WHEN final.state IN ('done', 'failed', 'cancelled') THEN final.ended END,
       date_due = CASE WHEN final.state = 'scheduled'
                       THEN clock_timestamp() + outcome.delay * interval '1 second'
                       ELSE task.date_due END,
       date_enqueued = CASE WHEN final.state = 'enqueued' THEN clock_timestamp()
                            ELSE task.date_enqueued END,
       error_type = outcome.error_type,
       error_message = CASE WHEN final.state = 'cancelled' AND task.error_type = 'TaskCancelled'
                            THEN coalesce(task.error_message, outcome.error_message)
                            ELSE outcome.error_message END,
       error_traceback = outcome.error_traceback,
       history = CASE WHEN final.state IN ('done', 'failed', 'cancelled') THEN task.history
                 ELSE ($history)
                      || jsonb_build_object(
                           'run', task.run, 'attempt', task.attempt, 'what', outcome.word,
                           'worker_id', task.worker_id,
                           'started', final.began, 'ended', final.ended,
                           'error_type', outcome.error_type,
                           'error_message', left(outcome.error_message, 2000)) END
  FROM unnest($1::uuid[], $2::integer[], $3::jsonb[], $4::jsonb[], $5::float8[], $6::float8[],
              $7::text[], $8::text[], $9::float8[], $10::integer[], $11::text[], $12::text[],
              $13::text[])
       AS outcome (id, run, result, context, began, ended, state, word, delay, refund, error_type,
                   error_message, error_traceback)
 CROSS JOIN LATERAL (
       SELECT outcome.state,
              clock_timestamp() - outcome.began * interval '1 second' AS began,
              clock_timestamp() - outcome.ended * interval '1 second' AS ended
 ) AS final
 WHERE task.id = ANY (ARRAY [outcome.id]) AND task.run = outcome.run AND task.state || '' = 'doing'
RETURNING task.id, task.state, task.queue, task.priority, task.has_children, task.awaited,
          task.auto_remove, task.cancel_requested
""",
    history=HISTORY,
)

# A cancel request that came too late for the worker to hear: the next run does not happen.
CANCEL_REQUESTED = Statement("""
UPDATE $tasks
   SET state = 'cancelled', date_ended = clock_timestamp(), error_type = 'TaskCancelled',
       error_message = coalesce(error_message, 'Cancelled on request.')
 WHERE id = ANY ($1::uuid[]) AND state IN ('scheduled', 'enqueued')
RETURNING id
""")

REMOVE = Statement("""
WITH gone AS (
    DELETE FROM $tasks AS task
     WHERE id = ANY ($1::uuid[]) AND state = 'done'
       AND NOT EXISTS (SELECT FROM $logs AS log
                        WHERE log.task_id = task.id AND log.level IN ('error', 'critical'))
 RETURNING id
), unlinked AS (
    DELETE FROM $links WHERE child_id IN (SELECT id FROM gone)
)
DELETE FROM $logs WHERE task_id IN (SELECT id FROM gone)
""")

RUNS = Statement("SELECT id, run, state FROM $tasks WHERE id = ANY ($1::uuid[])")


@dataclass(slots=True)
class Finished:
    """What a batch of outcomes led to.

    `fenced` are outcomes that changed nothing, because their claim no longer held. `again` are
    tasks that are in the line once more.
    """

    fenced: list[Outcome] = field(default_factory=list)
    released: Released = field(default_factory=Released)
    again: set[tuple[str, int]] = field(default_factory=set)
    next_due: float | None = None


async def finish_done(
    connection: Connection, tables: Tables, outcomes: Sequence[Outcome], *, channels: Channels
) -> bool:
    """Write functions that returned, in one statement. True when all of them matched.

    False: some have children or are to be removed, or their claim is gone; `finish_any` tells
    which, and may be given all of them.
    """
    now = time.monotonic()
    row = await connection.fetchrow(
        FINISH_DONE[tables],
        [outcome.id for outcome in outcomes],
        [outcome.run for outcome in outcomes],
        [outcome.result for outcome in outcomes],
        [outcome.context for outcome in outcomes],
        [now - outcome.began for outcome in outcomes],
        [now - outcome.ended for outcome in outcomes],
        channels.done,
    )
    return bool(row[0] == len(outcomes))


async def finish_any(
    connection: Connection,
    tables: Tables,
    outcomes: Sequence[Outcome],
    *,
    channels: Channels,
    serves: Callable[[str], bool] = lambda queue: False,
) -> Finished:
    """Write outcomes of every kind, and what they mean for the families, in one transaction.

    `serves` says whether the caller itself goes on to claim from a queue. It then can run as many
    tasks as it has ended, without a bell; of everything else the workers are told.

    May be repeated after an answer was lost: what is recorded already does not count as fenced.
    """
    finished = Finished()
    async with connection.transaction():
        rows = await _update(connection, tables, outcomes)
        ended = {row["id"]: row["state"] for row in rows}
        awaited = [row["id"] for row in rows if row["awaited"]]
        late = [
            row["id"]
            for row in rows
            if row["cancel_requested"] and row["state"] in ("scheduled", "enqueued")
        ]
        if late:
            for row in await connection.fetch(CANCEL_REQUESTED[tables], late):
                ended[row["id"]] = "cancelled"
        parents = [row["id"] for row in rows if row["has_children"]]
        through = [id for id in parents if ended[id] == "done"]
        dead = [id for id in parents if ended[id] in ("failed", "cancelled")]
        if through:
            finished.released = await settle(connection, tables, through)
        if dead:
            more = await doom(connection, tables, dead)
            finished.released.tasks += more.tasks
            finished.released.lanes |= more.lanes
            awaited += more.awaited
        awaited = [
            id for id in awaited if ended.get(id, "cancelled") not in ("scheduled", "enqueued")
        ]
        await tell(connection, channels.done, awaited)
        removed = [
            row["id"]
            for row in rows
            if row["auto_remove"]
            and row["state"] == "done"
            # Children look at it; and who waits for it is still to read its result.
            and not (row["has_children"] or row["awaited"])
        ]
        if removed:
            await connection.execute(REMOVE[tables], removed)
        finished.again = {
            (row["queue"], row["priority"]) for row in rows if ended[row["id"]] == "enqueued"
        }
        lanes = finished.released.lanes | finished.again
        if finished.released.tasks <= len(outcomes):
            lanes = {lane for lane in lanes if not serves(lane[0])}
        await ring(connection, channels.tasks, lanes)
    delays = [outcome.delay for outcome in outcomes if outcome.delay]
    finished.next_due = min(delays) if delays else None
    finished.fenced = await _fenced(connection, tables, [o for o in outcomes if o.id not in ended])
    return finished


async def _update(
    connection: Connection, tables: Tables, outcomes: Sequence[Outcome]
) -> list[Record]:
    now = time.monotonic()
    rows: list[Record] = await connection.fetch(
        FINISH_ANY[tables],
        [outcome.id for outcome in outcomes],
        [outcome.run for outcome in outcomes],
        [outcome.result for outcome in outcomes],
        [outcome.context for outcome in outcomes],
        [now - outcome.began for outcome in outcomes],
        [now - outcome.ended for outcome in outcomes],
        [outcome.state for outcome in outcomes],
        [outcome.word for outcome in outcomes],
        [outcome.delay for outcome in outcomes],
        [outcome.refund for outcome in outcomes],
        [outcome.error_type for outcome in outcomes],
        [outcome.error_message for outcome in outcomes],
        [outcome.error_traceback for outcome in outcomes],
    )
    return rows


async def _fenced(
    connection: Connection, tables: Tables, outcomes: Sequence[Outcome]
) -> list[Outcome]:
    """Those of `outcomes` whose claim is gone, as against those that were written before."""
    if not outcomes:
        return []
    rows = await connection.fetch(RUNS[tables], [outcome.id for outcome in outcomes])
    written: set[tuple[UUID, int]] = {
        (row["id"], row["run"]) for row in rows if row["state"] != "doing"
    }
    return [outcome for outcome in outcomes if (outcome.id, outcome.run) not in written]
