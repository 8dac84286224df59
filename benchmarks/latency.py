"""How long one task takes when there is nothing else to do."""

from __future__ import annotations

import asyncio
import time

from benchmarks import floor
from benchmarks.harness import BenchmarkError, Lab, T, pool, producer, settle
from benchmarks.report import Bar, Figures, Scenario, percentile, percentiles
from benchmarks.tasks import echo, stamp
from fastedgy.database import connect

TASKS = 500
TRIPS = 300
PAUSE = 0.02
"""Seconds between two tasks."""


async def latency(lab: Lab) -> Figures:
    """Milliseconds from the call that enqueues to the first line of the body."""
    count = lab.count(TASKS, least=50)
    async with lab.database() as url:
        await settle(url)
        async with pool(url, 1) as running, producer(url) as tasks:
            await running.ready(1)
            for _ in range(20):
                await tasks.add_task(echo, 0).wait(timeout=10)
            called = {}
            next_at = time.monotonic()
            for number in range(count):
                next_at += PAUSE
                await asyncio.sleep(next_at - time.monotonic())
                began = time.monotonic_ns()
                ref = await tasks.add_task(stamp, number)
                called[ref.id] = began
            await ref.wait(timeout=10)
        connection = await connect(url)
        rows = await connection.fetch(
            f"SELECT id, result::text::bigint AS began FROM {T.tasks}"
            f" WHERE function LIKE '%:stamp' AND state = 'done'"
        )
        await connection.close()
    if len(rows) != count:
        raise BenchmarkError(f"{len(rows)} of {count} tasks were done.")
    ours = [(row["began"] - called[row["id"]]) / 1e6 for row in rows]
    raw = await _floor(lab, count, answers=False)
    return {"value": percentile(ours, 0.5), "floor": percentile(raw, 0.5), **percentiles(ours),
            "floor_p99": percentile(raw, 0.99)}  # fmt: skip


async def round_trip(lab: Lab) -> Figures:
    """Milliseconds from the call that enqueues to the result at the caller."""
    count = lab.count(TRIPS, least=50)
    async with lab.database() as url:
        await settle(url)
        async with pool(url, 1) as running, producer(url) as tasks:
            await running.ready(1)
            for _ in range(20):
                await tasks.add_task(echo, 0).wait(timeout=10)
            ours = []
            for number in range(count):
                began = time.monotonic_ns()
                result = await tasks.add_task(echo, number).wait(timeout=10)
                ours.append((time.monotonic_ns() - began) / 1e6)
                if result != number:
                    raise BenchmarkError(f"Task {number} returned {result}.")
                await asyncio.sleep(PAUSE)
    raw = await _floor(lab, count, answers=True)
    return {"value": percentile(ours, 0.5), "floor": percentile(raw, 0.5), **percentiles(ours),
            "floor_p99": percentile(raw, 0.99)}  # fmt: skip


async def _floor(lab: Lab, count: int, *, answers: bool) -> list[float]:
    async with lab.database() as url:
        await settle(url)
        return await floor.RawWorker(url, answers=answers).hops(count, PAUSE)


SCENARIOS = (
    Scenario(
        "latency",
        "ms",
        "idle worker: enqueue call to body start",
        latency,
        note="Bars: p50 at most 0.8 times the best peer, p99 no worse than it (compare). Floor: "
        "INSERT and NOTIFY until the claim, in one process.",
    ),
    Scenario(
        "round_trip",
        "ms",
        "enqueue call to the result at the caller",
        round_trip,
        (Bar("value", 5, "p50, ms", at_most=True),),
    ),
)
