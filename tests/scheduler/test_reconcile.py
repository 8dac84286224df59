"""What code declares becomes rows at each start, and what operators changed stays."""

from __future__ import annotations

import asyncio
import sys
from dataclasses import replace
from datetime import timedelta
from types import ModuleType
from typing import Any

import asyncpg
import clock_tasks
import pytest
from opening import Opens
from rows import connections

from fastedgy.dependencies import get_service
from fastedgy.errors import InvalidArguments, InvalidSchedule
from fastedgy.queued_task.functions import describe
from fastedgy.queued_task.options import options_of
from fastedgy.queued_tasks import QueuedTasks
from fastedgy.scheduler import Scheduler, declared, scheduled
from fastedgy.scheduler.reconcile import reconcile

HOUR = timedelta(hours=1)


def forget() -> None:
    """Begin as a process of the next release does."""
    declared._declared.clear()


async def names(scheduler: Scheduler) -> dict[str, str]:
    return {each.name: each.state for each in await scheduler.list(removed=True)}


async def actions(scheduler: Scheduler) -> list[str]:
    return [each.action.partition(".")[2] for each in reversed(await scheduler.history())]


async def test_what_is_declared_is_there_after_the_start(opened: Opens) -> None:
    scheduled(cron="0 2 * * *", timezone="Europe/Paris", jitter=5)(clock_tasks.plain)
    scheduled(every=HOUR, name="other", args=(7,))(clock_tasks.plain)
    async with opened() as scheduler:
        assert await names(scheduler) == {"clock_tasks.plain": "active", "other": "active"}
        first = await scheduler.get("other")
        assert (first.declared, first.args, first.changed) == (True, [7], [])
        assert await actions(scheduler) == ["declare", "declare"]
    async with opened() as scheduler:
        assert await scheduler.get("other") == first  # the second start changed nothing
        assert len(await actions(scheduler)) == 2


async def test_many_that_start_at_once_declare_once(opened: Opens, database_url: str) -> None:
    async with opened() as scheduler, connections(database_url, 8) as lines:
        scheduled(every=HOUR, name="x")(clock_tasks.plain)
        tasks = get_service(QueuedTasks)
        await asyncio.gather(*(reconcile(line, tasks) for line in lines))
        assert await actions(scheduler) == ["declare"]
        forget()
        await asyncio.gather(*(reconcile(line, tasks) for line in lines))
        assert await actions(scheduler) == ["declare", "undeclare"]


async def test_what_the_code_changed_is_taken_over(opened: Opens) -> None:
    scheduled(every=HOUR, name="x")(clock_tasks.plain)
    async with opened():
        pass
    forget()
    scheduled(cron="0 5 * * *", name="x", jitter=9, args=(3,))(clock_tasks.plain)
    async with opened() as scheduler:
        now = await scheduler.get("x")
        assert (now.cron, now.every, now.jitter, now.args) == ("0 5 * * *", None, 9, [3])
        assert now.next_due is not None
        assert now.next_due.hour == 5
        assert await actions(scheduler) == ["declare", "redeclare"]
        assert now.changed == []


async def test_what_an_operator_changed_stays(opened: Opens) -> None:
    scheduled(every=HOUR, name="x")(clock_tasks.plain)
    async with opened() as scheduler:
        await scheduler.reschedule("x", every=2 * HOUR)
        await scheduler.pause("x")
    forget()
    scheduled(every=3 * HOUR, name="x", jitter=9)(clock_tasks.plain)
    async with opened() as scheduler:
        now = await scheduler.get("x")
        assert (now.every, now.jitter, now.state) == (7200, 9, "paused")
        assert now.changed == ["every"]


async def test_what_an_operator_removed_stays_away_until_it_is_resumed(opened: Opens) -> None:
    scheduled(every=HOUR, name="x")(clock_tasks.plain)
    async with opened() as scheduler:
        await scheduler.remove("x")
        assert await scheduler.list() == []
    async with opened() as scheduler:
        assert await names(scheduler) == {"x": "removed"}
        assert (await scheduler.resume("x")).state == "active"
        await scheduler.remove("x")
    forget()
    async with opened() as scheduler:  # nothing is left to be kept away
        assert await names(scheduler) == {}


async def test_what_is_declared_no_more_fires_no_more_and_says_so(
    opened: Opens, caplog: pytest.LogCaptureFixture
) -> None:
    scheduled(every=HOUR, name="x")(clock_tasks.plain)
    async with opened():
        pass
    forget()
    async with opened() as scheduler:
        now = await scheduler.get("x")
        assert (now.state, now.next_due) == ("undeclared", None)
        assert "does not declare it any longer" in caplog.text
        assert await actions(scheduler) == ["declare", "undeclare"]
        with pytest.raises(InvalidSchedule, match="code that is gone"):
            await scheduler.resume("x")
    # The old release starts again.
    scheduled(every=HOUR, name="x")(clock_tasks.plain)
    async with opened() as scheduler:
        assert (await scheduler.get("x")).state == "active"
    forget()
    async with opened() as scheduler:
        await scheduler.remove("x")
        assert await names(scheduler) == {}


async def test_a_process_judges_only_what_it_can_see(
    opened: Opens, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = ModuleType("another_service")

    async def work() -> None: ...

    work.__module__, work.__qualname__ = "another_service", "work"
    elsewhere.work = work  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "another_service", elsewhere)
    scheduled(every=HOUR)(work)
    async with opened():
        pass
    forget()
    monkeypatch.delitem(sys.modules, "another_service")
    async with opened() as scheduler:  # the other service's module is unknown here
        assert await names(scheduler) == {"another_service.work": "active"}
    package = ModuleType("another_service")
    package.__path__ = []
    monkeypatch.setitem(sys.modules, "another_service", package)
    async with opened() as scheduler:  # now it is known, and declares nothing
        assert await names(scheduler) == {"another_service.work": "undeclared"}


async def test_a_schedule_of_that_name_that_was_added_at_run_time_stays_as_it_is(
    opened: Opens,
) -> None:
    async with opened() as scheduler:
        await scheduler.add(clock_tasks.plain, every=HOUR, name="x")
    scheduled(every=2 * HOUR, name="x", jitter=4)(clock_tasks.plain)
    async with opened() as scheduler:
        now = await scheduler.get("x")
        assert (now.every, now.jitter, now.declared) == (3600, 0, True)
        assert set(now.changed) == {"every", "jitter"}


async def test_the_functions_own_options_are_those_of_the_present_code(
    opened: Opens, connection: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def queues() -> dict[str, Any]:
        rows = await connection.fetch(
            "SELECT name, task ->> 'queue' AS queue FROM queued_task_schedules"
        )
        return {row["name"]: row["queue"] for row in rows}

    scheduled(every=HOUR, name="declared", args=("a",))(clock_tasks.sweep)
    async with opened() as scheduler:
        await scheduler.add(clock_tasks.sweep, every=HOUR, name="added", args=("b",))
        await scheduler.add(
            clock_tasks.sweep, every=HOUR, name="own", args=("c",), options={"queue": "own"}
        )
    assert await queues() == {"declared": "chores", "added": "chores", "own": "own"}
    function = describe(clock_tasks.sweep)
    monkeypatch.setattr(function, "options", replace(function.options, queue="attic"))
    async with opened():
        pass
    assert await queues() == {"declared": "attic", "added": "attic", "own": "own"}


async def test_a_start_signs_no_schedule_that_somebody_wrote_into_the_table(
    opened: Opens, connection: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(signing_keys=["old"]) as scheduler:
        await scheduler.add(clock_tasks.sweep, every=HOUR, name="mine", args=("a",))
    await connection.execute(
        "INSERT INTO queued_task_schedules (name, function, args, task, every, next_due, signature)"
        " SELECT each, function, '[666]', '{}', every, next_due,"
        "        CASE WHEN each = 'forged' THEN signature END"
        " FROM queued_task_schedules, unnest(ARRAY ['forged', 'unsigned']) AS each"
    )

    async def signatures() -> dict[str, str | None]:
        rows = await connection.fetch("SELECT name, signature FROM queued_task_schedules")
        return {row["name"]: row["signature"] for row in rows}

    before = await signatures()
    async with opened(signing_keys=["new", "old"]):
        pass
    after = await signatures()
    assert {name for name in before if before[name] != after[name]} == {"mine"}  # by the new key
    assert after["unsigned"] is None


@pytest.mark.parametrize(
    "forged",
    ["options = '7'", "task = '[]'", "task = '{\"redact\": 7}'", "args = '5'", "kwargs = '[1]'"],
)
async def test_a_row_of_nonsense_stops_no_start_and_no_list(
    opened: Opens, connection: asyncpg.Connection, forged: str
) -> None:
    async with opened() as scheduler:
        for name in ("bad", "good"):
            await scheduler.add(clock_tasks.sweep, every=HOUR, name=name, args=("a",))
    await connection.execute(f"UPDATE queued_task_schedules SET {forged} WHERE name = 'bad'")
    async with opened() as scheduler:
        assert [each.name for each in await scheduler.list()] == ["bad", "good"]


async def test_a_declared_schedule_is_signed_by_the_key_of_today(
    opened: Opens, connection: asyncpg.Connection
) -> None:
    scheduled(every=HOUR, name="declared", args=("a",))(clock_tasks.sweep)
    signatures = []
    for key in ("old", "new"):
        async with opened(signing_keys=[key]):
            pass
        signatures.append(await connection.fetchval("SELECT signature FROM queued_task_schedules"))
    assert signatures[0] != signatures[1]


def test_a_scheduled_function_is_a_task_and_keeps_the_options_that_it_has() -> None:
    async def fresh() -> None: ...

    assert options_of(scheduled(every=HOUR)(fresh)) is not None
    before = options_of(clock_tasks.sweep)
    assert options_of(scheduled(every=HOUR)(clock_tasks.sweep)) is before


def test_nonsense_is_refused_where_it_is_written() -> None:
    with pytest.raises(ValueError, match="cron="):
        scheduled(cron="61 * * * *")
    with pytest.raises(InvalidSchedule, match="name="):
        scheduled(every=HOUR, name="")
    scheduled(every=HOUR)(clock_tasks.plain)
    with pytest.raises(InvalidSchedule, match="Two schedules are called"):
        scheduled(cron="0 0 * * *")(clock_tasks.plain)
    with pytest.raises(TypeError, match="for functions"):
        scheduled(every=HOUR)(7)  # type: ignore[type-var]


async def test_a_declaration_that_cannot_be_run_stops_the_start(opened: Opens) -> None:
    scheduled(every=HOUR, args=(1, 2, 3))(clock_tasks.plain)
    with pytest.raises(InvalidArguments, match=r"clock_tasks\.plain"):
        async with opened():
            pass
