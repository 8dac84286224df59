"""The models and the shipped revisions say the same."""

from __future__ import annotations

import asyncpg
from project import connected

from fastedgy.database import connect, registry

COLUMNS = """
SELECT relname, attname, format_type(atttypid, atttypmod), attnotnull, pg_get_expr(adbin, adrelid)
  FROM pg_class
  JOIN pg_attribute ON attrelid = pg_class.oid AND attnum > 0
  LEFT JOIN pg_attrdef ON adrelid = pg_class.oid AND adnum = attnum
 WHERE relnamespace = 'public'::regnamespace AND relkind = 'r' AND relname LIKE 'queued%'
 ORDER BY relname, attnum
"""
INDEXES = """
SELECT indexdef FROM pg_indexes WHERE tablename LIKE 'queued%' ORDER BY indexdef
"""
CONSTRAINTS = """
SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid)
  FROM pg_constraint WHERE conrelid::regclass::text LIKE 'queued%' ORDER BY 1, 2, 3
"""
STORAGE = """
SELECT relname, reloptions FROM pg_class
 WHERE relnamespace = 'public'::regnamespace AND relkind = 'r' AND relname LIKE 'queued%'
 ORDER BY relname
"""


async def catalog(connection: asyncpg.Connection) -> dict[str, list[tuple[object, ...]]]:
    queries = {
        "columns": COLUMNS, "indexes": INDEXES, "constraints": CONSTRAINTS, "storage": STORAGE
    }  # fmt: skip
    return {
        name: [tuple(row) for row in await connection.fetch(query)]
        for name, query in queries.items()
    }


async def test_the_models_describe_exactly_what_the_shipped_revisions_make(
    connection: asyncpg.Connection, empty_database_url: str
) -> None:
    from fastedgy.models.queued_task import QueuedTask
    from fastedgy.models.queued_task_link import QueuedTaskLink
    from fastedgy.models.queued_task_log import QueuedTaskLog
    from fastedgy.models.queued_task_worker import QueuedTaskWorker

    assert set(registry.models.values()) == {
        QueuedTask, QueuedTaskLink, QueuedTaskLog, QueuedTaskWorker
    }  # fmt: skip
    async with connected(empty_database_url):
        registry.refresh_metadata()  # as Edgy does again and again; nothing may come twice
        await registry.create_all()
    created = await connect(empty_database_url)
    try:
        by_models = await catalog(created)
    finally:
        await created.close()
    by_revisions = await catalog(connection)

    assert len(by_revisions["columns"]) > 50
    for part, rows in by_revisions.items():
        assert by_models[part] == rows, part
