"""Workers as rows: their heartbeats, and what becomes of the tasks of those that are gone."""

from __future__ import annotations

import asyncio
import json
from typing import Any
from uuid import UUID

import asyncpg
import pytest
from rows import (
    CHANNELS,
    OTHER,
    TABLES,
    WORKER,
    add,
    add_taken,
    blocked,
    change,
    end,
    listening,
    read,
    state_of,
    states,
    take,
)

from fastedgy.ids import new_id
from fastedgy.store import actions, claim, queues, recovery, workers
from fastedgy.store.recovery import TakenBack
from fastedgy.store.workers import Pulse


async def register(connection: asyncpg.Connection, id: UUID = WORKER, **facts: Any) -> None:
    given = {"server_name": "here", "pid": 7, "supervisor_id": None, "queues": []}
    given |= {"concurrency": 4, "version": "1"} | facts
    await workers.register(connection, TABLES, worker_id=id, **given)


async def beat(connection: asyncpg.Connection, id: UUID = WORKER, **facts: Any) -> Pulse:
    given: dict[str, Any] = {"state": "running", "busy": 0, "held": (), "counters": {}}
    given |= {"lease": 30.0} | facts
    return await workers.beat(connection, TABLES, worker_id=id, **given)


async def falls_silent(connection: asyncpg.Connection, id: UUID = WORKER) -> None:
    """Make a worker's last heartbeat older than a lease."""
    await connection.execute(
        "UPDATE queued_task_workers SET last_heartbeat = clock_timestamp() - interval '31 s'"
        " WHERE id = $1",
        id,
    )


async def report_lost(
    connection: asyncpg.Connection, *started: UUID, id: UUID = WORKER, max_losses: int = 3
) -> TakenBack:
    return await recovery.report_lost(
        connection, TABLES, worker_id=id, exit_reason="killed by signal 9", started=started,
        max_losses=max_losses, channels=CHANNELS,
    )  # fmt: skip


async def rescue(
    connection: asyncpg.Connection, licence: float = 5.0, max_losses: int = 3
) -> dict[UUID, TakenBack]:
    return await recovery.rescue(
        connection, TABLES, lease=30.0, licence=licence, max_losses=max_losses, channels=CHANNELS
    )


async def worker(connection: asyncpg.Connection, id: UUID = WORKER) -> Any:
    return await connection.fetchrow("SELECT * FROM queued_task_workers WHERE id = $1", id)


# Heartbeats


async def test_a_worker_is_a_row_from_its_start_to_its_end(connection: asyncpg.Connection) -> None:
    supervisor = new_id()
    await register(connection, queues=["mail"], supervisor_id=supervisor)
    await register(connection)
    row = await worker(connection)
    assert (row["state"], row["queues"], row["supervisor_id"]) == ("running", ["mail"], supervisor)

    await beat(connection, busy=3, counters={"done": 5}, state="draining")
    beaten = await worker(connection)
    assert (beaten["state"], beaten["busy"]) == ("draining", 3)
    assert json.loads(beaten["counters"]) == {"done": 5}
    assert beaten["last_heartbeat"] > row["last_heartbeat"]

    await workers.retire(connection, TABLES, worker_id=WORKER, counters={}, reason="stopped")
    row = await worker(connection)
    assert (row["state"], row["busy"], row["exit_reason"]) == ("stopped", 0, "stopped")
    assert row["date_ended"] is not None


async def test_a_worker_that_was_declared_lost_learns_it_with_its_next_beat(
    connection: asyncpg.Connection,
) -> None:
    await register(connection)
    assert (await beat(connection)).alive

    await report_lost(connection)

    assert not (await beat(connection)).alive
    assert (await worker(connection))["state"] == "lost"
    await workers.retire(connection, TABLES, worker_id=WORKER, counters={}, reason="stopped")
    assert (await worker(connection))["exit_reason"] == "killed by signal 9"


async def test_a_beat_looks_around(connection: asyncpg.Connection) -> None:
    for id in (WORKER, OTHER):
        await register(connection, id)
    assert await beat(connection) == Pulse(True, [], False, False, None)

    ids = [(await add_taken(connection))["id"] for _ in range(4)]
    mine, ended, unasked, elsewhere = ids
    await actions.cancel(connection, TABLES, [mine, ended, elsewhere])
    await change(connection, elsewhere, worker_id=OTHER)
    await add(connection, delay=60.0)
    await add(connection, delay=90.0)
    await change(connection, await add(connection), alone=True)
    await falls_silent(connection, OTHER)

    pulse = await beat(connection, held=[mine, unasked, elsewhere, new_id()])
    assert (pulse.cancelled, pulse.stale, pulse.suspects) == ([mine], True, True)
    assert (await beat(connection, held=[mine, ended])).cancelled == [mine, ended]
    assert pulse.next_due is not None
    assert 55 < pulse.next_due <= 60


@pytest.mark.parametrize(("serves", "sees"), [([], True), (["mail"], True), (["web"], False)])
async def test_a_suspect_is_one_for_those_who_serve_its_queue(
    connection: asyncpg.Connection, serves: list[str], sees: bool
) -> None:
    await register(connection, queues=serves)
    await change(connection, await add(connection, queue="mail"), alone=True)

    assert (await beat(connection)).suspects is sees


async def test_a_suspect_in_a_paused_queue_waits(connection: asyncpg.Connection) -> None:
    await register(connection)
    await change(connection, await add(connection, queue="mail"), alone=True)

    await queues.pause(connection, TABLES, "mail", actor="me")
    assert not (await beat(connection)).suspects
    await change(connection, await add(connection), alone=True)
    assert (await beat(connection)).suspects


async def test_ones_own_old_heartbeat_is_not_stale(connection: asyncpg.Connection) -> None:
    await register(connection)
    await falls_silent(connection)

    assert not (await beat(connection)).stale


async def test_rows_of_workers_that_ended_long_ago_are_forgotten(
    connection: asyncpg.Connection,
) -> None:
    for number in (1, 2, 3):
        await register(connection, UUID(int=number))
    for number in (2, 3):
        await workers.retire(
            connection, TABLES, worker_id=UUID(int=number), counters={}, reason="stopped"
        )
    await connection.execute(
        "UPDATE queued_task_workers SET date_ended = now() - interval '2 h' WHERE id = $1",
        UUID(int=3),
    )

    assert await workers.forget_workers(connection, TABLES, older_than=3600) == 1
    assert await worker(connection, UUID(int=3)) is None


# Handing back


async def test_what_a_worker_does_not_know_of_is_handed_back_at_no_cost(
    connection: asyncpg.Connection, database_url: str
) -> None:
    known, lost = await add_taken(connection), await add_taken(connection)
    others = await add(connection)
    await take(connection, worker=OTHER)

    async with listening(database_url) as ear:
        taken = await recovery.hand_back(
            connection, TABLES, worker_id=WORKER, known=[known["id"]], channels=CHANNELS
        )
        [heard] = await ear.hears("queue_new_task")

    assert (taken.enqueued, taken.total, taken.lanes) == (1, 1, {(lost["queue"], 0)})
    assert json.loads(heard)["lanes"] == [[lost["queue"], 0]]
    row = await read(connection, lost["id"])
    assert (row["state"], row["attempt"], row["losses"], row["alone"]) == ("enqueued", 0, 0, False)
    assert (row["run"], row["error_type"]) == (2, None)
    assert json.loads(row["history"])[0]["what"] == "interrupted"
    assert await state_of(connection, known["id"]) == "doing"
    assert await state_of(connection, others) == "doing"


# Reported dead


async def test_only_tasks_that_had_started_have_lost_a_process(
    connection: asyncpg.Connection,
) -> None:
    await register(connection)
    started, queued = await add_taken(connection), await add_taken(connection)

    taken = await report_lost(connection, started["id"])

    assert (taken.enqueued, taken.alone, taken.failed) == (2, 1, 0)
    row = await read(connection, started["id"])
    assert (row["losses"], row["alone"], row["attempt"]) == (1, True, 0)
    assert row["error_type"] == "WorkerLost"
    assert "killed by signal 9" in row["error_message"]
    row = await read(connection, queued["id"])
    assert (row["losses"], row["alone"], row["error_type"]) == (0, False, None)
    assert (await worker(connection))["state"] == "lost"


async def test_a_death_may_be_reported_twice(connection: asyncpg.Connection) -> None:
    await register(connection)
    record = await add_taken(connection)
    await report_lost(connection, record["id"])

    assert (await report_lost(connection, record["id"])).total == 0
    assert (await read(connection, record["id"]))["losses"] == 1


async def test_a_task_that_has_lost_three_processes_has_failed(
    connection: asyncpg.Connection, database_url: str
) -> None:
    task = await add(connection, max_retries=0, awaited=True)
    child = await add(connection, task)
    await take(connection)
    async with listening(database_url) as ear:
        for losses in (1, 2, 3):
            await report_lost(connection, task)
            row = await read(connection, task)
            assert row["losses"] == losses
            await claim.claim_alone(connection, TABLES, worker_id=WORKER, queues=[])
        assert await ear.hears("queue_new_task_done") == [str(task)]

    assert (row["state"], row["error_type"]) == ("failed", "WorkerLost")
    assert await state_of(connection, child) == "cancelled"
    assert [entry["what"] for entry in json.loads(row["history"])] == ["lost"] * 3


async def test_a_task_that_was_to_be_cancelled_is_cancelled_when_its_worker_dies(
    connection: asyncpg.Connection,
) -> None:
    record = await add_taken(connection)
    child = await add(connection, record["id"])
    await actions.cancel(connection, TABLES, [record["id"]], reason="wrong customer")

    taken = await report_lost(connection, record["id"])

    assert taken.cancelled == 1
    row = await read(connection, record["id"])
    assert (row["state"], row["error_message"]) == ("cancelled", "wrong customer")
    assert await state_of(connection, child) == "cancelled"


# Rescued


async def test_the_tasks_of_a_silent_worker_are_rescued(connection: asyncpg.Connection) -> None:
    for id in (WORKER, OTHER):
        await register(connection, id)
    record = await add_taken(connection)
    await add(connection)
    await take(connection, worker=OTHER)
    await falls_silent(connection)

    rescued = await rescue(connection)

    assert {id: taken.enqueued for id, taken in rescued.items()} == {WORKER: 1}
    row = await read(connection, record["id"])
    assert (row["state"], row["losses"], row["error_message"]) == (
        "enqueued",
        1,
        "Its worker was lost.",
    )
    assert [(await worker(connection, id))["state"] for id in (WORKER, OTHER)] == [
        "lost",
        "running",
    ]
    assert await rescue(connection) == {}


async def test_a_task_runs_alone_after_its_second_loss_that_nobody_can_explain(
    connection: asyncpg.Connection,
) -> None:
    task = await add(connection)
    for alone in (False, True):
        id = new_id()
        await register(connection, id)
        await take(connection, worker=id)
        await falls_silent(connection, id)
        await rescue(connection)
        assert (await read(connection, task))["alone"] is alone


async def test_a_living_worker_is_not_rescued(connection: asyncpg.Connection) -> None:
    await register(connection)
    await add_taken(connection)

    assert await rescue(connection) == {}
    assert await states(connection) == ["doing"]


async def test_a_rescue_that_was_held_up_does_nothing(connection: asyncpg.Connection) -> None:
    """Its licence has run out by the database's clock (DECISIONS R3)."""
    await register(connection)
    await add_taken(connection)
    await falls_silent(connection)

    assert await rescue(connection, licence=0.0) == {}
    assert await states(connection) == ["doing"]


async def test_a_worker_that_beats_while_it_is_judged_is_not_lost(
    connection: asyncpg.Connection, other: asyncpg.Connection, watcher: asyncpg.Connection
) -> None:
    await register(connection)
    await add_taken(connection)
    await falls_silent(connection)
    beating = connection.transaction()
    await beating.start()
    await beat(connection)

    rescuing = asyncio.create_task(rescue(other))
    await blocked(watcher, other)
    await beating.commit()

    assert await rescuing == {}
    assert await states(watcher) == ["doing"]


async def test_two_rescuers_at_once_take_each_loss_once(
    connection: asyncpg.Connection, other: asyncpg.Connection
) -> None:
    await register(connection)
    record = await add_taken(connection)
    await falls_silent(connection)

    results = await asyncio.gather(rescue(connection), rescue(other))

    assert sorted(sum(t.total for t in result.values()) for result in results) == [0, 1]
    assert (await read(connection, record["id"]))["losses"] == 1


# Orphans


async def test_running_tasks_without_a_living_owner_are_found(
    connection: asyncpg.Connection,
) -> None:
    for id in (WORKER, OTHER):
        await register(connection, id)
    await add_taken(connection)
    ended, unknown = await add(connection), await add(connection)
    await change(connection, ended, state="doing", worker_id=OTHER, date_started=None or (
        await read(connection, ended))["date_enqueued"])  # fmt: skip
    await change(connection, unknown, state="doing", worker_id=new_id(), date_started=(
        await read(connection, unknown))["date_enqueued"])  # fmt: skip
    await workers.retire(connection, TABLES, worker_id=OTHER, counters={}, reason="stopped")

    rescued = await recovery.rescue_orphans(connection, TABLES, max_losses=3)

    assert sum(taken.enqueued for taken in rescued.values()) == 2
    assert await states(connection) == ["doing", "enqueued", "enqueued"]


async def test_an_end_that_was_written_before_the_rescue_counts(
    connection: asyncpg.Connection, other: asyncpg.Connection, watcher: asyncpg.Connection
) -> None:
    await register(connection)
    record = await add_taken(connection)
    ending = connection.transaction()
    await ending.start()
    await end(connection, record)

    reporting = asyncio.create_task(report_lost(other, record["id"]))
    await blocked(watcher, other)
    await ending.commit()

    assert (await reporting).total == 0
    assert await state_of(watcher, record["id"]) == "done"


@pytest.mark.parametrize("history", ["{}", "1", '"x"'])
async def test_a_forged_history_does_not_keep_others_from_being_rescued(
    connection: asyncpg.Connection, history: str
) -> None:
    await register(connection)
    forged = await add_taken(connection)
    await change(connection, forged["id"], history=history)
    await add_taken(connection)

    assert (await report_lost(connection, forged["id"])).enqueued == 2
