"""Whole trees of tasks: which tasks hang together, for those who cancel or retry them at once."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from asyncpg import Connection

from fastedgy.models.tables import Tables
from fastedgy.store.statements import Statement

# What waits for a task, and what it returned to stand for it, with what that one waits for: those
# are younger than the task, as it added them (ids are ordered by the time they were made).
BELOW = Statement("""
WITH RECURSIVE below (id, since) AS (
    SELECT id, NULL::uuid FROM unnest($1::uuid[]) AS given (id)
    UNION
    SELECT next.id, next.since FROM below CROSS JOIN LATERAL (
           SELECT link.child_id, NULL::uuid FROM $links AS link WHERE link.parent_id = below.id
           UNION ALL
           SELECT task.stands_for, task.id FROM $tasks AS task
            WHERE task.id = below.id AND task.stands_for IS NOT NULL
           UNION ALL
           SELECT link.parent_id, below.since FROM $links AS link
            WHERE link.child_id = below.id AND link.parent_id > below.since
    ) AS next (id, since)
)
SELECT DISTINCT id FROM below
""")

# What has to run again before these tasks can, and all that had come to nothing because of it.
BROKEN = Statement("""
WITH RECURSIVE up (id) AS (
    SELECT id FROM unnest($1::uuid[]) AS given (id)
    UNION
    SELECT task.id FROM up JOIN $links AS link ON link.child_id = up.id
      JOIN $tasks AS task ON task.id = link.parent_id AND task.state IN ('failed', 'cancelled')
), down (id) AS (
    SELECT id FROM up
    UNION
    SELECT link.child_id FROM down JOIN $links AS link ON link.parent_id = down.id
)
SELECT task.id FROM $tasks AS task
 WHERE task.id = ANY (ARRAY (SELECT id FROM down)) AND task.state IN ('failed', 'cancelled')
 ORDER BY task.id
""")


async def below(connection: Connection, tables: Tables, ids: Sequence[UUID]) -> list[UUID]:
    """The tasks of these ids, all that wait for them, and all that they returned to stand for them,
    whatever their states.
    """
    return [row["id"] for row in await connection.fetch(BELOW[tables], list(ids))]


async def broken(connection: Connection, tables: Tables, ids: Sequence[UUID]) -> list[UUID]:
    """The failed and cancelled tasks above these, and below those, in the order they were made."""
    return [row["id"] for row in await connection.fetch(BROKEN[tables], list(ids))]
