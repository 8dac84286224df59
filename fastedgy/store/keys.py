"""Idempotency keys: which effects have happened already, and what they returned.

A key is held by the run that makes the effect. It is free again when that run failed, or is not
under way any more (its claim is gone) without having noted a result.
"""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from asyncpg import Connection

from fastedgy.models.tables import Tables
from fastedgy.store.statements import Statement

# A younger holder's claim may not be in this statement's snapshot, so for a second it counts as
# held whatever the snapshot says. Who asks once more, since the answer was lost, has it already.
TAKE = Statement("""
WITH claim AS (
    SELECT id FROM $tasks AS task
     WHERE task.id = ANY (ARRAY [$2::uuid]) AND task.run = $3 AND task.state || '' = 'doing'
       FOR SHARE
)
INSERT INTO $keys AS held (kind, key, task_id, run, state, date_expires)
SELECT 'idempotent', $1, claim.id, $3, 'doing', clock_timestamp() + $4 * interval '1 second'
  FROM claim
ON CONFLICT (kind, key) DO UPDATE
   SET task_id = excluded.task_id, run = excluded.run, state = 'doing', result = NULL,
       date_created = clock_timestamp(), date_expires = excluded.date_expires
 WHERE held.date_expires <= clock_timestamp()
    OR (held.state = 'doing' AND held.task_id = excluded.task_id AND held.run = excluded.run)
    OR (held.state = 'doing'
        AND held.date_created < statement_timestamp() - interval '1 second'
        AND NOT EXISTS (
            SELECT FROM $tasks AS task
             WHERE task.id = held.task_id AND task.run = held.run AND task.state || '' = 'doing'))
RETURNING key
""")

READ = Statement("""
SELECT state, result, EXISTS (
           SELECT FROM $tasks AS task
            WHERE task.id = $2 AND task.run = $3 AND task.state || '' = 'doing') AS claimed
  FROM (SELECT) AS one LEFT JOIN $keys ON kind = 'idempotent' AND key = $1
""")

FILL = Statement("""
UPDATE $keys
   SET state = 'done', result = $4::jsonb,
       date_expires = clock_timestamp() + $5 * interval '1 second'
 WHERE kind = 'idempotent' AND key = $1 AND task_id = $2 AND run = $3
""")

FREE = Statement("""
DELETE FROM $keys
 WHERE kind = 'idempotent' AND key = $1 AND task_id = $2 AND run = $3 AND state = 'doing'
""")

PRUNE = Statement("""
DELETE FROM $keys AS old
 USING (SELECT kind, key FROM $keys WHERE date_expires < statement_timestamp()
         ORDER BY date_expires LIMIT $1 FOR UPDATE SKIP LOCKED) AS expired
 WHERE old.kind = expired.kind AND old.key = expired.key
""")


@dataclass(frozen=True, slots=True)
class Held:
    """A key as it was found: `state` None when nobody has it, `doing` or `done`.

    `result` is JSON; None in a key that is done: what was returned could not be stored. `claimed`
    says whether the run that asks still holds its task.
    """

    state: str | None
    result: str | None
    claimed: bool


async def take(
    connection: Connection, tables: Tables, key: str, *, task_id: UUID, run: int, keep: float
) -> bool:
    """Hold a key for this run, to be kept for `keep` seconds. False: somebody has it, or had it.

    May be repeated: a run does not keep itself out.
    """
    row = await connection.fetchrow(TAKE[tables], key, task_id, run, keep)
    return row is not None


async def read(
    connection: Connection, tables: Tables, key: str, *, task_id: UUID, run: int
) -> Held:
    """Who has the key."""
    return Held(*await connection.fetchrow(READ[tables], key, task_id, run))


async def fill(
    connection: Connection, tables: Tables, key: str, *, task_id: UUID, run: int,
    result: str | None, keep: float,
) -> bool:  # fmt: skip
    """Note the result of a key that this run holds. False: it does not hold it any more."""
    status = await connection.execute(FILL[tables], key, task_id, run, result, keep)
    return bool(status == "UPDATE 1")


async def free(
    connection: Connection, tables: Tables, key: str, *, task_id: UUID, run: int
) -> None:
    """Let go of a key: the effect failed, and may be tried again."""
    await connection.execute(FREE[tables], key, task_id, run)


async def prune_keys(connection: Connection, tables: Tables, *, limit: int = 1_000) -> int:
    """Delete up to `limit` keys of every kind whose time is over."""
    status = await connection.execute(PRUNE[tables], limit)
    return int(status.rpartition(" ")[2])
