"""Enqueueing: one task per commit, and many at once."""

from __future__ import annotations

import time

from benchmarks import floor
from benchmarks.harness import BenchmarkError, Lab, T, producer, settle
from benchmarks.report import Bar, Figures, Scenario
from benchmarks.tasks import noop
from fastedgy.database import connect

ONE = 3_000
MANY = 200_000
CHUNK = 5_000
"""Tasks of one call. The same for the floors, and for the peers (PEERS.md)."""


async def enqueue_one(lab: Lab) -> Figures:
    """`await tasks.add_task(…)`, one after the other."""
    count = lab.count(ONE)
    async with lab.database() as url:
        await settle(url)
        async with producer(url) as tasks:
            await tasks.add_task(noop, -1)  # the connection is opened by this one
            began = time.perf_counter()
            for number in range(count):
                await tasks.add_task(noop, number)
            seconds = time.perf_counter() - began
        await _expect(url, count + 1)
    async with lab.database() as url:
        await settle(url)
        raw = await floor.insert_one(url, count)
    return {"value": count / seconds, "floor": raw}


async def enqueue_many(lab: Lab) -> Figures:
    """`tasks.add_tasks(…)` and `await tasks.flush()`, 5,000 a time."""
    count = lab.count(MANY, least=CHUNK)
    async with lab.database() as url:
        await settle(url)
        async with producer(url) as tasks:
            await tasks.add_task(noop, -1)
            began = time.perf_counter()
            for start in range(0, count, CHUNK):
                calls = [(number,) for number in range(start, min(count, start + CHUNK))]
                tasks.add_tasks(noop, calls)
                await tasks.flush()
            seconds = time.perf_counter() - began
        await _expect(url, count + 1)
    floors = []
    for insert in (floor.insert_many, floor.copy_many):
        async with lab.database() as url:
            await settle(url)
            floors.append(await insert(url, count, CHUNK))
    unnest, copy = floors
    return {"value": count / seconds, "floor": max(floors), "unnest": unnest, "copy": copy}


async def _expect(url: str, count: int) -> None:
    connection = await connect(url)
    found = await connection.fetchval(f"SELECT count(*) FROM {T.tasks} WHERE state = 'enqueued'")
    await connection.close()
    if found != count:
        raise BenchmarkError(f"{found} rows are there, and {count} were enqueued.")


SCENARIOS = (
    Scenario(
        "enqueue_one",
        "tasks/s",
        "await add_task(…), one commit each",
        enqueue_one,
        (Bar("ratio", 0.6, "of one raw INSERT per commit"),),
        note="Also: 1.2 times the fastest peer (compare).",
    ),
    Scenario(
        "enqueue_many",
        "tasks/s",
        "add_tasks(…) and flush(), 5,000 a time",
        enqueue_many,
        (Bar("ratio", 0.7, "of the faster of unnest and COPY"),),
        note="Also: 1.5 times the fastest peer (compare).",
    ),
)
