"""The models and the shipped revisions say the same."""

from __future__ import annotations

from importlib import import_module

import asyncpg
from project import connected

from fastedgy.database import connect, registry

MODELS = {
    "queued_task": "QueuedTask",
    "queued_task_audit": "QueuedTaskAudit",
    "queued_task_link": "QueuedTaskLink",
    "queued_task_log": "QueuedTaskLog",
    "queued_task_rollup": "QueuedTaskRollup",
    "queued_task_schedule": "QueuedTaskSchedule",
    "queued_task_step": "QueuedTaskStep",
    "queued_task_event": "QueuedTaskEvent",
    "queued_task_key": "QueuedTaskKey",
    "queued_task_queue": "QueuedTaskQueue",
    "queued_task_gate": "QueuedTaskGate",
    "queued_task_breaker": "QueuedTaskBreaker",
    "queued_task_worker": "QueuedTaskWorker",
}
"""By module of `fastedgy.models`. A table with a model belongs here."""

COLUMNS = """
SELECT relname, attname, format_type(atttypid, atttypmod), attnotnull, pg_get_expr(adbin, adrelid)
  FROM pg_class
  JOIN pg_attribute ON attrelid = pg_class.oid AND attnum > 0
  LEFT JOIN pg_attrdef ON adrelid = pg_class.oid AND adnum = attnum
 WHERE relnamespace = 'public'::regnamespace AND relkind = 'r' AND relname = ANY ($1)
 ORDER BY relname, attnum
"""
INDEXES = """
SELECT indexdef FROM pg_indexes WHERE tablename = ANY ($1) ORDER BY indexdef
"""
CONSTRAINTS = """
SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid)
  FROM pg_constraint WHERE conrelid::regclass::text = ANY ($1) ORDER BY 1, 2, 3
"""
STORAGE = """
SELECT relname, reloptions FROM pg_class
 WHERE relnamespace = 'public'::regnamespace AND relkind = 'r' AND relname = ANY ($1)
 ORDER BY relname
"""


async def catalog(
    connection: asyncpg.Connection, tables: list[str]
) -> dict[str, list[tuple[object, ...]]]:
    queries = {
        "columns": COLUMNS, "indexes": INDEXES, "constraints": CONSTRAINTS, "storage": STORAGE
    }  # fmt: skip
    return {
        name: [tuple(row) for row in await connection.fetch(query, tables)]
        for name, query in queries.items()
    }


async def test_the_models_describe_exactly_what_the_shipped_revisions_make(
    connection: asyncpg.Connection, empty_database_url: str
) -> None:
    models = {
        getattr(import_module(f"fastedgy.models.{module}"), name) for module, name in MODELS.items()
    }
    tables = sorted(model.meta.tablename for model in models)
    assert set(registry.models.values()) == models
    async with connected(empty_database_url):
        registry.refresh_metadata()  # as Edgy does again and again; nothing may come twice
        await registry.create_all()
    created = await connect(empty_database_url)
    try:
        by_models = await catalog(created, tables)
    finally:
        await created.close()
    by_revisions = await catalog(connection, tables)

    assert len(by_revisions["columns"]) > 50
    for part, rows in by_revisions.items():
        assert by_models[part] == rows, part
