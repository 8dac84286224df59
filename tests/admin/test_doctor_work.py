"""`doctor` on work that does not get done, and on workers in trouble."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import asyncpg
import pytest
from rows import OTHER, TABLES, WORKER, add, add_ended, add_taken, change, end, new, write

from fastedgy.admin.doctor import Finding, Severity, doctor
from fastedgy.config import QueuedTaskConfig
from fastedgy.ids import new_id
from fastedgy.store import actions, queues, recovery, workers
from fastedgy.store.finish import finish_any
from fastedgy.store.notify import SILENT
from fastedgy.store.outcomes import unknown


async def hire(
    connection: asyncpg.Connection, id: UUID = WORKER, *queue_names: str, **columns: Any
) -> None:
    """A living worker; `columns` are set by force."""
    await workers.register(
        connection, TABLES, worker_id=id, server_name="web-3", pid=id.int % 1000 + 1700,
        supervisor_id=None, queues=queue_names, concurrency=10, version="1",
    )  # fmt: skip
    for name, value in columns.items():
        await connection.execute(
            f"UPDATE queued_task_workers SET {name} = $2 WHERE id = $1", id, value
        )


async def find(connection: asyncpg.Connection, **settings: Any) -> dict[str, Finding]:
    """What doctor says of the work: that of the server is in another place."""
    found = await doctor(connection, TABLES, QueuedTaskConfig(**settings))
    elsewhere = {"not_durable", "old_transaction", "dead_rows", "connections"}
    named = {each.code: each for each in found if each.code not in elsewhere}
    for each in named.values():
        assert each.meaning
        assert each.cure
        assert each.evidence
    return named


def _ago(seconds: float) -> datetime:
    return datetime.now(UTC) - timedelta(seconds=seconds)


async def test_all_is_well(connection: asyncpg.Connection) -> None:
    await hire(connection)
    await add(connection)
    await add(connection, delay=60.0)
    await add(connection, await add(connection))
    await end(connection, await add_taken(connection))

    assert await find(connection) == {}


async def test_no_worker_at_all(connection: asyncpg.Connection) -> None:
    await add(connection)

    found = await find(connection)
    assert set(found) == {"no_worker"}
    assert found["no_worker"].title == "Queue default has no worker; 1 task waits."
    assert found["no_worker"].severity == Severity.error


async def test_queues_without_workers(connection: asyncpg.Connection) -> None:
    await hire(connection, WORKER, "default")
    await add(connection)
    await add(connection, queue="mail")
    await write(connection, new(queue="images", gate="g", limit=1))

    found = await doctor(connection, TABLES, QueuedTaskConfig())
    unserved = {each.details["queue"] for each in found if each.code == "queue_without_worker"}
    assert unserved == {"mail", "images"}


async def test_a_queue_whose_tasks_wait_for_long(connection: asyncpg.Connection) -> None:
    await hire(connection)
    await change(connection, await add(connection), date_enqueued=_ago(900))

    found = await find(connection)
    assert set(found) == {"long_wait"}
    assert found["long_wait"].title == "The oldest task of queue default has waited for 15 min."


async def test_a_paused_queue(connection: asyncpg.Connection) -> None:
    await hire(connection)
    await queues.pause(connection, TABLES, "mail", actor="ann")
    assert (await find(connection))["queue_paused"].severity == Severity.info
    await add(connection, queue="mail")

    found = await find(connection)
    assert set(found) == {"queue_paused"}
    assert found["queue_paused"].severity == Severity.warning
    assert "by ann" in found["queue_paused"].evidence


async def test_overdue_tasks(connection: asyncpg.Connection) -> None:
    await change(connection, await add(connection, delay=60.0), date_due=_ago(90))

    found = await find(connection)
    assert set(found) == {"overdue"}
    assert "1 task should have been put into the line 1 min 30 s ago" in found["overdue"].title
    assert found["overdue"].cure == "fastedgy queue start"


async def test_tasks_that_nobody_knows(connection: asyncpg.Connection) -> None:
    await hire(connection)
    record = await add_taken(connection)
    told = unknown(record["id"], record["run"], 0.0, 0.0, 10.0, "there is no module shop")
    await finish_any(connection, TABLES, [told], channels=SILENT)

    found = await find(connection)
    assert set(found) == {"unknown_function"}
    assert found["unknown_function"].evidence == "there is no module shop"
    assert str(record["id"]) in found["unknown_function"].cure


async def test_tasks_that_outlive_their_timeout(connection: asyncpg.Connection) -> None:
    await hire(connection)
    record = await add_taken(connection, timeout=5.0)
    await change(connection, record["id"], date_started=_ago(120))

    found = await find(connection)
    assert set(found) == {"overtime"}
    assert found["overtime"].cure == f"fastedgy queue explain {record['id']}"


async def test_running_tasks_of_workers_that_are_gone(connection: asyncpg.Connection) -> None:
    await add_taken(connection)
    await hire(connection, OTHER)

    found = await find(connection)
    assert set(found) == {"lost_tasks"}
    assert found["lost_tasks"].severity == Severity.warning


async def test_a_silent_worker(connection: asyncpg.Connection) -> None:
    await hire(connection, last_heartbeat=_ago(120))
    await add_taken(connection)

    found = await find(connection)
    assert set(found) == {"silent_workers", "lost_tasks"}
    assert "fastedgy queue start" in found["silent_workers"].cure
    assert found["lost_tasks"].severity == Severity.error


async def test_suspects_that_nobody_runs(connection: asyncpg.Connection) -> None:
    record = await add_taken(connection)
    await recovery.report_lost(
        connection, TABLES, worker_id=WORKER, exit_reason="signal 9", started=[record["id"]],
        max_losses=3,
    )  # fmt: skip
    await hire(connection, OTHER)
    await change(connection, record["id"], date_enqueued=_ago(120))

    assert set(await find(connection)) == {"suspects_wait"}


async def test_tasks_that_wait_for_nobody(connection: asyncpg.Connection) -> None:
    await hire(connection)
    parent = await add(connection)
    child = await add(connection, parent)
    assert await find(connection) == {}
    await connection.execute("DELETE FROM queued_tasks WHERE id = $1", parent)

    found = await find(connection)
    assert set(found) == {"forsaken"}
    assert str(child) in found["forsaken"].cure
    await actions.cancel(connection, TABLES, [child])
    await actions.retry(connection, TABLES, [child])
    assert await find(connection) == {}


async def test_pruning_that_is_behind(connection: asyncpg.Connection) -> None:
    id = await add_ended(connection)
    await change(connection, id, date_ended=_ago(40 * 86_400))

    found = await find(connection)
    assert set(found) == {"pruning_behind"}
    assert found["pruning_behind"].cure == "fastedgy queue prune"
    assert await find(connection, retention_days=50) == {}


async def test_failed_tasks_that_are_kept_for_longer_are_not_behind(
    connection: asyncpg.Connection,
) -> None:
    id = await add_ended(connection)
    await change(connection, id, date_ended=_ago(40 * 86_400), state="failed")
    assert await find(connection, retention_failed_days=365) == {}

    found = await find(connection, retention_failed_days=35)
    assert found["pruning_behind"].evidence == "QUEUE_RETENTION_FAILED_DAYS = 35"


async def test_workers_that_are_deaf(connection: asyncpg.Connection) -> None:
    await hire(connection, counters=json.dumps({"deaf": 1}))

    found = await find(connection)
    assert set(found) == {"deaf_listeners"}
    assert "QUEUE_USE_POSTGRESQL_NOTIFY=false" in found["deaf_listeners"].cure


@pytest.mark.parametrize(
    "counter",
    ["errors", "connections_lost", "loop_blocked", "fenced", "refused", "log_lines_dropped"],
)
async def test_what_the_workers_count_as_trouble(
    connection: asyncpg.Connection, counter: str
) -> None:
    await hire(connection, counters=json.dumps({counter: 3, "done": 9}))
    await hire(connection, OTHER, counters=json.dumps({counter: 4}))

    found = await find(connection)
    assert set(found) == {f"worker_{counter}"}
    assert " 7 " in found[f"worker_{counter}"].title
    assert "web-3/1701: 3" in found[f"worker_{counter}"].evidence


async def test_an_open_breaker(connection: asyncpg.Connection) -> None:
    await hire(connection)
    await connection.execute(
        "INSERT INTO queued_task_breakers (name, state, opened_at, failures, error)"
        " VALUES ('payments', 'open', now(), 5, 'no route')"
    )

    found = await find(connection)
    assert set(found) == {"breaker_open"}
    assert "no route" in found["breaker_open"].evidence


async def test_schedules_that_do_not_fire(connection: asyncpg.Connection) -> None:
    await hire(connection)
    await connection.execute(
        "INSERT INTO queued_task_schedules (name, function, every, next_due, error)"
        " VALUES ('late', 'a:b', 5, now() - interval '10 min', NULL),"
        "        ('broken', 'a:b', 5, now() + interval '10 min', 'no such function')"
    )

    found = await doctor(connection, TABLES, QueuedTaskConfig())
    titles = [each.title for each in found if each.code == "schedule"]
    assert titles == [
        "Schedule broken could not fire: no such function.",
        "Schedule late is late by 10 min.",
    ]


async def test_a_producer_whose_clock_is_ahead(connection: asyncpg.Connection) -> None:
    await hire(connection)
    ahead = UUID(int=new_id().int + (3_600_000 << 80))
    await write(connection, new(id=ahead))

    found = await find(connection)
    assert set(found) == {"clock_skew"}
    assert "A producer of tasks: the clock is 1 h ahead" in found["clock_skew"].title


@pytest.mark.parametrize("hours", [1, -1])
async def test_a_worker_whose_clock_is_off(connection: asyncpg.Connection, hours: int) -> None:
    await hire(connection, UUID(int=new_id().int + (hours * 3_600_000 << 80)))

    found = await find(connection)
    assert set(found) == {"clock_skew"}
    assert found["clock_skew"].title.startswith("web-3: the clock is 1 h ")


async def test_the_worst_comes_first(connection: asyncpg.Connection) -> None:
    await hire(connection, counters=json.dumps({"fenced": 3}), queues=["mail"])
    await add(connection)
    await change(connection, await add(connection, queue="mail"), date_enqueued=_ago(900))

    found = await doctor(connection, TABLES, QueuedTaskConfig())
    severities = [each.severity for each in found]
    order = list(Severity)
    assert severities == sorted(severities, key=order.index)
    assert len(set(severities)) == 3
