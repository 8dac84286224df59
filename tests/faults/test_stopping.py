"""Stopping, freezing and losing processes, as operators and machines do it."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import asyncpg
import fault_tasks
from helpers import SLACK, eventually
from supervised import Supervised, enqueue, reaches, row_of

Supervise = Callable[..., Supervised]


def runs_in(file: Path) -> list[tuple[int, int]]:
    """The runs that a task has told: number and process."""
    lines = file.read_text().splitlines() if file.exists() else []
    return [(int(run), int(pid)) for run, pid in (line.split() for line in lines)]


async def started(file: Path, times: int = 1) -> list[tuple[int, int]]:
    """Wait until a task has started so many times."""

    def check() -> list[tuple[int, int]]:
        runs = runs_in(file)
        assert len(runs) >= times
        return runs

    return await eventually(check)


async def test_a_host_frozen_past_its_lease_and_continued_changes_nothing_and_says_so(
    connection: asyncpg.Connection, supervise: Supervise, tmp_path: Path
) -> None:
    frozen = supervise()
    [pid] = await frozen.ready(connection)
    task = await enqueue(connection, fault_tasks.nap_at_first, 90, str(tmp_path / "runs"))
    await started(tmp_path / "runs")
    other = supervise()
    [healthy] = await other.ready(connection)

    for process in (frozen.process.pid, pid):
        os.kill(process, signal.SIGSTOP)
    again = await started(tmp_path / "runs", 2)
    for process in (pid, frozen.process.pid):
        os.kill(process, signal.SIGCONT)

    assert [process for _, process in again] == [pid, healthy]
    row = await reaches(connection, task, "done")
    assert row["run"] == again[1][0], "the second run's claim wrote the outcome"
    assert len(runs_in(tmp_path / "runs")) == 2

    def check() -> None:
        assert "could not renew its lease" in frozen.output
        assert "changed nothing, since their tasks were taken over" in frozen.output

    await eventually(check)


async def test_a_task_that_ignores_its_interruption_ends_with_its_process_when_the_lease_is_lost(
    connection: asyncpg.Connection, supervise: Supervise, tmp_path: Path
) -> None:
    supervised = supervise()
    [pid] = await supervised.ready(connection)
    await enqueue(connection, fault_tasks.deaf, str(tmp_path / "runs"))
    await started(tmp_path / "runs")

    for process in (supervised.process.pid, pid):
        os.kill(process, signal.SIGSTOP)
    await connection.execute("UPDATE queued_task_workers SET state = 'lost', date_ended = now()")
    await asyncio.sleep(4.5)  # past its lease: a frozen process shows nothing to wait for
    for process in (pid, supervised.process.pid):
        os.kill(process, signal.SIGCONT)

    def check() -> None:
        assert pid not in supervised.workers()

    await eventually(check)


async def test_when_the_supervisor_is_killed_its_workers_hand_back_and_end_within_5_seconds(
    connection: asyncpg.Connection, supervise: Supervise, tmp_path: Path
) -> None:
    supervised = supervise(drain_timeout=30)
    [pid] = await supervised.ready(connection)
    waits = await enqueue(connection, fault_tasks.nap, 60.0, str(tmp_path / "async"))
    blocks = await enqueue(connection, fault_tasks.nap_in_thread, 60.0, str(tmp_path / "thread"))
    await started(tmp_path / "async")
    await started(tmp_path / "thread")

    killed = time.monotonic()
    supervised.process.kill()

    def check() -> None:
        assert not Path(f"/proc/{pid}").exists()

    await eventually(check)
    assert time.monotonic() - killed < 5 + SLACK
    for id in (waits, blocks):
        row = await row_of(connection, id)
        assert row["state"] in ("enqueued", "scheduled")
        assert (row["attempt"], row["losses"]) == (0, 0)
    worker = await connection.fetchrow("SELECT * FROM queued_task_workers")
    assert worker["state"] == "stopped"


async def test_a_rolling_restart_under_load_fails_no_task_and_spends_no_retry(
    connection: asyncpg.Connection, supervise: Supervise, tmp_path: Path
) -> None:
    supervised = supervise(workers=2)
    before = await supervised.ready(connection, 2)
    ids = []
    rolled = asyncio.Event()

    async def load() -> None:
        while not rolled.is_set():
            ids.extend([await enqueue(connection, fault_tasks.ping) for _ in range(5)])
            ids.append(await enqueue(connection, fault_tasks.nap, 0.5, str(tmp_path / "runs")))
            await asyncio.sleep(0.02)

    loading = asyncio.create_task(load())
    supervised.tell(signal.SIGHUP)

    def check() -> None:
        workers = supervised.workers()
        assert len(workers) == 2
        assert not set(workers) & set(before)

    await eventually(check, within=40)
    rolled.set()
    await loading

    async def all_done() -> None:
        states = await connection.fetch("SELECT state, count(*) FROM queued_tasks GROUP BY state")
        assert [row["state"] for row in states] == ["done"], states

    await eventually(all_done)
    assert await connection.fetchval("SELECT count(*) FROM queued_tasks") == len(ids)
    spent = await connection.fetchval(
        "SELECT count(*) FROM queued_tasks WHERE attempt <> 1 OR losses > 0"
    )
    assert spent == 0


async def test_sigterm_lets_tasks_end_that_started_right_after_others(
    connection: asyncpg.Connection, supervise: Supervise, tmp_path: Path
) -> None:
    supervised = supervise(drain_timeout=20)
    await supervised.ready(connection)

    for _ in range(20):
        await reaches(connection, await enqueue(connection, fault_tasks.ping), "done")
    task = await enqueue(connection, fault_tasks.nap, 2.0, str(tmp_path / "runs"))
    await started(tmp_path / "runs")
    supervised.tell()

    assert await supervised.ended() == 0
    row = await row_of(connection, task)
    assert (row["state"], row["attempt"]) == ("done", 1)
    assert len(runs_in(tmp_path / "runs")) == 1


async def test_a_draining_worker_keeps_its_lease_until_its_last_task_has_ended(
    connection: asyncpg.Connection, supervise: Supervise, tmp_path: Path
) -> None:
    supervised = supervise(drain_timeout=30)
    await supervised.ready(connection)
    task = await enqueue(connection, fault_tasks.nap, 7.0, str(tmp_path / "runs"))
    await started(tmp_path / "runs")
    await supervise().ready(connection, 1)  # who would take the task after a lease of 4 s
    supervised.tell()

    assert await supervised.ended() == 0
    row = await reaches(connection, task, "done")
    assert (row["run"], row["losses"]) == (1, 0)
