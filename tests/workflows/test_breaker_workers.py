"""One breaker, four worker processes, one of which dies while it probes."""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import asyncpg
import pytest
import step_tasks
from supervised import Supervised, reaches

from fastedgy.queued_tasks import QueuedTasks

TASKS = 24


async def test_four_workers_never_probe_at_the_same_time(
    supervise: Callable[..., Supervised], connection: asyncpg.Connection, ledger: Path,
    database_url: str, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    pool = supervise(workers=4, max_losses=20)
    await pool.ready(connection, 4)
    until = time.monotonic() + 5
    monkeypatch.setenv("DATABASE_URL", database_url)
    async with QueuedTasks() as tasks:
        refs = [
            tasks.add_task(step_tasks.through_the_breaker, number, until) for number in range(TASKS)
        ]
    for id in [ref.id for ref in refs]:
        row = await reaches(connection, id, "done", "failed")
        assert row["state"] == "done", dict(row)
        # Only calls that were made cost attempts: those of the first moments, and probes.
        assert row["attempt"] <= 9

    calls = sorted(tuple(map(float, line.split())) for line in ledger.read_text().splitlines())
    opened = sorted(ended for _, ended in calls)[2]
    closed = sorted(ended for began, ended in calls if began >= until)[1]
    probes = [call for call in calls if call[0] > opened + 0.3 and call[1] <= closed]
    assert len(probes) >= 4
    assert all(before[1] <= after[0] for before, after in pairwise(probes)), probes
    assert (ledger.parent / "ledger.probe").exists()
    state = await connection.fetchval("SELECT state FROM queued_task_breakers")
    assert state == "closed"
