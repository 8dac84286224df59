"""What people do by hand: cancel, retry, clear."""

from __future__ import annotations

import asyncio
import json

import asyncpg
import pytest
from rows import (
    CHANNELS,
    TABLES,
    add,
    add_ended,
    add_taken,
    blocked,
    change,
    count,
    end,
    listening,
    new,
    read,
    state_of,
    states,
    take,
    write,
)

from fastedgy.ids import new_id
from fastedgy.store import actions
from fastedgy.store.traces import Said, append_logs

# Cancel


@pytest.mark.parametrize("columns", [{}, {"delay": 60.0}], ids=["enqueued", "scheduled"])
async def test_a_task_that_has_not_started_is_cancelled_at_once(
    connection: asyncpg.Connection, database_url: str, columns: dict[str, float]
) -> None:
    id = await add(connection, awaited=True, **columns)

    async with listening(database_url) as ear:
        cancelled = await actions.cancel(
            connection, TABLES, [id], reason="not needed", channels=CHANNELS
        )
        assert await ear.hears("queue_new_task_done") == [str(id)]

    assert (cancelled.ended, cancelled.asked) == ([id], [])
    row = await read(connection, id)
    assert (row["state"], row["error_type"], row["error_message"]) == (
        "cancelled",
        "TaskCancelled",
        "not needed",
    )
    assert await take(connection) == []


async def test_a_waiting_task_is_cancelled_and_its_parent_ends_as_if_it_were_not_there(
    connection: asyncpg.Connection,
) -> None:
    parent = await add_taken(connection)
    child = await add(connection, parent["id"])

    await actions.cancel(connection, TABLES, [child])
    await end(connection, parent)

    assert await states(connection) == ["done", "cancelled"]


async def test_a_running_task_is_asked_to_stop(
    connection: asyncpg.Connection, database_url: str
) -> None:
    record = await add_taken(connection)

    async with listening(database_url) as ear:
        cancelled = await actions.cancel(connection, TABLES, [record["id"]], channels=CHANNELS)
        assert await ear.hears("queue_new_task_control") == [str(record["id"])]

    assert (cancelled.ended, cancelled.asked) == ([], [record["id"]])
    row = await read(connection, record["id"])
    assert (row["state"], row["cancel_requested"]) == ("doing", True)


@pytest.mark.parametrize("state", ["done", "failed", "cancelled"])
async def test_a_task_that_has_ended_is_left_alone(
    connection: asyncpg.Connection, state: str
) -> None:
    id = await add_ended(connection, state)
    before = dict(await read(connection, id))

    cancelled = await actions.cancel(connection, TABLES, [id, new_id()])

    assert (cancelled.ended, cancelled.asked) == ([], [])
    assert dict(await read(connection, id)) == before


async def test_descendants_of_a_cancelled_task_meet_its_fate(
    connection: asyncpg.Connection,
) -> None:
    task = await add(connection)
    child = await add(connection, task)
    await add(connection, child)
    await add(connection, task, on_parent_failure="run")

    await actions.cancel(connection, TABLES, [task])

    assert await states(connection) == ["cancelled", "cancelled", "cancelled", "enqueued"]


async def test_a_task_that_starts_while_it_is_cancelled_is_asked_to_stop(
    connection: asyncpg.Connection, other: asyncpg.Connection, watcher: asyncpg.Connection
) -> None:
    id = await add(connection)
    claiming = connection.transaction()
    await claiming.start()
    await take(connection)

    cancelling = asyncio.create_task(actions.cancel(other, TABLES, [id]))
    await blocked(watcher, other)
    await claiming.commit()

    assert (await cancelling).asked == [id]
    assert await state_of(watcher, id) == "doing"


async def test_a_task_that_is_being_cancelled_is_not_claimed(
    connection: asyncpg.Connection, other: asyncpg.Connection
) -> None:
    id = await add(connection)
    async with connection.transaction():
        await actions.cancel(connection, TABLES, [id])
        assert await take(other) == []
    assert await take(other) == []


# Retry


@pytest.mark.parametrize("state", ["failed", "cancelled"])
async def test_a_task_is_retried_in_its_own_row_with_a_fresh_budget(
    connection: asyncpg.Connection, database_url: str, state: str
) -> None:
    id = await add_ended(connection, state, max_retries=2)
    await change(connection, id, losses=3, alone=True, cancel_requested=True)

    async with listening(database_url) as ear:
        assert await actions.retry(connection, TABLES, [id], channels=CHANNELS) == [id]
        await ear.hears("queue_new_task")

    row = await read(connection, id)
    assert (row["state"], row["attempt"], row["losses"]) == ("enqueued", 0, 0)
    assert (row["alone"], row["cancel_requested"], row["error_type"]) == (False, False, None)
    assert row["date_ended"] is None
    [entry] = json.loads(row["history"])
    assert (entry["what"], entry["attempt"]) == (state, 1)
    [record] = await take(connection)
    assert record["attempt"] == 1


@pytest.mark.parametrize("state", ["enqueued", "doing", "done"])
async def test_a_task_in_another_state_is_not_retried(
    connection: asyncpg.Connection, state: str
) -> None:
    id = await add(connection)
    if state != "enqueued":
        [record] = await take(connection)
        if state == "done":
            await end(connection, record)

    assert await actions.retry(connection, TABLES, [id]) == []
    assert await state_of(connection, id) == state


async def test_a_child_is_not_retried_before_its_parent(connection: asyncpg.Connection) -> None:
    parent = await add_taken(connection)
    child = await add(connection, parent["id"])
    await end(connection, parent, word="failed")

    assert await actions.retry(connection, TABLES, [child]) == []
    assert await actions.retry(connection, TABLES, [parent["id"]]) == [parent["id"]]
    assert await actions.retry(connection, TABLES, [child]) == [child]

    assert await state_of(connection, child) == "waiting"
    [record] = await take(connection)
    await end(connection, record)
    assert await state_of(connection, child) == "enqueued"


async def test_a_family_that_is_retried_in_one_go_waits_in_its_order(
    connection: asyncpg.Connection,
) -> None:
    parent = await add_taken(connection)
    child = await add(connection, parent["id"])
    await end(connection, parent, word="failed")

    await actions.retry(connection, TABLES, [parent["id"]])
    assert await actions.retry(connection, TABLES, [parent["id"], child]) == [child]


async def test_a_child_that_runs_in_any_case_is_retried_after_a_dead_parent(
    connection: asyncpg.Connection,
) -> None:
    parent = await add_taken(connection)
    child = await add(connection, parent["id"], on_parent_failure="run")
    await end(connection, parent, word="failed")
    [record] = await take(connection)
    await end(connection, record, word="failed")

    assert await actions.retry(connection, TABLES, [child]) == [child]
    assert await state_of(connection, child) == "enqueued"


async def test_a_retried_task_takes_its_key_again_or_stays_as_it_is(
    connection: asyncpg.Connection,
) -> None:
    old = await add_ended(connection, "failed", unique_key="report")
    assert await actions.retry(connection, TABLES, [old]) == [old]

    [record] = await take(connection)
    await end(connection, record, word="failed")
    await add(connection, unique_key="report")

    assert await actions.retry(connection, TABLES, [old]) == []
    assert await state_of(connection, old) == "failed"


# Clear


async def test_clearing_deletes_what_has_not_started(connection: asyncpg.Connection) -> None:
    doing = await add_taken(connection)
    await add(connection, doing["id"])
    await add(connection)
    await add(connection, delay=60.0)
    await add_ended(connection, "failed")

    assert await actions.clear(connection, TABLES) == 3

    assert await states(connection) == ["doing", "failed"]
    assert await connection.fetchval("SELECT count(*) FROM queued_task_links") == 0
    await end(connection, doing)
    assert await state_of(connection, doing["id"]) == "done"


async def test_clearing_one_queue_leaves_the_others(connection: asyncpg.Connection) -> None:
    await add(connection, queue="mail")
    kept = await add(connection)

    assert await actions.clear(connection, TABLES, queues=["mail"]) == 1
    assert await state_of(connection, kept) == "enqueued"


async def test_descendants_of_cleared_tasks_are_cancelled_and_told(
    connection: asyncpg.Connection, database_url: str
) -> None:
    cleared = await add(connection, queue="mail")
    child = await add(connection, cleared, awaited=True)
    stubborn = await add(connection, cleared, on_parent_failure="run")

    async with listening(database_url) as ear:
        assert await actions.clear(connection, TABLES, queues=["mail"], channels=CHANNELS) == 1
        await ear.hears("queue_new_task_done")
        assert str(child) in ",".join(ear.on("queue_new_task_done"))
        assert "default" in (await ear.hears("queue_new_task"))[0]

    assert await state_of(connection, child) == "cancelled"
    assert await state_of(connection, stubborn) == "enqueued"


async def test_very_many_tasks_are_cleared(connection: asyncpg.Connection) -> None:
    await write(connection, *(new() for _ in range(10_500)))

    assert await actions.clear(connection, TABLES) == 10_500
    assert await count(connection) == 0


async def test_logs_of_earlier_runs_are_cleared_too(connection: asyncpg.Connection) -> None:
    record = await add_taken(connection)
    said = Said(record["id"], 1, 0, [("info", 0.0, "shop", "hello", None)])
    await append_logs(connection, TABLES, [said])
    await end(connection, record, word="interrupted")

    await actions.clear(connection, TABLES)

    assert await connection.fetchval("SELECT count(*) FROM queued_task_logs") == 0
