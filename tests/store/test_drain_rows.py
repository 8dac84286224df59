"""What operators ask of workers stands in their rows: who is asked, and that nobody misses it."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import asyncpg
from rows import CHANNELS, OTHER, TABLES, WORKER, listening

from fastedgy.ids import new_id
from fastedgy.store import drains, overview, recovery, workers

ALONE, WEB, SUPERVISOR = UUID(int=3), UUID(int=4), UUID(int=100)


async def register(connection: asyncpg.Connection, id: UUID, **facts: Any) -> None:
    given = {"server_name": "here", "pid": 7, "supervisor_id": SUPERVISOR, "queues": []}
    given |= {"concurrency": 4, "version": "1"} | facts
    await workers.register(connection, TABLES, worker_id=id, **given)


async def crew(connection: asyncpg.Connection) -> None:
    """Two workers of a supervisor, one without, and a web process."""
    await register(connection, WORKER)
    await register(connection, OTHER)
    await register(connection, ALONE, supervisor_id=None)
    await register(connection, WEB, supervisor_id=None, concurrency=0)


async def asked(
    connection: asyncpg.Connection, *workers: UUID, supervisors: tuple[UUID, ...] = (), **given: Any
) -> set[UUID]:
    return set(
        await drains.ask(
            connection, TABLES, workers=workers, supervisors=supervisors, actor="ann", **given
        )
    )


async def drain_of(connection: asyncpg.Connection, id: UUID) -> tuple[str | None, str | None]:
    """What a worker reads with its next heartbeat."""
    pulse = await workers.beat(
        connection,
        TABLES,
        worker_id=id,
        state="running",
        busy=0,
        held=(),
        counters={},
        lease=30.0,
    )
    return pulse.drain, pulse.drain_by


async def test_a_worker_reads_it_with_its_next_beat_and_hears_of_it(
    connection: asyncpg.Connection, database_url: str
) -> None:
    await crew(connection)

    async with listening(database_url) as ear:
        assert await asked(connection, WORKER, WEB, channels=CHANNELS) == {WORKER}
        assert await ear.hears(CHANNELS.control or "") == [f"drain {WORKER}"]

    assert await drain_of(connection, WORKER) == ("worker", "ann")
    assert await drain_of(connection, OTHER) == (None, None)
    rows = {row.id: row for row in await overview.list_workers(connection, TABLES)}
    assert (rows[WORKER].drains, rows[WORKER].serves("mail")) == (True, False)
    assert (rows[OTHER].drains, rows[OTHER].serves("mail")) == (False, True)


async def test_a_supervisor_is_asked_by_all_its_workers_also_those_that_come_later(
    connection: asyncpg.Connection,
) -> None:
    await crew(connection)

    assert await asked(connection, supervisors=(SUPERVISOR,)) == {WORKER, OTHER}
    # Who asked for less afterwards, or died, takes nothing of it back.
    await asked(connection, WORKER)
    await recovery.report_lost(
        connection, TABLES, worker_id=OTHER, exit_reason="killed", started=[], max_losses=3
    )
    late, stranger = new_id(), new_id()
    await register(connection, late)
    await register(connection, stranger, supervisor_id=new_id())

    assert await drain_of(connection, WORKER) == ("supervisor", "ann")
    assert await drain_of(connection, late) == ("supervisor", "ann")
    assert await drain_of(connection, stranger) == (None, None)
    assert await drain_of(connection, ALONE) == (None, None)


async def test_who_has_ended_is_not_asked(connection: asyncpg.Connection) -> None:
    await crew(connection)
    await workers.retire(connection, TABLES, worker_id=WORKER, counters={}, reason="stopped")

    assert await asked(connection, WORKER, supervisors=(SUPERVISOR,)) == {OTHER}
