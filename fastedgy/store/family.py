"""Parents and children: what the end of a task means for those that wait for it.

These run inside the transaction that ends the parents, after the statement that ended them: a
child whose link was committed while that statement waited for the parent's row is visible to the
next statement only, which has a snapshot of its own.

`state || ''` keeps the planner off the partial index on waiting tasks: the children are to be found
by the primary key.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from uuid import UUID

from asyncpg import Connection

from fastedgy.models.tables import Tables
from fastedgy.store.statements import Statement

# Locked in the order of their ids, so that two workers that finish parents of the same children
# cannot wait for each other.
_WAITING_CHILDREN = """
WITH cut AS (
    UPDATE $links SET settled = true
     WHERE parent_id = ANY ($1::uuid[]) AND NOT settled
 RETURNING child_id, parent_id
), counted AS (
    SELECT child_id, count(*)::integer AS parents, min(parent_id::text) AS parent FROM cut
     GROUP BY child_id
), child AS (
    SELECT task.id, counted.parents, counted.parent
      FROM counted JOIN $tasks AS task ON task.id = ANY (ARRAY [counted.child_id])
     WHERE task.state || '' = 'waiting'
     ORDER BY task.id
       FOR NO KEY UPDATE OF task
)
"""

SETTLE = Statement(
    _WAITING_CHILDREN
    + """
UPDATE $tasks AS task
   SET waiting_on = task.waiting_on - child.parents,
       date_enqueued = clock_timestamp(),
       state = CASE WHEN task.waiting_on > child.parents THEN 'waiting'
                    WHEN task.date_due > clock_timestamp() THEN 'scheduled'
                    ELSE 'enqueued' END
  FROM child
 WHERE task.id = ANY (ARRAY [child.id]) AND task.state || '' = 'waiting'
RETURNING task.state, task.queue, task.priority
"""
)

DOOM = Statement(
    _WAITING_CHILDREN
    + """
UPDATE $tasks AS task
   SET waiting_on = task.waiting_on - child.parents,
       date_enqueued = clock_timestamp(),
       state = CASE WHEN task.on_parent_failure = 'cancel' THEN 'cancelled'
                    WHEN task.on_parent_failure = 'fail' THEN 'failed'
                    WHEN task.waiting_on > child.parents THEN 'waiting'
                    WHEN task.date_due > clock_timestamp() THEN 'scheduled'
                    ELSE 'enqueued' END,
       date_ended = CASE WHEN task.on_parent_failure <> 'run' THEN clock_timestamp() END,
       error_type = CASE WHEN task.on_parent_failure <> 'run' THEN 'ParentFailed' END,
       error_message = CASE WHEN task.on_parent_failure <> 'run' THEN
           (SELECT format('Its parent %s (%s) ended as %s%s', parent.name, parent.id, parent.state,
                          coalesce(': ' || left(parent.error_message, 500), '.'))
              FROM $tasks AS parent WHERE parent.id = child.parent::uuid) END
  FROM child
 WHERE task.id = ANY (ARRAY [child.id]) AND task.state || '' = 'waiting'
RETURNING task.id, task.state, task.queue, task.priority, task.has_children, task.awaited
"""
)


@dataclass(slots=True)
class Released:
    """What ended parents set free: how many may run now and in which lanes, and who was awaited."""

    tasks: int = 0
    lanes: set[tuple[str, int]] = field(default_factory=set)
    awaited: list[UUID] = field(default_factory=list)


async def settle(connection: Connection, tables: Tables, parents: Sequence[UUID]) -> Released:
    """Count down the children of parents that are `done`; the last parent lets a child go."""
    released = Released()
    for row in await connection.fetch(SETTLE[tables], parents):
        if row["state"] == "enqueued":
            released.tasks += 1
            released.lanes.add((row["queue"], row["priority"]))
    return released


async def doom(connection: Connection, tables: Tables, parents: Sequence[UUID]) -> Released:
    """End the waiting descendants of parents that failed or were cancelled for good.

    Each child follows its `on_parent_failure`: `cancel` and `fail` end it (and then its own
    children meet the same), `run` counts the parent as settled. One statement per generation.
    """
    released = Released()
    dead = list(parents)
    while dead:
        rows = await connection.fetch(DOOM[tables], dead)
        dead = []
        for row in rows:
            if row["state"] == "enqueued":
                released.tasks += 1
                released.lanes.add((row["queue"], row["priority"]))
            elif row["state"] in ("cancelled", "failed"):
                if row["awaited"]:
                    released.awaited.append(row["id"])
                if row["has_children"]:
                    dead.append(row["id"])
    return released
