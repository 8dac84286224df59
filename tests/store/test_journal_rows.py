"""Steps, waits and idempotency keys as rows, where an answer of the database was lost."""

from __future__ import annotations

import asyncpg
from rows import TABLES, add_taken

from fastedgy.store import events, keys, steps


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
