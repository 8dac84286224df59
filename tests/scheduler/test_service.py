"""Schedules at run time: every change is a row, and in the audit."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import asyncpg
import clock_tasks
import pytest
from opening import Opens
from rows import listening

from fastedgy.dependencies import get_service
from fastedgy.errors import (
    DuplicateTask,
    InvalidArguments,
    InvalidFunction,
    InvalidOption,
    InvalidSchedule,
    ScheduleExists,
    ScheduleNotFound,
)
from fastedgy.queued_tasks import QueuedTasks
from fastedgy.scheduler import Scheduler

HOUR = timedelta(hours=1)


async def read(connection: asyncpg.Connection, name: str) -> Any:
    return await connection.fetchrow("SELECT * FROM queued_task_schedules WHERE name = $1", name)


async def test_what_is_added_is_a_row_with_its_next_due_time(
    scheduler: Scheduler, connection: asyncpg.Connection
) -> None:
    made = await scheduler.add(
        clock_tasks.plain, cron="30 2 * * *", timezone="Europe/Paris", kwargs={"number": 3}
    )
    assert made.name == "clock_tasks.plain"
    assert made.state == "active"
    assert made.next_due is not None
    assert (made.next_due.hour, made.next_due.minute) == (2, 30)
    assert str(made.next_due.tzinfo) == "Europe/Paris"
    assert made.kwargs == {"number": 3}
    assert (made.coalesce, made.max_instances, made.misfire_grace) == (True, 1, 60.0)
    assert await scheduler.get("clock_tasks.plain") == made
    assert await scheduler.list() == [made]
    row = await read(connection, made.name)
    assert row["next_due"] == made.next_due
    assert row["function"] == "clock_tasks:plain"


async def test_a_moment_has_no_grace_by_default_so_that_it_is_not_lost(
    scheduler: Scheduler,
) -> None:
    once = await scheduler.add(clock_tasks.plain, at=datetime.now(UTC) + HOUR)
    assert once.misfire_grace is None
    local = await scheduler.add(
        clock_tasks.plain, at=datetime(2099, 7, 1, 9), timezone="Europe/Paris", name="local"
    )
    assert local.at == datetime(2099, 7, 1, 7, tzinfo=UTC)


@pytest.mark.parametrize(
    ("words", "error", "says"),
    [
        ({"func": clock_tasks.plain, "cron": "nonsense"}, InvalidSchedule, "cron="),
        ({"func": clock_tasks.plain}, InvalidSchedule, "none was given"),
        ({"func": clock_tasks.plain, "every": -1}, InvalidSchedule, "between"),
        ({"func": clock_tasks.plain, "every": "5s"}, InvalidSchedule, "span of time"),
        ({"func": clock_tasks.plain, "every": 5, "jitter": -1}, InvalidSchedule, "negative"),
        ({"func": clock_tasks.plain, "every": 5, "max_instances": 0}, InvalidSchedule, "from 1 on"),
        ({"func": clock_tasks.plain, "every": 5, "coalesce": 1}, InvalidSchedule, "True or False"),
        ({"func": clock_tasks.plain, "every": 5, "name": " x"}, InvalidSchedule, "no space"),
        ({"func": clock_tasks.plain, "every": 5, "name": "a\nb"}, InvalidSchedule, "one line"),
        ({"func": clock_tasks.plain, "at": "tomorrow"}, InvalidSchedule, "no moment"),
        ({"func": clock_tasks.plain, "at": datetime(2001, 1, 1)}, InvalidSchedule, "never fire"),
        (
            {"func": clock_tasks.plain, "cron": "0 0 * * *", "end": datetime(2001, 1, 1)},
            InvalidSchedule,
            "never fire",
        ),
        ({"func": lambda: None, "every": 5, "name": "x"}, InvalidFunction, "lambda"),
        ({"func": clock_tasks.plain, "every": 5, "args": (1, 2)}, InvalidArguments, "plain"),
        ({"func": clock_tasks.plain, "every": 5, "args": (object(),)}, InvalidArguments, "number"),
        ({"func": clock_tasks.plain, "every": 5, "options": {"qeue": 1}}, InvalidOption, "queue"),
        ({"func": clock_tasks.plain, "every": 5, "options": {"at": 1}}, InvalidOption, "at="),
        (
            {
                "func": clock_tasks.plain,
                "every": 5,
                "options": {"unique_key": "x", "unique_for": 9},
            },
            InvalidSchedule,
            "max_instances=",
        ),
    ],
)
async def test_what_makes_no_sense_is_refused_and_leaves_nothing(
    scheduler: Scheduler, words: dict[str, Any], error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says):
        await scheduler.add(words.pop("func"), **words)
    assert await scheduler.list() == []
    assert await scheduler.history() == []


async def test_a_name_can_be_given_once(scheduler: Scheduler) -> None:
    await scheduler.add(clock_tasks.plain, every=HOUR)
    with pytest.raises(ScheduleExists, match=r"clock_tasks\.plain"):
        await scheduler.add(clock_tasks.plain, every=HOUR)
    added = await asyncio.gather(
        *(scheduler.add(clock_tasks.plain, every=HOUR, name="one") for _ in range(5)),
        return_exceptions=True,
    )
    assert sum(isinstance(each, ScheduleExists) for each in added) == 4


async def test_a_name_that_nobody_has_is_said_so(scheduler: Scheduler) -> None:
    for call in (scheduler.get, scheduler.pause, scheduler.resume, scheduler.remove,
                 scheduler.run_now, scheduler.preview, scheduler.reschedule):  # fmt: skip
        with pytest.raises(ScheduleNotFound, match="nobody"):
            await call("nobody")


async def test_a_paused_schedule_goes_on_with_the_next_due_time_after_it_is_resumed(
    scheduler: Scheduler, connection: asyncpg.Connection
) -> None:
    made = await scheduler.add(clock_tasks.plain, every=HOUR)
    paused = await scheduler.pause(made.name)
    assert (paused.state, paused.next_due) == ("paused", None)
    # Three periods pass.
    await connection.execute(
        "UPDATE queued_task_schedules SET anchor = anchor - interval '190 minutes',"
        " next_due = next_due - interval '190 minutes'"
    )
    resumed = await scheduler.resume(made.name)
    assert resumed.state == "active"
    assert resumed.next_due is not None
    assert made.next_due is not None
    assert resumed.next_due == made.next_due - timedelta(minutes=10)


async def test_a_moment_that_passed_while_it_was_paused_is_not_lost(
    scheduler: Scheduler, connection: asyncpg.Connection
) -> None:
    made = await scheduler.add(clock_tasks.plain, at=datetime.now(UTC) + HOUR)
    await scheduler.pause(made.name)
    await connection.execute("UPDATE queued_task_schedules SET at = at - interval '2 hours'")
    assert made.next_due is not None
    assert (await scheduler.resume(made.name)).next_due == made.next_due - 2 * HOUR


async def test_a_change_keeps_what_it_does_not_name(scheduler: Scheduler) -> None:
    await scheduler.add(
        clock_tasks.plain, every=HOUR, name="x", args=(4,), jitter=3, max_instances=None,
        timezone="Europe/Paris",
    )  # fmt: skip
    changed = await scheduler.reschedule("x", cron="0 5 * * *", misfire_grace=None)
    assert (changed.cron, changed.every, changed.timezone) == ("0 5 * * *", None, "Europe/Paris")
    assert (changed.jitter, changed.max_instances, changed.misfire_grace) == (3, None, None)
    assert changed.args == [4]
    assert changed.next_due is not None
    assert changed.next_due.hour == 5

    again = await scheduler.reschedule(
        "x", func=clock_tasks.sweep, args=("attic",), options={"queue": "own"}
    )
    assert (again.function, again.args, again.options) == (
        "clock_tasks:sweep", ["attic"], {"queue": "own"}
    )  # fmt: skip
    assert again.next_due == changed.next_due
    with pytest.raises(InvalidSchedule):
        await scheduler.reschedule("x", cron="nonsense")
    assert await scheduler.get("x") == again


async def test_removed_is_gone(scheduler: Scheduler, connection: asyncpg.Connection) -> None:
    await scheduler.add(clock_tasks.plain, every=HOUR, name="x")
    await scheduler.remove("x")
    assert await scheduler.list(removed=True) == []
    assert await read(connection, "x") is None


async def test_it_can_be_run_by_hand_also_while_it_is_paused(
    scheduler: Scheduler, connection: asyncpg.Connection
) -> None:
    made = await scheduler.add(clock_tasks.tick, every=HOUR, name="x", args=(1,))
    await scheduler.pause("x")
    refs = [await scheduler.run_now("x"), await scheduler.run_now("x")]  # whatever max_instances
    for ref in refs:
        row = await connection.fetchrow("SELECT * FROM queued_tasks WHERE id = $1", ref.id)
        assert (row["state"], row["schedule"], row["args"]) == ("enqueued", "x", "[1]")
        assert row["context"] == '{"schedule": {"due": null, "name": "x"}}'
    now = await scheduler.get("x")
    assert (now.fired, now.last_task_id, now.state) == (2, refs[1].id, "paused")
    assert (await scheduler.resume("x")).next_due == made.next_due


async def test_run_by_hand_keeps_to_its_unique_key(scheduler: Scheduler) -> None:
    await scheduler.add(clock_tasks.sweep, every=HOUR, name="x", args=("attic",))
    await scheduler.run_now("x")
    with pytest.raises(DuplicateTask, match="sweep:attic"):
        await scheduler.run_now("x")


async def test_a_task_of_a_schedule_is_like_one_that_is_added_by_hand(
    scheduler: Scheduler, connection: asyncpg.Connection
) -> None:
    options = {"max_retries": 9, "priority": 1}
    await scheduler.add(clock_tasks.sweep, every=HOUR, name="x", args=("attic",), options=options)
    fired = await scheduler.run_now("x")
    tasks = get_service(QueuedTasks)
    by_hand = tasks.task(**options).add_task(clock_tasks.sweep, "cellar")
    await tasks.flush()
    rows = {row["id"]: dict(row) for row in await connection.fetch("SELECT * FROM queued_tasks")}
    mine, other = rows[fired.id], rows[by_hand.id]
    differs = {name for name in mine if mine[name] != other[name]}
    assert differs == {
        "id", "args", "context", "date_created", "date_due", "date_enqueued", "schedule",
        "unique_key",
    }  # fmt: skip
    assert mine["date_due"] is not None


async def test_a_preview_shows_the_next_due_times_in_its_zone(scheduler: Scheduler) -> None:
    paris = ZoneInfo("Europe/Paris")
    await scheduler.add(
        clock_tasks.plain, cron="30 2 * * *", timezone="Europe/Paris", name="night",
        start=datetime(2099, 3, 28), end=datetime(2099, 3, 31),
    )  # fmt: skip
    dues = await scheduler.preview("night", 10)
    # 29 March 2099 is the day on which the hour from two to three does not exist.
    assert [due.replace(tzinfo=None) for due in dues] == [
        datetime(2099, 3, 28, 2, 30), datetime(2099, 3, 29, 3, 0), datetime(2099, 3, 30, 2, 30)
    ]  # fmt: skip
    assert dues[0].tzinfo == paris
    await scheduler.pause("night")
    assert await scheduler.preview("night", 2) == dues[:2]
    assert await scheduler.preview("night", 0) == []


async def test_who_changed_what_is_written_down(scheduler: Scheduler) -> None:
    await scheduler.add(clock_tasks.plain, every=HOUR, name="x")
    alice = scheduler.acting_for("alice", "api")
    await alice.pause("x")
    await alice.pause("x")  # which changes nothing
    await alice.reschedule("x", every=2 * HOUR)
    task = await alice.run_now("x")
    await alice.resume("x")
    await alice.remove("x")
    entries = list(reversed(await scheduler.history("x")))
    assert [(each.action, each.actor, each.source) for each in entries] == [
        ("schedule.add", "application", "python"),
        ("schedule.pause", "alice", "api"),
        ("schedule.reschedule", "alice", "api"),
        ("schedule.run", "alice", "api"),
        ("schedule.resume", "alice", "api"),
        ("schedule.remove", "alice", "api"),
    ]
    assert entries[2].details == {"every": {"from": 3600.0, "to": 7200.0}}
    assert UUID(entries[3].details["task"]) == task.id
    assert await scheduler.history("y") == []


async def test_each_change_tells_the_workers(scheduler: Scheduler, database_url: str) -> None:
    async with listening(database_url) as ear:
        await scheduler.add(clock_tasks.plain, every=HOUR, name="x")
        assert await ear.hears("queue_new_task_control", 1) == ["schedules"]
        await scheduler.pause("x")
        await ear.hears("queue_new_task_control", 2)
        await scheduler.run_now("x")
        await ear.hears("queue_new_task", 1)


async def test_arguments_that_are_to_be_hidden_are_hidden(scheduler: Scheduler) -> None:
    made = await scheduler.add(
        clock_tasks.sweep, every=HOUR, args=("attic",), kwargs={"secret": "1234"}
    )
    assert "1234" not in repr(made)
    assert made.args == ["attic"]


async def test_without_notifications_a_schedule_is_a_row_all_the_same(opened: Opens) -> None:
    async with opened(use_postgresql_notify=False) as service:
        await service.add(clock_tasks.plain, every=HOUR, name="x")
        assert (await service.pause("x")).paused
