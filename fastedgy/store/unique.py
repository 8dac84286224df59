"""Unique keys: who holds one, and what a duplicate does to the holder.

While a task has not ended, the unique index on its row keeps others with its key out. For a period
a row in the table of keys does. The newcomer decides what counts: with the scope `waiting` a holder
that runs already loses its key to it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from asyncpg import Connection, Record

from fastedgy.models.tables import Tables
from fastedgy.store.newtask import NewTask
from fastedgy.store.notify import Channels, lanes_payload
from fastedgy.store.statements import LANE, Statement

# One that waits in the middle of its work has begun: another call in its place would go on with the
# steps that it has made, or end with what it has returned.
_BEGUN = """(task.state || '' = 'doing' OR task.stands_for IS NOT NULL
             OR EXISTS (SELECT FROM $steps AS step WHERE step.task_id = task.id))"""

HOLDERS = Statement(
    """
SELECT unique_key, id, CASE WHEN $begun THEN 'doing' ELSE state END AS state FROM $tasks AS task
 WHERE unique_key = ANY ($1::text[])
   AND state IN ('scheduled', 'waiting', 'enqueued', 'doing')
""",
    begun=_BEGUN,
)

# In the order of the keys, so that two flushes with the same keys do not wait for each other. Who
# comes at the same moment waits for the other's commit, and then sees its row. A task that was
# cancelled holds nothing.
HOLD = Statement("""
INSERT INTO $keys AS held (kind, key, task_id, state, date_expires)
SELECT 'unique', wanted.key, wanted.id, 'done',
       clock_timestamp() + wanted.period * interval '1 second'
  FROM unnest($1::text[], $2::uuid[], $3::float8[]) AS wanted (key, id, period)
 ORDER BY wanted.key
    ON CONFLICT (kind, key) DO UPDATE
   SET task_id = excluded.task_id, date_created = clock_timestamp(),
       date_expires = excluded.date_expires
 WHERE held.date_expires <= clock_timestamp() OR held.task_id = excluded.task_id
    OR EXISTS (SELECT FROM $tasks AS task
                WHERE task.id = held.task_id AND task.state = 'cancelled')
RETURNING key
""")

HELD = Statement("SELECT key, task_id FROM $keys WHERE kind = 'unique' AND key = ANY ($1::text[])")

LET_GO = Statement("""
DELETE FROM $keys WHERE kind = 'unique' AND key = ANY ($1::text[]) AND task_id = ANY ($2::uuid[])
""")

TAKE_OVER = Statement(
    """
UPDATE $tasks AS task SET unique_key = NULL
 WHERE unique_key = ANY ($1::text[]) AND state IN ('scheduled', 'waiting', 'enqueued', 'doing')
   AND $begun
""",
    begun=_BEGUN,
)

# The same row with another call: who waits for it, and what waits for it, gets that one's result.
# It keeps its place in the line unless it goes to another line.
REPLACE = Statement(
    """
UPDATE $tasks AS task
   SET args = $3::jsonb, kwargs = $4::jsonb, name = $5, function = $6, queue = $7,
       priority = $8::integer, max_retries = $9::integer, timeout = $10::float8,
       awaited = task.awaited OR $11::boolean, auto_remove = $12::boolean, context = $13::jsonb,
       closure = $14::bytea, gate = $15::text, gate_limit = $16::integer, gate_rate = $17::float8,
       breaker = $18::text, redact = $19::text[], trace = $20::text, signature = $21::text,
       takes_results = false, attempt = 0,
       error_type = NULL, error_message = NULL, error_traceback = NULL,
       date_due = due.at,
       date_enqueued = CASE WHEN task.state = 'enqueued' AND task.queue = $7
                                 AND task.priority = $8::integer
                                 AND task.gate IS NOT DISTINCT FROM $15::text
                            THEN task.date_enqueued ELSE clock_timestamp() END,
       state = CASE WHEN task.waiting_on > 0 THEN 'waiting'
                    WHEN due.at > clock_timestamp() THEN 'scheduled'
                    ELSE 'enqueued' END
  FROM (SELECT coalesce($22::timestamptz,
                        clock_timestamp() + $23::float8 * interval '1 second') AS at) AS due
 WHERE task.id = $1 AND task.unique_key = $2
   AND task.state IN ('scheduled', 'waiting', 'enqueued') AND NOT $begun
RETURNING task.id, task.state, task.queue, $lane,
          extract(epoch FROM task.date_due - clock_timestamp())::float8 AS due
""",
    begun=_BEGUN,
    lane=LANE,
)


@dataclass(frozen=True, slots=True)
class Holder:
    """The unfinished task that has a key. `state` is "doing" for all that have begun."""

    id: UUID
    state: str


async def find_holders(
    connection: Connection, tables: Tables, keys: Sequence[str], *, timeout: float | None = None
) -> dict[str, Holder]:
    """Which unfinished task holds each unique key. A key whose task just ended is left out."""
    rows = await connection.fetch(HOLDERS[tables], list(keys), timeout=timeout)
    return {row["unique_key"]: Holder(row["id"], row["state"]) for row in rows}


async def hold(
    connection: Connection, tables: Tables, wanted: Sequence[tuple[str, UUID, float]]
) -> dict[str, UUID]:
    """Hold keys for periods: (key, id of the task, seconds). In the transaction of its insert.

    Returns the keys that others hold, with the tasks that they were held by.
    """
    keys = [key for key, _, _ in wanted]
    rows = await connection.fetch(
        HOLD[tables], keys, [id for _, id, _ in wanted], [period for _, _, period in wanted]
    )
    ours = {row["key"] for row in rows}
    others = [key for key in keys if key not in ours]
    if not others:
        return {}
    rows = await connection.fetch(HELD[tables], others)
    return {row["key"]: row["task_id"] for row in rows}


async def let_go(
    connection: Connection, tables: Tables, keys: Sequence[str], ids: Sequence[UUID]
) -> None:
    """Hold these keys no more for tasks that are not written after all."""
    await connection.execute(LET_GO[tables], list(keys), list(ids))


async def take_over(connection: Connection, tables: Tables, keys: Sequence[str]) -> None:
    """Take keys away from tasks that have begun."""
    await connection.execute(TAKE_OVER[tables], list(keys))


async def replace(
    connection: Connection,
    tables: Tables,
    holder: UUID,
    task: NewTask,
    *,
    signature: str | None,
    channels: Channels,
) -> bool:
    """Make a task that has not started the call that `task` is. False: it has started, or ended.

    `signature`: of the call under the holder's id.
    """
    spec = task.spec
    row = await connection.fetchrow(
        REPLACE[tables], holder, task.unique_key, task.args, task.kwargs, spec.name, spec.function,
        spec.queue, spec.priority, spec.max_retries, spec.timeout, task.awaited, spec.auto_remove,
        task.context, spec.closure, task.gate, spec.limit, spec.rate, spec.breaker,
        None if spec.redact is None else list(spec.redact), task.trace, signature, spec.at,
        spec.delay,
    )  # fmt: skip
    if row is None:
        return False
    if channels.tasks is not None and row["state"] in ("enqueued", "scheduled"):
        await connection.execute("SELECT pg_notify($1, $2)", channels.tasks, _bell(row))
    return True


def _bell(row: Record) -> str:
    if row["state"] == "scheduled":
        return lanes_payload((), row["due"])
    return lanes_payload({(row["queue"], row["priority"])})
