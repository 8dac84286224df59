"""Unique keys: what they keep out, for how long, and what a duplicate gets."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import asyncpg
import mail_samples
import pytest
from rows import TABLES, WORKER, change, count, end, read, take

from fastedgy.config import QueuedTaskConfig, Settings
from fastedgy.connections import Connections
from fastedgy.errors import DuplicateTask, InvalidOption
from fastedgy.queued_tasks import QueuedTasks
from fastedgy.store import actions, bulk, maintain, steps
from fastedgy.store.finish import finish_any
from fastedgy.store.notify import SILENT
from fastedgy.store.outcomes import Standing


async def add(tasks: QueuedTasks, number: int, **options: Any) -> Any:
    """A report under the key of all reports; its id."""
    ref = await tasks.task(unique_key="report", **options).add_task(mail_samples.report, number)
    return ref.id


async def fifty(url: str, **options: Any) -> list[Any]:
    """The ids, or errors, of fifty tasks with one key from ten producers at the same time."""
    config = QueuedTaskConfig()

    async def some(first: int) -> list[Any]:
        service = QueuedTasks(Connections(url, Settings(database_url=url), config), config)
        answers: list[Any] = []
        for number in range(first, first + 5):
            try:
                answers.append(await add(service, number, **options))
            except DuplicateTask as error:
                answers.append(error)
        await service.close()
        return answers

    return [answer for each in await asyncio.gather(*map(some, range(0, 50, 5))) for answer in each]


@pytest.mark.parametrize(
    "options",
    [{}, {"unique_for": 60}, {"unique_while": "waiting"}, {"on_duplicate": "replace"}],
    ids=str,
)
async def test_of_fifty_at_once_one_is_written_and_all_have_its_id(
    database_url: str, connection: asyncpg.Connection, options: dict[str, Any]
) -> None:
    ids = await fifty(database_url, **options)

    assert len(set(ids)) == 1
    assert await count(connection) == 1


@pytest.mark.parametrize("options", [{}, {"unique_for": 60}], ids=str)
async def test_an_error_is_raised_to_all_but_one(
    database_url: str, connection: asyncpg.Connection, options: dict[str, Any]
) -> None:
    answers = await fifty(database_url, on_duplicate="error", **options)

    assert sum(isinstance(answer, DuplicateTask) for answer in answers) == 49
    assert await count(connection) == 1


# While


async def test_while_unfinished_a_task_that_runs_keeps_others_out(
    tasks: QueuedTasks, connection: asyncpg.Connection
) -> None:
    first = await add(tasks, 1)
    await take(connection)

    assert await add(tasks, 2) == first


async def test_while_waiting_a_task_that_runs_keeps_nobody_out(
    tasks: QueuedTasks, connection: asyncpg.Connection
) -> None:
    first = await add(tasks, 1, unique_while="waiting")
    await take(connection)
    second = await add(tasks, 2, unique_while="waiting")

    assert second != first
    assert await add(tasks, 3, unique_while="waiting") == second
    assert (await read(connection, first))["unique_key"] is None
    assert (await read(connection, first))["worker_id"] == WORKER


# For a period


async def test_for_a_period_a_task_that_has_ended_keeps_others_out(
    tasks: QueuedTasks, connection: asyncpg.Connection
) -> None:
    first = await add(tasks, 1, unique_for=60)
    await take(connection)
    await connection.execute("UPDATE queued_tasks SET state = 'done', date_ended = now()")

    assert await add(tasks, 2, unique_for=60) == first
    with pytest.raises(DuplicateTask):
        await add(tasks, 3, unique_for=60, on_duplicate="error")


async def test_when_the_period_is_over_the_key_is_free(
    tasks: QueuedTasks, connection: asyncpg.Connection
) -> None:
    first = await add(tasks, 1, unique_for=60)
    await connection.execute("UPDATE queued_tasks SET state = 'done', date_ended = now()")
    await _age(connection)

    second = await add(tasks, 2, unique_for=60)
    assert second != first
    assert await add(tasks, 3, unique_for=60) == second


async def test_a_task_that_has_not_ended_keeps_its_key_beyond_the_period(
    tasks: QueuedTasks, connection: asyncpg.Connection
) -> None:
    first = await add(tasks, 1, unique_for=60)
    await _age(connection)

    assert await add(tasks, 2, unique_for=60) == first
    await connection.execute("UPDATE queued_tasks SET state = 'done', date_ended = now()")
    assert await add(tasks, 3, unique_for=60) != first


async def test_a_cancelled_task_frees_its_period(
    tasks: QueuedTasks, connection: asyncpg.Connection
) -> None:
    first = await add(tasks, 1, unique_for=60)
    await tasks.cancel(first)

    assert await add(tasks, 2, unique_for=60) != first


async def test_a_flush_that_fails_holds_no_period(
    tasks: QueuedTasks, connection: asyncpg.Connection
) -> None:
    await add(tasks, 1, on_duplicate="error")
    refs = tasks.task(unique_key="other", unique_for=60).add_task(mail_samples.report, 1)
    tasks.task(unique_key="report", on_duplicate="error").add_task(mail_samples.report, 2)
    with pytest.raises(DuplicateTask):
        await refs

    assert await connection.fetchval(f"SELECT count(*) FROM {TABLES.keys}") == 0


async def test_two_in_one_flush_are_one(tasks: QueuedTasks, connection: asyncpg.Connection) -> None:
    maker = tasks.task(unique_key="report", unique_for=60)
    first, second = (maker.add_task(mail_samples.report, number) for number in (1, 2))
    await first

    assert await second.get_task_id() == first.id
    assert await count(connection) == 1


async def _age(connection: asyncpg.Connection) -> None:
    await connection.execute(
        f"UPDATE {TABLES.keys} SET date_expires = clock_timestamp() - interval '1 second'"
    )


# Replace


async def test_a_duplicate_can_replace_what_waits(
    tasks: QueuedTasks, connection: asyncpg.Connection
) -> None:
    first = await add(tasks, 1, on_duplicate="replace", priority=1)
    assert await add(tasks, 2, on_duplicate="replace", priority=4, queue="mail") == first

    row = await read(connection, first)
    assert (row["args"], row["priority"], row["queue"], row["state"]) == (
        "[2]", 4, "mail", "enqueued",
    )  # fmt: skip


async def test_replacing_puts_off_what_is_delayed(
    tasks: QueuedTasks, connection: asyncpg.Connection
) -> None:
    first = await add(tasks, 1, on_duplicate="replace", delay=60)
    due = (await read(connection, first))["date_due"]
    await add(tasks, 2, on_duplicate="replace", delay=120)

    row = await read(connection, first)
    assert row["state"] == "scheduled"
    assert (row["date_due"] - due).total_seconds() > 55
    await add(tasks, 3, on_duplicate="replace")
    assert (await read(connection, first))["state"] == "enqueued"


async def test_what_runs_is_not_replaced_but_followed(
    tasks: QueuedTasks, connection: asyncpg.Connection
) -> None:
    first = await add(tasks, 1, on_duplicate="replace")
    await take(connection)
    second = await add(tasks, 2, on_duplicate="replace")

    assert second != first
    assert (await read(connection, first))["args"] == "[1]"
    assert (await read(connection, second))["args"] == "[2]"


async def test_what_waits_for_its_parents_goes_on_waiting(
    tasks: QueuedTasks, connection: asyncpg.Connection
) -> None:
    parent = await tasks.add_task(mail_samples.report, 0)
    maker = tasks.task(unique_key="report")
    first = await maker.add_task(mail_samples.report, 1, parent=parent)
    assert await add(tasks, 2, on_duplicate="replace") == first.id

    assert first.id is not None
    row = await read(connection, first.id)
    assert (row["state"], row["args"]) == ("waiting", "[2]")


async def test_a_retried_task_that_is_replaced_has_all_its_attempts(
    tasks: QueuedTasks, connection: asyncpg.Connection
) -> None:
    first = await add(tasks, 1)
    await change(connection, first, attempt=2, error_type="ValueError")
    await add(tasks, 2, on_duplicate="replace")

    row = await read(connection, first)
    assert (row["attempt"], row["error_type"]) == (0, None)


async def test_what_has_begun_and_waits_in_the_middle_is_not_replaced_but_followed(
    tasks: QueuedTasks, connection: asyncpg.Connection
) -> None:
    first = await add(tasks, 1, on_duplicate="replace")
    [record] = await take(connection)
    await steps.begin(
        connection, TABLES, first, record["run"], name="charge", kind="step", position=1,
        attempts=0, handled=(),
    )  # fmt: skip
    await end(connection, record, word="snoozed")
    second = await add(tasks, 2, on_duplicate="replace")

    assert second != first
    assert (await read(connection, first))["args"] == "[1]"
    assert (await read(connection, second))["args"] == "[2]"


async def test_what_stands_for_another_task_is_not_replaced_but_followed(
    tasks: QueuedTasks, connection: asyncpg.Connection
) -> None:
    first = await add(tasks, 1, on_duplicate="replace")
    [record] = await take(connection)
    other = await tasks.add_task(mail_samples.report, 0)
    now = time.monotonic()
    await finish_any(
        connection, TABLES, [Standing(first, record["run"], now, now, other.id)], channels=SILENT
    )
    second = await add(tasks, 2, on_duplicate="replace")

    assert second != first
    assert (await read(connection, first))["args"] == "[1]"
    assert (await read(connection, second))["state"] == "enqueued"


async def test_a_cleared_queue_frees_its_periods(
    tasks: QueuedTasks, connection: asyncpg.Connection
) -> None:
    first = await add(tasks, 1, unique_for=60)
    await actions.clear(connection, TABLES)
    assert await add(tasks, 2, unique_for=60) != first


@pytest.mark.parametrize("state", ["cancelled", "done"])
@pytest.mark.parametrize("way", ["deleted", "pruned"])
async def test_a_row_that_goes_takes_the_period_of_a_cancelled_task_along_and_of_no_other(
    tasks: QueuedTasks, connection: asyncpg.Connection, way: str, state: str
) -> None:
    first = await add(tasks, 1, unique_for=60)
    await connection.execute("UPDATE queued_tasks SET state = $1, date_ended = now()", state)
    if way == "deleted":
        assert await bulk.delete(connection, TABLES, [first]) == [first]
    else:  # as if it had ended long ago
        assert (await maintain.prune(connection, TABLES, older_than=-60.0))[0] == 1

    second = await add(tasks, 2, unique_for=60)
    assert (second == first) is (state == "done")


# What makes no sense


@pytest.mark.parametrize(
    "options",
    [
        {"unique_for": 60},
        {"unique_while": "waiting"},
        {"unique_key": "x", "on_duplicate": "replace", "unique_while": "unfinished"},
        {"unique_key": "x", "on_duplicate": "replace", "unique_for": 60},
        {"per": "{number}"},
        {"limit": 1, "per": "{nobody}"},
        {"limit": 1, "per": "{number:>600}"},
    ],
    ids=str,
)
async def test_options_that_make_no_sense_together_are_refused(
    tasks: QueuedTasks, options: dict[str, Any]
) -> None:
    with pytest.raises(InvalidOption):
        tasks.task(**options).add_task(mail_samples.report, 1)


async def test_replacing_does_not_go_with_parents(tasks: QueuedTasks) -> None:
    maker = tasks.task(unique_key="x", on_duplicate="replace")
    with pytest.raises(InvalidOption, match="parent="):
        maker.add_task(mail_samples.report, 1, parent=tasks.add_task(mail_samples.report, 0))


# Gates, as the producer writes them


@pytest.mark.parametrize(
    ("options", "gate", "limit", "rate"),
    [
        ({"limit": 5}, "mail_samples.report", 5, None),
        ({"limit": 5, "per": "customer:{number}"}, "customer:7", 5, None),
        ({"rate": "90/m", "per": "x"}, "x", None, 1.5),
        ({"breaker": "payments"}, "breaker:payments", None, None),
        ({"breaker": "payments", "limit": 2}, "mail_samples.report", 2, None),
        ({"limit": 5, "name": "a {name}"}, "a {name}", 5, None),
        ({}, None, None, None),
    ],
    ids=str,
)
async def test_a_limit_a_rate_and_a_breaker_are_in_the_row(
    tasks: QueuedTasks, connection: asyncpg.Connection, options: dict[str, Any], gate: str | None,
    limit: int | None, rate: float | None,
) -> None:  # fmt: skip
    ref = await tasks.task(**options).add_task(mail_samples.report, 7)

    assert ref.id is not None
    row = await read(connection, ref.id)
    assert (row["gate"], row["gate_limit"], row["gate_rate"]) == (gate, limit, rate)
    assert row["breaker"] == options.get("breaker")
