"""Parents and children: what the end of a task means for those that wait for it.

These run inside the transaction that ends the parents, after the statement that ended them: a
child whose link was committed while that statement waited for the parent's row is visible to the
next statement only, which has a snapshot of its own. Only `returned.FINISH_AND_RELEASE` counts down
in the same statement, and notices such a link in another way.

`state || ''` keeps the planner off the partial index on waiting tasks: the children are to be found
by the primary key.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from uuid import UUID

from asyncpg import Connection

from fastedgy.models.tables import Tables
from fastedgy.store.statements import LANE, Statement

# A task is done once and for all, so its links need no mark that they have been counted: writing
# one for each of 10,000 parents took most of the time of a join. One that failed may be retried,
# and is not to be counted again.
#
# In the order of the children's ids, so that two workers that finish parents of the same children
# have no deadlock. It is the plan that keeps to it, which goes through `counted` and looks up each
# child; one that went through the tasks would be no error, as workers try again. To lock them in a
# CTE before, as DOOM does, needs no such care and took a quarter of the time of 10,000 children.
COUNT_DOWN = """
WITH cut AS MATERIALIZED (
    SELECT child_id FROM $links WHERE NOT settled AND parent_id = ANY ($parents)
), counted AS (
    SELECT child_id, count(*)::integer AS parents FROM cut
     GROUP BY child_id
     ORDER BY child_id
)
UPDATE $tasks AS task
   SET waiting_on = task.waiting_on - counted.parents,
       date_enqueued = clock_timestamp(),
       state = CASE WHEN task.waiting_on > counted.parents THEN 'waiting'
                    WHEN task.date_due > clock_timestamp() THEN 'scheduled'
                    ELSE 'enqueued' END
  FROM counted
 WHERE task.id = ANY (ARRAY [counted.child_id]) AND task.state || '' = 'waiting'
RETURNING task.id, task.state, task.queue, $lane, task.stands_for
""".replace("$lane", LANE)
SETTLE = Statement(COUNT_DOWN, parents="$1::uuid[]")

# What a task comes to that has returned another one, when that one is done.
PASS_ON = Statement("""
UPDATE $tasks AS task
   SET state = 'done', result = other.result, date_ended = clock_timestamp(),
       error_type = other.error_type, error_message = other.error_message
  FROM $tasks AS other
 WHERE task.id = ANY ($1::uuid[]) AND other.id = task.stands_for
   AND task.state IN ('waiting', 'enqueued', 'scheduled')
RETURNING task.id, task.has_children, task.awaited
""")

DOOM = Statement(
    """
WITH cut AS (
    UPDATE $links SET settled = true
     WHERE parent_id = ANY ($1::uuid[]) AND NOT settled
 RETURNING child_id, parent_id
), counted AS (
    SELECT child_id, count(*)::integer AS parents, min(parent_id::text) AS parent FROM cut
     GROUP BY child_id
     ORDER BY child_id
), child AS (
    SELECT locked.*, counted.parents, counted.parent
      FROM counted CROSS JOIN LATERAL (
           SELECT id, waiting_on, on_parent_failure, date_due, stands_for FROM $tasks
            WHERE id = ANY (ARRAY [counted.child_id]) AND state || '' = 'waiting'
              FOR NO KEY UPDATE
      ) AS locked
)
UPDATE $tasks AS task
   SET waiting_on = task.waiting_on - child.parents,
       date_enqueued = clock_timestamp(),
       state = fate.state,
       date_ended = CASE WHEN fate.state IN ('failed', 'cancelled') THEN clock_timestamp() END,
       error_type = CASE WHEN fate.state NOT IN ('failed', 'cancelled') THEN NULL
                         WHEN fate.passed_on THEN parent.error_type ELSE 'ParentFailed' END,
       error_message = CASE WHEN fate.state NOT IN ('failed', 'cancelled') THEN NULL
                            WHEN fate.passed_on THEN parent.error_message
                            ELSE format('Its parent %s (%s) ended as %s%s', parent.name, parent.id,
                                        parent.state,
                                        coalesce(': ' || left(parent.error_message, 500), '.')) END,
       error_traceback = CASE WHEN fate.passed_on THEN parent.error_traceback END
  FROM child JOIN $tasks AS parent ON parent.id = ANY (ARRAY [child.parent::uuid])
 CROSS JOIN LATERAL (
       SELECT child.stands_for IS NOT DISTINCT FROM parent.id AS passed_on,
              CASE WHEN child.stands_for = parent.id THEN parent.state
                   WHEN child.on_parent_failure = 'cancel' THEN 'cancelled'
                   WHEN child.on_parent_failure = 'fail' THEN 'failed'
                   WHEN child.waiting_on > child.parents THEN 'waiting'
                   WHEN child.date_due > clock_timestamp() THEN 'scheduled'
                   ELSE 'enqueued' END AS state
 ) AS fate
 WHERE task.id = ANY (ARRAY [child.id]) AND task.state || '' = 'waiting'
RETURNING task.id, task.state, task.queue, $lane, task.has_children, task.awaited
""",
    lane=LANE,
)


@dataclass(slots=True)
class Released:
    """What ended parents set free: how many may run now and in which lanes, and who was awaited."""

    tasks: int = 0
    lanes: set[tuple[str, int]] = field(default_factory=set)
    awaited: list[UUID] = field(default_factory=list)

    def add(self, more: Released) -> None:
        """Take in what others set free."""
        self.tasks += more.tasks
        self.lanes |= more.lanes
        self.awaited += more.awaited


async def settle(
    connection: Connection,
    tables: Tables,
    parents: Sequence[UUID],
    *,
    standing: Sequence[UUID] = (),
) -> Released:
    """Count down the children of parents that are `done` now; the last parent lets a child go.

    A task that had returned one of them is done now, too, and with it what waits for that one.
    `standing` are such tasks whose other has been done before. Once for each parent.
    """
    released = Released()
    done, ended = list(parents), list(standing)
    while done or ended:
        if done:
            for row in await connection.fetch(SETTLE[tables], done):
                if row["state"] == "waiting":
                    continue  # for a further parent
                if row["stands_for"] is not None:
                    ended.append(row["id"])
                elif row["state"] == "enqueued":
                    released.tasks += 1
                    released.lanes.add((row["queue"], row["priority"]))
        done = []
        if ended:
            for row in await connection.fetch(PASS_ON[tables], ended):
                if row["awaited"]:
                    released.awaited.append(row["id"])
                if row["has_children"]:
                    done.append(row["id"])
        ended = []
    return released


async def doom(connection: Connection, tables: Tables, parents: Sequence[UUID]) -> Released:
    """End the waiting descendants of parents that failed or were cancelled for good.

    Each child follows its `on_parent_failure`: `cancel` and `fail` end it (and then its own
    children meet the same), `run` counts the parent as settled. A task that had returned one of
    them ends as that did. One statement per generation.
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
