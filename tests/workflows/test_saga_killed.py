"""Sagas in processes that are killed with SIGKILL, on their way and while they are undone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import asyncpg
import orjson
import step_tasks
from supervised import Supervised, enqueue, reaches


async def test_killed_sagas_end_completed_or_undone(
    supervise: Callable[..., Supervised], connection: asyncpg.Connection, ledger: Path
) -> None:
    # One at a time in a process: one that dies takes its neighbours' steps along.
    pool = supervise(workers=2, concurrency=1, max_losses=20)
    await pool.ready(connection, 2)
    good = await enqueue(connection, step_tasks.killed_order, "good", False)
    bad = await enqueue(connection, step_tasks.killed_order, "bad", True)

    row = await reaches(connection, good, "done", "failed")
    assert orjson.loads(row["result"]) == {"status": "completed"}
    row = await reaches(connection, bad, "done", "failed")
    assert orjson.loads(row["result"])["compensations"] == ["charge", "reserve"]

    made = Counter(ledger.read_text().splitlines())
    assert made == {
        "good reserve": 1, "good charge": 2, "good ship": 1,
        "bad reserve": 1, "bad charge": 2, "undo bad charge": 2, "undo bad reserve": 1,
    }  # fmt: skip
    killed = {path.name.removeprefix("ledger.") for path in ledger.parent.glob("ledger.*")}
    assert killed == {"good charge", "bad charge", "undo-bad charge"}
