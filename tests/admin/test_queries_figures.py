"""Counts and figures: exact while there are few tasks, cheap when there are many."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any
from uuid import UUID

import asyncpg
import pytest
from rows import OTHER, TABLES, WORKER, add, add_ended, add_taken, change, count_runs

from fastedgy.admin import QueueAdmin
from fastedgy.errors import InvalidOption
from fastedgy.store import counts, history, rollups
from fastedgy.store.rollups import BOUNDS, BUCKETS, bucket, quantile

HOUR = 3600.0


# -- States and queues -----------------------------------------------------------------------------


async def one_of_each(connection: asyncpg.Connection) -> None:
    parent = await add(connection)
    await add(connection, parent)
    await add(connection, gate="a")
    await change(connection, await add(connection), alone=True)
    await add(connection, delay=60.0)
    await add_taken(connection)
    for state in ("done", "done", "failed", "cancelled"):
        await add_ended(connection, state)


async def test_few_tasks_are_counted_exactly_zeros_included(
    admin: QueueAdmin, connection: asyncpg.Connection
) -> None:
    nothing = await admin.count_states()
    await one_of_each(connection)
    states = await admin.count_states()

    assert set(nothing.counts.values()) == {0}
    assert states.counts == {
        "scheduled": 1, "waiting": 1, "enqueued": 3, "doing": 1, "done": 2, "failed": 1,
        "cancelled": 1,
    }  # fmt: skip
    assert states.estimated == frozenset()
    assert states.total == 10


async def test_many_are_estimated_and_said_to_be(connection: asyncpg.Connection) -> None:
    await one_of_each(connection)
    await connection.execute(
        "INSERT INTO queued_tasks (id, name, function, state, date_due)"
        " SELECT gen_random_uuid(), 'a', 'a:b', 'scheduled', now() FROM generate_series(1, 300)"
    )
    await connection.execute(
        "INSERT INTO queued_tasks (id, name, function, state, date_ended)"
        " SELECT gen_random_uuid(), 'a', 'a:b', 'done', now() FROM generate_series(1, 1000)"
    )
    await connection.execute("ANALYZE queued_tasks")

    states = await counts.count_states(connection, TABLES, exact=100)

    assert states.estimated == {"scheduled", "done"}
    assert states.counts["scheduled"] == pytest.approx(301, rel=0.1)
    assert states.counts["done"] == pytest.approx(1002, rel=0.1)
    assert (states.counts["enqueued"], states.counts["failed"]) == (3, 1)


async def test_the_depth_of_a_queue_is_what_is_due_and_not_claimed(
    connection: asyncpg.Connection,
) -> None:
    old = await add(connection, queue="mail", priority=-3)
    await change(connection, old, date_enqueued=datetime.now(UTC) - timedelta(seconds=30))
    await add(connection, queue="mail", priority=5)
    await change(connection, await add(connection, queue="mail"), alone=True)
    await add(connection, queue="mail", gate="a")
    await add(connection, queue="limited", gate="b")
    running = await add_taken(connection)
    await add(connection, queue="later", delay=60.0)

    depths = await counts.queue_depths(connection, TABLES)

    assert set(depths) == {"mail", "limited", running["queue"]}
    assert depths["mail"].depth == 4
    assert 30 <= depths["mail"].oldest_due_seconds < 60
    assert depths["limited"].depth == 1
    assert (depths[running["queue"]].depth, depths[running["queue"]].doing) == (0, 1)


async def test_a_long_queue_gets_what_the_others_leave_of_the_estimate(
    connection: asyncpg.Connection,
) -> None:
    for _ in range(30):
        await add(connection, queue="long")
    for _ in range(3):
        await add(connection, queue="short")

    depths = await counts.queue_depths(connection, TABLES, enqueued=1003, exact=20)

    assert (depths["long"].depth, depths["long"].estimated) == (1000, True)
    assert (depths["short"].depth, depths["short"].estimated) == (3, False)


async def test_arrivals_are_by_the_last_minute(connection: asyncpg.Connection) -> None:
    for queue in ("a", "a", "b"):
        await add(connection, queue=queue)

    arrived = await counts.arrivals(connection, TABLES, now=datetime.now(UTC))
    later = await counts.arrivals(connection, TABLES, now=datetime.now(UTC) + timedelta(minutes=2))

    assert arrived == {"a": 2.0, "b": 1.0}
    assert later == {}


# -- What the workers counted ----------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.5, 0.95, 0.99])
def test_a_quantile_is_right_to_a_few_percent(share: float) -> None:
    rng = random.Random(7)
    durations = sorted(rng.lognormvariate(-3, 1.5) for _ in range(20_000))
    histogram = [0] * BUCKETS
    for each in durations:
        histogram[bucket(each)] += 1

    exact = durations[int(share * len(durations))]
    assert quantile(histogram, share) == pytest.approx(exact, rel=0.05)


def test_what_is_out_of_bounds_has_its_bucket() -> None:
    assert bucket(-1.0) == bucket(0.0) == 0
    assert bucket(BOUNDS[-1] * 10) == BUCKETS - 1
    assert quantile([0] * BUCKETS, 0.5) is None
    assert quantile([0] * (BUCKETS - 1) + [3], 0.5) == BOUNDS[-1]


async def test_names_have_their_ends_and_percentiles(
    admin: QueueAdmin, connection: asyncpg.Connection
) -> None:
    await count_runs(connection, *[0.1] * 90, *[2.0] * 10, name="a", retried=3)
    await count_runs(connection, 0.1, name="a", worker=OTHER, queue="mail")
    await count_runs(connection, name="b", failed=2)
    await count_runs(connection, 0.5, name="old", ago=3 * HOUR)

    recent = {each.name: each for each in await admin.names(1)}
    day = {each.name: each for each in await admin.names(24)}

    assert list(recent) == ["a", "b"]
    assert (recent["a"].done, recent["a"].failed, recent["a"].retried) == (101, 0, 3)
    assert recent["a"].duration_ms_p50 == pytest.approx(100, rel=0.2)
    assert recent["a"].duration_ms_p99 == pytest.approx(2000, rel=0.2)
    assert recent["a"].duration_ms_mean == pytest.approx((91 * 100 + 20_000) / 101, rel=0.01)
    assert recent["a"].wait_ms_p95 == pytest.approx(10, rel=0.2)
    assert recent["b"].duration_ms_p50 is None
    assert set(day) == {"a", "b", "old"}
    assert await history.last_hour(connection, TABLES) == {"done": 101, "failed": 2}


async def test_the_statistics_of_hours_add_the_names_up(
    admin: QueueAdmin, connection: asyncpg.Connection
) -> None:
    await count_runs(connection, 0.1, 0.1, name="a")
    await count_runs(connection, name="b", failed=1)
    await add_taken(connection)

    stats = await admin.get_stats(2)

    assert (stats.done, stats.failed, stats.running) == (2, 1, 1)
    assert [each.name for each in stats.names] == ["a", "b"]
    assert stats.states.counts["doing"] == 1
    for hours in (0, -1, 1e9):
        with pytest.raises(InvalidOption):
            await admin.get_stats(hours)


async def test_a_history_has_equal_steps_and_no_gaps(
    admin: QueueAdmin, connection: asyncpg.Connection
) -> None:
    await count_runs(connection, 0.1, name="a")
    await count_runs(connection, 0.1, 0.1, name="b", queue="mail", ago=120)

    points = await admin.throughput(10)
    hours = await admin.throughput(24 * 60)

    assert len(points) == 10
    assert {later.minute - point.minute for point, later in pairwise(points)} == {
        timedelta(minutes=1)
    }
    assert sum(point.done for point in points) == 3
    assert [point.done for point in points if point.done] in ([2, 1], [1, 2], [3])
    assert points[0].wait_ms_p95 is None
    assert (len(hours), hours[0].seconds, sum(point.done for point in hours)) == (24, 3600, 3)
    assert sum(point.done for point in await admin.throughput(10, name="a")) == 1
    assert sum(point.done for point in await admin.throughput(10, queue="mail")) == 2
    with pytest.raises(InvalidOption):
        await admin.throughput(0)


HOURS = "SELECT * FROM queued_task_rollups WHERE seconds = 3600 AND name <> ''"
ALL_TIME = "SELECT * FROM queued_task_rollups WHERE seconds = 0 AND name <> ''"


async def spans(connection: asyncpg.Connection) -> dict[int, int]:
    rows = await connection.fetch(
        "SELECT seconds, sum(done)::integer AS done FROM queued_task_rollups WHERE name <> ''"
        " GROUP BY seconds"
    )
    return {row["seconds"]: row["done"] for row in rows}


async def test_old_minutes_go_old_hours_are_merged_and_totals_stay(
    admin: QueueAdmin, connection: asyncpg.Connection
) -> None:
    for worker in (WORKER, OTHER):
        await count_runs(connection, 0.1, 0.2, ago=30 * HOUR, worker=worker)
    ever = await admin.totals()

    await rollups.tidy(connection, TABLES, keep_hours=90 * 24 * HOUR)
    once = await connection.fetch(HOURS)
    await count_runs(connection, 0.1, ago=30 * HOUR)  # one that was cut off for long comes back
    await rollups.tidy(connection, TABLES, keep_hours=90 * 24 * HOUR)
    [merged] = await connection.fetch(HOURS)

    assert [row["done"] for row in once] == [4]
    assert merged["worker_id"] == UUID(int=0)
    assert merged["done"] == sum(merged["run_histogram"]) == 5
    assert await spans(connection) == {3600: 5, 0: 5}
    assert ever[0].tally.done == 4
    await rollups.tidy(connection, TABLES, keep_hours=24 * HOUR)
    assert await spans(connection) == {0: 5}


async def test_the_totals_of_forgotten_workers_are_kept_in_one_row(
    admin: QueueAdmin, connection: asyncpg.Connection
) -> None:
    await connection.execute(
        "INSERT INTO queued_task_workers (id, server_name, pid, concurrency, version)"
        " VALUES ($1, 'here', 1, 1, '1')", WORKER,
    )  # fmt: skip
    for worker in (WORKER, OTHER):
        await count_runs(connection, 0.1, failed=1, worker=worker)

    async def total() -> tuple[Any, ...]:
        [one] = await admin.totals()
        return one.name, one.tally.done, one.tally.failed, sum(one.tally.waits)

    before = await total()
    await rollups.tidy(connection, TABLES, keep_hours=90 * 24 * HOUR)
    kept = await connection.fetch(ALL_TIME)
    await connection.execute("DELETE FROM queued_task_workers")
    await rollups.tidy(connection, TABLES, keep_hours=90 * 24 * HOUR)

    assert {row["worker_id"] for row in kept} == {UUID(int=0), WORKER}
    assert await total() == before == ("shop.send", 2, 2, 4)
    assert len(await connection.fetch(ALL_TIME)) == 1
