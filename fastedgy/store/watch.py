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

OUTCOMES = Statement("""
SELECT id, name, state, result, error_type, error_message, error_traceback
  FROM $tasks WHERE id = ANY ($1::uuid[])
""")

# For those that take results. What is no plain result stands in `others`.
RESULTS = Statement("""
SELECT string_agg(id::text, ',') FILTER (WHERE plain) AS ids,
       array_agg(coalesce(result::text, 'null')) FILTER (WHERE plain) AS results,
       jsonb_agg(jsonb_build_object(
           'id', id, 'name', name, 'state', state, 'error_type', error_type,
           'error_message', error_message, 'error_traceback', error_traceback))
           FILTER (WHERE NOT plain) AS others
  FROM (SELECT *, state = 'done' AND error_type IS NULL AS plain
          FROM $tasks WHERE id = ANY ($1::uuid[])) AS task
""")

# Without the ids, in their order: what a join of thousands waits for most is their way here.
PLAIN_RESULTS = Statement("""
SELECT count(*) AS found, '[' || string_agg(coalesce(result::text, 'null'), ',' ORDER BY id) || ']'
       AS results
  FROM $tasks WHERE id = ANY ($1::uuid[]) AND state = 'done' AND error_type IS NULL
""")

# As AWAIT, for many. Their rows are read afterwards.
AWAIT_ALL = Statement("""
UPDATE $tasks SET awaited = true
 WHERE id = ANY ($1::uuid[]) AND NOT awaited
   AND state IN ('scheduled', 'waiting', 'enqueued', 'doing')
""")

STATES = Statement("SELECT state, count(*) FROM $tasks WHERE id = ANY ($1::uuid[]) GROUP BY state")

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


async def mark_all_awaited(connection: Connection, tables: Tables, ids: Sequence[UUID]) -> None:
    """Ask that the ends of these tasks be told on the channel."""
    await connection.execute(AWAIT_ALL[tables], ids)


async def read_outcomes(
    connection: Connection, tables: Tables, ids: Sequence[UUID]
) -> Sequence[Record]:
    """State, result and error of tasks, in no particular order; those that have rows."""
    rows: Sequence[Record] = await connection.fetch(OUTCOMES[tables], ids)
    return rows


async def read_results(
    connection: Connection, tables: Tables, ids: Sequence[UUID]
) -> tuple[dict[str, str], str | None]:
    """The results of tasks as JSON, by id, and those without one: a JSON list of what is known."""
    row = await connection.fetchrow(RESULTS[tables], ids)
    known = row["ids"].split(",") if row["ids"] else ()
    return dict(zip(known, row["results"] or (), strict=True)), row["others"]


async def read_plain_results(
    connection: Connection, tables: Tables, ids: Sequence[UUID]
) -> str | None:
    """The results of tasks as a JSON list, in the order of their ids. Each is to be named once.

    None when not all of them have one.
    """
    row = await connection.fetchrow(PLAIN_RESULTS[tables], ids)
    found: str | None = row["results"] if row["found"] == len(ids) else None
    return found


async def count_states(
    connection: Connection, tables: Tables, ids: Sequence[UUID]
) -> dict[str, int]:
    """How many of these tasks are in each state. Those without rows are not counted."""
    rows = await connection.fetch(STATES[tables], ids)
    return {row["state"]: row["count"] for row in rows}


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
