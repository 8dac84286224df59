"""Old tasks go into files before they are deleted."""

from __future__ import annotations

import itertools
import json
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import pytest
from rows import TABLES, add, add_ended, change, count, read

from fastedgy.config import QueuedTaskConfig
from fastedgy.errors import ConfigurationError
from fastedgy.ids import new_id
from fastedgy.store import archive
from fastedgy.store.archive import JsonLines, ParquetFiles
from fastedgy.worker import pruning
from fastedgy.worker.counters import Counters
from fastedgy.worker.pruning import Pruner

DAY = 86_400.0
LONG_AGO = datetime.now(UTC) - timedelta(days=40)
_tick = itertools.count()


async def old(connection: asyncpg.Connection, state: str = "done", **columns: Any) -> UUID:
    """A task that ended long ago; its id is as old."""
    made = int(LONG_AGO.timestamp() * 1000) + next(_tick)
    id = UUID(int=(made << 80) | (new_id().int & ((1 << 80) - 1)))
    await add_ended(connection, state, id=id, **columns)
    await change(connection, id, date_ended=LONG_AGO)
    return id


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for path in sorted(folder.glob("*.jsonl"))
            for line in path.read_text().splitlines()]  # fmt: skip


async def test_what_is_pruned_is_in_the_archive_redacted_and_with_its_logs(
    connection: asyncpg.Connection, tmp_path: Path
) -> None:
    id = await old(connection, args='["ann", "geheim"]', redact=("1",))
    await connection.execute(
        "INSERT INTO queued_task_logs (logged_at, task_id, run, seq, level, logger, message)"
        " VALUES (now(), $1, 1, 1, 'info', 'shop', 'hello')", id,
    )  # fmt: skip
    young = await add_ended(connection)

    number, after = await archive.archive(
        connection, TABLES, JsonLines(tmp_path), older_than=30 * DAY
    )

    [task] = lines(tmp_path)
    assert (number, after) == (1, id)
    assert await read(connection, id) is None
    assert await read(connection, young) is not None
    assert (task["id"], task["state"], task["name"]) == (str(id), "done", "shop.send")
    assert task["args"] == ["ann", "[redacted]"]
    assert datetime.fromisoformat(task["date_ended"]) == LONG_AGO
    assert [log["message"] for log in task["logs"]] == ["hello"]
    assert await connection.fetchval("SELECT count(*) FROM queued_task_logs") == 0


async def test_nothing_is_deleted_that_could_not_be_written(
    connection: asyncpg.Connection, tmp_path: Path
) -> None:
    id = await old(connection)
    (tmp_path / "file").write_text("in the way")

    with pytest.raises(OSError, match="file"):
        await archive.archive(connection, TABLES, JsonLines(tmp_path / "file"), older_than=30 * DAY)

    assert await read(connection, id) is not None


async def test_parquet_files_hold_the_same(connection: asyncpg.Connection, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    ids = [await old(connection, context='{"a": 1}') for _ in range(3)]

    after = archive.FIRST_ID
    for limit in (2, 2):
        _, after = await archive.archive(
            connection, TABLES, ParquetFiles(tmp_path), older_than=30 * DAY, limit=limit,
            after=after,
        )  # fmt: skip

    files = sorted(tmp_path.iterdir())
    rows = [row for path in files for row in parquet.read_table(path).to_pylist()]
    assert len(files) == 2
    assert [row["id"] for row in rows] == [str(id) for id in ids]
    assert json.loads(rows[0]["context"]) == {"a": 1}
    assert rows[0]["date_ended"] == LONG_AGO


def test_without_pyarrow_parquet_is_refused_with_the_cure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(ConfigurationError, match=r"fastedgy\[parquet\]"):
        ParquetFiles(tmp_path)


async def pruned(connection: asyncpg.Connection, **settings: Any) -> int:
    """Prune to the end; how many chunks that took."""
    pruner = Pruner(TABLES, QueuedTaskConfig(**settings), Counters())
    chunks = 1
    while await pruner.chunk(connection):
        chunks += 1
    return chunks


async def test_workers_prune_chunk_by_chunk(
    connection: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pruning, "BATCH", 2)
    for state in ("done", "failed", "cancelled", "done", "done"):
        await old(connection, state)
    await add(connection)

    assert await pruned(connection) == 3
    assert await count(connection) == 1


async def test_failed_tasks_may_be_kept_for_longer(connection: asyncpg.Connection) -> None:
    failed, cancelled = await old(connection, "failed"), await old(connection, "cancelled")
    await old(connection)

    await pruned(connection, retention_failed_days=60)
    kept = await count(connection)
    await pruned(connection, retention_days=90, retention_failed_days=20)

    assert kept == 2
    assert await read(connection, failed) is await read(connection, cancelled) is None


async def test_workers_archive_what_they_prune(
    connection: asyncpg.Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pruning, "BATCH", 2)
    ids = [await old(connection) for _ in range(5)]

    await pruned(connection, archive_dir=str(tmp_path / "archive"))

    assert [line["id"] for line in lines(tmp_path / "archive")] == [str(id) for id in ids]
    assert await count(connection) == 0
