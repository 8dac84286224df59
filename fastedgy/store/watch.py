"""Waiting for the end of a task, from the producer's side."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from asyncpg import Connection, Record

from fastedgy.models.tables import Tables
from fastedgy.store.statements import Statement

# Marks the row, so that its end is told; one that ended already is only read.
AWAIT = Statement("""
WITH marked AS (
    UPDATE $tasks SET awaited = true
     WHERE id = $1 AND NOT awaited AND state IN ('scheduled', 'waiting', 'enqueued', 'doing')
 RETURNING id
)
SELECT task.id, task.name, task.state, task.result, task.error_type, task.error_message,
       task.error_traceback, task.awaited OR EXISTS (SELECT FROM marked) AS told
  FROM $tasks AS task WHERE task.id = $1
""")

OUTCOME = Statement("""
SELECT id, name, state, result, error_type, error_message, error_traceback
  FROM $tasks WHERE id = $1
""")

CONTEXT = Statement("SELECT context FROM $tasks WHERE id = $1")
CHILDREN = Statement("SELECT child_id AS id FROM $links WHERE parent_id = $1 ORDER BY child_id")
PARENTS = Statement("SELECT parent_id AS id FROM $links WHERE child_id = $1 ORDER BY parent_id")


async def mark_awaited(connection: Connection, tables: Tables, id: UUID) -> Record | None:
    """Ask that the task's end be told on the channel; returns the row as it was before."""
    row = await connection.fetchrow(AWAIT[tables], id)
    if row is not None and not row["told"]:
        # It has ended, perhaps at this very moment: then the row above is of the moment before.
        return await read_outcome(connection, tables, id)
    return row


async def read_outcome(connection: Connection, tables: Tables, id: UUID) -> Record | None:
    """State, result and error of a task; None when there is no such row."""
    return await connection.fetchrow(OUTCOME[tables], id)


async def read_context(connection: Connection, tables: Tables, id: UUID) -> str | None:
    """The task's context as JSON; None when there is no such row."""
    text: str | None = await connection.fetchval(CONTEXT[tables], id)
    return text


async def children_of(connection: Connection, tables: Tables, id: UUID) -> Sequence[UUID]:
    """The ids of the tasks that have this one as a parent, oldest first."""
    return [row["id"] for row in await connection.fetch(CHILDREN[tables], id)]


async def parents_of(connection: Connection, tables: Tables, id: UUID) -> Sequence[UUID]:
    """The ids of the tasks that this one waits or waited for, oldest first."""
    return [row["id"] for row in await connection.fetch(PARENTS[tables], id)]
