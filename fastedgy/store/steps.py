"""Durable steps: what a running task has done already, for the run that goes on after it.

Every write names the claim it is made under (`id` and `run`), and holds a share of the task's row
while it writes: a rescuer or another claim that comes at the same moment waits for it, and what
comes after them changes nothing. The next run, which reads the steps once, sees all there are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from asyncpg import Connection, Record

from fastedgy.models.tables import Tables
from fastedgy.store.statements import Statement

_CLAIM = """claim AS (
    SELECT id FROM $tasks AS task
     WHERE task.id = ANY (ARRAY [$1::uuid]) AND task.run = $2 AND task.state || '' = 'doing'
       FOR SHARE
)"""

LOAD = Statement("""
SELECT name, kind, state, position, attempts, handled, result, event, error_type, error_message,
       extract(epoch FROM date_ended)::float8 AS ended,
       -- Not `greatest`: that makes a number of NULL, which is no end.
       extract(epoch FROM date_due - clock_timestamp())::float8 AS remaining
  FROM $steps WHERE task_id = $1
""")

# Failures that the task has dealt with are facts from now on: it went on to this step.
BEGIN = Statement(
    """
WITH $claim, settled AS (
    UPDATE $steps AS step SET handled = true
      FROM claim WHERE step.task_id = claim.id AND step.name = ANY ($6::text[])
)
INSERT INTO $steps AS step (task_id, run, name, kind, position, state, attempts)
SELECT claim.id, $2, $3, $4, $5, 'doing', $7 FROM claim
ON CONFLICT (task_id, name) DO UPDATE
   SET run = excluded.run, state = 'doing', attempts = excluded.attempts,
       date_started = clock_timestamp(), date_ended = NULL, date_due = NULL
RETURNING step.name
""",
    claim=_CLAIM,
)

END = Statement(
    """
WITH $claim, settled AS (
    UPDATE $steps AS step SET handled = true
      FROM claim WHERE step.task_id = claim.id AND step.name = ANY ($10::text[])
)
UPDATE $steps AS step
   SET state = $4, result = $5::jsonb, error_type = $6, error_message = $7, attempts = $8,
       date_ended = CASE WHEN $4 = 'waiting' THEN NULL ELSE clock_timestamp() END,
       date_due = CASE WHEN $9::float8 IS NOT NULL
                       THEN clock_timestamp() + $9 * interval '1 second' END
  FROM claim
 WHERE step.task_id = claim.id AND step.name = $3
RETURNING extract(epoch FROM step.date_ended)::float8 AS ended
""",
    claim=_CLAIM,
)

WAIT = Statement(
    """
WITH $claim, settled AS (
    UPDATE $steps AS step SET handled = true
      FROM claim WHERE step.task_id = claim.id AND step.name = ANY ($8::text[])
)
INSERT INTO $steps AS step (task_id, run, name, kind, position, state, event, date_due)
SELECT claim.id, $2, $3, $4, $5, 'waiting', $6, clock_timestamp() + $7 * interval '1 second'
  FROM claim
ON CONFLICT (task_id, name) DO UPDATE SET run = excluded.run
RETURNING step.name
""",
    claim=_CLAIM,
)

# An event that was sent counts, also when the time is over by now.
LOOK = Statement(
    """
WITH $claim, found AS (
    SELECT event.payload FROM $steps AS step JOIN $events AS event ON event.key = step.event
     WHERE step.task_id = $1 AND step.name = $3
), ended AS (
    UPDATE $steps AS step
       SET state = CASE WHEN step.kind = 'sleep' OR EXISTS (SELECT FROM found) THEN 'done'
                        ELSE 'failed' END,
           result = (SELECT payload FROM found), run = $2, attempts = 1,
           error_type = CASE WHEN step.kind = 'event' AND NOT EXISTS (SELECT FROM found)
                             THEN 'TimeoutError' END,
           date_ended = clock_timestamp()
      FROM claim
     WHERE step.task_id = claim.id AND step.name = $3 AND step.state = 'waiting'
       AND (step.date_due <= clock_timestamp() OR EXISTS (SELECT FROM found))
 RETURNING step.state, step.result
)
SELECT claim.id IS NOT NULL AS held,
       -- One that had ended before: the answer that said so was lost.
       coalesce(ended.state, nullif(step.state, 'waiting')) AS state,
       CASE WHEN ended.state IS NULL THEN step.result ELSE ended.result END AS result,
       extract(epoch FROM step.date_due - clock_timestamp())::float8 AS remaining
  FROM (SELECT) AS one
  LEFT JOIN claim ON true
  LEFT JOIN ended ON true
  LEFT JOIN $steps AS step ON step.task_id = $1 AND step.name = $3
""",
    claim=_CLAIM,
)

LIST = Statement("""
SELECT name, kind, state, position, attempts, run, event, result, error_type, error_message,
       date_started, date_ended, date_due
  FROM $steps WHERE task_id = $1
 ORDER BY date_started, position, name
""")


@dataclass(frozen=True, slots=True)
class StepRow:
    """A step as people look at it. `attempts` are calls that came back; `result` is JSON."""

    name: str
    kind: str
    state: str
    position: int
    attempts: int
    run: int
    event: str | None
    result: str | None
    error_type: str | None
    error_message: str | None
    date_started: datetime
    date_ended: datetime | None
    date_due: datetime | None


@dataclass(frozen=True, slots=True)
class Looked:
    """What became of a wait: `state` is None while it goes on, for `remaining` seconds at most.

    `held` is False when the claim is gone. `remaining` None: without an end.
    """

    held: bool
    state: str | None
    result: str | None
    remaining: float | None


async def load(connection: Connection, tables: Tables, task_id: UUID) -> list[Record]:
    """All steps of a task, for the run that goes on with them."""
    rows: list[Record] = await connection.fetch(LOAD[tables], task_id)
    return rows


async def begin(
    connection: Connection,
    tables: Tables,
    task_id: UUID,
    run: int,
    *,
    name: str,
    kind: str,
    position: int,
    attempts: int,
    handled: Sequence[str],
) -> bool:
    """Note that a step begins. `handled` are failed steps that the task went on from.

    False: the claim is gone, and nothing is written.
    """
    row = await connection.fetchrow(
        BEGIN[tables], task_id, run, name, kind, position, list(handled), attempts
    )
    return row is not None


async def end(
    connection: Connection,
    tables: Tables,
    task_id: UUID,
    run: int,
    *,
    name: str,
    state: str,
    attempts: int,
    result: str | None = None,
    error_type: str | None = None,
    error_message: str | None = None,
    again_in: float | None = None,
    handled: Sequence[str] = (),
) -> float | None:
    """Note what a step came to: `done`, `failed`, or `waiting` to be tried again in seconds.

    Returns when it ended (by the database's clock, 0 if it goes on); None: the claim is gone. May
    be repeated.
    """
    row = await connection.fetchrow(
        END[tables], task_id, run, name, state, result, error_type, error_message, attempts,
        again_in, list(handled),
    )  # fmt: skip
    return None if row is None else row["ended"] or 0.0


async def wait(
    connection: Connection,
    tables: Tables,
    task_id: UUID,
    run: int,
    *,
    name: str,
    kind: str,
    position: int,
    event: str | None,
    seconds: float | None,
    handled: Sequence[str],
) -> bool:
    """Note that the task waits, for a time or for an event. False: the claim is gone."""
    row = await connection.fetchrow(
        WAIT[tables], task_id, run, name, kind, position, event, seconds, list(handled)
    )
    return row is not None


async def look(
    connection: Connection, tables: Tables, task_id: UUID, run: int, *, name: str
) -> Looked:
    """End a wait whose event was sent, or whose time is over."""
    held, state, result, remaining = await connection.fetchrow(LOOK[tables], task_id, run, name)
    return Looked(held, state, result, None if remaining is None else max(0.0, remaining))


async def list_steps(connection: Connection, tables: Tables, task_id: UUID) -> list[StepRow]:
    """The steps of a task, in the order in which they began."""
    return [StepRow(*row) for row in await connection.fetch(LIST[tables], task_id)]
