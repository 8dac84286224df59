"""Real workers fire schedules: kept to the second, obeyed at once, whoever is killed."""

from __future__ import annotations

import asyncio
import os
import signal
from collections import Counter
from datetime import datetime, timedelta

import asyncpg
import clock_tasks
import orjson
import pytest
from crew import Crew, Hire
from firing_points import POINTS
from helpers import SLACK, eventually

from fastedgy.dependencies import get_service
from fastedgy.queued_tasks import QueuedTasks
from fastedgy.scheduler import Scheduler, scheduled
from fastedgy.scheduler.firing import Firer

SECOND = timedelta(seconds=1)


async def fired(connection: asyncpg.Connection, name: str | None = None) -> Counter[datetime]:
    """How many tasks there are for each due time."""
    rows = await connection.fetch(
        "SELECT context FROM queued_tasks WHERE schedule = $1 OR $1::text IS NULL", name
    )
    return Counter(
        datetime.fromisoformat(orjson.loads(row["context"])["schedule"]["due"]) for row in rows
    )


async def test_a_declared_schedule_runs_in_a_worker_with_nothing_else_to_do(
    hire: Hire, connection: asyncpg.Connection
) -> None:
    scheduled(every=0.5, name="x", max_instances=None)(clock_tasks.tick)
    async with hire() as staff:

        async def done() -> None:
            states = await connection.fetch("SELECT state FROM queued_tasks WHERE schedule = 'x'")
            assert [row["state"] for row in states].count("done") >= 3

        await eventually(done)
        assert staff.counters.fired >= 3
        assert staff.counters.errors == 0
    [row] = await connection.fetch("SELECT * FROM queued_tasks ORDER BY id LIMIT 1")
    assert orjson.loads(row["result"])["name"] == "x"
    lateness = await connection.fetchval(
        "SELECT min(extract(epoch FROM date_enqueued - date_due)) FROM queued_tasks"
    )
    assert lateness < 0.25


async def test_what_is_added_and_paused_in_one_process_is_obeyed_by_all_within_a_second(
    hire: Hire, crew: Crew, connection: asyncpg.Connection
) -> None:
    for _ in range(2):
        await crew.start(app="clock_app:app")
    async with hire():
        scheduler = get_service(Scheduler)
        await scheduler.add(clock_tasks.tick, every=0.2, name="x", max_instances=None)

        async def some() -> None:
            assert len(await fired(connection)) >= 5

        await eventually(some)
        first = await connection.fetchval("SELECT min(date_enqueued) FROM queued_tasks")
        began = await connection.fetchval("SELECT date_created FROM queued_task_schedules")
        assert first - began < timedelta(seconds=1 + SLACK)

        paused = await scheduler.pause("x")
        assert paused.date_changed is not None
        await asyncio.sleep(1.2)  # the absence of something has no sign
        last = await connection.fetchval("SELECT max(date_enqueued) FROM queued_tasks")
        assert last <= paused.date_changed  # not within a second: at once
        counts = await fired(connection)
        assert set(counts.values()) == {1}

        resumed = await scheduler.resume("x")
        assert resumed.next_due is not None

        async def again() -> None:
            assert resumed.next_due is not None
            assert max(await fired(connection)) >= resumed.next_due

        await eventually(again)


@pytest.mark.parametrize("point", POINTS)
async def test_a_worker_killed_there_fires_each_due_time_once(
    point: str,
    scheduler: Scheduler,
    crew: Crew,
    connection: asyncpg.Connection,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    period = timedelta(seconds=0.4)
    await scheduler.add(clock_tasks.tick, every=period, name="x", coalesce=False,
                        misfire_grace=None, max_instances=None)  # fmt: skip
    await scheduler.pause("x")
    with monkeypatch.context() as patch:
        patch.setenv("FIRING_CRASH_AT", point)
        doomed = await crew.start(app="clock_app:app")
    resumed = await scheduler.resume("x")
    assert await doomed.ended() == -signal.SIGKILL

    successor = Firer(get_service(QueuedTasks))

    async def some() -> None:
        await successor.round(connection)
        assert len(await fired(connection)) >= 4

    await eventually(some)
    found = await fired(connection)
    dues = sorted(found)
    assert resumed.next_due is not None
    assert set(found.values()) == {1}
    assert dues == [resumed.next_due + n * period for n in range(len(dues))]
    row = await connection.fetchrow("SELECT * FROM queued_task_schedules")
    assert (row["last_due"], row["fired"], row["missed"]) == (dues[-1], len(dues), 0)


async def test_workers_that_come_and_go_fire_each_second_once(
    scheduler: Scheduler, crew: Crew, connection: asyncpg.Connection
) -> None:
    """The short form of `python -m benchmarks.schedules`."""
    names = [f"every second {number}" for number in range(20)]
    for name in names:
        await scheduler.add(clock_tasks.tick, every=SECOND, name=name, coalesce=False,
                            misfire_grace=None, max_instances=None)  # fmt: skip
    workers = [crew.begin(app="clock_app:app") for _ in range(3)]
    for worker in workers:
        await worker.ready()

    async def another_round() -> None:
        """Wait until every schedule has fired again."""
        now = await connection.fetchval("SELECT clock_timestamp()")

        async def check() -> None:
            assert await connection.fetchval(
                "SELECT bool_and(coalesce(last_due > $1, false)) FROM queued_task_schedules", now
            )

        await eventually(check)

    await another_round()
    for victim in workers[:2]:
        os.kill(victim.pid, signal.SIGKILL)
        await another_round()
    for name in names:
        await scheduler.pause(name)
    for row in await connection.fetch("SELECT * FROM queued_task_schedules"):
        found = await fired(connection, row["name"])
        dues = sorted(found)
        assert dues == [row["anchor"] + n * SECOND for n in range(1, len(dues) + 1)]
        assert set(found.values()) == {1}
        assert row["last_due"] == dues[-1]
