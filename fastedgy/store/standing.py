"""Tasks that returned another task: they wait for it, and end as it ends.

Such a task is `waiting`, with a link to the other as to a parent, and `stands_for` names it. What
follows when the other ends stands in `family`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from uuid import UUID

from asyncpg import Connection

from fastedgy.errors import CircularWorkflow, TaskNotFound
from fastedgy.models.tables import Tables
from fastedgy.store import outcomes
from fastedgy.store.outcomes import Outcome, Standing
from fastedgy.store.statements import HISTORY, Statement

# Locked like the parents of new tasks: they cannot end between the look and the link. Along with
# them the tasks themselves, which nobody can ask to cancel any more until they wait.
LOCK_ALL = Statement("""
SELECT id, state, cancel_requested FROM $tasks
 WHERE id = ANY ($1::uuid[])
 ORDER BY id
   FOR NO KEY UPDATE
""")

# By itself: one of the others may be among those that are to stand for a third, and a statement
# changes a row once.
MARK_OTHERS = Statement("""
UPDATE $tasks SET has_children = true
 WHERE id = ANY ($1::uuid[]) AND (state || '' = 'doing' OR NOT has_children)
""")

# Everything that the other waits for itself, or is to wait for from now on, each met once. Two
# tasks that return each other on two workers lock the same rows: one of them has to wait, and then
# sees the circle.
CIRCLES = Statement("""
WITH RECURSIVE given AS MATERIALIZED (
    SELECT * FROM unnest($1::uuid[], $2::uuid[]) AS given (id, by)
), up (start, id) AS (
    SELECT id, by FROM given
    UNION
    SELECT up.start, next.id FROM up CROSS JOIN LATERAL (
           SELECT link.parent_id FROM $tasks AS task JOIN $links AS link ON link.child_id = task.id
            WHERE task.id = up.id AND task.state || '' = 'waiting'
           UNION ALL
           SELECT given.by FROM given WHERE given.id = up.id
    ) AS next (id)
)
SELECT DISTINCT start FROM up WHERE start = id
""")

STAND = Statement(
    """
WITH standing AS (
    UPDATE $tasks AS task
       SET state = 'waiting', waiting_on = 1, stands_for = outcome.by,
           losses = 0, alone = false,
           context = coalesce(outcome.context, task.context),
           date_started = clock_timestamp() - outcome.began * interval '1 second',
           error_type = NULL, error_message = NULL, error_traceback = NULL,
           history = ($history)
                     || jsonb_build_object(
                          'run', task.run, 'attempt', task.attempt, 'what', 'stands',
                          'worker_id', task.worker_id,
                          'started', clock_timestamp() - outcome.began * interval '1 second',
                          'ended', clock_timestamp() - outcome.ended * interval '1 second')
      FROM unnest($1::uuid[], $2::integer[], $3::jsonb[], $4::float8[], $5::float8[], $6::uuid[])
           AS outcome (id, run, context, began, ended, by)
     WHERE task.id = ANY (ARRAY [outcome.id]) AND task.run = outcome.run
       AND task.state || '' = 'doing'
 RETURNING task.id, task.stands_for
), linked AS (
    INSERT INTO $links (child_id, parent_id)
    SELECT id, stands_for FROM standing
        ON CONFLICT (parent_id, child_id) DO UPDATE SET settled = false
)
SELECT id, stands_for FROM standing
""",
    history=HISTORY,
)


@dataclass(slots=True)
class Stood:
    """What became of tasks that returned others.

    `written` wait now. `refused` are outcomes in place of those that cannot: the other is gone, or
    waits for them itself, or they were to be cancelled. `done` are those whose other is done
    already; `dead` are others that have come to nothing already.
    """

    written: set[UUID] = field(default_factory=set)
    refused: list[Outcome] = field(default_factory=list)
    done: list[UUID] = field(default_factory=list)
    dead: list[UUID] = field(default_factory=list)


async def stand(
    connection: Connection, tables: Tables, given: Sequence[Standing], now: float
) -> Stood:
    """Have tasks wait for what they returned. Only inside a transaction, with what follows from
    `done` and `dead` in the same.
    """
    stood = Stood()
    ids = [id for outcome in given for id in (outcome.by, outcome.id)]
    rows = await connection.fetch(LOCK_ALL[tables], ids)
    states: dict[UUID, str] = {row["id"]: row["state"] for row in rows}
    # A request that came too late for the worker to hear.
    unwanted = {row["id"] for row in rows if row["cancel_requested"]}
    stood.refused = [
        outcomes.cancelled(outcome.id, outcome.run, outcome.began, outcome.ended,
                           "Cancelled on request.")
        for outcome in given if outcome.id in unwanted
    ]  # fmt: skip
    wanted = [outcome for outcome in given if outcome.id not in unwanted]
    rows = await connection.fetch(
        CIRCLES[tables], [outcome.id for outcome in wanted], [outcome.by for outcome in wanted]
    )
    circles = {row["start"] for row in rows}
    fine: list[Standing] = []
    for outcome in wanted:
        error: Exception
        if outcome.by not in states:
            error = TaskNotFound(outcome.by)
        elif outcome.id in circles:
            error = CircularWorkflow([outcome.id, outcome.by])
        else:
            fine.append(outcome)
            continue
        stood.refused.append(
            outcomes.failed(outcome.id, outcome.run, outcome.began, outcome.ended,
                            type(error).__name__, f"It returned a task to stand for it: {error}")
        )  # fmt: skip
    contexts = {outcome.id: outcome.context for outcome in given}
    for refused in stood.refused:
        refused.context = contexts[refused.id]
    if fine:
        await connection.execute(MARK_OTHERS[tables], [outcome.by for outcome in fine])
        written = await connection.fetch(
            STAND[tables],
            [outcome.id for outcome in fine],
            [outcome.run for outcome in fine],
            [outcome.context for outcome in fine],
            [now - outcome.began for outcome in fine],
            [now - outcome.ended for outcome in fine],
            [outcome.by for outcome in fine],
        )
        stood.written = {row["id"] for row in written}
        stood.done = [row["id"] for row in written if states[row["stands_for"]] == "done"]
        others = {row["stands_for"] for row in written}
        stood.dead = [id for id in others if states[id] in ("failed", "cancelled")]
    return stood
