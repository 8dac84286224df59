"""Counting tasks in a moment, however many there are.

Each state is counted in its partial index, up to EXACT; what is more is the planner's estimate,
from what ANALYZE has seen and how large the table is now, and is said to be one.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from asyncpg import Connection

from fastedgy.models.tables import Tables
from fastedgy.store.conditions import GATED, READY, SUSPECT
from fastedgy.store.find import STATES, first_id
from fastedgy.store.statements import Statement

EXACT = 20_000
"""Up to so many tasks of a state (and of all) are counted; a few milliseconds for each state."""
FEWEST = 1_000
"""So many tasks of a queue are counted at least, however many queues there are."""


@dataclass(frozen=True, slots=True)
class StateCounts:
    """How many tasks are in each state, in the order of a task's life, zeros included.

    `estimated`: the states whose number is an estimate, since there are too many to be counted in
    a moment. All others are exact.
    """

    counts: dict[str, int]
    estimated: frozenset[str] = frozenset()

    @property
    def total(self) -> int:
        """All tasks."""
        return sum(self.counts.values())


@dataclass(frozen=True, slots=True)
class QueueDepth:
    """Tasks of a queue that are due and not claimed, and for how long the oldest of them is.

    `estimated`: the depth is an estimate. `doing`: how many run.
    """

    depth: int
    oldest_due_seconds: float
    estimated: bool = False
    doing: int = 0


def _capped(where: str, order: str) -> str:
    # In the order of the index that is meant: the planner then does not look at anything else.
    return (
        f"(SELECT count(*) FROM (SELECT FROM $tasks WHERE {where} ORDER BY {order} LIMIT $1) AS _)"
    )


# One statement, so that the numbers are of one moment.
COUNT = Statement(f"""
SELECT (SELECT count(*) FROM (SELECT FROM $tasks ORDER BY id DESC LIMIT $1) AS _) AS total,
       {_capped("state = 'scheduled'", "date_due")} AS scheduled,
       {_capped("state = 'waiting'", "id")} AS waiting,
       {_capped(READY, "queue, priority DESC, date_enqueued")} AS ready,
       {_capped(GATED, "queue, gate, priority DESC, date_enqueued")} AS gated,
       {_capped(SUSPECT, "date_enqueued")} AS suspect,
       {_capped("state = 'doing'", "worker_id")} AS doing,
       {_capped("state = 'failed'", "date_ended")} AS failed,
       {_capped("state = 'cancelled'", "date_ended")} AS cancelled
""")
_ESTIMATE = "EXPLAIN (FORMAT JSON) SELECT FROM $tasks"
ESTIMATE_ALL = Statement(_ESTIMATE)
ESTIMATE_STATE = {state: Statement(f"{_ESTIMATE} WHERE state = '{state}'") for state in STATES}


async def count_states(
    connection: Connection, tables: Tables, *, exact: int = EXACT
) -> StateCounts:
    """How many tasks are in each state: exactly if there are up to `exact` of it."""
    row = await connection.fetchrow(COUNT[tables], exact + 1)
    counts = {state: row[state] for state in STATES if state not in ("enqueued", "done")}
    counts["enqueued"] = row["ready"] + row["gated"] + row["suspect"]
    capped = {state for state, number in counts.items() if number > exact}
    for state in capped:
        estimate = await _estimate(connection, ESTIMATE_STATE[state][tables])
        counts[state] = max(exact, estimate)
    total = row["total"]
    if total > exact:
        total = max(exact, await _estimate(connection, ESTIMATE_ALL[tables]))
        capped.add("done")
    done = max(0, total - sum(counts.values()))
    return StateCounts({state: counts.get(state, done) for state in STATES}, frozenset(capped))


async def _estimate(connection: Connection, text: str) -> int:
    plan = json.loads(await connection.fetchval(text))
    return int(plan[0]["Plan"]["Plan Rows"])


# The walk of the claim's lanes, from the first entry of each to the next, and the same over the
# queues that have tasks with a gate.
DEPTHS = Statement(f"""
WITH RECURSIVE lane AS (
    (SELECT queue, priority, date_enqueued FROM $tasks WHERE {READY}
      ORDER BY queue, priority DESC, date_enqueued LIMIT 1)
    UNION ALL
    SELECT next.queue, next.priority, next.date_enqueued
      FROM lane CROSS JOIN LATERAL (
           (SELECT queue, priority, date_enqueued FROM $tasks
             WHERE {READY} AND queue = lane.queue AND priority < lane.priority
             ORDER BY queue, priority DESC, date_enqueued LIMIT 1)
           UNION ALL
           (SELECT queue, priority, date_enqueued FROM $tasks WHERE {READY} AND queue > lane.queue
             ORDER BY queue, priority DESC, date_enqueued LIMIT 1)
           LIMIT 1
      ) AS next
), ready AS (
    SELECT queue, min(date_enqueued) AS oldest FROM lane GROUP BY queue
), gated AS (
    (SELECT queue FROM $tasks WHERE {GATED}
      ORDER BY queue, gate, priority DESC, date_enqueued LIMIT 1)
    UNION ALL
    SELECT (SELECT queue FROM $tasks WHERE {GATED} AND queue > gated.queue
             ORDER BY queue, gate, priority DESC, date_enqueued LIMIT 1)
      FROM gated WHERE gated.queue IS NOT NULL
), share AS (
    SELECT greatest($2, $1 / greatest(1, (SELECT count(*) FROM ready)
                                         + (SELECT count(*) FROM gated))) AS most
), part AS (
    SELECT queue, (
               SELECT count(*) FROM (
                   SELECT FROM $tasks WHERE {READY} AND queue = ready.queue
                    ORDER BY queue, priority DESC, date_enqueued
                    LIMIT (SELECT most + 1 FROM share)) AS _
           ) AS depth, oldest, 0 AS doing
      FROM ready
    UNION ALL
    SELECT gated.queue, counted.depth, counted.oldest, 0
      FROM gated CROSS JOIN LATERAL (
           SELECT count(*) AS depth, min(date_enqueued) AS oldest FROM (
               SELECT date_enqueued FROM $tasks WHERE {GATED} AND queue = gated.queue
                ORDER BY queue, gate, priority DESC, date_enqueued
                LIMIT (SELECT most + 1 FROM share)) AS _
           ) AS counted
     WHERE gated.queue IS NOT NULL
    UNION ALL
    SELECT queue, count(*), min(date_enqueued), 0
      FROM (SELECT queue, date_enqueued FROM $tasks WHERE {SUSPECT}
             ORDER BY date_enqueued LIMIT $1) AS suspect
     GROUP BY queue
    UNION ALL
    SELECT queue, 0, NULL, count(*)
      FROM (SELECT queue FROM $tasks WHERE state = 'doing' ORDER BY worker_id LIMIT $1) AS doing
     GROUP BY queue
)
SELECT queue, sum(depth)::bigint AS depth, max(depth) > (SELECT most FROM share) AS capped,
       sum(doing)::bigint AS doing,
       coalesce(extract(epoch FROM clock_timestamp() - min(oldest)), 0)::float8 AS age
  FROM part GROUP BY queue ORDER BY queue
""")


async def queue_depths(
    connection: Connection, tables: Tables, *, enqueued: int | None = None, exact: int = EXACT
) -> dict[str, QueueDepth]:
    """The queues that have due or running tasks.

    `enqueued`: how many tasks there are in all lines, as `count_states` has it. A queue too long to
    be counted gets what the others leave of that.
    """
    rows = await connection.fetch(DEPTHS[tables], exact, min(FEWEST, exact))
    capped = [row for row in rows if row["capped"]]
    shared = 0
    if capped:
        if enqueued is None:
            enqueued = await _estimate(connection, ESTIMATE_STATE["enqueued"][tables])
        counted = sum(row["depth"] for row in rows if not row["capped"])
        shared = max(0, enqueued - counted) // len(capped)
    return {
        row["queue"]: QueueDepth(
            max(row["depth"], shared) if row["capped"] else row["depth"],
            round(max(0.0, row["age"]), 3),
            row["capped"],
            row["doing"],
        )
        for row in rows
    }


ARRIVALS = Statement("""
SELECT queue, count(*) AS number, min(id::text) AS first, sum(count(*)) OVER ()::integer AS total
  FROM (SELECT queue, id FROM $tasks WHERE id >= $1 ORDER BY id DESC LIMIT $2) AS newest
 GROUP BY queue
""")
ARRIVALS_SEEN = 2_000
ARRIVALS_WITHIN = 60.0


async def arrivals(connection: Connection, tables: Tables, *, now: datetime) -> dict[str, float]:
    """How many tasks a minute are made for each queue: by the last minute, or by its newest 2,000.

    By the times in their ids, which their producers' clocks made.
    """
    since = first_id(now - timedelta(seconds=ARRIVALS_WITHIN))
    rows = await connection.fetch(ARRIVALS[tables], since, ARRIVALS_SEEN)
    span = ARRIVALS_WITHIN
    if rows and rows[0]["total"] >= ARRIVALS_SEEN:
        first = min(UUID(row["first"]).int >> 80 for row in rows) / 1000
        span = max(0.05, now.timestamp() - first)
    return {row["queue"]: row["number"] * 60 / span for row in rows}


COMING = Statement("""
SELECT queue, count(*) AS number
  FROM ((SELECT queue FROM $tasks WHERE state = 'scheduled' ORDER BY date_due LIMIT $1)
        UNION ALL
        (SELECT queue FROM $tasks WHERE state = 'waiting' ORDER BY id LIMIT $1)) AS next
 GROUP BY queue
""")
COMING_SEEN = 1_000


async def coming(connection: Connection, tables: Tables) -> dict[str, int]:
    """How many tasks each queue is to get, among the next 1,000 that are scheduled and the first
    1,000 that wait for parents.
    """
    rows = await connection.fetch(COMING[tables], COMING_SEEN)
    return {row["queue"]: row["number"] for row in rows}
