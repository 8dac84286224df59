"""`explain`: for each reason a task that is held by it, and by nothing else."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import asyncpg
import pytest
from rows import (
    OTHER,
    TABLES,
    WORKER,
    add,
    add_ended,
    add_taken,
    change,
    connections,
    end,
    new,
    outcome,
    read,
    take,
    write,
)

from fastedgy.admin.explain import Explanation, explain
from fastedgy.config import QueuedTaskConfig
from fastedgy.errors import TaskNotFound
from fastedgy.store import actions, maintain, queues, recovery, workers
from fastedgy.store.finish import finish_any
from fastedgy.store.notify import SILENT
from fastedgy.store.outcomes import unknown

SUPERVISOR = UUID(int=9)


async def hire(
    connection: asyncpg.Connection, id: UUID = WORKER, *queue_names: str, **columns: Any
) -> None:
    """A living worker; `columns` are set by force."""
    await workers.register(
        connection, TABLES, worker_id=id, server_name="web-3", pid=id.int + 1700,
        supervisor_id=SUPERVISOR, queues=queue_names, concurrency=10, version="1",
    )  # fmt: skip
    for name, value in columns.items():
        await connection.execute(
            f"UPDATE queued_task_workers SET {name} = $2 WHERE id = $1", id, value
        )


async def explained(connection: asyncpg.Connection, id: UUID) -> Explanation:
    return await explain(connection, TABLES, id, QueuedTaskConfig())


def codes(explanation: Explanation, *, holding: bool = True) -> list[str]:
    return [reason.code for reason in explanation.reasons if reason.holds == holding]


async def why(connection: asyncpg.Connection, id: UUID) -> str:
    """The sentence about a task that only one reason holds."""
    explanation = await explained(connection, id)
    assert len(codes(explanation)) == 1, explanation.reasons
    assert not explanation.ready
    assert explanation.sentence == explanation.reasons[0].text
    return explanation.reasons[0].code + ": " + explanation.sentence


async def test_nothing_holds_a_task_that_is_next(connection: asyncpg.Connection) -> None:
    await hire(connection)
    first, second = await add(connection), await add(connection)

    explanation = await explained(connection, first)
    assert explanation.ready
    assert (explanation.position, explanation.expected_seconds) == (1, 0.0)
    assert "Nothing holds it: position 1 in the line of queue default" in explanation.sentence
    assert (await explained(connection, second)).position == 2
    [taken] = await take(connection, 1)
    assert taken["id"] == first


async def test_a_higher_priority_is_before_an_older_task(connection: asyncpg.Connection) -> None:
    await hire(connection)
    low = await add(connection)
    for _ in range(3):
        await add(connection, priority=5)

    assert (await explained(connection, low)).position == 4


async def test_no_task_of_that_id(connection: asyncpg.Connection) -> None:
    with pytest.raises(TaskNotFound):
        await explained(connection, UUID(int=7))


# Who would run it.


async def test_no_worker(connection: asyncpg.Connection) -> None:
    id = await add(connection)
    assert await why(connection, id) == "no_worker: No worker runs."
    await hire(connection, silent := OTHER)
    await connection.execute(
        "UPDATE queued_task_workers SET last_heartbeat = now() - interval '1 hour' WHERE id = $1",
        silent,
    )
    await hire(connection, UUID(int=3), concurrency=0)  # a web process
    assert await why(connection, id) == "no_worker: No worker runs."


async def test_no_worker_serves_its_queue(connection: asyncpg.Connection) -> None:
    await hire(connection, WORKER, "mail", "reports")
    id = await add(connection, queue="images")

    explanation = await explained(connection, id)
    assert await why(connection, id) == (
        "queue_without_worker: No worker serves queue images; 1 worker serves mail, reports."
    )
    assert explanation.reasons[0].cure == "fastedgy queue start --queues images"


async def test_only_workers_that_drain(connection: asyncpg.Connection) -> None:
    await hire(connection, state="draining")
    assert (await why(connection, await add(connection))).startswith("draining: Only workers")


async def test_all_slots_are_busy(connection: asyncpg.Connection) -> None:
    await hire(connection, concurrency=2)
    for _ in range(2):
        await add(connection)
    await take(connection)
    ids = [await add(connection) for _ in range(3)]

    explanation = await explained(connection, ids[2])
    assert (await why(connection, ids[2])) == "busy: All 2 slots are busy; position 3."
    assert (explanation.position, explanation.expected_seconds) == (3, None)


async def test_how_long_it_will_take_comes_from_what_the_workers_counted(
    connection: asyncpg.Connection,
) -> None:
    await hire(connection, concurrency=1)
    await add(connection)
    await take(connection)
    ids = [await add(connection) for _ in range(4)]
    await connection.execute(
        "INSERT INTO queued_task_rollups (seconds, minute, worker_id, queue, name, done)"
        " VALUES (60, clock_timestamp() - interval '100 s', $1, 'default', 'shop.send', 200)",
        WORKER,
    )

    explanation = await explained(connection, ids[3])
    assert explanation.expected_seconds == pytest.approx(2.0, rel=0.1)
    assert "position 4, about 2.0 s" in explanation.sentence


async def test_a_function_that_no_worker_has(connection: asyncpg.Connection) -> None:
    await hire(connection)
    await hire(connection, OTHER)
    record = await add_taken(connection)
    told = unknown(record["id"], record["run"], 0.0, 0.0, 10.0, "no module named shop")
    await finish_any(connection, TABLES, [told], channels=SILENT)

    text = await why(connection, record["id"])
    assert text.startswith(
        "unknown_function: 1 of 2 live workers tried it, and none has the function shop:send"
    )
    await connection.execute("DELETE FROM queued_task_workers WHERE id = $1", OTHER)
    assert "No live worker has the function shop:send" in await why(connection, record["id"])


# What its queue and its gate have against it.


async def test_its_queue_is_paused(connection: asyncpg.Connection) -> None:
    await hire(connection)
    id = await add(connection, queue="mail")
    await queues.pause(connection, TABLES, "mail", actor="ann")

    explanation = await explained(connection, id)
    assert (await why(connection, id)).startswith("queue_paused: Queue mail was paused by ann ")
    assert explanation.reasons[0].cure == "fastedgy queue resume mail"
    place = explanation.reasons[-1]
    assert place.text.startswith("Its place: position 1 in the line of queue mail")
    assert place.details["waited_seconds"] >= 0
    await queues.resume(connection, TABLES, "mail", actor="ann")
    assert (await explained(connection, id)).ready


async def test_its_queue_is_full(connection: asyncpg.Connection) -> None:
    await hire(connection)
    await queues.set_limits(connection, TABLES, "mail", max_running=2, rate=None, actor="ann")
    for _ in range(2):
        await add(connection, queue="mail")
    await take(connection)
    id = await add(connection, queue="mail")

    assert await why(connection, id) == "queue_limit: Queue mail is full: 2 of 2 run."


async def test_the_rate_of_its_queue(connection: asyncpg.Connection) -> None:
    await hire(connection)
    await queues.set_limits(connection, TABLES, "mail", max_running=None, rate=0.1, actor="ann")
    id = await add(connection, queue="mail")
    assert (await explained(connection, id)).ready
    await connection.execute("UPDATE queued_task_queues SET next_at = now() + interval '8 s'")

    text = await why(connection, id)
    assert text.startswith("queue_rate: Queue mail starts 6 tasks per min: the next one in ")


async def gated(connection: asyncpg.Connection, gate: str, **columns: Any) -> UUID:
    task = new(gate=gate, **columns)
    await write(connection, task)
    return task.id


async def test_a_limit_is_reached(connection: asyncpg.Connection) -> None:
    await hire(connection)
    for _ in range(5):
        id = await gated(connection, "customer 42", limit=5)
        await change(connection, id, state="doing", worker_id=WORKER, date_started=_now())
    id = await gated(connection, "customer 42", limit=5)
    other = await gated(connection, "customer 43", limit=5)

    assert await why(connection, id) == 'gate_limit: Limit "customer 42": 5 of 5 run.'
    assert (await explained(connection, other)).ready
    await connection.execute(
        "INSERT INTO queued_task_gates (key, max_running) VALUES ('customer 42', 6)"
    )
    assert (await explained(connection, id)).ready, "an operator has raised the limit"


async def test_the_last_place_under_a_limit_is_for_the_first_in_the_line(
    connection: asyncpg.Connection,
) -> None:
    await hire(connection)
    first = await gated(connection, "customer 42", limit=1)
    second = await gated(connection, "customer 42", limit=1)

    assert (await explained(connection, first)).ready
    assert await why(connection, second) == (
        'gate_limit: Limit "customer 42": 0 of 1 run, and 1 task before it.'
    )


async def test_a_rate_is_used_up(connection: asyncpg.Connection) -> None:
    await hire(connection)
    id = await gated(connection, "api", rate=2.0)
    assert (await explained(connection, id)).ready
    await connection.execute(
        "INSERT INTO queued_task_gates (key, next_at) VALUES ('api', now() + interval '30 s')"
    )

    text = await why(connection, id)
    assert text.startswith('gate_rate: Rate "api": 2 tasks per s, the next one in ')
    assert text.endswith(" UTC).")


async def open_breaker(connection: asyncpg.Connection, **columns: Any) -> None:
    row = {"name": "payments", "state": "open", "opened_at": _now()} | columns
    places = ", ".join(f"${n}" for n in range(1, len(row) + 1))
    await connection.execute(
        f"INSERT INTO queued_task_breakers ({', '.join(row)}) VALUES ({places})", *row.values()
    )


async def test_its_breaker_is_open(connection: asyncpg.Connection) -> None:
    await hire(connection)
    id = await gated(connection, "breaker:payments", breaker="payments")
    assert (await explained(connection, id)).ready
    await open_breaker(connection)

    text = await why(connection, id)
    assert text.startswith("breaker_open: Breaker payments is open: the next try is in ")
    await connection.execute("UPDATE queued_task_breakers SET opened_at = now() - interval '1 h'")
    assert (await explained(connection, id)).ready, "it is the next try"


async def test_its_breaker_is_being_tried_by_another_task(connection: asyncpg.Connection) -> None:
    await hire(connection)
    record = await add_taken(connection)
    id = await gated(connection, "breaker:payments", breaker="payments")
    await open_breaker(
        connection, state="half_open", opened_at=_ago(60), probe=record["id"],
        probe_task=record["id"], probe_run=record["run"], probe_until=_ago(-60),
    )  # fmt: skip

    assert (await why(connection, id)).startswith("breaker_half_open: Breaker payments is being")


async def test_several_reasons_are_told_in_the_order_in_which_to_look_at_them(
    connection: asyncpg.Connection,
) -> None:
    id = await gated(connection, "breaker:payments", breaker="payments", queue="mail")
    await queues.pause(connection, TABLES, "mail", actor="ann")
    await open_breaker(connection)

    assert codes(await explained(connection, id)) == ["queue_paused", "no_worker", "breaker_open"]


async def test_somebody_holds_a_lock_on_its_row(
    connection: asyncpg.Connection, database_url: str
) -> None:
    await hire(connection)
    id = await add(connection)
    async with connections(database_url, 1) as [other]:
        await other.execute("SET application_name = 'a forgotten psql'")
        trial = other.transaction()
        await trial.start()
        await other.execute("SELECT FROM queued_tasks WHERE id = $1 FOR UPDATE", id)

        text = await why(connection, id)
        assert text.startswith(f"locked: Session {other.get_server_pid()} (a forgotten psql, idle")
        assert await take(connection) == []
        await trial.rollback()
    assert (await explained(connection, id)).ready


# Suspects.


async def lost(connection: asyncpg.Connection) -> UUID:
    """A task whose worker died while it ran."""
    record = await add_taken(connection)
    await recovery.report_lost(
        connection, TABLES, worker_id=WORKER, exit_reason="signal 9", started=[record["id"]],
        max_losses=3,
    )  # fmt: skip
    id: UUID = record["id"]
    return id


async def test_suspected_of_killing_its_worker(connection: asyncpg.Connection) -> None:
    id = await lost(connection)
    await hire(connection, OTHER)

    explanation = await explained(connection, id)
    assert explanation.ready, "the next claim of a solo worker takes it"
    assert codes(explanation, holding=False) == ["runs_alone"]
    assert explanation.position == 1


async def test_a_suspect_without_a_supervisor(connection: asyncpg.Connection) -> None:
    id = await lost(connection)
    await hire(connection, OTHER, supervisor_id=None)

    assert (await why(connection, id)).startswith("no_supervisor: It may have killed its worker")


# Parents.


async def test_it_waits_for_parents(connection: asyncpg.Connection) -> None:
    await hire(connection)
    parents = [await add(connection, name=f"shop.load{number}") for number in range(2)]
    child = await add(connection, *parents)

    text = await why(connection, child)
    assert text == (
        f"parents: It waits for 2 parents: shop.load0 ({parents[0]}, enqueued) and "
        f"shop.load1 ({parents[1]}, enqueued)."
    )
    await end(connection, *await take(connection, 1))
    assert await why(connection, child) == (
        f"parents: It waits for 1 parent: shop.load1 ({parents[1]}, enqueued)."
    )


async def test_what_its_parents_wait_for_is_told_too(connection: asyncpg.Connection) -> None:
    await hire(connection)
    first = await add(connection, delay=3600.0, name="shop.first")
    second = await add(connection, first)
    third = await add(connection, second)

    explanation = await explained(connection, third)
    [beyond] = [reason for reason in explanation.reasons if reason.code == "ancestor"]
    assert beyond.text.startswith(
        f"At the beginning is shop.first ({first}, scheduled): It is scheduled: in "
    )


async def test_many_parents_are_counted(connection: asyncpg.Connection) -> None:
    await hire(connection)
    parents = [await add(connection) for _ in range(7)]
    child = await add(connection, *parents)

    text = await why(connection, child)
    assert text.startswith("parents: It waits for 7 parents: ")
    assert text.endswith(", and 4 more.")


async def test_a_parent_that_is_gone(connection: asyncpg.Connection) -> None:
    await hire(connection)
    parent = await add(connection)
    child = await add(connection, parent)
    await connection.execute("DELETE FROM queued_tasks WHERE id = $1", parent)

    assert (await why(connection, child)).startswith(f"parent_missing: Its parent {parent} is not")
    await connection.execute("DELETE FROM queued_task_links")
    assert (await why(connection, child)).startswith("forsaken: It waits for 1 parent, and there")
    # The cure that is named works.
    await actions.cancel(connection, TABLES, [child])
    await actions.retry(connection, TABLES, [child])
    assert (await explained(connection, child)).ready


async def test_it_has_returned_another_task(connection: asyncpg.Connection) -> None:
    await hire(connection)
    other = await add(connection, name="shop.other")
    id = await add(connection, other)
    await change(connection, id, stands_for=other)

    assert (await why(connection, id)).startswith("stands_for: It has returned the task shop.other")


# Later.


async def test_it_is_scheduled(connection: asyncpg.Connection) -> None:
    await hire(connection)
    id = await add(connection, delay=40.0)

    text = await why(connection, id)
    assert text.startswith("scheduled: It is scheduled: in 39.") or "in 40.0 s" in text


async def test_it_is_due_and_nobody_has_put_it_into_the_line_yet(
    connection: asyncpg.Connection,
) -> None:
    await hire(connection)
    id = await add(connection, delay=40.0)
    await change(connection, id, date_due=_ago(2))

    assert (await why(connection, id)).startswith("due: It has been due for 2.")
    await maintain.promote(connection, TABLES, limit=1, channel=None)
    assert (await explained(connection, id)).ready


async def test_it_is_to_be_tried_again_after_an_error(connection: asyncpg.Connection) -> None:
    await hire(connection)
    record = await add_taken(connection)
    await end(connection, record, word="retry", delay=30.0)

    text = await why(connection, record["id"])
    assert text.startswith("retry: Attempt 1 of 4 failed (ValueError: try again); the next one is")


async def test_it_asked_to_run_later(connection: asyncpg.Connection) -> None:
    await hire(connection)
    record = await add_taken(connection)
    await end(connection, record, word="snoozed", delay=30.0)

    assert (await why(connection, record["id"])).startswith("snoozed: It asked to run later: in ")


async def in_step(connection: asyncpg.Connection, kind: str, **columns: Any) -> UUID:
    """A task that waits in a step."""
    record = await add_taken(connection)
    row = {
        "task_id": record["id"], "position": 1, "run": 1, "kind": kind, "state": "waiting",
        "name": "pay",
    } | columns  # fmt: skip
    places = ", ".join(f"${n}" for n in range(1, len(row) + 1))
    await connection.execute(
        f"INSERT INTO queued_task_steps ({', '.join(row)}) VALUES ({places})", *row.values()
    )
    await end(connection, record, word="snoozed", delay=40.0)
    id: UUID = record["id"]
    return id


async def test_it_sleeps_in_a_step(connection: asyncpg.Connection) -> None:
    await hire(connection)
    id = await in_step(connection, "sleep", date_due=_ago(-40))

    assert (await why(connection, id)).startswith("sleep: It sleeps in its step pay: it wakes in ")


async def test_it_waits_for_an_event_in_a_step(connection: asyncpg.Connection) -> None:
    await hire(connection)
    id = await in_step(connection, "event", event="paid:7")

    text = await why(connection, id)
    assert text == "event: It waits for the event paid:7 in its step pay."
    await connection.execute("UPDATE queued_task_steps SET date_due = now() + interval '1 min'")
    assert "; at the latest it goes on in " in await why(connection, id)


async def test_a_step_is_to_be_tried_again(connection: asyncpg.Connection) -> None:
    await hire(connection)
    id = await in_step(
        connection, "step", date_due=_ago(-9), attempts=2, error_type="OSError",
        error_message="no route",
    )  # fmt: skip

    text = await why(connection, id)
    assert text.startswith("step_retry: Its step pay failed 2 times (OSError: no route); it is")


async def test_what_is_later_is_told_of_its_queue_at_once(connection: asyncpg.Connection) -> None:
    id = await add(connection, delay=40.0)

    assert codes(await explained(connection, id)) == ["scheduled", "no_worker"]


# Running.


async def test_it_runs(connection: asyncpg.Connection) -> None:
    await hire(connection)
    record = await add_taken(connection)

    explanation = await explained(connection, record["id"])
    assert codes(explanation) == []
    assert not explanation.ready
    assert explanation.sentence.startswith("Worker web-3/1701 runs it: attempt 1 of 4, for ")


async def test_its_worker_is_lost(connection: asyncpg.Connection) -> None:
    record = await add_taken(connection)

    assert f"worker_lost: Its worker {WORKER} is gone" in await why(connection, record["id"])
    await hire(connection, last_heartbeat=_ago(45))
    explanation = await explained(connection, record["id"])
    assert "gave no sign of life for 45." in explanation.sentence
    assert explanation.reasons[0].cure == "No other worker runs: fastedgy queue start"


async def test_its_worker_was_asked_to_cancel_it(connection: asyncpg.Connection) -> None:
    await hire(connection)
    record = await add_taken(connection)
    await actions.cancel(connection, TABLES, [record["id"]])

    explanation = await explained(connection, record["id"])
    assert codes(explanation, holding=False) == ["cancelling", "running"]


async def test_it_runs_beyond_its_timeout_on_a_worker_that_drains(
    connection: asyncpg.Connection,
) -> None:
    await hire(connection, state="draining")
    record = await add_taken(connection, timeout=5.0)
    await change(connection, record["id"], date_started=_ago(20))

    explanation = await explained(connection, record["id"])
    assert codes(explanation, holding=False) == ["overtime", "worker_drains", "running"]


async def test_a_web_process_runs_it_itself(connection: asyncpg.Connection) -> None:
    await hire(connection, concurrency=0)
    record = await add_taken(connection)

    assert (await explained(connection, record["id"])).sentence.startswith("The web process web-3")


# The end.


@pytest.mark.parametrize(
    ("state", "sentence"),
    [
        ("done", "It is done."),
        ("failed", "It failed for good after 1 attempt (ValueError: no such user)."),
        ("cancelled", "It was cancelled: Cancelled on request."),
    ],
)
async def test_it_has_ended(connection: asyncpg.Connection, state: str, sentence: str) -> None:
    explanation = await explained(connection, await add_ended(connection, state))

    assert explanation.sentence == sentence
    assert (codes(explanation), explanation.ready) == ([], False)


async def test_its_parent_failed(connection: asyncpg.Connection) -> None:
    record = await add_taken(connection)
    child = await add(connection, record["id"], on_parent_failure="fail")
    await finish_any(connection, TABLES, [outcome(record, "failed")], channels=SILENT)

    explanation = await explained(connection, child)
    assert "ParentFailed: Its parent shop.send" in explanation.sentence
    assert (explanation.reasons[0].cure or "").startswith("Retry the parent first; then fastedgy")


# Odd rows.


@pytest.mark.parametrize("history", [{}, [1, "x"], [{"what": 3}], "text"])
async def test_a_forged_history_does_no_harm(connection: asyncpg.Connection, history: Any) -> None:
    await hire(connection)
    id = await add(connection, delay=40.0)
    await change(connection, id, history=json.dumps(history))

    assert codes(await explained(connection, id)) == ["scheduled"]


async def test_explain_changes_nothing(connection: asyncpg.Connection) -> None:
    await hire(connection)
    ids = [await add(connection), await add(connection, delay=9.0), (await lost(connection))]
    before = [await read(connection, id) for id in ids]
    for id in ids:
        await explained(connection, id)
    assert [await read(connection, id) for id in ids] == before


def _now() -> datetime:
    return _ago(0)


def _ago(seconds: float) -> datetime:
    return datetime.now(UTC) - timedelta(seconds=seconds)
