"""Worker processes, started as a supervisor starts them: signals, ends, and what they leave."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import pytest
from crew import Crew, Process, reaches
from helpers import SLACK, eventually
from rows import TABLES, add, count, listening, new, read, write

from fastedgy.store import recovery


async def worker_row(connection: asyncpg.Connection, process: Process) -> Any:
    return await connection.fetchrow(
        "SELECT * FROM queued_task_workers WHERE id = $1", process.worker_id
    )


def started(process: Process) -> list[UUID]:
    """What the board says."""
    return process.board.started()


async def add_call(connection: asyncpg.Connection, name: str, *args: Any, **columns: Any) -> UUID:
    """A task of `shop_tasks`, with a bell."""
    task = new(function=f"shop_tasks:{name}", args=json.dumps(args), **columns)
    await write(connection, task, channel="queue_new_task")
    return task.id


async def test_a_process_works_until_it_is_told_to_stop(
    crew: Crew, connection: asyncpg.Connection
) -> None:
    process = await crew.start(concurrency=2)
    [ready] = [report for report in process.reports if report["event"] == "ready"]
    assert ready["tables"]["tasks"] == "queued_tasks"
    row = await worker_row(connection, process)
    assert (row["state"], row["pid"], row["concurrency"]) == ("running", process.pid, 2)

    short = await add_call(connection, "greet", "you")
    assert json.loads((await reaches(connection, short, "done"))["result"]) == "hello you"
    running = await add_call(connection, "nap", 3.0)
    in_thread = await add_call(connection, "nap_sync", 3.0)
    await reaches(connection, running, "doing")
    await reaches(connection, in_thread, "doing")

    def on_the_board() -> None:
        assert set(started(process)) == {running, in_thread}

    await eventually(on_the_board)
    process.tell(signal.SIGTERM)
    late = await add_call(connection, "greet", "too late")

    assert await process.ended() == 0
    for id in (running, in_thread):
        assert (await read(connection, id))["state"] == "done"
    assert (await read(connection, late))["state"] == "enqueued"
    row = await worker_row(connection, process)
    assert (row["state"], row["exit_reason"]) == ("stopped", "stopped")
    assert json.loads(row["counters"])["done"] == 3
    assert {"ready", "draining"} <= {report["event"] for report in process.reports}


async def tell_twice(process: Process) -> None:
    """Ask it to end, and then not to wait for its tasks any more."""

    def draining() -> None:
        assert any(report["event"] == "draining" for report in process.reports)

    process.tell(signal.SIGTERM)
    await eventually(draining)
    process.tell(signal.SIGTERM)


async def test_a_second_signal_interrupts_what_runs(
    crew: Crew, connection: asyncpg.Connection
) -> None:
    process = await crew.start()
    running = await add_call(connection, "nap", 60.0, max_retries=0)
    in_thread = await add_call(connection, "nap_sync", 60.0, max_retries=0)
    await reaches(connection, running, "doing")
    await reaches(connection, in_thread, "doing")
    began = time.monotonic()
    await tell_twice(process)
    await reaches(connection, running, "enqueued")

    assert await process.ended() == 0
    assert time.monotonic() - began < 20  # the drain would take half a minute
    for id in (running, in_thread):
        row = await read(connection, id)
        assert row["state"] in ("enqueued", "scheduled")
        assert (row["attempt"], row["losses"]) == (0, 0)
    assert (await worker_row(connection, process))["state"] == "stopped"


async def test_a_process_whose_supervisor_dies_hands_everything_back_and_ends(
    crew: Crew, connection: asyncpg.Connection
) -> None:
    process = await crew.start()
    running = await add_call(connection, "nap", 60.0, max_retries=0)
    in_thread = await add_call(connection, "nap_sync", 60.0, max_retries=0)
    await reaches(connection, running, "doing")
    await reaches(connection, in_thread, "doing")
    began = time.monotonic()
    process.abandon()

    await process.ended()
    assert time.monotonic() - began < 5 + SLACK
    for id in (running, in_thread):
        row = await read(connection, id)
        assert row["state"] in ("enqueued", "scheduled"), dict(row)
        assert (row["attempt"], row["losses"]) == (0, 0)
    assert (await worker_row(connection, process))["state"] == "stopped"


async def test_a_sync_function_beyond_its_timeout_takes_its_process_with_it(
    crew: Crew, connection: asyncpg.Connection
) -> None:
    """The others end first; the row is handed on at the very end; a fresh process is asked for."""
    process = await crew.start()
    other = await add_call(connection, "nap", 3.0)
    await reaches(connection, other, "doing")
    stuck = await add_call(connection, "stuck_once", max_retries=1)

    assert await process.ended() == 3
    row = await read(connection, stuck)
    assert (row["state"], row["error_type"], row["attempt"]) == ("scheduled", "TaskTimeout", 1)
    assert (await read(connection, other))["state"] == "done"
    row = await worker_row(connection, process)
    assert row["state"] == "stopped"
    assert "outlived its timeout" in row["exit_reason"]

    await crew.start()
    row = await reaches(connection, stuck, "done")
    assert (row["attempt"], json.loads(row["result"])) == (2, "second time")


async def test_what_runs_in_a_thread_ends_before_its_row_is_due_however_slow_the_rest_is(
    crew: Crew, connection: asyncpg.Connection
) -> None:
    process = await crew.start()
    in_thread = await add_call(connection, "nap_sync", 60.0)
    await reaches(connection, in_thread, "doing")
    done = await add_call(connection, "greet", "you")
    await reaches(connection, done, "done")
    locker = await asyncpg.connect(crew.url)
    try:
        async with locker.transaction():
            await locker.execute("LOCK TABLE queued_task_rollups")  # the counts cannot be written
            await tell_twice(process)
            await reaches(connection, in_thread, "scheduled")
            written = time.monotonic()
            assert await process.ended() == 0
            assert time.monotonic() - written < 1 + SLACK  # a statement may take ten
    finally:
        await locker.close()


async def test_the_counts_hold_what_ended_with_its_process(
    crew: Crew, connection: asyncpg.Connection
) -> None:
    process = await crew.start()
    greeting = await add_call(connection, "greet", "you", queue="one")
    await reaches(connection, greeting, "done")
    stuck = await add_call(connection, "stuck_once", max_retries=1, queue="two")

    assert await process.ended() == 3
    assert (await read(connection, stuck))["state"] == "scheduled"
    counts = await connection.fetch(
        "SELECT queue, done, retried FROM queued_task_rollups"
        " WHERE seconds = 0 AND name <> '' ORDER BY queue"
    )
    assert [tuple(row) for row in counts] == [("one", 1, 0), ("two", 0, 1)]


async def test_a_loop_that_a_child_of_a_task_blocks_ends_the_process_and_costs_the_task_an_attempt(
    crew: Crew, connection: asyncpg.Connection
) -> None:
    process = await crew.start(app="hasty_app:app")
    other = await add_call(connection, "nap", 60.0)
    await reaches(connection, other, "doing")  # what is claimed behind the blocker is not known
    blocks = await add_call(connection, "block_in_a_child", 60.0, max_retries=1)

    assert await process.ended() == 3
    row = await read(connection, blocks)
    assert (row["state"], row["error_type"], row["attempt"]) == ("scheduled", "TaskTimeout", 1)
    assert (await read(connection, other))["attempt"] == 0
    assert f"blocked beyond the timeout of shop.send ({blocks}); the process" in process.output


async def test_a_thread_that_an_interrupted_task_has_left_holds_nothing_up(
    crew: Crew, connection: asyncpg.Connection
) -> None:
    process = await crew.start()
    task = await add_call(connection, "nap_in_default_thread", 60.0)
    await reaches(connection, task, "doing")
    await tell_twice(process)

    assert await process.ended() == 0
    assert (await read(connection, task))["state"] == "enqueued"


async def test_a_process_that_dies_leaves_its_tasks_to_whoever_reports_it(
    crew: Crew, connection: asyncpg.Connection
) -> None:
    process = await crew.start()
    killer = await add_call(connection, "die", "kill", max_retries=0)

    assert await process.ended() == -signal.SIGKILL
    assert started(process) == [killer]
    assert (await read(connection, killer))["state"] == "doing"
    taken = await recovery.report_lost(
        connection, TABLES, worker_id=process.worker_id, exit_reason="killed by signal 9",
        started=started(process), max_losses=3,
    )  # fmt: skip
    assert (taken.enqueued, taken.alone) == (1, 1)

    solo = await crew.start(solo=True, concurrency=1)
    assert await solo.ended() == -signal.SIGKILL
    assert started(solo) == [killer]


async def test_a_process_serves_its_queues_only(crew: Crew, connection: asyncpg.Connection) -> None:
    await crew.start(queues=("mail",))
    other = await add_call(connection, "greet", "x")
    ours = await add_call(connection, "greet", "x", queue="mail")
    await reaches(connection, ours, "done")
    assert (await read(connection, other))["state"] == "enqueued"


async def test_exactly_once_through_terminated_backends_with_two_processes(
    crew: Crew, connection: asyncpg.Connection, tmp_path: Path
) -> None:
    await asyncio.gather(crew.start(concurrency=20), crew.start(concurrency=20))
    diary = tmp_path / "diary"
    tasks = [
        new(function="shop_tasks:write_down", args=json.dumps([str(diary), number]))
        for number in range(2_000)
    ]
    await write(connection, *tasks, channel="queue_new_task")
    for share in (300, 1_000):

        async def far_enough(share: int = share) -> None:
            assert await count(connection, "state = 'done'") >= share

        await eventually(far_enough)
        await connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )

    async def all_done() -> None:
        assert await count(connection, "state = 'done'") == 2_000

    await eventually(all_done)
    # Claims whose answers were lost were handed back before they started; nothing ran twice.
    assert sorted(map(int, diary.read_text().split())) == list(range(2_000))
    assert await count(connection, "attempt <> 1 OR losses <> 0") == 0


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"app": "nowhere:app"}, "nowhere"),
        ({"heartbeat": 20}, "QUEUE_LEASE"),
    ],
    ids=["no such app", "nonsense settings"],
)
async def test_a_process_that_cannot_work_says_why_and_is_not_to_be_restarted(
    crew: Crew, given: dict[str, Any], reason: str
) -> None:
    process = crew.begin(**given)

    assert await process.ended() == 78
    [report] = [report for report in process.reports if report["event"] == "misconfigured"]
    assert reason in report["reason"]
    assert "Traceback" not in process.output


async def test_a_process_that_finds_no_tables_names_the_command(
    crew: Crew, empty_database_url: str
) -> None:
    process = crew.begin(url=empty_database_url)

    assert await process.ended() == 78
    complaint, last = process.reports[-2:]
    assert "fastedgy db migrate" in complaint["reason"]
    assert last == {"event": "leaving", "code": 78}


async def test_beats_tell_the_supervisor_how_busy_it_is(
    crew: Crew, connection: asyncpg.Connection
) -> None:
    process = await crew.start()
    task = await add_call(connection, "nap", 60.0)
    await reaches(connection, task, "doing")

    def busy() -> None:
        beats = [report for report in process.reports if report["event"] == "beat"]
        assert any(beat["busy"] == 1 for beat in beats)

    await eventually(busy)
    async with listening(crew.url) as ear:
        await connection.execute("SELECT pg_notify('queue_new_task_control', $1)", str(task))
        await ear.hears("queue_new_task_control")
    await reaches(connection, task, "cancelled")

    def idle() -> None:
        beats = [report for report in process.reports if report["event"] == "beat"]
        assert beats[-1]["busy"] == 0

    await eventually(idle)


async def test_suspects_are_reported_to_the_supervisor(
    crew: Crew, connection: asyncpg.Connection
) -> None:
    suspect = await add(connection, function="shop_tasks:greet", args='["x"]')
    await connection.execute("UPDATE queued_tasks SET alone = true")
    process = await crew.start(heartbeat=0.2)

    def told() -> None:
        assert any(report["event"] == "suspects" for report in process.reports)

    await eventually(told)
    assert (await read(connection, suspect))["state"] == "enqueued"


def test_a_process_that_leaves_does_so_without_its_pipe() -> None:
    code = (
        "import os\n"
        "from fastedgy.worker.report import Report\n"
        "read, write = os.pipe()\n"
        "report = Report(write)\n"
        "os.close(write)\n"
        "report.leave(3)\n"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 3
