"""Workflows: how long a link of a chain takes, and how soon a join follows its last parent."""

from __future__ import annotations

from typing import Any

from benchmarks.harness import BenchmarkError, Lab, T, pool, producer, settle
from benchmarks.report import Bar, Figures, Scenario, percentile, percentiles
from benchmarks.tasks import add_one, echo, total

LINKS = 100
CHAINS = 3
"""Chains of one repetition, one after the other."""
CHILDREN = 10_000
SLACK = 20.0
"""Seconds that a workflow may take beyond what its size explains."""

# From the end of one task's body to the start of the next one's.
_GAPS = f"""
SELECT extract(epoch FROM date_started - lag(date_ended) OVER (ORDER BY id))::float8 * 1000 AS gap,
       extract(epoch FROM date_ended - lag(date_ended) OVER (ORDER BY id))::float8 * 1000 AS link
  FROM {T.tasks} WHERE id = ANY ($1::uuid[]) ORDER BY id
"""
_AFTER = f"""
SELECT extract(epoch FROM last.date_ended - max(task.date_ended))::float8 * 1000 AS ended,
       extract(epoch FROM last.date_started - max(task.date_ended))::float8 * 1000 AS started,
       count(*) FILTER (WHERE task.state = 'done' AND task.run = 1) AS done,
       extract(epoch FROM max(task.date_ended) - min(task.date_started))::float8 AS seconds
  FROM {T.tasks} AS task, {T.tasks} AS last
 WHERE task.id = ANY ($1::uuid[]) AND last.id = $2
 GROUP BY last.date_ended, last.date_started
"""


async def chain(lab: Lab) -> Figures:
    """Milliseconds a link: each task takes the result of the one before it."""
    links = lab.count(LINKS, least=20)
    found: list[Any] = []
    async with lab.database() as url:
        await settle(url)
        async with pool(url, 1) as running, producer(url) as tasks:
            await running.ready(1)
            for _ in range(20):
                await tasks.add_task(echo, 0).wait(timeout=10)
            for _ in range(CHAINS):
                refs = [tasks.add_task(add_one, 0)]
                for _ in range(links - 1):
                    refs.append(tasks.add_task(add_one, refs[-1]))
                result = await refs[-1].wait(timeout=SLACK + links)
                if result != links:
                    raise BenchmarkError(f"A chain of {links} tasks counted to {result}.")
                rows = await running.watch.fetch(_GAPS, [ref.id for ref in refs])
                found += rows[1:]
    link = [row["link"] for row in found]
    gap = [row["gap"] for row in found]
    return {"value": percentile(link, 0.5), **percentiles(link), "gap_p50": percentile(gap, 0.5)}


async def join(lab: Lab) -> Figures:
    """Milliseconds from the end of the last of 10,000 children to the end of what joins them.

    One task first, whose result all children take, and one last, which takes all of theirs.
    """
    count = lab.count(CHILDREN)
    async with lab.database() as url:
        await settle(url)
        async with pool(url, 1) as running, producer(url) as tasks:
            await running.ready(1)
            for _ in range(20):
                await tasks.add_task(echo, 0).wait(timeout=10)
            first = tasks.add_task(echo, 1)
            children = tasks.add_tasks(add_one, [(first,)] * count)
            last = tasks.add_task(total, children)
            result = await last.wait(timeout=SLACK + count / 200)
            if result != 2 * count:
                raise BenchmarkError(f"{count} children of 2 each came to {result}.")
            row = await running.watch.fetchrow(_AFTER, [ref.id for ref in children], last.id)
    if row["done"] != count:
        raise BenchmarkError(f"Of {count} children, {row['done']} were done exactly once.")
    return {"value": row["ended"], "start_after": row["started"],
            "children_per_s": count / row["seconds"]}  # fmt: skip


SCENARIOS = (
    Scenario(
        "chain",
        "ms",
        "a chain of 100 tasks, each with the result of the one before: one link",
        chain,
        (Bar("value", 3, "p50, ms", at_most=True),),
    ),
    Scenario(
        "join",
        "ms",
        "1 task, 10,000 children, 1 join of their results: its end after the last child's",
        join,
        (Bar("value", 50, "ms", at_most=True),),
    ),
)
