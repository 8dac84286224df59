"""The table itself refuses rows that make no sense, whoever writes them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import asyncpg
import pytest
from rows import add, change, new_id, read

NOW = datetime(2030, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("constraint", "columns"),
    [
        ("state_known", {"state": "running"}),
        ("scheduled_is_due", {"state": "scheduled"}),
        ("waiting_on_parents", {"state": "waiting"}),
        ("enqueued_in_line", {"date_enqueued": None}),
        ("doing_has_owner", {"state": "doing", "date_started": NOW}),
        ("doing_has_owner", {"state": "doing", "worker_id": new_id()}),
        ("ended_has_end", {"state": "done"}),
        ("ended_has_end", {"state": "failed"}),
        ("ended_has_end", {"state": "cancelled"}),
        ("on_parent_failure_known", {"on_parent_failure": "explode"}),
    ],
    ids=lambda value: value if isinstance(value, str) else ",".join(value),
)
async def test_a_task_that_contradicts_itself_is_refused(
    connection: asyncpg.Connection, constraint: str, columns: dict[str, Any]
) -> None:
    id = await add(connection)

    with pytest.raises(asyncpg.CheckViolationError, match=f"queued_tasks_{constraint}"):
        await change(connection, id, **columns)


@pytest.mark.parametrize(
    "columns",
    [
        {"state": "scheduled", "date_due": NOW},
        {"state": "waiting", "waiting_on": 1},
        {"state": "doing", "worker_id": new_id(), "date_started": NOW},
        {"state": "done", "date_ended": NOW},
        {"state": "failed", "date_ended": NOW},
        {"state": "cancelled", "date_ended": NOW},
    ],
    ids=lambda columns: columns["state"],
)
async def test_a_task_that_is_whole_is_accepted(
    connection: asyncpg.Connection, columns: dict[str, Any]
) -> None:
    id = await add(connection)

    await change(connection, id, **columns)

    assert (await read(connection, id))["state"] == columns["state"]


async def test_a_worker_that_has_ended_has_an_end(connection: asyncpg.Connection) -> None:
    insert = (
        "INSERT INTO queued_task_workers (id, server_name, pid, concurrency, version, state)"
        " VALUES ($1, 'here', 1, 1, '1', $2)"
    )
    with pytest.raises(asyncpg.CheckViolationError, match="queued_task_workers_ended_has_end"):
        await connection.execute(insert, new_id(), "lost")
    for state in ("running", "draining"):
        await connection.execute(insert, new_id(), state)


async def test_a_log_line_has_a_known_level(connection: asyncpg.Connection) -> None:
    with pytest.raises(asyncpg.CheckViolationError, match="queued_task_logs_level_known"):
        await connection.execute(
            "INSERT INTO queued_task_logs (logged_at, task_id, run, seq, level, logger, message)"
            " VALUES (now(), $1, 1, 1, 'loud', 'shop', 'hello')",
            new_id(),
        )
