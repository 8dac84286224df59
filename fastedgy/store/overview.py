"""Reading the whole: how many tasks are in which state, who works on them, how it went lately.

Counts are exact. The states that matter are counted in their partial indexes; only the total is
counted over all tasks, in the primary key.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from asyncpg import Connection

from fastedgy.models.tables import Tables
from fastedgy.store.find import STATES, first_id
from fastedgy.store.statements import Statement

# No index knows when a task was done, and none its name, so what is asked of those done is asked of
# the newest tasks only: that bounds the cost in a table of millions. Measured with two million:
# 0.7 s for `last_hour`, 0.4 s for the percentiles of 200,000.
RECENT_TASKS = 1_000_000
SAMPLED_TASKS = 200_000


@dataclass(frozen=True, slots=True)
class QueueDepth:
    """Tasks of a queue that are due and not claimed, and for how long the oldest of them is."""

    depth: int
    oldest_due_seconds: float


@dataclass(frozen=True, slots=True)
class WorkerRow:
    """A worker process that has not ended, or whose end nobody has seen.

    `busy` counts the slots in use, by the tasks that it holds. `silent_for` is the age of its last
    sign of life in seconds, by the database's clock. `queues` None or empty: all of them.
    """

    id: UUID
    server_name: str
    pid: int
    supervisor_id: UUID | None
    state: str
    queues: list[str] | None
    concurrency: int
    busy: int
    version: str
    counters: dict[str, Any]
    date_started: datetime
    last_heartbeat: datetime
    silent_for: float

    def is_alive(self, lease: float) -> bool:
        """Whether it gave a sign of life within the lease (seconds)."""
        return self.silent_for < lease

    @property
    def is_web(self) -> bool:
        """Whether it is a web process, which runs its own in-process tasks and no others."""
        return self.concurrency == 0

    def serves(self, queue: str) -> bool:
        """Whether it takes new tasks of that queue."""
        return self.state == "running" and (not self.queues or queue in self.queues)


@dataclass(frozen=True, slots=True)
class WorkerSummary:
    """The living workers together. `active` processes have a task, `idle` ones none."""

    servers: int
    processes: int
    active: int
    idle: int
    slots: int
    busy: int


@dataclass(frozen=True, slots=True)
class NameStats:
    """How the recent tasks of one name ended. Durations of those done, in milliseconds."""

    name: str
    done: int
    failed: int
    duration_ms_p50: float | None
    duration_ms_p95: float | None


# One statement, so that the numbers are of one moment. `done` is what is left of the total.
_STATES = Statement("""
SELECT (SELECT count(*) FROM $tasks) AS total,
       (SELECT count(*) FROM $tasks WHERE state = 'scheduled') AS scheduled,
       (SELECT count(*) FROM $tasks WHERE state = 'waiting') AS waiting,
       (SELECT count(*) FROM $tasks WHERE state = 'enqueued' AND NOT alone AND gate IS NULL)
     + (SELECT count(*) FROM $tasks
         WHERE state = 'enqueued' AND NOT alone AND gate IS NOT NULL)
     + (SELECT count(*) FROM $tasks WHERE state = 'enqueued' AND alone) AS enqueued,
       (SELECT count(*) FROM $tasks WHERE state = 'doing') AS doing,
       (SELECT count(*) FROM $tasks WHERE state = 'failed') AS failed,
       (SELECT count(*) FROM $tasks WHERE state = 'cancelled') AS cancelled
""")


async def count_states(connection: Connection, tables: Tables) -> dict[str, int]:
    """How many tasks are in each state, in the order of a task's life, zeros included."""
    row = await connection.fetchrow(_STATES[tables])
    assert row is not None
    others = {state: row[state] for state in STATES if state != "done"}
    done = row["total"] - sum(others.values())
    return {state: others.get(state, done) for state in STATES}


_DEPTHS = Statement("""
SELECT queue, sum(depth)::bigint AS depth,
       coalesce(extract(epoch FROM clock_timestamp() - min(oldest)), 0)::float8 AS age
  FROM (
    SELECT queue, count(*) AS depth, min(date_enqueued) AS oldest
      FROM $tasks WHERE state = 'enqueued' AND NOT alone AND gate IS NULL GROUP BY queue
    UNION ALL
    SELECT queue, count(*), min(date_enqueued)
      FROM $tasks WHERE state = 'enqueued' AND NOT alone AND gate IS NOT NULL GROUP BY queue
    UNION ALL
    SELECT queue, count(*), min(date_enqueued)
      FROM $tasks WHERE state = 'enqueued' AND alone GROUP BY queue
    UNION ALL
    SELECT queue, 0, NULL FROM $tasks WHERE state = 'doing' GROUP BY queue
  ) AS part
 GROUP BY queue
 ORDER BY queue
""")


async def queue_depths(connection: Connection, tables: Tables) -> dict[str, QueueDepth]:
    """The queues that have due or running tasks."""
    rows = await connection.fetch(_DEPTHS[tables])
    return {row["queue"]: QueueDepth(row["depth"], round(max(0.0, row["age"]), 3)) for row in rows}


_WORKERS = Statement("""
SELECT worker.id, worker.server_name, worker.pid, worker.supervisor_id, worker.state, worker.queues,
       worker.concurrency, worker.version, worker.counters, worker.date_started,
       worker.last_heartbeat, least(worker.concurrency, (
           SELECT count(*) FROM $tasks WHERE state = 'doing' AND worker_id = worker.id
       ))::integer AS busy,
       extract(epoch FROM clock_timestamp() - worker.last_heartbeat)::float8 AS silent_for
  FROM $workers AS worker
 WHERE worker.state IN ('running', 'draining')
 ORDER BY worker.server_name, worker.date_started, worker.id
""")


async def list_workers(connection: Connection, tables: Tables) -> list[WorkerRow]:
    """The worker processes whose rows say that they run, by server."""
    rows = await connection.fetch(_WORKERS[tables])
    return [WorkerRow(**{**row, "counters": json.loads(row["counters"])}) for row in rows]


def worker_summary(workers: Sequence[WorkerRow], *, lease: float) -> WorkerSummary:
    """Sum up the workers that gave a sign of life within the lease (seconds)."""
    alive = [worker for worker in workers if worker.is_alive(lease)]
    active = sum(worker.busy > 0 for worker in alive)
    return WorkerSummary(
        servers=len({worker.server_name for worker in alive}),
        processes=len(alive),
        active=active,
        idle=len(alive) - active,
        slots=sum(worker.concurrency for worker in alive),
        busy=sum(worker.busy for worker in alive),
    )


def sum_counters(workers: Sequence[WorkerRow]) -> dict[str, int]:
    """The counters of several workers added up by name, without those that are zero."""
    total: Counter[str] = Counter()
    for worker in workers:
        for name, value in worker.counters.items():
            if isinstance(value, int):
                total[name] += value
    return {name: value for name, value in total.items() if value}


def in_process(workers: Sequence[WorkerRow]) -> dict[str, dict[str, float]]:
    """The in-process tasks of web processes: counts and seconds by name, added up."""
    total: dict[str, dict[str, float]] = {}
    for worker in workers:
        for name, counts in dict(worker.counters.get("in_process") or {}).items():
            sums = total.setdefault(name, {})
            for word, value in counts.items():
                known = sums.get(word, 0)
                sums[word] = max(known, value) if word == "longest" else known + value
    return dict(sorted(total.items()))


_BOUND = Statement("SELECT least(id, $1) FROM $tasks ORDER BY id DESC OFFSET $2 LIMIT 1")
_LAST_HOUR = Statement("""
SELECT (SELECT count(*) FROM $tasks WHERE id >= $1 AND state = 'done'
           AND date_ended > clock_timestamp() - interval '1 hour') AS done,
       (SELECT count(*) FROM $tasks WHERE state = 'failed'
           AND date_ended > clock_timestamp() - interval '1 hour') AS failed
""")
_NAMES = Statement("""
SELECT name, done, failed, quantiles[1] AS p50, quantiles[2] AS p95
  FROM (
    SELECT name, count(*) FILTER (WHERE state = 'done') AS done,
           count(*) FILTER (WHERE state = 'failed') AS failed,
           percentile_cont(ARRAY [0.5, 0.95]) WITHIN GROUP
               (ORDER BY 1000 * extract(epoch FROM date_ended - date_started)::float8)
               FILTER (WHERE state = 'done') AS quantiles
      FROM $tasks
     WHERE id >= $1 AND state IN ('done', 'failed')
     GROUP BY name
  ) AS each
 ORDER BY done + failed DESC, name
 LIMIT $2
""")


async def recent_bound(
    connection: Connection,
    tables: Tables,
    *,
    newest: int,
    within: timedelta = timedelta(0),
) -> UUID:
    """The id from which on tasks count as recent: the newest ones, and those made `within`."""
    bound = await connection.fetchval(_BOUND[tables], first_id(datetime.now(UTC) - within), newest)
    return UUID(int=0) if bound is None else bound


async def last_hour(
    connection: Connection, tables: Tables, *, newest: int = RECENT_TASKS
) -> dict[str, int]:
    """How many tasks were done and how many failed in the last hour.

    Those done are looked for among the `newest` tasks and all that were made within the hour.
    """
    since = await recent_bound(connection, tables, newest=newest, within=timedelta(hours=1))
    row = await connection.fetchrow(_LAST_HOUR[tables], since)
    assert row is not None
    return dict(row)


async def name_stats(
    connection: Connection, tables: Tables, *, newest: int = SAMPLED_TASKS, limit: int = 200
) -> list[NameStats]:
    """How the `newest` tasks ended, by name, the most frequent names first."""
    since = await recent_bound(connection, tables, newest=newest)
    rows = await connection.fetch(_NAMES[tables], since, limit)
    return [
        NameStats(row["name"], row["done"], row["failed"], row["p50"], row["p95"]) for row in rows
    ]
