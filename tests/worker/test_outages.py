"""Lost connections, lost answers, lost workers: everything is done afterwards, exactly once."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import asyncpg
import pytest
import shop_tasks
from crew import Hire, reaches
from helpers import eventually
from proxy import Proxy
from rows import OTHER, TABLES, add, count, new, read, take, write

from fastedgy.store import recovery, workers
from fastedgy.worker import watchdog

TERMINATE = (
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
    " WHERE datname = current_database() AND pid <> pg_backend_pid()"
)
DONE = "state = 'done' AND run = 1 AND attempt = 1"


async def all_done(connection: asyncpg.Connection, number: int) -> None:
    async def check() -> None:
        assert await count(connection, "state = 'done'") == number

    await eventually(check)


async def began() -> None:
    """Wait until `hold` runs. That its row says so is earlier: the worker may not know it yet."""

    def check() -> None:
        assert shop_tasks.seen == [("hold", "began")]

    await eventually(check)


async def test_all_backends_terminated_in_the_middle_of_work_cost_nothing(
    hire: Hire, connection: asyncpg.Connection
) -> None:
    async with hire(concurrency=50, lease=15) as staff:
        async with staff.tasks as tasks:
            tasks.add_tasks(shop_tasks.mark_slowly, [(number,) for number in range(1_500)])
        for share in (100, 500, 900):

            async def far_enough(share: int = share) -> None:
                assert len(shop_tasks.seen) >= share

            await eventually(far_enough)
            await connection.execute(TERMINATE)
        await all_done(connection, 1_500)
        assert staff.counters.connections_lost >= 3
        assert staff.counters.errors == 0
        assert await staff.tasks.add_task(shop_tasks.greet, "you").wait(30) == "hello you"

    assert sorted(shop_tasks.seen) == list(range(1_500))


async def test_a_database_that_is_away_for_a_while_costs_nothing(
    hire: Hire, connection: asyncpg.Connection, wire: Proxy
) -> None:
    async with hire(url=wire.url) as staff:
        ref = await staff.tasks.add_task(shop_tasks.hold)
        await began()
        await wire.close()
        shop_tasks.gates["hold"].set()

        def ended() -> None:
            assert staff.worker.parts.executor.busy == 0

        await eventually(ended)
        later = new(function="shop_tasks:mark", args="[1]")
        await write(connection, later, channel="queue_new_task")
        await wire.open()
        await reaches(connection, ref.id, "done")
        row = await reaches(connection, later.id, "done")

    assert row["run"] == 1
    assert shop_tasks.seen == [("hold", "began"), 1]


@pytest.mark.parametrize(
    ("text", "runs"),
    [
        ("SET state = 'doing'", 3),  # the claim: who claimed it does not know it, and hands it back
        ("SET state = 'done'", 1),
        ("RETURNING task.id, task.has_children, task.awaited", 1),
    ],
    ids=["claim", "finish", "finish parents"],
)
async def test_a_statement_whose_answer_is_lost_does_no_harm(
    hire: Hire, connection: asyncpg.Connection, wire: Proxy, text: str, runs: int
) -> None:
    async with hire(url=wire.url) as staff:
        await staff.tasks.add_task(shop_tasks.greet, "warm").wait(30)
        wire.lose_answer(text)
        parent = await add(connection, function="shop_tasks:mark", args="[1]")
        child = new(parent, function="shop_tasks:mark", args="[2]")
        await write(connection, child, channel="queue_new_task")
        await connection.execute("SELECT pg_notify('queue_new_task', '')")
        await reaches(connection, child.id, "done")
        # Attempts that fail are written by a statement of their own.
        assert await staff.tasks.add_task(shop_tasks.third_time).wait(30) == 3
        assert wire.lost == 1
        assert staff.counters.fenced == 0

    assert shop_tasks.seen == [1, 2]
    assert (await read(connection, parent))["run"] == runs
    assert (await read(connection, parent))["attempt"] == 1


async def test_what_a_lost_answer_has_set_free_is_looked_for(
    hire: Hire, connection: asyncpg.Connection, wire: Proxy
) -> None:
    async with hire(url=wire.url) as staff:
        completer = staff.worker.parts.completer
        ring, rung = completer.on_lanes, []
        completer.on_lanes = lambda lanes: (rung.append(list(lanes)), ring(lanes))[1]
        await staff.tasks.add_task(shop_tasks.greet, "warm").wait(30)
        parent = new(function="shop_tasks:mark", args="[1]")
        child = new(parent.id, function="shop_tasks:mark", args="[2]")
        wire.lose_answer("RETURNING task.id, task.has_children, task.awaited")
        await write(connection, parent, child, channel="queue_new_task")
        await reaches(connection, child.id, "done")
        assert (wire.lost, rung) == (1, [[]])  # anywhere: the lanes were in the answer


async def test_logs_whose_answer_is_lost_are_written_once(
    hire: Hire, connection: asyncpg.Connection, wire: Proxy
) -> None:
    async with hire(url=wire.url) as staff:
        await staff.tasks.add_task(shop_tasks.talk, 1).wait(30)
        wire.lose_answer("INSERT INTO queued_task_logs")
        ref = staff.tasks.add_task(shop_tasks.talk, 50)
        await ref.wait(30)

        def lost() -> None:
            assert wire.lost == 1

        await eventually(lost)
        assert [line.message for line in await ref.logs()] == [f"line {n}" for n in range(50)]


async def test_a_listener_that_is_lost_is_replaced_and_each_loss_is_logged(
    hire: Hire, connection: asyncpg.Connection, caplog: pytest.LogCaptureFixture
) -> None:
    async with hire() as staff:
        await staff.tasks.add_task(shop_tasks.greet, "warm").wait(30)
        listeners = (
            "SELECT pid FROM pg_stat_activity WHERE datname = current_database()"
            " AND application_name = 'fastedgy worker listener'"
        )
        for losses in (1, 2):
            old = await connection.fetchval(listeners)
            await connection.execute("SELECT pg_terminate_backend($1)", old)

            async def check(old: int = old) -> None:
                new = await connection.fetchval(listeners)
                assert new not in (None, old)
                assert not staff.worker.parts.counters.deaf

            await eventually(check)
            told = [r for r in caplog.records if "The listener was lost" in r.message]
            assert [record.levelname for record in told] == ["WARNING"] * losses
        assert await staff.tasks.add_task(shop_tasks.greet, "you").wait(30) == "hello you"


async def test_what_names_a_worker_that_does_not_know_of_it_is_handed_back(
    hire: Hire, connection: asyncpg.Connection
) -> None:
    async with hire() as staff:
        id = await add(connection, function="shop_tasks:mark", args="[1]", queue="elsewhere")
        await connection.execute(
            "UPDATE queued_tasks SET state = 'doing', worker_id = $1,"
            " date_started = clock_timestamp()",
            staff.worker.id,
        )
        staff.worker.parts.fetcher.be_unsure()
        row = await reaches(connection, id, "done")

    assert row["attempt"] == 0 or row["attempt"] == 1


# Leases


async def test_the_tasks_of_a_worker_that_has_fallen_silent_are_run_by_another(
    hire: Hire, connection: asyncpg.Connection
) -> None:
    await workers.register(
        connection, TABLES, worker_id=OTHER, server_name="there", pid=1, supervisor_id=None,
        queues=[], concurrency=1, version="1",
    )  # fmt: skip
    task = await add(connection, function="shop_tasks:mark", args="[1]", max_retries=0)
    await take(connection, worker=OTHER)
    await connection.execute(
        "UPDATE queued_task_workers SET last_heartbeat = now() - interval '1 minute'"
    )
    async with hire(heartbeat=0.3, lease=3.0):
        row = await reaches(connection, task, "done")

    assert shop_tasks.seen == [1]
    assert row["run"] == 3
    lost = await connection.fetchrow("SELECT * FROM queued_task_workers WHERE id = $1", OTHER)
    assert (lost["state"], lost["exit_reason"]) == ("lost", "no heartbeat for a lease")
    assert [entry["what"] for entry in json.loads(row["history"])] == ["lost"]


async def test_a_worker_that_was_declared_lost_interrupts_and_is_replaced(
    hire: Hire, connection: asyncpg.Connection
) -> None:
    async with hire(heartbeat=0.2) as staff:
        ref = await staff.tasks.add_task(shop_tasks.hold)
        await reaches(connection, ref.id, "doing")
        await recovery.report_lost(
            connection, TABLES, worker_id=staff.worker.id, exit_reason="a mistake", started=[],
            max_losses=3,
        )  # fmt: skip
        [record] = await take(connection, worker=OTHER)
        assert record["id"] == ref.id
        assert await staff.ended() == 3

    row = await read(connection, ref.id)
    assert (row["state"], row["worker_id"], row["run"]) == ("doing", OTHER, record["run"])


async def test_a_worker_that_cannot_renew_its_lease_interrupts_what_it_runs(
    hire: Hire, connection: asyncpg.Connection, wire: Proxy, caplog: pytest.LogCaptureFixture
) -> None:
    async with hire(url=wire.url, heartbeat=0.3, lease=3.0) as staff:
        ref = await staff.tasks.add_task(shop_tasks.hold)
        await began()
        await wire.close()

        def interrupted() -> None:
            assert staff.worker.parts.executor.busy == 0
            assert staff.worker.parts.executor.room() == 0

        await eventually(interrupted)
        shop_tasks.gates["hold"].set()
        await wire.open()
        await reaches(connection, ref.id, "done")
        assert await staff.tasks.add_task(shop_tasks.greet, "you").wait(30) == "hello you"

    assert any("could not renew its lease" in message for message in caplog.messages)
    assert shop_tasks.seen == [("hold", "began")] * 2
    row = await read(connection, ref.id)
    assert (row["losses"], row["attempt"]) == (0, 1)


# A blocked event loop


async def test_a_blocked_event_loop_is_reported_with_the_tasks_name_and_beats_go_on(
    hire: Hire, connection: asyncpg.Connection, caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(watchdog, "REPORT_AFTER", 2.0)  # no stall of the test machine counts
    caplog.set_level(logging.WARNING, logger="fastedgy.worker")
    async with hire(heartbeat=0.2, lease=3.0) as staff:
        before = await last_beat(connection)
        ref = staff.tasks.add_task(shop_tasks.block, 3.5)
        await ref.wait(30)
        after = await last_beat(connection)
        assert staff.counters.loop_blocked == 1
        assert (await read(connection, ref.id))["run"] == 1

    assert (after - before).total_seconds() > 3.0
    [report] = [message for message in caplog.messages if "has been blocked" in message]
    assert f"shop_tasks.block ({ref.id})" in report
    assert "time.sleep(seconds)" in report
    assert "The event loop moves again" in caplog.messages


async def test_a_tick_that_fails_is_counted_and_the_next_one_comes(
    hire: Hire, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[float] = []

    def look(now: float) -> None:
        looks.append(now)
        if len(looks) == 1:
            raise ZeroDivisionError

    async with hire() as staff:
        monkeypatch.setattr(staff.worker.watchdog, "look", look)

        def looked_again() -> None:
            assert len(looks) > 1

        await eventually(looked_again)
        assert staff.counters.errors == 1

    assert "A tick of the heartbeat failed" in caplog.messages


async def last_beat(connection: asyncpg.Connection) -> Any:
    return await connection.fetchval("SELECT last_heartbeat FROM queued_task_workers")


async def test_what_waits_behind_a_blocked_event_loop_is_handed_back_and_runs_once(
    hire: Hire, connection: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watchdog, "REPORT_AFTER", 0.3)
    monkeypatch.setattr(watchdog, "HAND_BACK_AFTER", 0.6)
    async with hire(concurrency=1, heartbeat=0.3, lease=3.0) as staff:
        staff.claims_ahead()
        block = new(function="shop_tasks:block", args="[2]")
        behind = [new(function="shop_tasks:mark", args=f"[{n}]") for n in range(5)]
        await write(connection, block, *behind, channel="queue_new_task")
        await reaches(connection, block.id, "done")
        await all_done(connection, 6)
        assert staff.counters.handed_back >= 4
        assert staff.counters.fenced == 0

    assert sorted(shop_tasks.seen) == list(range(5))
    runs = await connection.fetch("SELECT run FROM queued_tasks WHERE id > $1", block.id)
    assert sorted(row["run"] for row in runs)[-4:] == [2] * 4


# Draining


async def test_draining_lets_running_tasks_end_and_hands_back_the_rest(
    hire: Hire, connection: asyncpg.Connection
) -> None:
    async with hire(concurrency=1) as staff:
        staff.claims_ahead()
        first, *rest = [new(function="shop_tasks:hold") for _ in range(5)]
        await write(connection, first, *rest, channel="queue_new_task")

        def claimed() -> None:
            assert staff.worker.parts.executor.queued == 4

        await eventually(claimed)
        staff.worker.stop()
        for task in rest:
            row = await reaches(connection, task.id, "enqueued")
            assert (row["attempt"], row["losses"]) == (0, 0)
        shop_tasks.gates["hold"].set()
        assert await staff.ended() == 0

    assert (await read(connection, first.id))["state"] == "done"
    ended = await connection.fetchrow("SELECT * FROM queued_task_workers")
    assert (ended["state"], ended["exit_reason"]) == ("stopped", "stopped")


Ask = Callable[[Any], Awaitable[None]]


async def at_the_deadline(staff: Any) -> None: ...


async def at_the_second_request(staff: Any) -> None:
    staff.worker.stop()


@pytest.mark.parametrize("ask", [at_the_deadline, at_the_second_request], ids=lambda f: f.__name__)
async def test_what_does_not_end_in_time_is_interrupted(
    hire: Hire, connection: asyncpg.Connection, ask: Ask
) -> None:
    async with hire(drain_timeout=0.3 if ask is at_the_deadline else 60) as staff:
        ref = await staff.tasks.task(max_retries=0).add_task(shop_tasks.hold)
        await began()
        staff.worker.stop()
        await ask(staff)
        assert await asyncio.wait_for(staff.ended(), 30) == 0

    row = await read(connection, ref.id)
    assert (row["state"], row["attempt"], row["losses"]) == ("enqueued", 0, 0)
    assert [entry["what"] for entry in json.loads(row["history"])] == ["interrupted"]
