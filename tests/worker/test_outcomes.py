"""What comes of a function in a worker: results, errors, retries, and what it says of itself."""

from __future__ import annotations

import asyncio
import json
import logging
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import asyncpg
import pytest
import shop_tasks
from crew import Hire, reaches
from helpers import eventually
from rows import count, read

from fastedgy.dependencies import register_service, unregister_service
from fastedgy.errors import ResultNotStored, TaskCancelled, TaskFailed
from fastedgy.ids import new_id
from fastedgy.queued_task import (
    clear_all_hooks,
    on_post_run,
    on_pre_run,
)


async def outcome(ref: Any) -> Any:
    """The result, or the exception."""
    [value] = await asyncio.gather(ref.wait(timeout=30), return_exceptions=True)
    return value


# Results


async def test_results_come_back_from_async_and_sync_functions(
    hire: Hire, connection: asyncpg.Connection
) -> None:
    async with hire() as staff:
        tasks = staff.tasks
        assert await tasks.add_task(shop_tasks.greet, "sync").wait(30) == "hello sync"
        ref = tasks.add_task(shop_tasks.greet_async, name="async")
        assert await ref.wait(30) == "hello async"
        for value in (None, 0, "", [], {"a": [1, None, 2.5]}, True, 2**53):
            assert await tasks.add_task(shop_tasks.echo, value).wait(30) == value
        moment = await tasks.add_task(shop_tasks.give, "moment").wait(30)
        assert moment == {"day": "2030-01-02", "price": "1.50"}
        big = await tasks.add_task(shop_tasks.give, "big").wait(30)
        assert len(big) == 5_000_000

    row = await read(connection, await ref.get_task_id())
    assert (row["state"], row["attempt"], row["run"]) == ("done", 1, 1)
    assert row["worker_id"] == staff.worker.id
    assert row["date_enqueued"] <= row["date_started"] <= row["date_ended"]


async def test_arguments_are_rebuilt_from_the_annotations(hire: Hire) -> None:
    parcel = shop_tasks.Parcel(Decimal("1.5"), shop_tasks.Size.SMALL)
    async with hire() as staff:
        ref = staff.tasks.add_task(
            shop_tasks.typed, date(2030, 1, 2), datetime.now(UTC), new_id(), [parcel]
        )
        assert await ref.wait(30) == ["date", "datetime", "UUID", "Parcel", "Decimal"]


async def test_a_result_that_cannot_be_stored_leaves_the_task_done(
    hire: Hire, connection: asyncpg.Connection
) -> None:
    async with hire(max_result_size=1_000_000) as staff:
        for what in ("object", "nul", "nan", "surrogate", "deep", "big"):
            ref = staff.tasks.add_task(shop_tasks.give, what)
            assert isinstance(await outcome(ref), ResultNotStored), what
            row = await read(connection, await ref.get_task_id())
            assert (row["state"], row["error_type"]) == ("done", "ResultNotStored"), what


async def test_a_task_knows_itself(hire: Hire) -> None:
    async with hire() as staff:
        ref = staff.tasks.task(queue="mail", name="who").add_task(shop_tasks.whoami)
        told = await ref.wait(30)

    assert told["id"] == str(ref.id)
    assert (told["attempt"], told["queue"], told["name"]) == (1, "mail", "who")


async def test_services_are_injected(hire: Hire) -> None:
    mailer = shop_tasks.Mailer()
    mailer.name = "a better mailer"
    async with hire() as staff:
        first = await staff.tasks.add_task(shop_tasks.injected, "sent").wait(30)
        register_service(mailer, force=True)
        try:
            second = await staff.tasks.add_task(shop_tasks.injected_sync, word="sent").wait(30)
        finally:
            unregister_service(shop_tasks.Mailer)

    assert (first, second) == ("sent by the mailer", "sent by a better mailer")


async def test_a_task_leaves_nothing_to_the_next(hire: Hire) -> None:
    async with hire(concurrency=1) as staff:
        refs = staff.tasks.add_tasks(shop_tasks.leave_something, [()] * 3)
        assert [await ref.wait(30) for ref in refs] == ["clean"] * 3


# Errors


ERRORS = {
    "value error": ("ValueError", "no such user"),
    "nul": ("ValueError", "a"),
    "surrogate": ("ValueError", ""),
    "exit": ("SystemExit", "7"),
    "interrupt": ("KeyboardInterrupt", ""),
    "generator exit": ("GeneratorExit", ""),
    "recursion": ("RecursionError", "maximum recursion depth"),
    "unprintable": ("shop_tasks.Unprintable", "cannot be printed"),
    "fatal text": ("shop_tasks.Fatal", "cannot be printed"),
    "stop iteration": ("RuntimeError", "StopIteration"),
    "cancelled": ("CancelledError", ""),
    "long": ("ValueError", "xxx"),
    "group": ("ExceptionGroup", "several"),
    "base": ("BaseException", "very basic"),
    "memory": ("MemoryError", ""),
}


@pytest.mark.parametrize("func", [shop_tasks.fail, shop_tasks.fail_sync])
async def test_whatever_a_function_raises_is_its_own_failure_and_no_harm_to_the_worker(
    hire: Hire, connection: asyncpg.Connection, func: Any
) -> None:
    async with hire() as staff:
        refs = {what: staff.tasks.add_task(func, what) for what in ERRORS}
        for what, ref in refs.items():
            error = await outcome(ref)
            assert isinstance(error, TaskFailed), what
            kind, message = ERRORS[what]
            assert error.error_type.removeprefix("asyncio.exceptions.") == kind, what
            assert message in error.error_message, what
            assert len(error.error_message) < 10_100, what
            assert error.traceback is not None, what
            assert len(error.traceback) < 60_000, what
            assert "shop_tasks.py" in error.traceback or "printed" in error.traceback, what
        assert await staff.tasks.add_task(shop_tasks.greet, "you").wait(30) == "hello you"
        assert staff.worker.parts.executor.busy == 0
        assert staff.counters.errors == 0

    assert await count(connection, "state = 'failed'") == len(ERRORS)


# Retries


async def test_a_failed_attempt_is_made_again_until_it_succeeds(
    hire: Hire, connection: asyncpg.Connection
) -> None:
    async with hire() as staff:
        ref = staff.tasks.add_task(shop_tasks.third_time)
        assert await ref.wait(30) == 3
        logs = await ref.logs()

    row = await read(connection, await ref.get_task_id())
    assert (row["state"], row["attempt"], row["error_type"]) == ("done", 3, None)
    history = json.loads(row["history"])
    assert [(e["what"], e["attempt"], e["error_message"]) for e in history] == [
        ("retry", 1, "attempt 1"),
        ("retry", 2, "attempt 2"),
    ]
    assert [(line.run, line.message) for line in logs] == [
        (1, "attempt 1"), (2, "attempt 2"), (3, "attempt 3"),
    ]  # fmt: skip


async def test_the_log_of_the_worker_tells_of_failures(
    hire: Hire, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="fastedgy.worker")
    async with hire() as staff:
        await staff.tasks.add_task(shop_tasks.third_time).wait(30)
        ref = staff.tasks.add_task(shop_tasks.too_late)
        assert isinstance(await outcome(ref), TaskFailed)
        rows = await ref.logs()

    told = [(r.levelname, r.getMessage()) for r in caplog.records if " failed" in r.getMessage()]
    assert [level for level, _ in told] == ["WARNING", "WARNING", "ERROR"]
    assert "failed in attempt 1 of " in told[0][1]
    assert ": attempt 1" in told[0][1]
    assert f"Task shop_tasks.too_late ({ref.id}) has failed, in attempt 1 of 6: " in told[2][1]
    assert "Traceback (most recent call last):" in told[2][1]
    assert rows == []  # it is the worker's log, and not the task's


async def test_a_task_fails_when_it_is_not_to_be_tried_again(
    hire: Hire, connection: asyncpg.Connection
) -> None:
    cases = [
        (shop_tasks.never, (), 2, "ValueError"),
        (shop_tasks.too_late, (), 1, "shop_tasks.TooLate"),
        (shop_tasks.only_connections, ("value",), 1, "ValueError"),
        (shop_tasks.only_connections, ("connection",), 6, "ConnectionError"),
    ]
    async with hire() as staff:
        for func, args, attempts, error_type in cases:
            ref = staff.tasks.add_task(func, *args)
            error = await outcome(ref)
            assert isinstance(error, TaskFailed)
            assert error.error_type == error_type
            row = await read(connection, await ref.get_task_id())
            assert (row["state"], row["attempt"]) == ("failed", attempts)


async def test_a_retry_waits_for_its_backoff(hire: Hire, connection: asyncpg.Connection) -> None:
    async with hire(retry_backoff=100.0) as staff:
        crooked = staff.tasks.add_task(shop_tasks.crooked_backoff)
        row = await reaches(connection, crooked.id, "scheduled")

    waits = (row["date_due"] - datetime.now(UTC)).total_seconds()
    assert 80 < waits <= 100


async def test_a_task_decides_about_its_own_end(hire: Hire, connection: asyncpg.Connection) -> None:
    words = ("retry", "snooze", "discard", "odd discard")
    async with hire() as staff:
        for by in ("raise", "return"):
            refs = {word: staff.tasks.add_task(shop_tasks.control, word, by) for word in words}
            ends = {word: await outcome(ref) for word, ref in refs.items()}
            rows = {word: await read(connection, ref.id) for word, ref in refs.items()}
            assert (ends["retry"], rows["retry"]["attempt"]) == (2, 2)
            assert (ends["snooze"], rows["snooze"]["attempt"]) == (2, 1)
            for word, text in (("discard", "not worth it"), ("odd discard", "")):
                assert isinstance(ends[word], TaskFailed)
                assert ends[word].error_type == "Discard"
                assert text in ends[word].error_message
                assert rows[word]["attempt"] == 1


async def test_a_retry_keeps_the_exception_that_it_answers(
    hire: Hire, connection: asyncpg.Connection
) -> None:
    async with hire() as staff:
        ref = staff.tasks.add_task(shop_tasks.retry_with_cause)
        error = await outcome(ref)

    assert isinstance(error, TaskFailed)
    assert error.error_type == "KeyError"
    assert (await read(connection, ref.id))["attempt"] == 2


# Timeouts and cancellations

CANCELLED = ("sleep", "swallow", "other")
"""What functions make of a cancellation."""


async def test_a_task_that_takes_too_long_has_failed(hire: Hire) -> None:
    async with hire() as staff:
        refs = [staff.tasks.add_task(shop_tasks.too_long, how) for how in CANCELLED]
        sleep, swallow, other = [await outcome(ref) for ref in refs]
        assert staff.counters.timeouts == 3
        assert staff.worker.parts.executor.busy == 0

    assert shop_tasks.seen == ["cancelled"] * 3
    for error in (sleep, swallow):
        assert (error.error_type, "0.2 s" in error.error_message) == ("TaskTimeout", True)
    assert isinstance(other, TaskFailed)


async def test_a_running_task_is_cancelled(hire: Hire, connection: asyncpg.Connection) -> None:
    async with hire() as staff:
        for number, how in enumerate(CANCELLED, 1):
            ref = await staff.tasks.add_task(shop_tasks.stubborn, how)
            child = await staff.tasks.add_task(shop_tasks.greet, "child", parent=ref)

            def began(number: int = number) -> None:
                assert shop_tasks.seen == ["began"] * number

            await eventually(began)
            assert await ref.cancel("changed our mind")
            error = await outcome(ref)
            assert isinstance(error, TaskCancelled), how
            assert error.reason == "changed our mind"
            assert await child.get_state() == "cancelled"


@pytest.mark.parametrize("notify", [True, False], ids=["at once", "with the next heartbeat"])
async def test_a_task_that_waits_behind_others_in_its_worker_is_cancelled(
    hire: Hire, notify: bool
) -> None:
    settings = {"use_postgresql_notify": notify, "polling_interval": 0.1, "heartbeat": 0.2}
    async with hire(concurrency=1, lease=10, **settings) as staff:
        staff.claims_ahead()
        first = await staff.tasks.add_task(shop_tasks.hold)
        second = await staff.tasks.add_task(shop_tasks.hold, "second")

        def queued() -> None:
            assert staff.worker.parts.executor.queued == 1

        await eventually(queued)
        assert await second.cancel()
        assert isinstance(await outcome(second), TaskCancelled)
        shop_tasks.gates["hold"].set()
        assert await first.wait(30) == "hold"

    assert shop_tasks.seen == [("hold", "began")]


async def test_a_sync_function_ends_as_cancelled_when_it_returns(hire: Hire) -> None:
    async with hire() as staff:
        ref = await staff.tasks.add_task(shop_tasks.nap_sync, 0.4)

        def began() -> None:
            assert staff.worker.parts.executor.busy == 1

        await eventually(began)
        assert await ref.cancel()
        assert isinstance(await outcome(ref), TaskCancelled)


# Hooks


async def test_hooks_run_around_each_attempt(hire: Hire) -> None:
    seen: list[Any] = []

    @on_pre_run
    async def before(task: Any) -> None:
        seen.append(("before", task.attempt))

    @on_pre_run
    def broken(task: Any) -> None:
        raise ValueError

    @on_post_run
    async def after(task: Any, result: Any = None, error: Any = None) -> None:
        seen.append(("after", task.attempt, result, type(error)))

    @on_post_run
    def fatal(task: Any) -> None:
        raise SystemExit

    try:
        async with hire() as staff:
            assert await staff.tasks.add_task(shop_tasks.third_time).wait(30) == 3
    finally:
        clear_all_hooks()

    assert seen == [
        ("before", 1), ("after", 1, None, ValueError),
        ("before", 2), ("after", 2, None, ValueError),
        ("before", 3), ("after", 3, 3, type(None)),
    ]  # fmt: skip


# Tasks that add tasks


async def test_what_hooks_add_is_written_whatever_became_of_the_task(
    hire: Hire, connection: asyncpg.Connection
) -> None:
    @on_post_run
    def tell(task: Any, error: Any = None) -> None:
        if not task.function.endswith(":echo"):
            staff.tasks.add_task(shop_tasks.echo, f"{task.name} {error}")

    try:
        async with hire() as staff:
            await staff.tasks.add_task(shop_tasks.greet, "a").wait(30)
            failing = staff.tasks.task(max_retries=0).add_task(shop_tasks.third_time)
            assert isinstance(await outcome(failing), TaskFailed)
    finally:
        clear_all_hooks()

    told = await connection.fetch(
        "SELECT args ->> 0 AS text FROM queued_tasks WHERE function LIKE '%:echo' ORDER BY id"
    )
    assert [row["text"] for row in told] == [
        "shop_tasks.greet None", "shop_tasks.third_time attempt 1",
    ]  # fmt: skip


async def test_what_a_failed_attempt_has_added_is_not_written(
    hire: Hire, connection: asyncpg.Connection
) -> None:
    async with hire() as staff:
        failing = staff.tasks.task(max_retries=0).add_task(shop_tasks.adds_orphan_and_gives_up)
        assert isinstance(await outcome(failing), TaskFailed)

    assert await count(connection, "function LIKE '%:echo'") == 0


async def test_a_sync_task_may_run_a_loop_of_its_own(
    hire: Hire, connection: asyncpg.Connection
) -> None:
    async with hire(concurrency=20) as staff:
        tasks = staff.tasks
        loops = [tasks.add_task(shop_tasks.add_in_own_loop, number) for number in range(12)]
        others = [tasks.add_task(shop_tasks.adds, number) for number in range(30)]
        for ref in loops:
            assert await ref.wait(30) in ("enqueued", "doing", "done")  # the others are quick
        for ref in others:
            await ref.wait(30)

    assert await count(connection, "function LIKE '%:echo'") == 42


async def test_what_a_task_adds_is_written_before_it_is_done(
    hire: Hire, connection: asyncpg.Connection
) -> None:
    async with hire() as staff:
        await staff.tasks.add_task(shop_tasks.spread, 100).wait(30)
        assert await count(connection) == 101
        await staff.tasks.add_task(shop_tasks.spread_sync).wait(30)
        assert await count(connection) == 103
        error = await outcome(staff.tasks.add_task(shop_tasks.spread_and_fail))
        assert isinstance(error, TaskFailed)
        error = await outcome(staff.tasks.add_task(shop_tasks.spread_badly))
        assert isinstance(error, TaskFailed)
        assert error.error_type == "fastedgy.errors.ParentNotFound"
        answer = await staff.tasks.add_task(shop_tasks.ask_another, "you").wait(30)
        assert answer == "HELLO YOU"

    assert await count(connection, "args @> '[\"dropped\"]'") == 0


# Families


async def test_a_family_runs_in_its_order(hire: Hire) -> None:
    async with hire() as staff, staff.tasks as tasks:
        first = tasks.add_task(shop_tasks.mark, 1)
        middle = [tasks.add_task(shop_tasks.mark, 2, parent=first) for _ in range(30)]
        last = tasks.add_task(shop_tasks.mark, 3, parent=middle)
        alone = tasks.task(delay=0.05).add_task(shop_tasks.mark, 4, parent=[last])
        assert await alone.wait(30) == 4

    assert shop_tasks.seen == [1, *[2] * 30, 3, 4]


async def test_a_task_to_be_removed_is_gone_afterwards(
    hire: Hire, connection: asyncpg.Connection
) -> None:
    async with hire() as staff:
        await staff.tasks.task(auto_remove=True).add_task(shop_tasks.mark, 1)

        async def gone() -> None:
            assert shop_tasks.seen == [1]
            assert await count(connection) == 0

        await eventually(gone)
