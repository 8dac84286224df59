"""A steady flow: a producer that keeps a bounded number of tasks before the workers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

from asyncpg import Connection

from benchmarks.harness import BenchmarkError, Pool, T, producer
from benchmarks.tasks import noop, probe
from fastedgy.queued_tasks import QueuedTaskRef, QueuedTasks

BATCH = 1_000
OUTSTANDING = 5
"""Batches that may be unfinished: with 5,000 tasks the worker never runs dry."""
PROBE_EVERY = 0.02
Lane = tuple[str, int]


@dataclass(slots=True)
class Flowed:
    """How many tasks flowed, and when, by the database's clock: until the producer ended."""

    tasks: int
    began: datetime
    ended: datetime


async def flow(
    url: str,
    running: Pool,
    *,
    lanes: Sequence[Lane],
    count: int,
    at_least: float = 0.0,
    at_most: float = 300.0,
    probe_lane: Lane | None = None,
    going_on: Callable[[], bool] = lambda: False,
) -> Flowed:
    """Let tasks flow until there were `count`, `at_least` seconds have passed, and `going_on` says
    no.

    A task behind each batch is waited for, and a lane is a line: that bounds what is ahead of the
    workers without asking the table. `probe_lane`: one task every 20 ms goes there, for its
    latency. Raises BenchmarkError after `at_most` seconds.
    """
    done = asyncio.Event()
    async with producer(url) as tasks:
        await tasks.add_task(noop, -1).wait(timeout=30)  # from now on, ends are listened for
        probing = asyncio.create_task(_probe(tasks, probe_lane, done)) if probe_lane else None
        began = await running.watch.fetchval("SELECT clock_timestamp()")
        start = time.monotonic()
        markers: list[asyncio.Task[object]] = []
        added, turn = 0, 0
        while added < count or time.monotonic() - start < at_least or going_on():
            running.check()
            queue, priority = lanes[turn % len(lanes)]
            turn += 1
            here = tasks.task(queue=queue, priority=priority)
            here.add_tasks(noop, [(number,) for number in range(added, added + BATCH - 1)])
            await tasks.flush()
            markers.append(asyncio.create_task(here.add_task(noop, -1).wait(timeout=at_most)))
            await asyncio.sleep(0)  # it is on its way before anything is added beside it
            added += BATCH
            while len(markers) >= OUTSTANDING:
                ended, rest = await asyncio.wait(
                    markers, timeout=at_most, return_when=asyncio.FIRST_COMPLETED
                )
                for marker in ended:
                    marker.result()
                markers = list(rest)
            if time.monotonic() - start > at_most:
                raise BenchmarkError(f"Only {added} tasks flowed within {at_most:g} s.")
        last_moment = await running.watch.fetchval("SELECT clock_timestamp()")
        await asyncio.gather(*markers)
        done.set()
        if probing is not None:
            added += await probing
    return Flowed(added + 1, began, last_moment)


async def _probe(tasks: QueuedTasks, lane: Lane, done: asyncio.Event) -> int:
    sent = 0
    made = tasks.task(queue=lane[0], priority=lane[1])
    last: QueuedTaskRef | None = None
    while not done.is_set():
        last = made.add_task(probe, sent)
        await tasks.flush()
        sent += 1
        await asyncio.sleep(PROBE_EVERY)
    if last is not None:
        await last.wait(timeout=30)
    return sent


async def rate(connection: Connection, start: datetime, end: datetime) -> float:
    """Tasks a second that ended between two moments."""
    found: int = await connection.fetchval(
        f"SELECT count(*) FROM {T.tasks} WHERE date_ended >= $1 AND date_ended < $2", start, end
    )
    return found / (end - start).total_seconds()


async def probe_p99(connection: Connection, start: datetime, end: datetime) -> float:
    """The 99th percentile of the probes' wait in the line, in milliseconds."""
    found: float | None = await connection.fetchval(
        "SELECT percentile_disc(0.99) WITHIN GROUP ("
        "         ORDER BY extract(epoch FROM date_started - date_enqueued)::float8)"
        f" FROM {T.tasks} WHERE function LIKE '%:probe'"
        "   AND date_enqueued >= $1 AND date_enqueued < $2",
        start,
        end,
    )
    if found is None:
        raise BenchmarkError("No probe was sent in a window.")
    return found * 1000
