"""Claiming: how a worker takes tasks, and how it finds the lanes that have any.

A lane is one priority of one queue. The claim looks at each lane from a lower bound on: the place
in the line up to which this worker has seen everything taken. Without the bound a claim walks over
all dead row versions at the head of the line, and under a transaction that holds the vacuum horizon
it gets slower with every task (measured: 1.8 to 38 ms after 200,000 tasks; with it, 1.8 to 1.9).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime
from uuid import UUID

from asyncpg import Connection, Record

from fastedgy.models.tables import Tables
from fastedgy.store.conditions import READY, SUSPECT
from fastedgy.store.statements import Statement

Lane = tuple[str, int]
"""A queue and a priority; `GATED_LINE` in its place: the queue's tasks that have a gate."""

# The gate is of use to who frees a place of it, see `fastedgy.worker.gates`.
# `least`: one row with a number that nothing can follow must not make the claim of all fail.
TAKE = """
UPDATE $tasks AS task
   SET state = 'doing', worker_id = $1, run = least(task.run, 2147483646) + 1,
       attempt = least(task.attempt, 2147483646) + 1, date_started = clock_timestamp()
 WHERE task.id = ANY (ARRAY ($picked))
RETURNING task.id, task.run, task.attempt, task.max_retries, task.function, task.name, task.queue,
          task.priority, task.date_enqueued, task.args, task.kwargs, task.context, task.timeout,
          task.closure,
          -- What few tasks have, in one column, since each costs every task.
          CASE WHEN task.takes_results OR task.breaker IS NOT NULL OR task.trace IS NOT NULL
                    OR task.signature IS NOT NULL OR task.redact IS NOT NULL
               THEN jsonb_build_object(
                    'takes_results', task.takes_results, 'breaker', task.breaker,
                    'run_anyway', task.on_parent_failure = 'run',
                    'has_children', task.has_children, 'trace', task.trace,
                    'signature', task.signature, 'redact', task.redact)
               WHEN task.has_children THEN jsonb '{"has_children": true}'
          END AS extra,
          task.gate
"""

# `= ANY (ARRAY (…))`, not `IN (…)`: the latter's generic plan is a hash join with a sequential
# scan of the whole table. Literal states: a parameter can lose the partial index.
CLAIM = Statement(
    TAKE,
    picked=f"""
    SELECT ready.id
      FROM unnest($2::text[], $3::integer[], $4::timestamptz[]) AS lane (queue, priority, low)
     CROSS JOIN LATERAL (
           SELECT id FROM $tasks
            WHERE {READY}
              AND queue = lane.queue AND priority = lane.priority AND date_enqueued >= lane.low
            ORDER BY date_enqueued
            LIMIT $5
              FOR UPDATE SKIP LOCKED
     ) AS ready
     LIMIT $5
    """,
)

# One lane is the common case, and finding its tasks without a join takes a tenth less time for one.
CLAIM_LANE = Statement(
    TAKE,
    picked=f"""
    SELECT id FROM $tasks
     WHERE {READY}
       AND queue = $2 AND priority = $3 AND date_enqueued >= $4
     ORDER BY date_enqueued
     LIMIT $5
       FOR UPDATE SKIP LOCKED
    """,
)

CLAIM_ALONE = Statement(
    TAKE,
    picked=f"""
    SELECT id FROM $tasks
     WHERE {SUSPECT} AND gate IS NULL AND queue <> ALL ($3::text[])
       AND (cardinality($2::text[]) = 0 OR queue = ANY ($2::text[]))
     ORDER BY date_enqueued
     LIMIT 1
       FOR UPDATE SKIP LOCKED
    """,
)

# A walk over the index that visits the first entry of each lane and jumps to the next.
LANES = Statement(f"""
WITH RECURSIVE lane AS (
    (SELECT queue, priority, date_enqueued FROM $tasks
      WHERE {READY}
      ORDER BY queue, priority DESC, date_enqueued LIMIT 1)
    UNION ALL
    SELECT next.queue, next.priority, next.date_enqueued
      FROM lane CROSS JOIN LATERAL (
           (SELECT queue, priority, date_enqueued FROM $tasks
             WHERE {READY}
               AND queue = lane.queue AND priority < lane.priority
             ORDER BY queue, priority DESC, date_enqueued LIMIT 1)
           UNION ALL
           (SELECT queue, priority, date_enqueued FROM $tasks
             WHERE {READY}
               AND queue > lane.queue
             ORDER BY queue, priority DESC, date_enqueued LIMIT 1)
           LIMIT 1
      ) AS next
)
SELECT queue, priority, date_enqueued FROM lane
""")


async def claim(
    connection: Connection,
    tables: Tables,
    *,
    worker_id: UUID,
    lanes: Sequence[tuple[Lane, datetime]],
    limit: int,
) -> list[Record]:
    """Take up to `limit` tasks, from the first lane first; in each lane the oldest first.

    The rows come in no particular order. Durable when it returns (DECISIONS R1).
    """
    rows: list[Record]
    if len(lanes) == 1:
        [((queue, priority), low)] = lanes
        rows = await connection.fetch(CLAIM_LANE[tables], worker_id, queue, priority, low, limit)
    else:
        rows = await connection.fetch(
            CLAIM[tables],
            worker_id,
            [lane[0] for lane, _ in lanes],
            [lane[1] for lane, _ in lanes],
            [low for _, low in lanes],
            limit,
        )
    return rows


async def claim_alone(
    connection: Connection,
    tables: Tables,
    *,
    worker_id: UUID,
    queues: Sequence[str],
    skip: Collection[str] = (),
) -> list[Record]:
    """Take the oldest task that may have killed its worker, if there is one.

    Not of the queues to `skip`, which are paused or have limits, and none that has a gate: where
    something is to be counted first, `fastedgy.store.gates` claims.
    """
    rows: list[Record] = await connection.fetch(
        CLAIM_ALONE[tables], worker_id, list(queues), list(skip)
    )
    return rows


async def find_lanes(connection: Connection, tables: Tables) -> dict[Lane, datetime]:
    """All lanes that have due tasks, each with the place of its first one in the line.

    It walks over the dead versions at the head of each lane: do it now and then.
    """
    rows = await connection.fetch(LANES[tables])
    return {(row["queue"], row["priority"]): row["date_enqueued"] for row in rows}
