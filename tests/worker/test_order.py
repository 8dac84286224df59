"""When a worker starts what: times, priorities, queues, and how soon it hears of new tasks."""

from __future__ import annotations

import asyncio

import asyncpg
import pytest
import shop_tasks
from crew import Hire, reaches
from helpers import eventually
from rows import add, change, count, new, read, write


async def lateness(connection: asyncpg.Connection) -> list[float]:
    """Seconds from the due time of each task to its start; the least first.

    How long the others took tells how busy the machine is.
    """
    rows = await connection.fetch(
        "SELECT extract(epoch FROM date_started - coalesce(date_due, date_enqueued))::float8"
        " AS late FROM queued_tasks"
    )
    return sorted(row["late"] for row in rows)


async def test_scheduled_tasks_start_on_time(hire: Hire, connection: asyncpg.Connection) -> None:
    async with hire() as staff:
        async with staff.tasks as tasks:
            refs = [tasks.task(delay=0.3 + n / 20).add_task(shop_tasks.mark, n) for n in range(7)]
        assert [await ref.wait(30) for ref in refs] == list(range(7))

    late = await lateness(connection)
    assert late[0] >= 0
    assert late[0] < 0.1


async def test_a_task_that_is_due_sooner_than_what_was_waited_for_is_on_time(
    hire: Hire, connection: asyncpg.Connection
) -> None:
    async with hire() as staff:
        later = await staff.tasks.task(delay=60).add_task(shop_tasks.mark, 1)
        await staff.tasks.task(delay=0.2).add_task(shop_tasks.mark, 2).wait(30)
        assert await later.get_state() == "scheduled"


async def test_what_became_due_while_no_worker_ran_is_run_at_the_start(
    hire: Hire, connection: asyncpg.Connection
) -> None:
    id = await add(connection, function="shop_tasks:mark", args="[1]", delay=3600.0)
    row = await read(connection, id)
    await change(connection, id, date_due=row["date_created"])

    async with hire():
        await reaches(connection, id, "done")


async def test_an_idle_worker_starts_a_new_task_at_once(
    hire: Hire, connection: asyncpg.Connection
) -> None:
    async with hire() as staff:
        await staff.tasks.add_task(shop_tasks.greet, "warm").wait(30)
        await connection.execute("DELETE FROM queued_tasks")
        for number in range(15):
            await staff.tasks.add_task(shop_tasks.mark, number).wait(30)

    assert (await lateness(connection))[0] < 0.05


async def test_a_higher_priority_runs_first(hire: Hire, connection: asyncpg.Connection) -> None:
    tasks = [
        new(function="shop_tasks:mark", args=f"[{priority}]", priority=priority)
        for priority in (0, 5, -3, 2, 5, 0)
    ]
    await write(connection, *tasks)
    async with hire(concurrency=1):
        for task in tasks:
            await reaches(connection, task.id, "done")

    assert shop_tasks.seen == [5, 5, 2, 0, 0, -3]


async def test_equal_priorities_run_in_the_order_of_their_coming(
    hire: Hire, connection: asyncpg.Connection
) -> None:
    tasks = [new(function="shop_tasks:mark", args=f"[{number}]") for number in range(50)]
    await write(connection, *tasks)
    async with hire(concurrency=1):
        await reaches(connection, tasks[-1].id, "done")

    assert shop_tasks.seen == list(range(50))


async def test_a_busy_queue_does_not_starve_another(
    hire: Hire, connection: asyncpg.Connection
) -> None:
    busy = [new(function="shop_tasks:nap", args="[0.02]", queue="busy") for _ in range(60)]
    await write(connection, *busy)
    quiet = await add(connection, function="shop_tasks:mark", args="[1]", queue="quiet")
    async with hire(concurrency=2):
        await reaches(connection, quiet, "done")
        assert await count(connection, "queue = 'busy' AND state = 'enqueued'") > 20
        await connection.execute("DELETE FROM queued_tasks WHERE state = 'enqueued'")


async def test_a_worker_serves_its_queues_only(hire: Hire, connection: asyncpg.Connection) -> None:
    async with hire(queues=("mail", "reports")) as staff, staff.tasks as tasks:
        other = await tasks.add_task(shop_tasks.mark, 0)
        for number, queue in enumerate(("mail", "reports", "mail"), 1):
            await tasks.task(queue=queue).add_task(shop_tasks.mark, number).wait(30)
        assert await other.get_state() == "enqueued"
        row = await connection.fetchrow("SELECT queues FROM queued_task_workers")
        assert row["queues"] == ["mail", "reports"]


async def test_a_worker_without_queues_serves_those_that_come_later(hire: Hire) -> None:
    async with hire() as staff:
        for queue in ("first", "second", "third"):
            assert await staff.tasks.task(queue=queue).add_task(shop_tasks.mark, 1).wait(30) == 1


async def test_a_task_whose_place_in_the_line_is_before_the_last_one_is_found(
    hire: Hire, connection: asyncpg.Connection
) -> None:
    """A long transaction commits a row with an early time, below what the worker has seen."""
    async with hire() as staff:
        slow = connection.transaction()
        await slow.start()
        late = new(function="shop_tasks:mark", args='["late"]')
        await write(connection, late, channel="queue_new_task")
        for number in range(5):
            await staff.tasks.add_task(shop_tasks.mark, number).wait(30)
        await slow.commit()
        await reaches(connection, late.id, "done")


async def test_a_task_that_was_passed_by_is_found_while_others_keep_coming(
    hire: Hire, connection: asyncpg.Connection
) -> None:
    """Each claim that takes something is no reason to put off the look at what was left out."""
    async with hire() as staff:
        async with connection.transaction():
            late = await add(connection, function="shop_tasks:mark", args='["late"]')
            await staff.tasks.add_task(shop_tasks.mark, 0).wait(30)

        for number in range(300):
            await staff.tasks.add_task(shop_tasks.mark, number).wait(30)
            if await count(connection, "id = $1 AND state = 'done'", late):
                break
            await asyncio.sleep(0.05)
        else:
            pytest.fail("it is still in the line")


async def test_a_row_without_a_bell_is_found_by_looking(
    hire: Hire, connection: asyncpg.Connection
) -> None:
    async with hire(fallback_polling_interval=0.2) as staff:
        await staff.tasks.add_task(shop_tasks.greet, "warm").wait(30)
        silent = await add(connection, function="shop_tasks:mark", args="[1]")
        await reaches(connection, silent, "done")


async def test_anybody_may_ring_the_bell_with_anything(
    hire: Hire, connection: asyncpg.Connection
) -> None:
    async with hire() as staff:
        await staff.tasks.add_task(shop_tasks.greet, "warm").wait(30)
        for payload in ("", "nonsense", "{}", '{"lanes": 5}', "[]", '{"lanes": [[1]]}'):
            silent = await add(connection, function="shop_tasks:mark", args="[1]")
            for channel in ("queue_new_task", "queue_new_task_control", "queue_new_task_done"):
                await connection.execute("SELECT pg_notify($1, $2)", channel, payload)
            await reaches(connection, silent, "done")
        assert staff.counters.errors == 0


async def test_without_notifications_workers_and_waiters_look_for_themselves(
    hire: Hire, connection: asyncpg.Connection
) -> None:
    settings = {"use_postgresql_notify": False, "polling_interval": 0.1, "heartbeat": 0.2}
    async with hire(lease=5, **settings) as staff:
        for number in range(3):
            assert await staff.tasks.add_task(shop_tasks.mark, number).wait(30) == number
        assert await staff.tasks.task(delay=0.2).add_task(shop_tasks.mark, 7).wait(30) == 7
        assert await staff.tasks.add_task(shop_tasks.third_time).wait(30) == 3
        held = await staff.tasks.add_task(shop_tasks.hold)
        await reaches(connection, held.id, "doing")
        await held.cancel()
        await reaches(connection, held.id, "cancelled")
        listening = await connection.fetchval(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
            " AND application_name IN ('fastedgy worker listener', 'fastedgy wait')"
        )
        assert listening == 0


async def test_thousands_of_short_tasks_run_once_each(
    hire: Hire, connection: asyncpg.Connection
) -> None:
    async with hire(concurrency=100) as staff:
        async with staff.tasks as tasks:
            tasks.add_tasks(shop_tasks.mark, [(number,) for number in range(3_000)])

        async def check() -> None:
            assert await count(connection, "state = 'done'") == 3_000

        await eventually(check)

    assert sorted(shop_tasks.seen) == list(range(3_000))
    assert await count(connection, "run <> 1 OR attempt <> 1") == 0


# Suspects


async def test_a_suspect_is_left_to_a_worker_of_its_own(
    hire: Hire, connection: asyncpg.Connection
) -> None:
    suspect = await add(connection, function="shop_tasks:mark", args='["suspect"]')
    await change(connection, suspect, alone=True, losses=1)
    async with hire() as staff:
        await staff.tasks.add_task(shop_tasks.mark, 1).wait(30)
        assert (await read(connection, suspect))["state"] == "enqueued"
    async with hire(solo=True, concurrency=1) as staff:
        row = await reaches(connection, suspect, "done")
        assert (row["losses"], row["alone"]) == (0, False)
        assert await staff.ended() == 0
