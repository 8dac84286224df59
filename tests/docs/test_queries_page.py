"""docs/queries.md: its blocks run, one after the other, against a queue with something in it."""

from __future__ import annotations

import ast
import asyncio
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import CodeType
from typing import Any
from uuid import UUID

import asyncpg
import pytest
from click.testing import CliRunner
from commands import environment
from pages import Block, blocks
from rows import OTHER, TABLES, WORKER, add, add_ended, add_taken, count, count_runs, state_of

from fastedgy.admin import QueueAdmin
from fastedgy.cli import main
from fastedgy.store import workers

PAGE = "docs/queries.md"
SCRIPT, *FRAGMENTS = blocks(PAGE, "python")


@pytest.fixture
def database_url(queue_url: str) -> str:
    return queue_url


@pytest.fixture
async def tasks(connection: asyncpg.Connection) -> dict[str, UUID]:
    """A few tasks of the kinds that the page speaks of."""
    await workers.register(
        connection, TABLES, worker_id=WORKER, server_name="web-3", pid=1712, supervisor_id=OTHER,
        queues=[], concurrency=10, version="1",
    )  # fmt: skip
    two_days = UUID(int=int((datetime.now(UTC).timestamp() - 3 * 86_400) * 1000) << 80)
    return {
        "stale": await add(connection, id=two_days, queue="mail"),
        "known": await add(connection, id=UUID("019b0000-0000-7000-8000-1f3c9a7b20d4")),
        "failed": await add_ended(connection, "failed"),
        "running": (await add_taken(connection))["id"],
    }


def compiled(block: Block) -> CodeType:
    flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
    return compile(block.code, f"{PAGE}:{block.line}", "exec", flags)


async def test_its_blocks_run_in_their_order(
    connection: asyncpg.Connection, tasks: dict[str, UUID], capsys: pytest.CaptureFixture[str]
) -> None:
    await count_runs(connection, 0.1, 0.2, name="send_email")
    known: dict[str, Any] = {"now": datetime.now(UTC), "timedelta": timedelta}
    known["admin"] = QueueAdmin.on(connection)
    for block in FRAGMENTS:
        running = eval(compiled(block), known)
        if running is not None:
            await running

    assert [task.id for task in known["failed"]] == [tasks["failed"]]
    assert [task.id for task in known["running"]] == [tasks["running"]]
    assert known["task"].id == tasks["known"]
    assert known["stats"].done == 2
    assert known["preview"].sentence == "Cancels 1 task."
    assert await state_of(connection, tasks["stale"]) == "enqueued"
    assert "1 are back" in capsys.readouterr().out
    assert (known["cancelled"], known["again"]) == (1, 1)
    drain = await connection.fetchval("SELECT drain FROM queued_task_workers")
    assert drain == "worker"


def test_its_script_runs(database_url: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT.code], cwd=tmp_path, capture_output=True, text=True,
        env=environment(DATABASE_URL=database_url), check=False,
    )  # fmt: skip

    assert done.stdout == "Nothing to do, and no worker runs.\n", done.stderr


async def test_its_commands_prune_and_archive(
    connection: asyncpg.Connection, database_url: str, tmp_path: Path
) -> None:
    pytest.importorskip("pyarrow")
    [block] = blocks(PAGE, "console")
    lines = [line.removeprefix("$ fastedgy ") for line in block.code.splitlines()]
    for line, suffix in zip(lines, (None, ".jsonl", ".parquet"), strict=True):
        old = UUID(int=int((datetime.now(UTC).timestamp() - 100 * 86_400) * 1000) << 80)
        await add_ended(connection, id=old)
        await connection.execute("UPDATE queued_tasks SET date_ended = now() - interval '99 days'")
        words = line.replace("/var/backups/tasks", str(tmp_path / str(suffix))).split()
        env = {"DATABASE_URL": database_url}
        result = await asyncio.to_thread(CliRunner().invoke, main, words, env=env)

        assert result.exit_code == 0, result.output
        assert result.output.startswith("Deleted 1 task")
        assert await count(connection) == 0
        if suffix:
            [file] = (tmp_path / suffix).iterdir()
            assert file.suffix == suffix
