"""Tasks that stand for what they returned: circles, and other parents beside that one."""

from __future__ import annotations

import time
from typing import Any
from uuid import UUID

import asyncpg
import pytest
from rows import TABLES, add, add_taken, end, read, state_of, take

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
