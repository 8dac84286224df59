"""Reporting a dead worker to a real database, and to one that is away."""

from __future__ import annotations

import asyncio
import logging
from uuid import UUID, uuid4

import asyncpg
import pytest
from helpers import eventually

from fastedgy.config import QueuedTaskConfig
from fastedgy.database_url import parse_url
from fastedgy.models import Tables
from fastedgy.supervisor.obituaries import Obituaries, Obituary

DOING = """
INSERT INTO queued_tasks (id, state, name, function, worker_id, date_enqueued, date_started,
                          run, attempt)
VALUES ($1, 'doing', 'crash', 'shop:crash', $2, clock_timestamp(), clock_timestamp(), 1, 1)
"""
WORKER = """
INSERT INTO queued_task_workers (id, server_name, pid, concurrency, version)
VALUES ($1, 'here', 1, 2, '0')
"""


def obituary(worker: UUID, *started: UUID, tables: Tables | None = None) -> Obituary:
    return Obituary(
        worker_id=worker,
        exit_reason="killed by SIGKILL",
        started=list(started),
        tables=tables or Tables(),
    )


async def test_the_tasks_of_a_dead_worker_are_taken_back_at_once(
    database_url: str, connection: asyncpg.Connection
) -> None:
    worker, culprit, neighbour = uuid4(), uuid4(), uuid4()
    await connection.execute(WORKER, worker)
    await connection.executemany(DOING, [(culprit, worker), (neighbour, worker)])

    await Obituaries(database_url, QueuedTaskConfig()).write(obituary(worker, culprit))

    rows = await connection.fetch("SELECT id, state, losses, alone FROM queued_tasks")
    assert {row["id"]: tuple(row)[1:] for row in rows} == {
        culprit: ("enqueued", 1, True),
        neighbour: ("enqueued", 0, False),
    }
    row = await connection.fetchrow("SELECT state, exit_reason FROM queued_task_workers")
    assert tuple(row) == ("lost", "killed by SIGKILL")


async def test_it_is_repeated_until_the_database_is_back(
    database_url: str, connection: asyncpg.Connection, caplog: pytest.LogCaptureFixture
) -> None:
    worker = uuid4()
    await connection.execute(WORKER, worker)
    caplog.set_level(logging.WARNING, logger="fastedgy.supervisor")
    name = parse_url(database_url).name
    # Nobody but a superuser can make a database refuse; its name is changed for a while instead.
    elsewhere = await asyncpg.connect(parse_url(database_url).named("postgres").url)
    try:
        await connection.close()
        await elsewhere.execute(f'ALTER DATABASE "{name}" RENAME TO "{name}_away"')
        obituaries = Obituaries(database_url, QueuedTaskConfig())
        writing = asyncio.create_task(obituaries.write(obituary(worker)))

        def complained() -> None:
            assert len(caplog.records) == 1

        await eventually(complained)
        await elsewhere.execute(f'ALTER DATABASE "{name}_away" RENAME TO "{name}"')
        await asyncio.wait_for(writing, 30)
    finally:
        await elsewhere.close()
    back = await asyncpg.connect(parse_url(database_url).url)
    try:
        assert await back.fetchval("SELECT state FROM queued_task_workers") == "lost"
    finally:
        await back.close()
    assert [record.getMessage() for record in caplog.records] == [
        "end of worker not reported yet, the database is away"
    ]


async def test_an_error_that_time_does_not_heal_is_logged_in_the_end(
    database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    missing = Tables(tasks="missing", workers="missing_too")
    await Obituaries(database_url, QueuedTaskConfig()).write(obituary(uuid4(), tables=missing))
    [record] = [record for record in caplog.records if record.name == "fastedgy.supervisor"]
    assert record.getMessage() == "end of worker not reported, its tasks wait for its lease"
