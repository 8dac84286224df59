"""Steps, waits and idempotency keys as rows, where an answer of the database was lost."""

from __future__ import annotations

import json
import time

import asyncpg
from rows import CHANNELS, TABLES, add_taken, listening

from fastedgy.store import events, keys, outcomes, steps
from fastedgy.store.finish import finish_any


async def wait(connection: asyncpg.Connection, record: asyncpg.Record, event: str) -> None:
    await steps.wait(
        connection, TABLES, record["id"], record["run"], name="wait", kind="event", position=1,
        event=event, seconds=None, handled=(),
    )  # fmt: skip


async def test_a_wait_that_ended_is_ended_also_for_who_asks_again(
    connection: asyncpg.Connection,
) -> None:
    record = await add_taken(connection)
    await wait(connection, record, "paid")
    await events.send(connection, TABLES, "paid", "7", channel=None)
    for _ in range(2):
        looked = await steps.look(connection, TABLES, record["id"], record["run"], name="wait")
        assert (looked.state, looked.result) == ("done", "7")


async def test_a_run_that_takes_its_key_once_more_has_it(connection: asyncpg.Connection) -> None:
    record, other = await add_taken(connection), await add_taken(connection)
    for _ in range(2):
        assert await keys.take(
            connection, TABLES, "key", task_id=record["id"], run=record["run"], keep=60
        )
    assert not await keys.take(
        connection, TABLES, "key", task_id=other["id"], run=other["run"], keep=60
    )


async def test_workers_hear_of_a_task_whose_event_came_while_it_was_suspended(
    connection: asyncpg.Connection, database_url: str
) -> None:
    record = await add_taken(connection)
    await wait(connection, record, "paid")
    await events.send(connection, TABLES, "paid", "7", channel=None)
    now = time.monotonic()
    suspended = outcomes.suspended(record["id"], record["run"], now, now, 60.0)
    async with listening(database_url) as ear:
        await finish_any(connection, TABLES, [suspended], channels=CHANNELS)
        told = json.loads((await ear.hears("queue_new_task"))[0])
    assert told["lanes"] == [[record["queue"], 0]]
