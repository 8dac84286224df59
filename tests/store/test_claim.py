"""Claiming: who gets which tasks, and what a claim leaves alone."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from uuid import UUID

import asyncpg
import pytest
from helpers import eventually
from rows import (
    OTHER,
    TABLES,
    WORKER,
    add,
    add_ended,
    add_taken,
    change,
    connections,
    new,
    read,
    take,
    write,
)

from fastedgy.store import claim
from fastedgy.store.claim import Lane
from fastedgy.worker.lanes import BEGINNING


async def claimed(
    connection: asyncpg.Connection, *lanes: Lane, limit: int = 100, worker: UUID = WORKER
) -> list[UUID]:
    """The ids that a claim in these lanes takes, oldest first."""
    rows = await claim.claim(
        connection,
        TABLES,
        worker_id=worker,
        lanes=[(lane, BEGINNING) for lane in lanes],
        limit=limit,
    )
    return sorted(row["id"] for row in rows)


async def test_a_claim_says_who_has_the_task_and_counts_the_run(
    connection: asyncpg.Connection,
) -> None:
    id = await add(connection)

    [record] = await take(connection)

    assert (record["id"], record["run"], record["attempt"]) == (id, 1, 1)
    row = await read(connection, id)
    assert (row["state"], row["worker_id"], row["run"], row["attempt"]) == ("doing", WORKER, 1, 1)
    assert row["date_started"] >= row["date_enqueued"]


async def test_a_claim_takes_the_oldest_first(connection: asyncpg.Connection) -> None:
    ids = [await add(connection) for _ in range(5)]

    assert await claimed(connection, ("default", 0), limit=2) == ids[:2]
    assert await claimed(connection, ("default", 0), limit=2) == ids[2:4]


async def test_the_place_in_the_line_counts_and_not_the_id(connection: asyncpg.Connection) -> None:
    first, second = await add(connection), await add(connection)
    row = await read(connection, first)
    await change(connection, first, date_enqueued=row["date_enqueued"] + timedelta(hours=1))

    assert await claimed(connection, ("default", 0), limit=1) == [second]


async def test_a_claim_takes_from_the_first_lane_first(connection: asyncpg.Connection) -> None:
    low, high = await add(connection), await add(connection, priority=5)

    assert await claimed(connection, ("default", 5), ("default", 0), limit=1) == [high]
    assert await claimed(connection, ("default", 5), ("default", 0), limit=1) == [low]


async def test_a_claim_takes_from_its_lanes_only(connection: asyncpg.Connection) -> None:
    await add(connection, queue="mail")
    await add(connection, priority=1)
    ours = await add(connection)

    assert await claimed(connection, ("default", 0)) == [ours]


async def test_a_claim_begins_at_the_lower_bound(connection: asyncpg.Connection) -> None:
    await add(connection)
    second = await add(connection)
    bound = (await read(connection, second))["date_enqueued"]

    rows = await claim.claim(
        connection, TABLES, worker_id=WORKER, lanes=[(("default", 0), bound)], limit=10
    )

    assert [row["id"] for row in rows] == [second]


async def test_a_claim_takes_no_more_than_the_limit_from_all_lanes(
    connection: asyncpg.Connection,
) -> None:
    for priority in (0, 1, 2):
        await write(connection, *(new(priority=priority) for _ in range(4)))

    lanes = [("default", priority) for priority in (2, 1, 0)]
    assert len(await claimed(connection, *lanes, limit=10)) == 10
    assert len(await claimed(connection, *lanes, limit=10)) == 2


async def test_a_claim_takes_only_what_is_in_the_line(connection: asyncpg.Connection) -> None:
    parent = await add_taken(connection)
    await add(connection, parent["id"])
    await add(connection, delay=60.0)
    await add_ended(connection)
    suspect = await add(connection)
    await change(connection, suspect, alone=True)

    assert await take(connection) == []


async def test_two_claims_at_once_skip_each_others_tasks(
    connection: asyncpg.Connection, other: asyncpg.Connection
) -> None:
    ids = [await add(connection) for _ in range(4)]

    async with connection.transaction():
        assert await claimed(connection, ("default", 0), limit=2) == ids[:2]
        assert await claimed(other, ("default", 0), worker=OTHER) == ids[2:]

    assert (await read(connection, ids[0]))["worker_id"] == WORKER
    assert (await read(connection, ids[3]))["worker_id"] == OTHER


async def test_four_workers_share_a_line_without_overlap(
    connection: asyncpg.Connection, database_url: str
) -> None:
    tasks = [new() for _ in range(400)]
    await write(connection, *tasks)
    async with connections(database_url, 4) as opened:

        async def work(own: asyncpg.Connection, worker: UUID) -> list[UUID]:
            mine: list[UUID] = []
            while got := await claimed(own, ("default", 0), limit=7, worker=worker):
                mine += got
            return mine

        shares = await asyncio.gather(
            *(work(own, UUID(int=number)) for number, own in enumerate(opened, 1))
        )

    everything = [id for share in shares for id in share]
    assert sorted(everything) == [task.id for task in tasks]


async def test_a_claim_cut_off_before_its_commit_leaves_the_task_in_the_line(
    connection: asyncpg.Connection, other: asyncpg.Connection
) -> None:
    await add(connection)
    await other.execute("BEGIN")
    assert len(await take(other)) == 1
    other.terminate()

    async def check() -> None:
        assert len(await take(connection)) == 1

    await eventually(check)


@pytest.mark.parametrize("column", ["run", "attempt"])
async def test_a_forged_row_at_the_end_of_all_numbers_does_not_block_its_lane(
    connection: asyncpg.Connection, column: str
) -> None:
    forged = await add(connection)
    await change(connection, forged, **{column: 2**31 - 1})
    await add(connection)

    assert len(await take(connection)) == 2


# Suspects


async def test_a_suspect_is_claimed_one_at_a_time_and_oldest_first(
    connection: asyncpg.Connection,
) -> None:
    ids = [await add(connection) for _ in range(2)]
    for id in ids:
        await change(connection, id, alone=True)
    await add(connection)

    for id in ids:
        [record] = await claim.claim_alone(connection, TABLES, worker_id=WORKER, queues=[])
        assert record["id"] == id
    assert await claim.claim_alone(connection, TABLES, worker_id=WORKER, queues=[]) == []


async def test_a_suspect_of_another_queue_is_left_alone(connection: asyncpg.Connection) -> None:
    await change(connection, await add(connection), alone=True)

    assert not await claim.claim_alone(connection, TABLES, worker_id=WORKER, queues=["mail"])
    assert await claim.claim_alone(connection, TABLES, worker_id=WORKER, queues=["default"])


# Lanes


async def test_all_lanes_with_work_are_found_with_their_first_places(
    connection: asyncpg.Connection,
) -> None:
    first: dict[Lane, UUID] = {}
    for queue in ("a", "b", "c"):
        for priority in (5, 0, -3):
            first[queue, priority] = await add(connection, queue=queue, priority=priority)
            await add(connection, queue=queue, priority=priority)

    found = await claim.find_lanes(connection, TABLES)

    assert set(found) == set(first)
    for lane, id in first.items():
        assert found[lane] == (await read(connection, id))["date_enqueued"]


async def test_lanes_without_due_tasks_are_not_found(connection: asyncpg.Connection) -> None:
    await add(connection, queue="a", delay=60.0)
    await add_ended(connection)
    await change(connection, await add(connection, queue="b"), alone=True)

    assert await claim.find_lanes(connection, TABLES) == {}
