"""Finishing: the way out of `doing`.

Every write here names the claim it is made under (`id` and `run`). The run number grows at each
claim and at each rescue, so a worker that lost its task changes nothing.

Functions that returned are the hot part and have a module of their own, `returned`, under the same
rule; it also says why the conditions of these statements look as they do.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import orjson
from asyncpg import Connection, Record

from fastedgy.models.tables import Tables
from fastedgy.store.events import wake_tasks
from fastedgy.store.family import Released, doom, settle
from fastedgy.store.notify import Channels, ring, tell
from fastedgy.store.outcomes import Done, DoneParent, Outcome, Standing
from fastedgy.store.returned import FINISH_AND_RELEASE, FINISH_PARENTS, outcome_columns
from fastedgy.store.standing import stand
from fastedgy.store.statements import BELONGINGS, HISTORY, LANE, Statement

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
  FROM unnest($1::uuid[], $2::text::integer[], $3::jsonb[], $4::jsonb[], $5::text::bigint[],
              $6::text::bigint[], $7::text[], $8::text[], $9::float8[], $10::integer[],
              $11::text[], $12::text[], $13::text[])
       AS outcome (id, run, result, context, began, ended, state, word, delay, refund, error_type,
                   error_message, error_traceback)
 CROSS JOIN LATERAL (
       SELECT outcome.state,
              clock_timestamp() - outcome.began * interval '1 microsecond' AS began,
              clock_timestamp() - outcome.ended * interval '1 microsecond' AS ended
 ) AS final
 WHERE task.id = ANY (ARRAY [outcome.id]) AND task.run = outcome.run AND task.state || '' = 'doing'
RETURNING task.id, task.state, task.queue, $lane, task.has_children, task.awaited,
          task.auto_remove, task.cancel_requested
""",
    history=HISTORY,
    lane=LANE,
)

# A cancel request that came too late for the worker to hear: the next run does not happen.
CANCEL_REQUESTED = Statement("""
UPDATE $tasks
   SET state = 'cancelled', date_ended = clock_timestamp(), error_type = 'TaskCancelled',
       error_message = coalesce(error_message, 'Cancelled on request.')
 WHERE id = ANY ($1::uuid[]) AND state IN ('scheduled', 'enqueued')
RETURNING id
""")

REMOVE = Statement(f"""
WITH gone AS (
    DELETE FROM $tasks AS task
     WHERE id = ANY ($1::uuid[]) AND state = 'done'
       AND NOT EXISTS (SELECT FROM $logs AS log
                        WHERE log.task_id = task.id AND log.level IN ('error', 'critical'))
 RETURNING id
), {BELONGINGS}
SELECT FROM gone
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


async def finish_any(
    connection: Connection,
    tables: Tables,
    outcomes: Sequence[Outcome],
    *,
    channels: Channels,
    served: Sequence[str] | None = (),
) -> Finished:
    """Write outcomes of every kind, each with what it means for its family, or not at all.

    `served` are the queues from which the caller itself goes on to claim; None: all. It then can
    run as many tasks as it has ended, without a bell; of everything else the workers are told.

    May be repeated after an answer was lost: what is recorded already does not count as fenced.
    """
    finished = Finished()
    now = time.monotonic()
    returned = [outcome for outcome in outcomes if isinstance(outcome, Done)]
    standing = [outcome for outcome in outcomes if isinstance(outcome, Standing)]
    others = [o for o in outcomes if not isinstance(o, Done | Standing)]
    written: set[UUID] = set()
    if len(returned) == len(outcomes) and any(isinstance(each, DoneParent) for each in returned):
        row = await connection.fetchrow(
            FINISH_AND_RELEASE[tables],
            *outcome_columns(returned, now),
            channels.done,
            channels.tasks,
            served,
            len(outcomes),
        )
        for queue, priority, tasks in orjson.loads(row["lanes"] or "[]"):
            finished.released.tasks += tasks
            finished.released.lanes.add((queue, priority))
        if row["ended"] == len(outcomes):
            return finished
    async with connection.transaction():
        ends = _Ends()
        if returned:
            row = await connection.fetchrow(FINISH_PARENTS[tables], *outcome_columns(returned, now))
            ends.through, ends.removed = row["parents"], row["removed"]
            ends.awaited = row["awaited"]
            written.update(ends.removed)
            if row["ended"] == len(returned):
                written.update(outcome.id for outcome in returned)
        if standing:
            stood = await stand(connection, tables, standing, now)
            written |= stood.written
            others += stood.refused
            ends.standing, ends.dead = stood.done, stood.dead
        if others:
            rows = await connection.fetch(
                FINISH_ANY[tables], *outcome_columns(others, now), *_more_columns(others)
            )
            written.update(row["id"] for row in rows)
            await _consider(connection, tables, rows, ends)
        finished.again = ends.again
        released = await settle(connection, tables, ends.through, standing=ends.standing)
        released.add(await doom(connection, tables, ends.dead))
        await tell(connection, channels.done, [*ends.awaited, *released.awaited])
        if ends.removed:
            await connection.execute(REMOVE[tables], ends.removed)
        lanes = released.lanes | finished.again
        if released.tasks <= len(outcomes):
            lanes = _unserved(lanes, served)
        await ring(connection, channels.tasks, lanes)
    finished.released.add(released)
    suspended = [outcome.id for outcome in outcomes if outcome.word == "suspended"]
    if suspended:
        # After the commit: an event that was sent until then is seen here, a later one wakes.
        woken = await wake_tasks(connection, tables, suspended)
        await ring(connection, channels.tasks, _unserved(woken, served))
        finished.again |= woken
    delays = [outcome.delay for outcome in outcomes if outcome.delay]
    finished.next_due = min(delays) if delays else None
    finished.fenced = await _fenced(
        connection, tables, [o for o in outcomes if o.id not in written]
    )
    return finished


@dataclass(slots=True)
class _Ends:
    """What the tasks of a batch came to, by what has to follow from it."""

    through: list[UUID] = field(default_factory=list)
    standing: list[UUID] = field(default_factory=list)
    dead: list[UUID] = field(default_factory=list)
    awaited: list[UUID] = field(default_factory=list)
    removed: list[UUID] = field(default_factory=list)
    again: set[tuple[str, int]] = field(default_factory=set)


async def _consider(
    connection: Connection, tables: Tables, rows: Sequence[Record], ends: _Ends
) -> None:
    """Sort what FINISH_ANY wrote by what follows from it."""
    state = {row["id"]: row["state"] for row in rows}
    late = [
        row["id"]
        for row in rows
        if row["cancel_requested"] and row["state"] in ("scheduled", "enqueued")
    ]
    if late:
        for row in await connection.fetch(CANCEL_REQUESTED[tables], late):
            state[row["id"]] = "cancelled"
    for row in rows:
        id, now = row["id"], state[row["id"]]
        if now == "enqueued":
            ends.again.add((row["queue"], row["priority"]))
        if now in ("enqueued", "scheduled"):
            continue
        if row["awaited"]:
            ends.awaited.append(id)
        if row["has_children"]:
            (ends.through if now == "done" else ends.dead).append(id)
        elif now == "done" and row["auto_remove"] and not row["awaited"]:
            ends.removed.append(id)


def _unserved(lanes: set[tuple[str, int]], served: Sequence[str] | None) -> set[tuple[str, int]]:
    """Those with work that the caller does not see to itself."""
    return set() if served is None else {lane for lane in lanes if lane[0] not in served}


def _more_columns(outcomes: Sequence[Outcome]) -> tuple[list[Any], ...]:
    return (
        [outcome.state for outcome in outcomes],
        [outcome.word for outcome in outcomes],
        [outcome.delay for outcome in outcomes],
        [outcome.refund for outcome in outcomes],
        [outcome.error_type for outcome in outcomes],
        [outcome.error_message for outcome in outcomes],
        [outcome.error_traceback for outcome in outcomes],
    )


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
