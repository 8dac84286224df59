"""Chores: what is due gets into the line, what is old goes."""

from __future__ import annotations

import json
import time
from typing import Any
from uuid import UUID

import asyncpg
import pytest
from rows import (
    TABLES,
    add,
    add_ended,
    add_taken,
    change,
    count,
    end,
    listening,
    read,
    state_of,
    states,
)

from fastedgy.store import maintain
from fastedgy.store.maintain import Promoted
from fastedgy.store.traces import Said, append_logs


async def due_since(connection: asyncpg.Connection, id: UUID, seconds: float) -> None:
    await connection.execute(
        "UPDATE queued_tasks SET date_due = clock_timestamp() - $2 * interval '1 s' WHERE id = $1",
        id, seconds,
    )  # fmt: skip


async def promote(connection: asyncpg.Connection, limit: int = 100, **given: Any) -> Promoted:
    return await maintain.promote(
        connection, TABLES, limit=limit, channel=given.get("channel", "queue_new_task")
    )


async def add_due(connection: asyncpg.Connection, seconds: float = 1.0, **columns: Any) -> UUID:
    id = await add(connection, delay=3600.0, **columns)
    await due_since(connection, id, seconds)
    return id


async def add_old(
    connection: asyncpg.Connection, state: str = "done", age: float = 7200.0, **columns: Any
) -> UUID:
    """A task that ended so many seconds ago, with an id of that time."""
    made = UUID(int=(int((time.time() - age) * 1000) << 80) | (7 << 76) | (2 << 62) | next(NUMBERS))
    id = await add_ended(connection, state, id=made, **columns)
    await connection.execute(
        "UPDATE queued_tasks SET date_ended = clock_timestamp() - $2 * interval '1 s'"
        " WHERE id = $1",
        id, age,
    )  # fmt: skip
    return id


NUMBERS = iter(range(1_000_000))


async def prune(connection: asyncpg.Connection, **given: Any) -> tuple[int, UUID]:
    return await maintain.prune(connection, TABLES, older_than=3600.0, **given)


# Promoting


async def test_what_is_due_gets_into_the_line(
    connection: asyncpg.Connection, database_url: str
) -> None:
    due = await add_due(connection, queue="mail", priority=3)
    later = await add(connection, delay=60.0)

    async with listening(database_url) as ear:
        promoted = await promote(connection)
        [heard] = await ear.hears("queue_new_task")

    assert (promoted.moved, promoted.lanes) == (1, {("mail", 3)})
    assert promoted.next_due is not None
    assert 55 < promoted.next_due <= 60
    assert json.loads(heard)["lanes"] == [["mail", 3]]
    row = await read(connection, due)
    assert row["state"] == "enqueued"
    assert row["date_enqueued"] > row["date_due"]
    assert await state_of(connection, later) == "scheduled"


async def test_nothing_due_means_no_bell(connection: asyncpg.Connection, database_url: str) -> None:
    async with listening(database_url) as ear:
        assert await promote(connection) == Promoted(0, set(), None)
        await add_due(connection, queue="first heard")
        await promote(connection)
        [heard] = await ear.hears("queue_new_task")

    assert "first heard" in heard


async def test_the_longest_due_come_first(connection: asyncpg.Connection) -> None:
    late, later = await add_due(connection, 1.0), await add_due(connection, 9.0)

    assert (await promote(connection, limit=1)).moved == 1

    assert await state_of(connection, late) == "scheduled"
    assert await state_of(connection, later) == "enqueued"


async def test_two_workers_that_promote_at_once_share_the_work(
    connection: asyncpg.Connection, other: asyncpg.Connection
) -> None:
    for _ in range(4):
        await add_due(connection)

    async with connection.transaction():
        assert (await promote(connection, limit=3)).moved == 3
        assert (await promote(other)).moved == 1


async def test_a_cancelled_schedule_does_not_come_back(connection: asyncpg.Connection) -> None:
    id = await add_due(connection)
    await change(connection, id, state="cancelled", date_ended=(await read(connection, id))[
        "date_created"])  # fmt: skip

    assert (await promote(connection)).moved == 0


async def test_without_a_channel_nothing_is_told(connection: asyncpg.Connection) -> None:
    await add_due(connection)

    assert (await promote(connection, channel=None)).moved == 1


# Pruning


@pytest.mark.parametrize("state", ["done", "failed", "cancelled"])
async def test_old_tasks_go_with_their_logs_and_links(
    connection: asyncpg.Connection, state: str
) -> None:
    record = await add_taken(connection)
    said = Said(record["id"], 1, 0, [("info", time.monotonic(), "shop", "hello", None)])
    await append_logs(connection, TABLES, [said])
    child = await add(connection, record["id"], on_parent_failure="run")
    await end(connection, record, word=state)
    aged = UUID(int=record["id"].int - (7200_000 << 80))
    for table, column in (("links", "parent_id"), ("logs", "task_id")):
        await connection.execute(f"UPDATE queued_task_{table} SET {column} = $1", aged)
    await connection.execute(
        "UPDATE queued_tasks SET id = $1, date_ended = date_ended - interval '2 h' WHERE id = $2",
        aged, record["id"],
    )  # fmt: skip

    assert (await prune(connection))[0] == 1

    assert await states(connection) == ["enqueued"]
    assert await state_of(connection, child) == "enqueued"
    for table in ("links", "logs"):
        assert await connection.fetchval(f"SELECT count(*) FROM queued_task_{table}") == 0


async def test_young_and_unfinished_tasks_stay(connection: asyncpg.Connection) -> None:
    await add_ended(connection)
    long = await add_old(connection)
    await change(connection, long, state="enqueued")
    late = await add_old(connection, age=7200)
    await connection.execute(
        "UPDATE queued_tasks SET date_ended = clock_timestamp() WHERE id = $1", late
    )

    assert (await prune(connection))[0] == 0
    assert await count(connection) == 3


async def test_pruning_goes_on_where_it_stopped(connection: asyncpg.Connection) -> None:
    for age in range(5):
        await add_old(connection, age=9000 - age)
    pruned, after = await prune(connection, limit=2)
    assert pruned == 2
    pruned, after = await prune(connection, limit=2, after=after)
    assert pruned == 2
    assert (await prune(connection, limit=2, after=after))[0] == 1
    assert await count(connection) == 0


async def test_only_the_named_states_are_pruned(connection: asyncpg.Connection) -> None:
    await add_old(connection)
    failed = await add_old(connection, "failed")

    assert (await prune(connection, states=["done"]))[0] == 1
    assert await state_of(connection, failed) == "failed"


async def test_rows_that_somebody_holds_are_pruned_another_time(
    connection: asyncpg.Connection, other: asyncpg.Connection
) -> None:
    held = await add_old(connection)
    await add_old(connection)

    async with other.transaction():
        await other.execute("SELECT FROM queued_tasks WHERE id = $1 FOR UPDATE", held)
        assert (await prune(connection))[0] == 1
    assert (await prune(connection))[0] == 1


async def test_a_queue_with_a_name_that_no_notification_takes_holds_up_nobody(
    connection: asyncpg.Connection,
) -> None:
    ids = [await add(connection, delay=60.0, queue=queue) for queue in ("mail", "\x01" * 2_000)]
    for id in ids:
        await due_since(connection, id, 1)
    assert (await promote(connection)).moved == 2
