"""Draining: tasks are there, workers start, and everything is done."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from asyncpg import Connection

from benchmarks import floor
from benchmarks.harness import BenchmarkError, Lab, T, fill, pool, producer, settle
from benchmarks.report import Bar, Figures, Scenario
from benchmarks.tasks import noop, traced
from fastedgy.database import connect

DRAIN = 60_000
REFERENCE = 30_000
"""Tasks of a drain that another scenario is compared with."""
TRACED = 20_000
CHILDREN = 10_000

_UNFINISHED = f"""
SELECT CASE WHEN NOT EXISTS (SELECT FROM {T.tasks}
                              WHERE state = 'enqueued' AND NOT alone AND gate IS NULL)
             AND NOT EXISTS (SELECT FROM {T.tasks} WHERE state = 'enqueued' AND alone)
             AND NOT EXISTS (SELECT FROM {T.tasks}
                              WHERE state = 'enqueued' AND NOT alone AND gate IS NOT NULL)
             AND NOT EXISTS (SELECT FROM {T.tasks} WHERE state = 'doing')
            THEN clock_timestamp() END
"""
_TOTALS = f"""
SELECT count(*) AS tasks,
       count(*) FILTER (WHERE state = 'done' AND run = 1 AND attempt = 1 AND losses = 0) AS once,
       min(date_started) AS began, max(date_ended) AS ended
  FROM {T.tasks} WHERE id >= $1
"""


@dataclass(frozen=True, slots=True)
class Drained:
    """A drain whose every row was checked. Times are the database's.

    `ended` is when the table was seen to have no unfinished task, looked at every 5 ms: later than
    the last outcome, never earlier.
    """

    tasks: int
    began: datetime
    ended: datetime

    @property
    def rate(self) -> float:
        """Tasks a second, from the first start to the last outcome in the table."""
        return self.tasks / (self.ended - self.began).total_seconds()


async def drain(url: str, count: int, last: UUID, *, workers: int, first: UUID) -> Drained:
    """Start workers, let them go together, and wait for the end of the tasks from `first` on."""
    async with pool(url, workers, gated=True) as running:
        await running.release(workers)

        async def last_done() -> Any:
            return await running.watch.fetchval(
                f"SELECT state = 'done' FROM {T.tasks} WHERE id = $1", last
            )

        async def all_done() -> Any:
            return await running.watch.fetchval(_UNFINISHED)

        within = 60 + count / 500
        await running.until(last_done, within, every=0.005)
        ended = await running.until(all_done, within, every=0.005)
    connection = await connect(url)
    try:
        await check_workers(connection, count)
        return await _totals(connection, count, first, ended)
    finally:
        await connection.close()


async def _totals(connection: Connection, count: int, first: UUID, ended: datetime) -> Drained:
    row = await connection.fetchrow(_TOTALS, first)
    if row["tasks"] != count or row["once"] != count:
        raise BenchmarkError(
            f"Of {count} tasks, {row['tasks']} are there and {row['once']} were done exactly once."
        )
    return Drained(count, row["began"], max(ended, row["ended"]))


async def check_workers(connection: Connection, count: int) -> None:
    """The workers' own books: they ran as many tasks as there are, and nothing was fenced off.

    Only of the workers that ended last, and after their end: they close their books then.
    """
    row = await connection.fetchrow(
        f"SELECT sum((counters ->> 'done')::integer) AS done,"
        f"       sum((counters ->> 'fenced')::integer) AS fenced,"
        f"       sum((counters ->> 'errors')::integer) AS errors"
        f"  FROM {T.workers}"
        f" WHERE supervisor_id = (SELECT supervisor_id FROM {T.workers}"
        f"                         ORDER BY date_started DESC LIMIT 1)"
    )
    if row["done"] != count or row["fenced"] or row["errors"]:
        raise BenchmarkError(f"The workers' counters say {dict(row)}, for {count} tasks.")


NOTHING = UUID(int=0)


async def drain_fresh(
    lab: Lab, count: int, *, workers: int, function: Callable[..., Any] = noop
) -> Drained:
    """A drain in a fresh database."""
    async with lab.database() as url:
        last = await fill(url, function, count)
        await settle(url)
        return await drain(url, count, last, workers=workers, first=NOTHING)


async def floor_fresh(
    lab: Lab, count: int, *, connections: int, finish: floor.Complete = floor.complete
) -> float:
    """The floor of the same drain, in a fresh database filled in the same way."""
    async with lab.database() as url:
        await fill(url, noop, count)
        await settle(url)
        return await floor.drain(url, count, connections=connections, finish=finish)


async def drain_1(lab: Lab) -> Figures:
    """One worker process."""
    count = lab.count(DRAIN)
    drained = await drain_fresh(lab, count, workers=1)
    return {"value": drained.rate, "floor": await floor_fresh(lab, count, connections=1)}


async def drain_2(lab: Lab) -> Figures:
    """Two worker processes, of one supervisor."""
    count = lab.count(DRAIN)
    drained = await drain_fresh(lab, count, workers=2)
    return {"value": drained.rate, "floor": await floor_fresh(lab, count, connections=2)}


async def traced_drain(lab: Lab) -> Figures:
    """Tasks that write 5 logs and 5 context values each, beside tasks that write none."""
    count = lab.count(TRACED)
    plain = await drain_fresh(lab, lab.count(REFERENCE), workers=1)
    talking = await drain_fresh(lab, count, workers=1, function=traced)
    raw = await floor_fresh(lab, count, connections=1, finish=floor.complete_traced)
    return {
        "value": talking.rate,
        "floor": raw,
        "drain_1": plain.rate,
        "of_drain_1": talking.rate / plain.rate,
    }


async def fan(lab: Lab) -> Figures:
    """One parent, many children of it, and one task that waits for them all."""
    children = lab.count(CHILDREN)
    plain = await drain_fresh(lab, lab.count(REFERENCE), workers=1)
    async with lab.database() as url:
        async with producer(url) as tasks:
            parent = tasks.add_task(noop, -1)
            middle = tasks.add_tasks(noop, [(n,) for n in range(children)], parent=parent)
            join = tasks.add_task(noop, -2, parent=middle)
            await tasks.flush()
        await settle(url)
        assert join.id is not None
        drained = await drain(url, children + 2, join.id, workers=1, first=NOTHING)
        connection = await connect(url)
        gap = await connection.fetchval(
            f"SELECT extract(epoch FROM (SELECT date_started FROM {T.tasks} WHERE id = $1)"
            f"  - (SELECT max(date_ended) FROM {T.tasks} WHERE id <> $1))::float8",
            join.id,
        )
        await connection.close()
    raw = await floor_fresh(lab, children + 2, connections=1)
    return {
        "value": drained.rate,
        "floor": raw,
        "drain_1": plain.rate,
        "of_drain_1": drained.rate / plain.rate,
        "join_after_ms": gap * 1000,
    }


SCENARIOS = (
    Scenario(
        "drain_1",
        "tasks/s",
        "no-op async tasks, 1 worker process",
        drain_1,
        (Bar("ratio", 0.5, "of raw claim and complete by 500"),),
        note="Also: 2.0 times the fastest peer (compare).",
    ),
    Scenario(
        "drain_2",
        "tasks/s",
        "no-op async tasks, 2 worker processes",
        drain_2,
        (Bar("ratio", 0.4, "of raw claim and complete, 2 connections"),),
        note="Also: 1.8 times the fastest peer (compare).",
    ),
    Scenario(
        "traced",
        "tasks/s",
        "5 logs and 5 context values per task",
        traced_drain,
        (Bar("of_drain_1", 0.35, "of our drain_1"),),
    ),
    Scenario(
        "fan",
        "tasks/s",
        "1 parent, 10,000 children, 1 join",
        fan,
        (
            Bar("of_drain_1", 0.5, "of our drain_1"),
            Bar("join_after_ms", 50, "join after the last child, ms", at_most=True),
        ),
    ),
)
