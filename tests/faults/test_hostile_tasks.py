"""Tasks that break their process: the row says what happened, the neighbours lose nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import asyncpg
import fault_tasks
import pytest
from supervised import Supervised, enqueue, reaches, row_of

Supervise = Callable[..., Supervised]


# 0, 3 and 78 are what a worker says itself when it ends its process: drained, to be replaced, of no
# use. From a task they mean nothing.
EXITS = [(f"exit code {code}", f"exit code {code}") for code in (7, 0, 3, 78)]


@pytest.mark.parametrize(("how", "why"), [*EXITS, ("segfault", "SIGSEGV")])
async def test_a_task_that_kills_its_worker_fails_with_how_it_died_and_its_neighbour_is_done(
    how: str, why: str, connection: asyncpg.Connection, supervise: Supervise, tmp_path: Path
) -> None:
    supervised = supervise(max_losses=2)
    await supervised.ready(connection)

    neighbour = await enqueue(connection, fault_tasks.nap, 1.0, str(tmp_path / "runs"))
    killer = await enqueue(connection, fault_tasks.die, how)

    row = await reaches(connection, killer, "failed")
    assert row["error_type"] == "WorkerLost"
    assert row["error_message"].startswith("Its worker process died")
    assert why in row["error_message"]
    assert row["losses"] == 2
    innocent = await reaches(connection, neighbour, "done")
    assert (innocent["attempt"], innocent["losses"]) == (1, 0)


async def test_a_process_outlives_what_its_tasks_raise(
    connection: asyncpg.Connection, supervise: Supervise
) -> None:
    supervised = supervise()
    [pid] = await supervised.ready(connection)

    expected = {
        "sys.exit": "SystemExit",
        "KeyboardInterrupt": "KeyboardInterrupt",
        "recursion": "RecursionError",
        "memory": "MemoryError",
    }
    ids = {what: await enqueue(connection, fault_tasks.raise_odd, what) for what in expected}

    for what, error_type in expected.items():
        row = await reaches(connection, ids[what], "failed")
        assert row["error_type"] == error_type
    after = await reaches(connection, await enqueue(connection, fault_tasks.ping), "done")
    assert json.loads(after["result"]) == pid


async def test_a_worker_that_has_grown_too_large_is_replaced_and_no_task_notices(
    connection: asyncpg.Connection, supervise: Supervise
) -> None:
    supervised = supervise(worker_max_rss=300)
    [pid] = await supervised.ready(connection)

    greedy = await reaches(connection, await enqueue(connection, fault_tasks.keep, 300), "done")
    await reaches_other_process(connection, supervised, pid)

    assert json.loads(greedy["result"]) == pid
    row = await connection.fetchrow("SELECT * FROM queued_task_workers WHERE pid = $1", pid)
    assert row["state"] == "stopped"
    assert "QUEUE_WORKER_MAX_RSS is 300" in row["exit_reason"]


async def test_a_sync_function_that_never_returns_fails_by_its_timeout_and_its_process_is_replaced(
    connection: asyncpg.Connection, supervise: Supervise, tmp_path: Path
) -> None:
    supervised = supervise(drain_timeout=1)
    [pid] = await supervised.ready(connection)

    stuck = await enqueue(connection, fault_tasks.never_returns)
    await reaches(connection, stuck, "doing")
    neighbour = await enqueue(connection, fault_tasks.nap, 4.0, str(tmp_path / "runs"))

    row = await reaches(connection, stuck, "failed")
    assert row["error_type"] == "TaskTimeout"
    await reaches_other_process(connection, supervised, pid)
    rested = await reaches(connection, neighbour, "done")
    assert (rested["attempt"], rested["losses"]) == (1, 0), "an interruption costs nothing"


async def test_a_blocked_event_loop_loses_neither_its_process_nor_its_lease(
    connection: asyncpg.Connection, supervise: Supervise, tmp_path: Path
) -> None:
    supervised = supervise(workers=2)
    pids = await supervised.ready(connection, 2)

    blocks = await enqueue(connection, fault_tasks.hog, 6.0, str(tmp_path / "runs"))

    row = await reaches(connection, blocks, "done")
    assert (row["run"], row["losses"]) == (1, 0), "a lease is 4 s, and half of it is silence"
    assert sorted(supervised.workers()) == sorted(pids)


async def reaches_other_process(
    connection: asyncpg.Connection, supervised: Supervised, pid: int
) -> None:
    """Wait until a task runs in a process that is not `pid`."""
    from helpers import eventually

    async def check() -> None:
        id = await enqueue(connection, fault_tasks.ping)
        await reaches(connection, id, "done")
        assert json.loads((await row_of(connection, id))["result"]) != pid
        assert pid not in supervised.workers()

    await eventually(check)
