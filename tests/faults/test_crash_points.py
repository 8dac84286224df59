"""The process is killed at every step between a claim and its outcome, and the contract holds."""

from __future__ import annotations

import signal
from collections import Counter, defaultdict
from pathlib import Path

import asyncpg
import crash_tasks
import pytest
from crash_points import LAST_WORDS, POINTS
from crew import Crew, Hire, Process
from helpers import eventually
from rows import CHANNELS, TABLES
from supervised import enqueue

from fastedgy.store.recovery import report_lost

UNSTARTED = {
    "before the claim",
    "claimed, the answer unread",
    "the answer read, nothing started",
}
DRAINING = {"drained, not handed back", "handed back, not retired", "retired"}
WRITTEN = {"outcomes written, the answer unread", *DRAINING}


def runs_in(file: Path) -> dict[str, list[int]]:
    """The run numbers of each task, in the order in which they were told."""
    runs: dict[str, list[int]] = defaultdict(list)
    for line in file.read_text().splitlines() if file.exists() else []:
        id, run = line.split()
        runs[id].append(int(run))
    return runs


async def all_done(connection: asyncpg.Connection) -> None:
    states = await connection.fetch("SELECT state FROM queued_tasks")
    assert {row["state"] for row in states} == {"done"}, states


async def report_killed(connection: asyncpg.Connection, worker: Process) -> None:
    """What its supervisor does."""
    await report_lost(
        connection, TABLES, worker_id=worker.worker_id, exit_reason="killed by SIGKILL",
        started=worker.board.started(), max_losses=3, channels=CHANNELS,
    )  # fmt: skip


@pytest.mark.parametrize("point", [point for point in POINTS if point != LAST_WORDS])
async def test_a_process_killed_there_loses_nothing_and_repeats_nothing_that_ended(
    point: str,
    connection: asyncpg.Connection,
    crash_crew: Crew,
    hire: Hire,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    file = tmp_path / "runs"
    plain = [await enqueue(connection, crash_tasks.plain, str(file)) for _ in range(3)]
    adding = await enqueue(connection, crash_tasks.adding, str(file))
    with monkeypatch.context() as patch:
        patch.setenv("CRASH_AT", point)
        worker = crash_crew.begin(app="crash_app:app")

    async def nobody_is_suspected() -> None:
        assert await connection.fetchval("SELECT count(*) FROM queued_tasks WHERE alone") == 0

    if point in DRAINING:
        await eventually(lambda: all_done(connection))
        worker.tell()
    assert await worker.ended(within=30) == -signal.SIGKILL
    before = {
        row["id"]: row["run"]
        for row in await connection.fetch("SELECT id, run FROM queued_tasks WHERE state = 'done'")
    }

    await report_killed(connection, worker)
    if await connection.fetchval("SELECT count(*) FROM queued_tasks WHERE alone"):
        async with hire(solo=True):  # who may have killed a process runs alone
            await eventually(nobody_is_suspected)
    async with hire():
        await eventually(lambda: all_done(connection))
    rows = await connection.fetch("SELECT * FROM queued_tasks")

    runs = runs_in(file)
    added = len(rows) - 4
    assert added == 2 if point == "what it added is written" else 1 <= added <= 2
    for row in rows:
        told = runs[str(row["id"])]
        assert told == sorted(set(told)), "no run is told twice, and their numbers grow"
        assert 1 <= len(told) <= 2
        assert int(row["result"]) == told[-1] == row["run"]
        if row["id"] in before:
            assert row["run"] == before[row["id"]], "what had ended did not run again"
        if point in UNSTARTED:
            assert len(told) == 1
            assert "lost" not in row["history"], "what had not started lost nothing"
    if point in WRITTEN:
        assert before
    assert Counter(map(len, runs.values()))[1] >= 1
    assert {*plain, adding} <= {row["id"] for row in rows}


async def test_a_parent_killed_after_its_last_lines_has_those_of_each_run_once(
    connection: asyncpg.Connection,
    crash_crew: Crew,
    hire: Hire,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    file = tmp_path / "runs"
    parent = await enqueue(connection, crash_tasks.family, str(file))
    with monkeypatch.context() as patch:
        patch.setenv("CRASH_AT", LAST_WORDS)
        worker = crash_crew.begin(app="crash_app:app")

    async def told() -> list[tuple[int, str]]:
        lines = await connection.fetch(
            "SELECT run, message FROM queued_task_logs WHERE task_id = $1 ORDER BY run, seq", parent
        )
        return [tuple(line) for line in lines]

    assert await worker.ended(within=30) == -signal.SIGKILL
    assert await told() == [(1, "its last words")]
    state = "SELECT state FROM queued_tasks WHERE id = $1"
    assert await connection.fetchval(state, parent) == "doing"

    await report_killed(connection, worker)
    async with hire(solo=True), hire():
        await eventually(lambda: all_done(connection))
    runs = runs_in(file)
    assert await told() == [(run, "its last words") for run in runs[str(parent)]]
    assert len(runs[str(parent)]) == 2
    assert len(runs) == 3, "each of its runs added a child"
