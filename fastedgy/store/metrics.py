"""What is measured beside the rollups: the workers' counters, and what runs now by name."""

from __future__ import annotations

from dataclasses import dataclass

from asyncpg import Connection

from fastedgy.models.tables import Tables
from fastedgy.store.statements import Statement

COUNTERS = Statement("""
SELECT each.key AS name, sum((each.value #>> '{}')::numeric)::float8 AS total
  FROM $workers AS worker CROSS JOIN LATERAL jsonb_each(worker.counters) AS each
 WHERE jsonb_typeof(each.value) = 'number'
 GROUP BY each.key
""")
ACTIVE = Statement("""
SELECT name, count(*) AS number
  FROM (SELECT name FROM $tasks WHERE state = 'doing' ORDER BY worker_id LIMIT $1) AS doing
 GROUP BY name
""")
WORKERS = Statement("""
SELECT CASE WHEN last_heartbeat < clock_timestamp() - $1 * interval '1 second' THEN 'silent'
            ELSE state END AS state,
       count(*) AS processes, sum(concurrency)::integer AS slots,
       sum(least(busy, concurrency))::integer AS busy,
       count(*) FILTER (WHERE (counters ->> 'deaf') = '1') AS deaf
  FROM $workers
 WHERE state IN ('running', 'draining') AND concurrency > 0
 GROUP BY 1
""")
QUEUES = Statement("SELECT name, paused FROM $queues")


@dataclass(frozen=True, slots=True)
class Processes:
    """Worker processes of one state (`running`, `draining`, `silent`), and their slots."""

    state: str
    processes: int
    slots: int
    busy: int
    deaf: int


async def counters(connection: Connection, tables: Tables) -> dict[str, float]:
    """What all workers have counted, those that are no more included: never goes backwards."""
    return {row["name"]: row["total"] for row in await connection.fetch(COUNTERS[tables])}


async def active(connection: Connection, tables: Tables, *, limit: int) -> dict[str, int]:
    """How many tasks of each name run, looking at up to `limit` of them."""
    rows = await connection.fetch(ACTIVE[tables], limit)
    return {row["name"]: row["number"] for row in rows}


async def processes(connection: Connection, tables: Tables, *, lease: float) -> list[Processes]:
    """The workers that have not ended; `silent` are those without a sign of life for a lease."""
    return [Processes(**row) for row in await connection.fetch(WORKERS[tables], lease)]


async def paused_queues(connection: Connection, tables: Tables) -> dict[str, bool]:
    """The queues that have settings, and whether they are paused."""
    return {row["name"]: row["paused"] for row in await connection.fetch(QUEUES[tables])}
