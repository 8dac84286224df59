"""Keeping old tasks outside the database: written to files and synced, then deleted."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol
from uuid import UUID

from asyncpg import Connection

from fastedgy.errors import ConfigurationError
from fastedgy.models.tables import Tables
from fastedgy.store import bulk, maintain
from fastedgy.store.maintain import ENDED, FIRST_ID, OLD, id_at
from fastedgy.store.redaction import redact
from fastedgy.store.statements import Statement

READ = Statement(
    f"WITH old AS ({OLD})"
    " SELECT old.*, ARRAY (SELECT parent_id FROM $links WHERE child_id = old.id) AS parents,"
    " (SELECT jsonb_agg(to_jsonb(log) - 'task_id' ORDER BY run, seq)"
    " FROM $logs AS log WHERE log.task_id = old.id) AS logs FROM old ORDER BY id",
    columns="*",
)
_JSON = ("args", "kwargs", "context", "result", "history", "logs")
_LEFT_OUT = ("closure", "redact", "signature")


class Archive(Protocol):
    """Where tasks are kept. `write` returns when they are on the disk."""

    def write(self, tasks: Sequence[dict[str, Any]]) -> None:
        """Keep these tasks."""


class JsonLines:
    """One JSON object a line; a file per day and process, appended to."""

    def __init__(self, folder: str | Path) -> None:
        self._folder = Path(folder)
        self._started = f"{os.getpid()}-{time.time_ns() // 1_000_000:x}"

    def write(self, tasks: Sequence[dict[str, Any]]) -> None:
        """Append the tasks, and wait until they are on the disk."""
        self._folder.mkdir(parents=True, exist_ok=True)
        name = f"tasks-{time.strftime('%Y-%m-%d', time.gmtime())}-{self._started}.jsonl"
        with open(self._folder / name, "a", encoding="utf-8") as file:
            for task in tasks:
                file.write(json.dumps(task, ensure_ascii=False, default=_plain) + "\n")
            file.flush()
            os.fsync(file.fileno())


class ParquetFiles:
    """A Parquet file for each batch. What is JSON in a row is JSON text in its column."""

    def __init__(self, folder: str | Path) -> None:
        try:
            import pyarrow.parquet  # noqa: F401
        except ImportError:
            raise ConfigurationError(
                "Parquet files need pyarrow: pip install 'fastedgy[parquet]', or archive as JSON "
                "lines."
            ) from None
        self._folder = Path(folder)

    def write(self, tasks: Sequence[dict[str, Any]]) -> None:
        """Write the tasks to a file of their own, and wait until it is on the disk."""
        import pyarrow
        import pyarrow.parquet

        self._folder.mkdir(parents=True, exist_ok=True)
        rows = [
            {
                name: json.dumps(value, ensure_ascii=False, default=_plain)
                if name in _JSON or name == "parents"
                else str(value) if isinstance(value, UUID) else value
                for name, value in task.items()
            }
            for task in tasks
        ]  # fmt: skip
        table = pyarrow.Table.from_pylist(rows)
        path = self._folder / f"tasks-{tasks[0]['id']}.parquet"
        unfinished = path.with_suffix(".unfinished")
        with open(unfinished, "wb") as file:
            pyarrow.parquet.write_table(table, file)
            file.flush()
            os.fsync(file.fileno())
        unfinished.rename(path)


ARCHIVES: dict[str, type[JsonLines | ParquetFiles]] = {"jsonl": JsonLines, "parquet": ParquetFiles}
"""By the format's name."""


async def archive(
    connection: Connection,
    tables: Tables,
    to: Archive,
    *,
    older_than: float,
    limit: int = 1_000,
    after: UUID = FIRST_ID,
    states: Sequence[str] = ENDED,
) -> tuple[int, UUID]:
    """What `maintain.prune` does, with each chunk written down first.

    Deleted is what is on the disk. If the process dies in between, the next one writes the chunk
    again: a task may be in the archive twice, by its id the same. Redacted arguments stay so.
    """
    async with connection.transaction():
        rows = await connection.fetch(
            READ[tables], after, id_at(time.time() - older_than), list(states), older_than, limit
        )
        if not rows:
            return 0, after
        tasks = [_task(row) for row in rows]
        await asyncio.to_thread(to.write, tasks)
        gone = await bulk.delete(connection, tables, [row["id"] for row in rows])
    return len(gone), UUID(int=rows[-1]["id"].int)


async def prune(
    connection: Connection,
    tables: Tables,
    to: Archive | None,
    *,
    older_than: float,
    limit: int,
    after: UUID,
    states: Sequence[str],
) -> tuple[int, UUID]:
    """`archive`, or `maintain.prune` where there is no archive."""
    if to is None:
        return await maintain.prune(
            connection, tables, older_than=older_than, limit=limit, after=after, states=states
        )
    return await archive(
        connection, tables, to, older_than=older_than, limit=limit, after=after, states=states
    )


def _plain(value: Any) -> str:
    return value.isoformat() if isinstance(value, datetime) else str(value)


def _task(row: Any) -> dict[str, Any]:
    task = {name: value for name, value in row.items() if name not in _LEFT_OUT}
    for name in _JSON:
        task[name] = None if task[name] is None else json.loads(task[name])
    task["args"], task["kwargs"] = redact(task["args"], task["kwargs"], row["redact"])
    return task
