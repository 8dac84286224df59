"""Sleeping and waiting for events without a slot, and sending events from everywhere."""

from __future__ import annotations

import asyncio
import time
from uuid import UUID

import asyncpg
import httpx
import pytest
import step_tasks
from crew import Hire, reaches
from rows import CHANNELS, TABLES, add, take
from shop_app import app
from step_tasks import noted

from fastedgy.cli.task_page import task_page
from fastedgy.errors import (
    CannotWait,
    InvalidStep,
    NotConnected,
    NotInTask,
    TaskCancelled,
    TaskFailed,
)
from fastedgy.queued_task import TaskContext
from fastedgy.queued_tasks import QueuedTasks
from fastedgy.store import events, outcomes, steps
from fastedgy.store.details import task_details
from fastedgy.store.finish import finish_any
from fastedgy.workflows import send_event, sleep, wait_for_event


async def test_a_sleeping_task_has_no_slot_and_spends_no_attempt(
    hire: Hire, connection: asyncpg.Connection
) -> None:
    async with hire(concurrency=1) as staff:
        began = time.monotonic()
        ref = staff.tasks.add_task(step_tasks.napping, 0.3)
        await reaches(connection, await ref.get_task_id(), "scheduled")
        assert await staff.tasks.add_task(step_tasks.effect, "x").wait(timeout=30) == "did x"
        assert await ref.wait(timeout=30) == ["rested"]
        assert time.monotonic() - began >= 0.6
    assert [line for line in noted if line.startswith("run")] == [
        "run 1, attempt 1", "run 2, attempt 1", "run 3, attempt 1"
    ]  # fmt: skip
    row = await connection.fetchrow("SELECT attempt, history FROM queued_tasks WHERE run = 3")
    assert row["attempt"] == 1
    assert row["history"].count("suspended") == 2


async def test_a_task_that_swallows_its_suspension_sleeps_all_the_same(hire: Hire) -> None:
    async with hire() as staff:
        assert await staff.tasks.add_task(step_tasks.swallowing).wait(timeout=30) == "slept"
    assert noted == ["swallowed"]


async def test_an_event_wakes_who_waits_for_it(hire: Hire, connection: asyncpg.Connection) -> None:
    async with hire() as staff:
        refs = [staff.tasks.add_task(step_tasks.waiting, "paid:1") for _ in range(3)]
        for ref in refs:
            await reaches(connection, await ref.get_task_id(), "scheduled")
        assert await send_event("paid:1", {"amount": 5}) is True
        assert [await ref.wait(timeout=30) for ref in refs] == [{"amount": 5}] * 3


async def test_an_event_is_sent_once_and_counts_for_those_who_come_later(hire: Hire) -> None:
    async with hire() as staff:
        assert await send_event("paid:1", "first") is True
        assert await send_event("paid:1", "second") is False
        ref = staff.tasks.add_task(step_tasks.waiting, "paid:1")
        assert await ref.wait(timeout=30) == "first"


async def test_an_event_that_does_not_come_is_a_timeout_in_all_runs(hire: Hire) -> None:
    async with hire() as staff:
        ref = staff.tasks.add_task(step_tasks.waiting, "never", 0.2)
        assert await ref.wait(timeout=30) == "The event 'never' did not come in time."
        await send_event("never")  # too late
    assert noted == ["timeout", "timeout"]


async def test_an_event_that_comes_while_the_run_ends_is_not_missed(hire: Hire) -> None:
    async with hire() as staff:
        ref = staff.tasks.add_task(step_tasks.sent_just_before_it_ends, "soon")
        assert await ref.wait(timeout=30) == "just in time"


async def test_an_event_that_was_sent_before_the_outcome_was_written_is_not_missed(
    connection: asyncpg.Connection,
) -> None:
    id = await add(connection)
    [row] = await take(connection)
    assert await steps.wait(
        connection, TABLES, id, row["run"], name="wait", kind="event", position=1, event="key",
        seconds=None, handled=(),
    )  # fmt: skip
    await events.send(connection, TABLES, "key", "1", channel=None)
    assert await events.wake_for(connection, TABLES, "key") == set()
    outcome = outcomes.suspended(id, row["run"], 0.0, 0.0, 1e6)
    finished = await finish_any(connection, TABLES, [outcome], channels=CHANNELS)
    assert finished.again == {("default", 0)}
    assert await connection.fetchval("SELECT state FROM queued_tasks") == "enqueued"


async def test_waits_and_steps_side_by_side_end_the_run_when_nothing_is_at_work(
    hire: Hire, connection: asyncpg.Connection
) -> None:
    async with hire() as staff:
        ref = staff.tasks.add_task(step_tasks.both, "both")
        await reaches(connection, await ref.get_task_id(), "scheduled")
        assert noted == ["long", "long done"]
        await send_event("both", 7)
        assert await ref.wait(timeout=30) == [7, "long done", None]
    assert noted == ["long", "long done"]


@pytest.mark.parametrize("commit", [True, False])
async def test_an_event_in_a_transaction_is_sent_with_it(
    hire: Hire, connection: asyncpg.Connection, commit: bool
) -> None:
    async with hire() as staff:
        patience = 30.0 if commit else 2.0
        ref = staff.tasks.add_task(step_tasks.waiting, "tx", patience)
        await reaches(connection, await ref.get_task_id(), "scheduled")
        await staff.tasks.add_task(step_tasks.rolled_back, "tx", commit).wait(timeout=30)
        expected = "from a transaction" if commit else "The event 'tx' did not come in time."
        assert await ref.wait(timeout=30) == expected


async def test_without_notifications_an_event_of_a_transaction_is_found_by_looking(
    hire: Hire, connection: asyncpg.Connection
) -> None:
    async with hire(use_postgresql_notify=False, polling_interval=0.1) as staff:
        ref = staff.tasks.add_task(step_tasks.waiting, "tx")
        await reaches(connection, await ref.get_task_id(), "scheduled")
        await staff.tasks.add_task(step_tasks.rolled_back, "tx", True).wait(timeout=30)
        assert await ref.wait(timeout=30) == "from a transaction"


async def test_events_are_sent_by_tasks_routes_and_scripts(
    hire: Hire, connection: asyncpg.Connection, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    @app.post("/paid/{number}")
    async def paid(number: int) -> bool:
        return await send_event(f"paid:{number}", "route")

    async with hire() as staff:
        refs = [staff.tasks.add_task(step_tasks.waiting, f"paid:{n}") for n in range(3)]
        for ref in refs:
            await reaches(connection, await ref.get_task_id(), "scheduled")
        staff.tasks.add_task(step_tasks.sender, "paid:0")
        await staff.tasks.flush()
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            assert (await client.post("/paid/1")).json() is True
        monkeypatch.setenv("DATABASE_URL", database_url)
        async with QueuedTasks():
            await send_event("paid:2", "script")
        results = [await ref.wait(timeout=30) for ref in refs]
    assert results == [{"by": "task"}, "route", "script"]


async def test_a_task_that_sleeps_can_be_cancelled(
    hire: Hire, connection: asyncpg.Connection
) -> None:
    async with hire() as staff:
        ref = staff.tasks.add_task(step_tasks.napping, 60)
        await reaches(connection, await ref.get_task_id(), "scheduled")
        await ref.cancel()
        with pytest.raises(TaskCancelled):
            await ref.wait(timeout=30)


async def test_a_retry_that_waits_for_its_time_is_not_woken_by_an_event(
    connection: asyncpg.Connection,
) -> None:
    id = await add(connection, max_retries=1)
    [row] = await take(connection)
    await steps.wait(
        connection, TABLES, id, row["run"], name="wait", kind="event", position=1, event="key",
        seconds=None, handled=(),
    )  # fmt: skip
    outcome = outcomes.retry(id, row["run"], 0.0, 0.0, 60.0, "ValueError", "no")
    await finish_any(connection, TABLES, [outcome], channels=CHANNELS)
    await events.send(connection, TABLES, "key", "1", channel=None)
    assert await events.wake_for(connection, TABLES, "key") == set()
    assert await events.wake_recent(connection, TABLES, seconds=60) == set()


async def test_where_no_worker_runs_the_task_there_is_no_sleep(hire: Hire) -> None:
    async with hire() as staff:
        id = await staff.tasks.task(delay=60).add_task(step_tasks.effect, "x").get_task_id()
        await _claim_by_hand(staff.tasks, id)
        from fastedgy.queued_task.running import TaskRun

        with TaskContext(TaskRun(id, run=1, name="test")), pytest.raises(CannotWait):
            await sleep(1)


async def _claim_by_hand(tasks: QueuedTasks, id: UUID) -> None:
    async with tasks._connection() as connection:
        await connection.execute(
            "UPDATE queued_tasks SET state = 'doing', run = 1, date_started = now(),"
            " worker_id = (SELECT id FROM queued_task_workers LIMIT 1) WHERE id = $1",
            id,
        )


async def test_what_makes_no_sense_is_refused(hire: Hire) -> None:
    with pytest.raises(NotInTask):
        sleep(1)
    with pytest.raises(NotConnected, match="async with QueuedTasks"):
        await send_event("key")
    async with hire():
        for key, payload in (("", None), ("k" * 501, None), ("\x00", None), ("k", object())):
            with pytest.raises(InvalidStep):
                await send_event(key, payload)
        with TaskContext():
            for duration in (-1, "soon", float("nan"), 1e12):
                with pytest.raises(InvalidStep):
                    sleep(duration)  # type: ignore[arg-type]
            with pytest.raises(InvalidStep):
                wait_for_event("key", timeout=-1)


async def test_a_task_that_waits_again_for_something_else_has_changed(
    hire: Hire, connection: asyncpg.Connection
) -> None:
    async with hire() as staff:
        ref = staff.tasks.add_task(step_tasks.waiting, "one")
        id = await ref.get_task_id()
        await reaches(connection, id, "scheduled")
        await connection.execute("UPDATE queued_task_steps SET event = 'two'")
        await send_event("two")
        with pytest.raises(TaskFailed, match="waited for 'two', and now for 'one'"):
            await ref.wait(timeout=30)


def test_a_wait_is_set_up_without_a_loop_of_its_own() -> None:
    """`asyncio.run(send_event(…))` says what is missing, and not that a coroutine was lost."""
    with pytest.raises(NotConnected):
        asyncio.run(send_event("key"))


async def test_who_looks_for_events_finds_them_also_when_nobody_has_told(
    connection: asyncpg.Connection, database_url: str
) -> None:
    id = await add(connection)
    [row] = await take(connection)
    await steps.wait(
        connection, TABLES, id, row["run"], name="wait", kind="event", position=1, event="key",
        seconds=None, handled=(),
    )  # fmt: skip
    outcome = outcomes.suspended(id, row["run"], 0.0, 0.0, 1e6)
    await finish_any(connection, TABLES, [outcome], channels=CHANNELS)
    await events.send(connection, TABLES, "key", "1", channel=None)
    assert await events.wake_recent(connection, TABLES, seconds=60) == {("default", 0)}
    assert await events.wake_recent(connection, TABLES, seconds=60) == set()


async def test_nothing_is_kept_for_ever(connection: asyncpg.Connection) -> None:
    from fastedgy.store import keys, maintain

    id = await add(connection)
    [row] = await take(connection)
    await steps.begin(
        connection, TABLES, id, row["run"], name="one", kind="step", position=1, attempts=0,
        handled=(),
    )  # fmt: skip
    await keys.take(connection, TABLES, "key", task_id=id, run=row["run"], keep=-1)
    await events.send(connection, TABLES, "event", "1", channel=None)
    outcome = outcomes.failed(id, row["run"], 0.0, 0.0, "ValueError", "no")
    await finish_any(connection, TABLES, [outcome], channels=CHANNELS)
    assert await events.prune_events(connection, TABLES, older_than=60) == 0
    assert await events.prune_events(connection, TABLES, older_than=0) == 1
    assert await keys.prune_keys(connection, TABLES) == 1
    await connection.execute("UPDATE queued_tasks SET date_ended = now() - interval '1 hour'")
    assert (await maintain.prune(connection, TABLES, older_than=0))[0] == 1
    assert await connection.fetchval("SELECT count(*) FROM queued_task_steps") == 0


async def test_queue_show_tells_what_a_task_has_done_and_waits_for(
    connection: asyncpg.Connection,
) -> None:
    id = await add(connection)
    [row] = await take(connection)
    for name in ("charge", "book"):
        await steps.begin(
            connection, TABLES, id, row["run"], name=name, kind="step", position=1, attempts=0,
            handled=(),
        )  # fmt: skip
    await steps.end(connection, TABLES, id, row["run"], name="charge", state="done", attempts=1)
    await steps.end(
        connection, TABLES, id, row["run"], name="book", state="failed", attempts=2,
        error_type="ValueError", error_message="no",
    )  # fmt: skip
    await steps.wait(
        connection, TABLES, id, row["run"], name="wait", kind="event", position=3, event="paid",
        seconds=60, handled=(),
    )  # fmt: skip
    task = await task_details(connection, TABLES, id)
    page = "\n".join(line.plain for line in task_page(task, [], [], now=task.date_created))
    assert "charge  step done\n" in page
    assert "book  step failed · 2 calls · ValueError: no" in page
    assert "wait  event waiting · event paid · until 20" in page
