"""Staying fast: under a pinned vacuum horizon, and with millions of other rows in the table."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from statistics import median
from uuid import UUID

from benchmarks import floor
from benchmarks.deep import make_deep, unwanted_scans
from benchmarks.drain import REFERENCE, drain, drain_fresh
from benchmarks.flow import BATCH as FED
from benchmarks.flow import OUTSTANDING, flow, probe_p99, rate
from benchmarks.harness import BenchmarkError, Lab, T, fill, pool, settle
from benchmarks.onlookers import watched
from benchmarks.report import Bar, Figures, Scenario
from benchmarks.tasks import noop
from fastedgy.database import connect
from fastedgy.ids import new_id
from fastedgy.models.tables import Tables
from fastedgy.store import counts, history, overview

PINNED = 500_000
PINNED_SECONDS = 30.0
"""At least, so that the first and the last 10 s do not overlap."""
WINDOW = 10.0
LANES = [(queue, priority) for priority in (0, 5, 10) for queue in ("left", "right")]
DONE, SCHEDULED, WAITING = 10_000_000, 1_000_000, 1_000_000
WATCHED = 300_000
"""Tasks of a drain that lasts for some seconds, as pages look once a second."""
COMMANDS_MS = 100.0


async def pinned(lab: Lab) -> Figures:
    """The last 10 s beside the first 10 s of a flow, with a transaction open that pins vacuum."""
    count = lab.count(PINNED, least=5_000)
    at_least = lab.seconds(PINNED_SECONDS, 3.0)
    window = timedelta(seconds=min(WINDOW, at_least / 3))
    async with lab.database() as url:
        await settle(url)
        async with pool(url, 1) as running, asyncio.TaskGroup() as holding:
            await running.ready(1)
            unpin = await _pin(url, holding)
            try:
                flowed = await flow(
                    url, running, lanes=LANES, count=count, at_least=at_least,
                    at_most=60 + count / 500, probe_lane=("left", 10),
                )  # fmt: skip
            finally:
                unpin()
        connection = await connect(url)
        row = await connection.fetchrow(
            f"SELECT count(*) AS tasks, count(*) FILTER (WHERE state = 'done' AND run = 1) AS once,"
            f"       min(date_started) AS began FROM {T.tasks}"
        )
        if row["tasks"] != flowed.tasks or row["once"] != flowed.tasks:
            raise BenchmarkError(f"Of {flowed.tasks} tasks, {row['once']} were done exactly once.")
        starts = row["began"], flowed.ended - window
        first, last = [await rate(connection, start, start + window) for start in starts]
        p99_first, p99_last = [
            await probe_p99(connection, start, start + window) for start in starts
        ]
        seconds = (flowed.ended - row["began"]).total_seconds()
        await connection.close()
    plain = await _pinned_floor(lab, at_least, window)
    return {
        "value": last / first,
        "floor": plain,
        "first_per_s": first,
        "last_per_s": last,
        "mean_per_s": flowed.tasks / seconds,
        "p99_first_ms": p99_first,
        "p99_last_ms": p99_last,
        "p99_last_of_first": p99_last / p99_first,
    }


async def _pin(url: str, group: asyncio.TaskGroup) -> Callable[[], None]:
    """Open a transaction that has read the tables and stays open until the returned call."""
    connection = await connect(url, application_name="benchmarks pin")
    await connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
    await connection.fetchval(f"SELECT count(*) FROM {T.tasks}")
    over = asyncio.Event()

    async def hold() -> None:
        await over.wait()
        await connection.execute("ROLLBACK")
        await connection.close()

    group.create_task(hold())
    return over.set


async def _pinned_floor(lab: Lab, seconds: float, window: timedelta) -> float:
    """The same ratio of a plain SKIP LOCKED loop that is fed by raw INSERTs under the same pin."""
    async with lab.database() as url:
        await settle(url)
        async with asyncio.TaskGroup() as group:
            unpin = await _pin(url, group)
            feeder = await floor.held(url)
            began: datetime = await feeder.fetchval("SELECT clock_timestamp()")
            stop = time.monotonic() + seconds
            over = [False]
            draining = group.create_task(floor.plain_drain(url, lambda: over[0]))
            done_query = f"SELECT state = 'done' FROM {T.tasks} WHERE id = $1"
            ahead: list[UUID] = []
            while time.monotonic() < stop:
                ids = [new_id() for _ in range(FED)]
                shared = floor.one_row(0)[3:]
                await feeder.execute(floor.INSERT_MANY, ids, ["[0]"] * FED, ["{}"] * FED, *shared)
                ahead.append(ids[-1])
                # As in ours, a bounded number is ahead of the loop.
                while len(ahead) >= OUTSTANDING and time.monotonic() < stop:
                    if await feeder.fetchval(done_query, ahead[0]):
                        del ahead[0]
                    else:
                        await asyncio.sleep(0.005)
            ended: datetime = await feeder.fetchval("SELECT clock_timestamp()")
            over[0] = True
            await draining
            first, final = [
                await rate(feeder, start, start + window) for start in (began, ended - window)
            ]
            await feeder.close()
            unpin()
    return final / first if first else 0.0


async def deep(lab: Lab) -> list[Figures]:
    """Drains beside many other rows. These are made once: it takes minutes."""
    count = lab.count(REFERENCE)
    sizes = [lab.count(size) for size in (DONE, SCHEDULED, WAITING)]
    runs: list[Figures] = []
    async with lab.database() as url:
        lab.say("deep: making {:,} done, {:,} scheduled and {:,} waiting rows".format(*sizes))
        await make_deep(url, *sizes)
        for number in range(lab.repeat):
            lab.say(f"deep: {number + 1} of {lab.repeat}")
            empty = await drain_fresh(lab, count, workers=1)
            first = new_id()
            last = await fill(url, noop, count)
            await settle(url)
            beside = await drain(url, count, last, workers=1, first=first)
            await fill(url, noop, count)
            await settle(url)
            raw = await floor.drain(url, count, connections=1)
            runs.append(
                {
                    "value": beside.rate,
                    "floor": raw,
                    "empty_per_s": empty.rate,
                    "of_empty": beside.rate / empty.rate,
                    **await _commands(url),
                    "unwanted_scans": 0.0,
                    **await _watched(lab, url, onlookers_first=bool(number % 2)),
                }
            )
        complaints = await unwanted_scans(url)
    for complaint in complaints:
        lab.say(f"deep: {complaint}")
    for run in runs:
        run["unwanted_scans"] = float(len(complaints))
    return runs


async def _commands(url: str) -> Figures:
    """Milliseconds of what `queue status` and `queue stats` ask the database."""
    connection, tables = await connect(url), Tables()

    async def status() -> None:
        states = await counts.count_states(connection, tables)
        await counts.queue_depths(connection, tables, enqueued=states.counts["enqueued"])
        await overview.list_workers(connection, tables)

    async def stats() -> None:
        await counts.count_states(connection, tables)
        await history.last_hour(connection, tables)
        await history.names(connection, tables, seconds=86_400, limit=200)
        await overview.list_workers(connection, tables)

    found: Figures = {}
    for command in (status, stats):
        taken = []
        for _ in range(4):
            began = time.perf_counter()
            await command()
            taken.append((time.perf_counter() - began) * 1000)
        found[f"{command.__name__}_ms"] = median(taken[1:])
    await connection.close()
    return found


async def _watched(lab: Lab, url: str, *, onlookers_first: bool) -> Figures:
    """A longer drain with and without people who look at it."""
    count = lab.count(WATCHED)
    rates: dict[bool, float] = {}
    slowest = 0.0
    for looked_at in (onlookers_first, not onlookers_first):
        first = new_id()
        last = await fill(url, noop, count)
        await settle(url)
        if looked_at:
            async with watched(url) as people:
                drained = await drain(url, count, last, workers=1, first=first)
            slowest = max(people.slowest.values())
        else:
            drained = await drain(url, count, last, workers=1, first=first)
        rates[looked_at] = drained.rate
    return {
        "watched_per_s": rates[True],
        "unwatched_per_s": rates[False],
        "of_unwatched": rates[True] / rates[False],
        "slowest_answer_ms": slowest,
    }


async def _once(lab: Lab) -> Figures:
    return (await deep(lab))[0]


SCENARIOS = (
    Scenario(
        "pinned",
        "last/first",
        "tasks/s of the last 10 s of a flow, of the first 10 s; floor: a plain SKIP LOCKED loop",
        pinned,
        (
            Bar("value", 0.9, "of the first 10 s"),
            Bar("p99_last_of_first", 2, "p99 latency, of the first 10 s", at_most=True),
        ),
    ),
    Scenario(
        "deep",
        "tasks/s",
        "drain beside 10 M done, 1 M scheduled, 1 M waiting rows",
        _once,
        (
            Bar("of_empty", 0.85, "of the same drain on an empty table"),
            Bar("status_ms", COMMANDS_MS, "queue status, ms", at_most=True),
            Bar("stats_ms", COMMANDS_MS, "queue stats, ms", at_most=True),
            Bar("unwanted_scans", 0, "scans of rows that are not taken", at_most=True),
            Bar("of_unwatched", 0.95, "of itself, with the dashboard open and metrics scraped"),
        ),
        repeats=deep,
    ),
)
