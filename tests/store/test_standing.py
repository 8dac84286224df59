"""Tasks that stand for what they returned: circles, and other parents beside that one."""

from __future__ import annotations

import asyncio
import time
from typing import Any
from uuid import UUID

import asyncpg
import pytest
from rows import (
    CHANNELS,
    TABLES,
    add,
    add_taken,
    blocked,
    end,
    listening,
    read,
    state_of,
    states,
    take,
)

from fastedgy.store import actions
from fastedgy.store.finish import Finished, finish_any
from fastedgy.store.notify import SILENT
from fastedgy.store.outcomes import Standing

pytestmark = pytest.mark.usefixtures("both_ways")


def standing(record: Any, by: UUID) -> Standing:
    """The function of a claimed task has returned another task."""
    now = time.monotonic()
    return Standing(record["id"], record["run"], now - 0.5, now, by)


async def stand(connection: asyncpg.Connection, *ends: Standing) -> Finished:
    return await finish_any(connection, TABLES, ends, channels=SILENT)


async def test_two_that_return_each_other_in_one_batch_do_not_wait_for_ever(
    connection: asyncpg.Connection,
) -> None:
    one, other = await add_taken(connection), await add_taken(connection)
    third = await add_taken(connection)
    await stand(
        connection,
        standing(one, other["id"]),
        standing(other, third["id"]),
        standing(third, one["id"]),
    )
    for record in (one, other, third):
        row = await read(connection, record["id"])
        assert (row["state"], row["error_type"]) == ("failed", "CircularWorkflow")


@pytest.mark.parametrize("first", ["its parent", "what it returned"])
async def test_it_waits_for_what_it_returned_whichever_parent_is_done_first(
    connection: asyncpg.Connection, first: str
) -> None:
    parent = await add_taken(connection)
    child = await add(connection, parent["id"], on_parent_failure="run")
    await end(connection, parent, word="failed")
    [taken] = await take(connection)
    returned = await add_taken(connection)
    await stand(connection, standing(taken, returned["id"]))
    await end(connection, returned, word="failed")
    assert await state_of(connection, child) == "failed"
    await actions.retry(connection, TABLES, [child], tree=True)
    again = {record["id"]: record for record in await take(connection)}
    ends = [(again[parent["id"]], "1"), (again[returned["id"]], "2")]
    for record, result in ends if first == "its parent" else reversed(ends):
        assert await state_of(connection, child) == "waiting"
        await end(connection, record, result=result)
    row = await read(connection, child)
    assert (row["state"], row["result"]) == ("done", "2")


@pytest.mark.parametrize(
    ("reason", "kept"), [(None, "Cancelled on request."), ("wrong customer", "wrong customer")]
)
async def test_one_that_was_to_be_cancelled_does_not_wait_for_what_it_returned(
    connection: asyncpg.Connection, database_url: str, reason: str | None, kept: str
) -> None:
    record, returned = await add_taken(connection, awaited=True), await add_taken(connection)
    child = await add(connection, record["id"])
    asked = await actions.cancel(connection, TABLES, [record["id"]], reason=reason)
    assert asked.asked == [record["id"]]

    async with listening(database_url) as ear:
        late = standing(record, returned["id"])
        late.context = '{"said": 1}'
        finished = await finish_any(connection, TABLES, [late], channels=CHANNELS)
        assert await ear.hears("queue_new_task_done") == [str(record["id"])]

    assert not finished.fenced
    row = await read(connection, record["id"])
    assert (row["state"], row["error_type"]) == ("cancelled", "TaskCancelled")
    assert (row["error_message"], row["context"]) == (kept, '{"said": 1}')
    assert row["stands_for"] is None
    assert await state_of(connection, child) == "cancelled"
    assert await state_of(connection, returned["id"]) == "doing"
    assert not (await stand(connection, late)).fenced  # once more, after a lost answer


async def test_a_request_that_comes_while_it_is_about_to_wait_is_not_lost(
    connection: asyncpg.Connection, other: asyncpg.Connection, watcher: asyncpg.Connection
) -> None:
    record, returned = await add_taken(connection), await add_taken(connection)
    async with connection.transaction():
        await actions.cancel(connection, TABLES, [record["id"]], reason="wrong customer")
        ending = asyncio.create_task(stand(other, standing(record, returned["id"])))
        await blocked(watcher, other)
    await ending
    row = await read(connection, record["id"])
    assert (row["state"], row["error_message"]) == ("cancelled", "wrong customer")


async def test_a_request_that_comes_while_it_begins_to_wait_ends_the_wait(
    connection: asyncpg.Connection, other: asyncpg.Connection, watcher: asyncpg.Connection
) -> None:
    record, returned = await add_taken(connection), await add_taken(connection)
    async with connection.transaction():
        await stand(connection, standing(record, returned["id"]))
        asking = asyncio.create_task(actions.cancel(other, TABLES, [record["id"]]))
        await blocked(watcher, other)
    assert (await asking).ended == [record["id"]]
    assert await state_of(connection, record["id"]) == "cancelled"


async def test_two_that_return_each_other_and_one_was_to_be_cancelled(
    connection: asyncpg.Connection,
) -> None:
    one, other = await add_taken(connection), await add_taken(connection)
    await actions.cancel(connection, TABLES, [one["id"]])
    await stand(connection, standing(one, other["id"]), standing(other, one["id"]))
    assert await states(connection) == ["cancelled"] * 2  # and no circle
