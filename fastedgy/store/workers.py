"""Worker processes as rows: their birth, heartbeats and end.

A claim counts while its worker's row says so; what becomes of the tasks of a worker that is gone is
in `recovery`.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from uuid import UUID

import orjson
from asyncpg import Connection

from fastedgy.models.tables import Tables
from fastedgy.store.statements import Statement

# What is asked of a supervisor is asked of the workers that it starts meanwhile, too.
REGISTER = Statement("""
INSERT INTO $workers (id, server_name, pid, supervisor_id, queues, concurrency, version, drain,
                      drain_by)
SELECT $1, $2, $3, $4, $5, $6, $7, max(drain), max(drain_by)
  FROM $workers WHERE supervisor_id = $4 AND drain = 'supervisor'
    ON CONFLICT (id) DO NOTHING
""")

# One statement a beat: the sign of life, and a look at what else there may be to do. The tasks that
# are to stop are found among those that the worker says it has: by way of the index on running
# tasks it would walk over all that it has ever run, where something holds vacuum up (150 ms after
# 700,000 tasks; `returned` says how `state` keeps the planner off it).
BEAT = Statement("""
WITH beat AS (
    UPDATE $workers
       SET last_heartbeat = clock_timestamp(), state = $2, busy = $3, counters = $4::jsonb
     WHERE id = $1 AND state IN ('running', 'draining')
 RETURNING drain, drain_by, queues
)
SELECT EXISTS (SELECT FROM beat) AS alive,
       (SELECT drain FROM beat) AS drain, (SELECT drain_by FROM beat) AS drain_by,
       ARRAY (SELECT id FROM $tasks
               WHERE id = ANY ($6::uuid[]) AND worker_id = $1 AND state || '' = 'doing'
                 AND cancel_requested) AS cancelled,
       EXISTS (SELECT FROM $workers
                WHERE state IN ('running', 'draining')
                  AND last_heartbeat < statement_timestamp() - $5 * interval '1 second'
                  AND id <> $1) AS stale,
       -- Of no queue that the solo worker started for it would pass over.
       EXISTS (SELECT FROM $tasks AS task
                WHERE state = 'enqueued' AND alone
                  AND ((SELECT queues FROM beat) IS NULL
                       OR queue = ANY ((SELECT queues FROM beat)::text[]))
                  AND NOT EXISTS (SELECT FROM $queues AS settings
                                   WHERE settings.name = task.queue AND settings.paused)
       ) AS suspects,
       (SELECT extract(epoch FROM date_due - statement_timestamp())::float8 FROM $tasks
         WHERE state = 'scheduled' ORDER BY date_due LIMIT 1) AS next_due
""")

RETIRE = Statement("""
UPDATE $workers
   SET state = 'stopped', date_ended = clock_timestamp(), busy = 0, counters = $2::jsonb,
       exit_reason = $3
 WHERE id = $1 AND state IN ('running', 'draining')
""")

# What they have counted is kept, in one row for all of them: sums over the table never fall.
FORGET = Statement("""
WITH gone AS (
    DELETE FROM $workers
     WHERE state IN ('stopped', 'lost') AND id <> '00000000-0000-0000-0000-000000000000'
       AND date_ended < statement_timestamp() - $1 * interval '1 second'
 RETURNING counters
), counted AS (
    SELECT each.key AS name, sum((each.value #>> '{}')::numeric) AS total
      FROM gone CROSS JOIN LATERAL jsonb_each(gone.counters) AS each
     WHERE jsonb_typeof(each.value) = 'number' AND each.key NOT IN ('deaf', 'memory_mb')
     GROUP BY each.key
), kept AS (
    INSERT INTO $workers AS worker (id, server_name, pid, state, concurrency, version, counters,
                                    date_ended, exit_reason)
    SELECT '00000000-0000-0000-0000-000000000000', '(forgotten)', 0, 'stopped', 0, '',
           coalesce((SELECT jsonb_object_agg(name, total) FROM counted), '{}'),
           clock_timestamp(), 'Stands for the workers whose rows were deleted.'
     WHERE EXISTS (SELECT FROM gone)
        ON CONFLICT (id) DO UPDATE
       SET date_ended = excluded.date_ended,
           counters = (SELECT coalesce(jsonb_object_agg(key, total), '{}')
                         FROM (SELECT key, sum((value #>> '{}')::numeric) AS total
                                 FROM (SELECT * FROM jsonb_each(worker.counters)
                                       UNION ALL SELECT * FROM jsonb_each(excluded.counters)) AS _
                                GROUP BY key) AS _)
)
SELECT count(*)::integer FROM gone
""")


@dataclass(frozen=True, slots=True)
class Pulse:
    """What a heartbeat found out.

    `alive`: our own row still counts us among the living. `cancelled`: our tasks that were asked to
    stop. `stale`: some worker has not beaten for a lease. `suspects`: a task of our queues, none of
    a paused one, waits to run alone. `next_due`: seconds until the next scheduled task is due
    (negative: overdue), None without one.
    `drain`: what an operator (`drain_by`) wants to drain: the `worker`, or its whole `supervisor`.
    """

    alive: bool
    cancelled: list[UUID]
    stale: bool
    suspects: bool
    next_due: float | None
    drain: str | None = None
    drain_by: str | None = None


async def register(
    connection: Connection,
    tables: Tables,
    *,
    worker_id: UUID,
    server_name: str,
    pid: int,
    supervisor_id: UUID | None,
    queues: Sequence[str],
    concurrency: int,
    version: str,
) -> None:
    """Write the row of a worker process that starts. May be repeated."""
    await connection.execute(
        REGISTER[tables], worker_id, server_name, pid, supervisor_id, list(queues) or None,
        concurrency, version,
    )  # fmt: skip


async def beat(
    connection: Connection,
    tables: Tables,
    *,
    worker_id: UUID,
    state: str,
    busy: int,
    held: Collection[UUID],
    counters: dict[str, int],
    lease: float,
) -> Pulse:
    """Say that a worker lives, and look around.

    `held` are the tasks that it runs or has claimed ahead. `lease` is in seconds.
    """
    row = await connection.fetchrow(
        BEAT[tables], worker_id, state, busy, orjson.dumps(counters).decode(), lease, list(held)
    )
    return Pulse(**{**row, "cancelled": list(row["cancelled"])})


async def retire(
    connection: Connection, tables: Tables, *, worker_id: UUID, counters: dict[str, int],
    reason: str,
) -> None:  # fmt: skip
    """Close the row of a worker that ends in order."""
    await connection.execute(RETIRE[tables], worker_id, orjson.dumps(counters).decode(), reason)


async def forget_workers(connection: Connection, tables: Tables, *, older_than: float) -> int:
    """Delete the rows of workers that ended more than `older_than` seconds ago.

    Returns how many. What they have counted goes into one row that stands for all of them.
    """
    number: int = await connection.fetchval(FORGET[tables], older_than)
    return number
