"""The worker processes, as their rows tell of them. What is counted over all tasks stands in
`counts`, how it went lately in `history`.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from asyncpg import Connection

from fastedgy.models.tables import Tables
from fastedgy.store.statements import Statement


@dataclass(frozen=True, slots=True)
class WorkerRow:
    """A worker process that has not ended, or whose end nobody has seen.

    `busy` counts the slots in use, by the tasks that it holds. `silent_for` is the age of its last
    sign of life in seconds, by the database's clock. `queues` None or empty: all of them. `drain`:
    what was asked to drain, this `worker` or its `supervisor`.
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
    drain: str | None = None

    def is_alive(self, lease: float) -> bool:
        """Whether it gave a sign of life within the lease (seconds)."""
        return self.silent_for < lease

    @property
    def is_web(self) -> bool:
        """Whether it is a web process, which runs its own in-process tasks and no others."""
        return self.concurrency == 0

    @property
    def drains(self) -> bool:
        """Whether it takes no more tasks, or was asked to do so and obeys in a moment."""
        return self.state == "draining" or self.drain is not None

    def serves(self, queue: str) -> bool:
        """Whether it takes new tasks of that queue."""
        return not self.drains and (not self.queues or queue in self.queues)


@dataclass(frozen=True, slots=True)
class WorkerSummary:
    """The living workers together. `active` processes have a task, `idle` ones none."""

    servers: int
    processes: int
    active: int
    idle: int
    slots: int
    busy: int


_WORKERS = Statement("""
SELECT worker.id, worker.server_name, worker.pid, worker.supervisor_id, worker.state, worker.queues,
       worker.concurrency, worker.version, worker.counters, worker.date_started,
       worker.last_heartbeat, worker.drain, least(worker.concurrency, (
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


@dataclass(frozen=True, slots=True)
class Slot:
    """A task that a worker holds."""

    worker_id: UUID
    id: UUID
    name: str
    queue: str
    date_started: datetime
    cancel_requested: bool


_SLOTS = Statement("""
SELECT task.worker_id, task.id, task.name, task.queue, task.date_started, task.cancel_requested
  FROM $workers AS worker CROSS JOIN LATERAL (
       SELECT * FROM $tasks WHERE state = 'doing' AND worker_id = worker.id LIMIT $1
  ) AS task
 WHERE worker.state IN ('running', 'draining')
 ORDER BY task.date_started, task.id
""")


async def slots(connection: Connection, tables: Tables, *, each: int) -> list[Slot]:
    """What the workers hold, up to `each` tasks of every one, those that started first first."""
    return [Slot(**row) for row in await connection.fetch(_SLOTS[tables], each)]


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
