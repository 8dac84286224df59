"""Firing: never two tasks for one due time, never none."""

from __future__ import annotations

import asyncio
import logging
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import clock_tasks
import orjson
import pytest
from opening import Opens
from rows import TABLES, connections, listening

from fastedgy.dependencies import get_service
from fastedgy.queued_task import on_post_create, on_pre_create
from fastedgy.queued_task.hooks import clear_all_hooks
from fastedgy.queued_tasks import QueuedTasks
from fastedgy.scheduler import Scheduler
from fastedgy.scheduler.firing import Firer
from fastedgy.store import firing, schedules

MINUTE = timedelta(minutes=1)


async def pass_by(connection: asyncpg.Connection, name: str, seconds: float) -> datetime:
    """Let the next due time of a schedule be so many seconds ago; returns it."""
    due: datetime = await connection.fetchval(
        "UPDATE queued_task_schedules SET anchor = anchor - gone.by, start_at = start_at - gone.by,"
        " at = at - gone.by,"
        " next_due = next_due - gone.by"
        " FROM (SELECT next_due - clock_timestamp() + $2 * interval '1 second' AS by"
        "         FROM queued_task_schedules WHERE name = $1) AS gone"
        " WHERE name = $1 RETURNING next_due",
        name, seconds,
    )  # fmt: skip
    return due


async def turn(connection: asyncpg.Connection) -> Any:
    return await Firer(get_service(QueuedTasks)).round(connection)


async def dues(connection: asyncpg.Connection) -> list[datetime]:
    rows = await connection.fetch("SELECT context FROM queued_tasks ORDER BY id")
    found = [orjson.loads(row["context"])["schedule"]["due"] for row in rows]
    return [datetime.fromisoformat(each) for each in found]


async def test_what_is_due_becomes_a_task_and_moves_on(
    scheduler: Scheduler, connection: asyncpg.Connection, database_url: str
) -> None:
    await scheduler.add(clock_tasks.tick, every=MINUTE, name="x", args=(1,), kwargs={"a": "b"})
    assert (await turn(connection)).fired == 0
    due = await pass_by(connection, "x", 3)
    async with listening(database_url) as ear:
        done = await turn(connection)
        assert (done.fired, done.missed, done.lanes) == (1, 0, {("default", 0)})
        assert 50 < done.next_in < 60
        assert await ear.hears("queue_new_task") == ['{"due": null, "lanes": [["default", 0]]}']
    [row] = await connection.fetch("SELECT * FROM queued_tasks")
    assert (row["schedule"], row["state"], row["date_due"]) == ("x", "enqueued", due)
    assert (row["args"], row["kwargs"]) == ("[1]", '{"a": "b"}')
    assert await dues(connection) == [due]
    now = await scheduler.get("x")
    assert (now.next_due, now.last_due, now.fired) == (due + MINUTE, due, 1)
    assert now.last_task_id == row["id"]
    assert (await turn(connection)).fired == 0


async def test_nothing_planned_means_no_next_look(
    scheduler: Scheduler, connection: asyncpg.Connection
) -> None:
    assert (await turn(connection)).next_in is None
    await scheduler.add(clock_tasks.tick, at=datetime.now(UTC) + MINUTE, name="x")
    await pass_by(connection, "x", 1)
    assert (await turn(connection)).fired == 1
    assert (await turn(connection)).next_in is None
    assert (await scheduler.get("x")).state == "over"


async def test_of_many_that_fire_at_once_one_does(
    scheduler: Scheduler, connection: asyncpg.Connection, database_url: str
) -> None:
    expected = []
    for number in range(30):
        await scheduler.add(clock_tasks.tick, every=MINUTE, name=f"x{number}")
        expected.append(await pass_by(connection, f"x{number}", 1))
    async with connections(database_url, 6) as opened:
        done = await asyncio.gather(*(turn(each) for each in opened))
        done += await asyncio.gather(*(turn(each) for each in opened))
    assert sum(each.fired for each in done) == 30
    assert sorted(await dues(connection)) == sorted(expected)


@pytest.mark.parametrize("change", ["pause", "remove", "reschedule", "run_now", "again"])
async def test_what_was_changed_since_it_was_read_is_not_fired_as_it_was(
    scheduler: Scheduler, connection: asyncpg.Connection, change: str
) -> None:
    await scheduler.add(clock_tasks.tick, every=MINUTE, name="x")
    await pass_by(connection, "x", 1)
    [row], clock = await firing.look(connection, TABLES, limit=10)
    assert clock is not None
    assert row.next_due is not None
    if change == "again":
        await scheduler.remove("x")
        await scheduler.add(clock_tasks.tick, every=2 * MINUTE, name="x")
    elif change == "reschedule":
        await scheduler.reschedule("x", every=2 * MINUTE)
    else:
        await getattr(scheduler, change)("x")
    before = await connection.fetchval("SELECT count(*) FROM queued_tasks")
    run = firing.NewRun(scheduler._tasks.ref("0" * 32).id, clock, "{}")  # type: ignore[arg-type]
    late = firing.Firing(row, [run], row.next_due, row.next_due + MINUTE)
    fired = await firing.fire(connection, TABLES, [late], channel=None)
    assert fired.ids == {}
    assert await connection.fetchval("SELECT count(*) FROM queued_tasks") == before


async def test_a_paused_one_is_left_alone(
    scheduler: Scheduler, connection: asyncpg.Connection
) -> None:
    await scheduler.add(clock_tasks.tick, every=MINUTE, name="x")
    await pass_by(connection, "x", 1)
    await scheduler.pause("x")
    assert (await turn(connection)).fired == 0


async def test_one_that_is_still_running_is_not_started_a_second_time(
    scheduler: Scheduler, connection: asyncpg.Connection, caplog: pytest.LogCaptureFixture
) -> None:
    await scheduler.add(clock_tasks.tick, every=MINUTE, name="one")
    await scheduler.add(clock_tasks.tick, every=MINUTE, name="two", max_instances=2)
    await scheduler.add(clock_tasks.tick, every=MINUTE, name="any", max_instances=None)
    for _ in range(3):
        for name in ("one", "two", "any"):
            await pass_by(connection, name, 1)
        await turn(connection)
    found = {each.name: (each.fired, each.missed) for each in await scheduler.list()}
    assert found == {"one": (1, 2), "two": (2, 1), "any": (3, 0)}
    assert (await scheduler.get("one")).missed_because == "still running"
    assert "the schedule one gave no task: still running" in caplog.text
    await connection.execute(
        "UPDATE queued_tasks SET state = 'failed', date_ended = now() WHERE schedule = 'one'"
    )
    await pass_by(connection, "one", 1)
    assert (await turn(connection)).fired == 1


async def test_each_of_several_that_were_missed_where_each_counts(
    scheduler: Scheduler, connection: asyncpg.Connection
) -> None:
    await scheduler.add(
        clock_tasks.tick, every=10, name="x", coalesce=False, misfire_grace=None, max_instances=None
    )
    first = await pass_by(connection, "x", 45)
    assert (await turn(connection)).fired == 5
    assert await dues(connection) == [first + n * timedelta(seconds=10) for n in range(5)]
    assert (await turn(connection)).fired == 0


async def test_a_task_with_the_same_unique_key_is_there_already(
    scheduler: Scheduler, connection: asyncpg.Connection
) -> None:
    await scheduler.add(
        clock_tasks.sweep, every=MINUTE, name="x", args=("attic",), max_instances=None
    )
    for _ in range(2):
        await pass_by(connection, "x", 1)
        await turn(connection)
    now = await scheduler.get("x")
    assert (now.fired, now.missed, now.missed_because) == (1, 1, "duplicate")


async def test_jitter_and_a_delay_put_the_task_off(
    scheduler: Scheduler, connection: asyncpg.Connection, database_url: str
) -> None:
    await scheduler.add(clock_tasks.tick, every=MINUTE, name="x", options={"delay": 500}, jitter=9)
    due = await pass_by(connection, "x", 1)
    async with listening(database_url) as ear:
        await turn(connection)
        [bell] = await ear.hears("queue_new_task")
    assert 498 < orjson.loads(bell)["due"] < 510
    [row] = await connection.fetch("SELECT * FROM queued_tasks")
    assert row["state"] == "scheduled"
    assert timedelta(seconds=500) <= row["date_due"] - due <= timedelta(seconds=509)


async def test_a_row_that_cannot_be_read_says_so_and_holds_up_nobody(
    scheduler: Scheduler, connection: asyncpg.Connection, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("bad", "good"):
        await scheduler.add(clock_tasks.tick, every=MINUTE, name=name)
        await pass_by(connection, name, 1)
    await connection.execute(
        "UPDATE queued_task_schedules SET timezone = 'Nowhere/Land' WHERE name = 'bad'"
    )
    firer = Firer(get_service(QueuedTasks))
    assert (await firer.round(connection)).fired == 1
    assert (await firer.round(connection)).fired == 0
    assert caplog.text.count("The schedule bad cannot be fired") == 1
    bad = await scheduler.get("bad")
    assert bad.error is not None
    assert "Nowhere/Land" in bad.error
    await scheduler.reschedule("bad", timezone="UTC")
    assert (await scheduler.get("bad")).error is None


@pytest.mark.parametrize(
    "forged",
    [
        "jitter = 1e300",
        'task = task || \'{"priority": "high"}\'',
        "task = '{}'",
        "args = '{\"a\": 1}', task = '7'",
        "every = 'NaN'",
        "task = task || jsonb_build_object('queue', repeat('\u2603', 9000))",
    ],
)
async def test_a_row_of_nonsense_holds_up_nobody(
    scheduler: Scheduler, connection: asyncpg.Connection, forged: str
) -> None:
    for name in ("bad", "good"):
        await scheduler.add(clock_tasks.tick, every=MINUTE, name=name)
        await pass_by(connection, name, 1)
    await connection.execute(f"UPDATE queued_task_schedules SET {forged} WHERE name = 'bad'")
    firer = Firer(get_service(QueuedTasks))
    for _ in range(2):
        await firer.round(connection)
    assert await connection.fetchval("SELECT fired FROM queued_task_schedules WHERE name = 'good'")


async def test_a_projects_hooks_see_these_tasks_too(
    scheduler: Scheduler, connection: asyncpg.Connection
) -> None:
    seen = []

    @on_pre_create
    def before(draft: Any) -> None:
        draft.context["tenant"] = 7

    @on_post_create
    def after(draft: Any) -> None:
        seen.append((draft.name, draft.queue))

    try:
        await scheduler.add(clock_tasks.sweep, every=MINUTE, name="x", args=("attic",))
        await pass_by(connection, "x", 1)
        await turn(connection)
    finally:
        clear_all_hooks()
    assert seen == [("sweep", "chores")]
    context = orjson.loads(await connection.fetchval("SELECT context FROM queued_tasks"))
    assert context["tenant"] == 7


async def test_where_tasks_are_signed_a_forged_schedule_makes_unsigned_ones(
    opened: Opens, connection: asyncpg.Connection
) -> None:
    async with opened(signing_keys=["key"]) as scheduler:
        for name in ("mine", "forged"):
            await scheduler.add(clock_tasks.tick, every=MINUTE, name=name)
            await pass_by(connection, name, 1)
        await connection.execute(
            "UPDATE queued_task_schedules SET args = '[666]' WHERE name = 'forged'"
        )
        await turn(connection)
    rows = await connection.fetch("SELECT schedule, signature FROM queued_tasks")
    assert {row["schedule"]: bool(row["signature"]) for row in rows} == {
        "mine": True, "forged": False
    }  # fmt: skip


async def test_what_is_over_for_long_is_forgotten(
    scheduler: Scheduler, connection: asyncpg.Connection
) -> None:
    await scheduler.add(clock_tasks.tick, at=datetime.now(UTC) + MINUTE, name="once")
    await scheduler.add(clock_tasks.tick, every=MINUTE, name="x")
    await pass_by(connection, "once", 1)
    await turn(connection)
    await schedules.forget(connection, TABLES, older_than=60)
    assert len(await scheduler.list()) == 2
    await schedules.forget(connection, TABLES, older_than=0)
    assert [each.name for each in await scheduler.list()] == ["x"]


async def test_a_hundred_due_at_once_go_in_one_turn_and_the_rest_right_after(
    scheduler: Scheduler, connection: asyncpg.Connection, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR)
    await scheduler.add(clock_tasks.tick, every=MINUTE, name="x")
    await connection.execute(
        "INSERT INTO queued_task_schedules (name, function, task, every, next_due)"
        " SELECT 'x' || n, function, task, every, clock_timestamp() FROM queued_task_schedules,"
        " generate_series(1, 130) AS n"
    )
    first, second = await turn(connection), await turn(connection)
    assert (first.fired, first.next_in, second.fired) == (100, 0.0, 30)
