"""Steps, sleeps, waits and keys in processes that are killed with SIGKILL in the middle."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from uuid import UUID

import asyncpg
import step_tasks
from supervised import Supervised, enqueue, reaches

from fastedgy.models.tables import Tables
from fastedgy.store import events


async def ends(connection: asyncpg.Connection, id: UUID) -> str:
    """Wait until a task is done; its result."""
    row = await reaches(connection, id, "done", "failed")
    assert row["state"] == "done", dict(row)
    return str(row["result"])


async def test_every_kind_of_step_goes_on_where_its_killed_process_was(
    supervise: Callable[..., Supervised], connection: asyncpg.Connection, ledger: Path
) -> None:
    pool = supervise(workers=2, max_losses=20)
    await pool.ready(connection, 2)
    # One after the other: a process that dies takes its neighbours' steps along.
    waiting = await enqueue(connection, step_tasks.killed_waiting, "go")
    await reaches(connection, waiting, "scheduled")
    asleep = await enqueue(connection, step_tasks.killed_asleep)
    await ends(connection, asleep)
    stepping = await enqueue(connection, step_tasks.killed_in_steps)
    assert (
        await ends(connection, stepping) == '["did steps one", "did steps two", "did steps three"]'
    )
    channel = "queue_new_task_control"
    assert await events.send(connection, Tables(), "go", '"now"', channel=channel)
    assert await ends(connection, waiting) == '"now"'
    paying = [await enqueue(connection, step_tasks.killed_paying, "key") for _ in range(2)]
    assert [await ends(connection, id) for id in paying] == ['"did paying"'] * 2

    made = Counter(ledger.read_text().splitlines())
    # What was under way when its process died is made again; what was noted never is.
    assert made == {
        "steps one": 1, "steps two": 2, "steps three": 1, "asleep before": 1, "asleep after": 1,
        "waiting after now": 1, "paying": 2,
    }  # fmt: skip
    killed = {path.name.removeprefix("ledger.") for path in ledger.parent.glob("ledger.*")}
    assert killed == {"steps two", "between", "awake", "heard", "paying"}
