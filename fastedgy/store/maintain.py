"""Chores that any worker may do at any time: promote what is due, prune what is old.

Rows that somebody else is at work on are skipped, so two workers at once share the work.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from asyncpg import Connection

from fastedgy.config import QueuedTaskConfig
from fastedgy.models.tables import Tables
from fastedgy.store.conditions import DUE
from fastedgy.store.notify import BYTES_PER_PAYLOAD, LANES_PER_PAYLOAD
from fastedgy.store.statements import BELONGINGS, LANE, UNHELD, Statement

PROMOTE = Statement(f"""
WITH moved AS (
    UPDATE $tasks AS task SET state = 'enqueued', date_enqueued = clock_timestamp()
     WHERE id = ANY (ARRAY (
           SELECT id FROM $tasks
            WHERE {DUE}
            ORDER BY date_due
            LIMIT $1
              FOR UPDATE SKIP LOCKED))
 RETURNING queue, {LANE}
), lane AS (
    SELECT queue, priority, count(*) AS tasks FROM moved GROUP BY queue, priority
), named AS (
    SELECT jsonb_agg(jsonb_build_array(queue, priority)) AS lanes, count(*) AS number FROM lane
), told AS MATERIALIZED (
    SELECT pg_notify($2::text, jsonb_build_object(
               'lanes', CASE WHEN number > {LANES_PER_PAYLOAD}
                               OR octet_length(lanes::text) > {BYTES_PER_PAYLOAD}
                             THEN '[]' ELSE lanes END)::text)
      FROM named WHERE $2::text IS NOT NULL AND number > 0
)
SELECT coalesce((SELECT sum(tasks) FROM lane), 0)::integer AS moved,
       ARRAY (SELECT queue FROM lane ORDER BY queue, priority) AS queues,
       ARRAY (SELECT priority FROM lane ORDER BY queue, priority) AS priorities,
       (SELECT extract(epoch FROM date_due - statement_timestamp())::float8 FROM $tasks
         WHERE state = 'scheduled' AND date_due > statement_timestamp()
         ORDER BY date_due LIMIT 1) AS next_due,
       (SELECT count(*) FROM told) AS told
""")

# Children that have not ended may still read its result.
NOT_NEEDED = """NOT (task.has_children AND EXISTS (
               SELECT FROM $links AS link JOIN $tasks AS child ON child.id = link.child_id
                WHERE link.parent_id = task.id
                  AND (child.takes_results OR child.stands_for = task.id)
                  AND child.state NOT IN ('done', 'failed', 'cancelled')))"""

# Ids are ordered by the time at which their tasks were made, so old tasks are found by the primary
# key, without an index on the end of each.
OLD = f"""
    SELECT $columns FROM $tasks AS task
     WHERE id > $1 AND id < $2
       AND state = ANY ($3::text[])
       AND date_ended < statement_timestamp() - $4 * interval '1 second'
       AND {NOT_NEEDED}
     ORDER BY id
     LIMIT $5
       FOR UPDATE SKIP LOCKED
"""

DELETED = f"""gone AS (
    DELETE FROM $tasks WHERE id = ANY (ARRAY (SELECT id FROM old))
 RETURNING id, state, unique_key
), forgotten AS (
    DELETE FROM $links AS link USING gone WHERE link.parent_id = gone.id
), {BELONGINGS}, {UNHELD}"""

PRUNE = Statement(
    f"""
WITH old AS ({OLD}
), {DELETED}
SELECT count(*)::integer AS pruned, max(id::text) AS last FROM gone
""",
    columns="id",
)

ENDED = ("done", "failed", "cancelled")
FIRST_ID = UUID(int=0)
DAY = 86_400.0


def retention(config: QueuedTaskConfig) -> list[tuple[tuple[str, ...], float]]:
    """For how many seconds tasks are kept, by the states in which they ended."""
    kept = config.retention_days * DAY
    if config.retention_failed_days is None:
        return [(ENDED, kept)]
    return [(("done",), kept), (("failed", "cancelled"), config.retention_failed_days * DAY)]


@dataclass(frozen=True, slots=True)
class Promoted:
    """How many tasks became due, in which lanes, and in how many seconds the next one will."""

    moved: int
    lanes: set[tuple[str, int]]
    next_due: float | None


async def promote(
    connection: Connection, tables: Tables, *, limit: int, channel: str | None
) -> Promoted:
    """Put up to `limit` scheduled tasks whose time has come into the line, oldest first."""
    row = await connection.fetchrow(PROMOTE[tables], limit, channel)
    lanes = set(zip(row["queues"], row["priorities"], strict=True))
    return Promoted(row["moved"], lanes, row["next_due"])


async def prune(
    connection: Connection,
    tables: Tables,
    *,
    older_than: float,
    limit: int = 1_000,
    after: UUID = FIRST_ID,
    states: Sequence[str] = ENDED,
) -> tuple[int, UUID]:
    """Delete up to `limit` tasks that ended more than `older_than` seconds ago, with their logs.

    Returns how many, and the id to go on `after`. Locks only what it deletes, for one statement.
    """
    row = await connection.fetchrow(
        PRUNE[tables], after, id_at(time.time() - older_than), list(states), older_than, limit
    )
    return row["pruned"], UUID(row["last"]) if row["last"] else after


def id_at(seconds: float) -> UUID:
    """An id later than all that were made until `seconds` (Unix time), give or take a minute.

    The producers' clocks made the ids; what is too young by the database's clock is kept by the
    other condition.
    """
    stamp = max(0, int((seconds + 60) * 1000))
    return UUID(int=(stamp << 80) | secrets.randbits(62))
