"""Cancelling many tasks while workers end them: the database may undo one of both, never for long.

A completion takes its rows in the order in which the tasks ended, a cancellation in that of the
ids: they can wait for each other.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from typing import Any

import asyncpg
import pytest
from rows import (
    CHANNELS,
    TABLES,
    add,
    add_taken,
    blocked,
    end,
    new,
    read,
    states,
    take,
    write,
)

from fastedgy.database import connect
from fastedgy.store import actions
from fastedgy.worker.wire import HELD_PLANS

ROUNDS = 20
HOLD = "SELECT FROM queued_tasks WHERE id = $1 FOR UPDATE"


@pytest.fixture
async def worker(database_url: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection as workers have theirs: rows are taken in the order in which they are named."""
    opened = await connect(database_url, server_settings=HELD_PLANS)
    yield opened
    opened.terminate()


async def finish(worker: asyncpg.Connection, records: Sequence[Any]) -> None:
    """Write outcomes as a worker does: until they are written."""
    while True:
        with suppress(asyncpg.DeadlockDetectedError):
            await end(worker, *records, channels=CHANNELS)
            return


async def looks_after(connection: asyncpg.Connection, time: str) -> None:
    """Have it look for a deadlock after another time than a second, where that is allowed."""
    with suppress(asyncpg.InsufficientPrivilegeError):
        await connection.execute(f"SET deadlock_timeout = '{time}'")


@pytest.mark.parametrize("within", [False, True], ids=["by itself", "in the caller's transaction"])
async def test_a_cancellation_that_a_completion_stops_is_repeated(
    connection: asyncpg.Connection, other: asyncpg.Connection, watcher: asyncpg.Connection,
    worker: asyncpg.Connection, within: bool,
) -> None:  # fmt: skip
    records = sorted([await add_taken(connection) for _ in range(3)], key=lambda row: row["id"])
    ids = [record["id"] for record in records]
    # Who looks first for a deadlock is the one to give way: once for each wait, so that it must not
    # look before both wait.
    await looks_after(worker, "1min")
    outer = other.transaction()
    if within:
        await outer.start()
        mine = await add(other)
    async with connection.transaction():
        await connection.execute(HOLD, ids[1])
        # It has the first row and waits for the second; the completion has the third. Once the
        # second is free, each has what the other one wants.
        cancelling = asyncio.create_task(actions.cancel(other, TABLES, ids, channels=CHANNELS))
        await blocked(watcher, other)
        finishing = asyncio.create_task(finish(worker, records[::-1]))
        await blocked(watcher, worker)
    await cancelling
    if within:
        await outer.commit()
        assert await read(watcher, mine)
    await finishing
    assert await states(watcher, ids) == ["done"] * 3


async def test_both_come_to_an_end_however_often_they_meet(
    connection: asyncpg.Connection, other: asyncpg.Connection, watcher: asyncpg.Connection,
    worker: asyncpg.Connection,
) -> None:  # fmt: skip
    await looks_after(other, "10ms")
    await looks_after(worker, "10ms")  # either of them gives way
    for _ in range(ROUNDS):
        await write(connection, *[new() for _ in range(15)])
        records = await take(connection)
        random.shuffle(records)
        ids = [record["id"] for record in records]
        async with connection.transaction():
            await connection.execute(HOLD, sorted(ids)[7])
            cancelling = asyncio.create_task(actions.cancel(other, TABLES, ids, channels=CHANNELS))
            finishing = asyncio.create_task(finish(worker, records))
            await blocked(watcher, other)
            await blocked(watcher, worker)
        await cancelling
        await finishing
        assert await states(connection, ids) == ["done"] * 15
