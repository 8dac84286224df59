"""Tasks of workers that are gone: taken back, and handed back by themselves.

A task is taken back because its worker is gone, and never because it takes long.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

from asyncpg import Connection

from fastedgy.models.tables import Tables
from fastedgy.store.family import doom
from fastedgy.store.notify import SILENT, Channels, Free, ring, tell, tell_free
from fastedgy.store.queues import read_rules
from fastedgy.store.statements import HISTORY, LANE, Statement

# The lease is judged, and the judge's own licence to do so expires, by the database's clock: a
# statement that was held up on its way does nothing when it arrives late (DECISIONS R3).
STALE = Statement("""
SELECT id FROM $workers
 WHERE state IN ('running', 'draining')
   AND last_heartbeat < statement_timestamp() - $1 * interval '1 second'
""")

MARK_LOST = Statement("""
UPDATE $workers
   SET state = 'lost', date_ended = clock_timestamp(), busy = 0, exit_reason = $2
 WHERE id = $1 AND state IN ('running', 'draining')
   AND ($3::float8 IS NULL
        OR last_heartbeat < clock_timestamp() - $3::float8 * interval '1 second')
   AND ($4::timestamptz IS NULL OR clock_timestamp() < $4::timestamptz)
RETURNING id
""")

TAKE_BACK = Statement(
    """
UPDATE $tasks AS task
   SET state = final.state,
       run = least(task.run, 2147483646) + 1,
       attempt = task.attempt - 1,
       losses = task.losses + final.lost,
       alone = final.alone,
       date_enqueued = CASE WHEN final.state = 'enqueued' THEN clock_timestamp()
                            ELSE task.date_enqueued END,
       date_ended = CASE WHEN final.state <> 'enqueued' THEN clock_timestamp() END,
       error_type = CASE WHEN final.state = 'cancelled' THEN 'TaskCancelled'
                         WHEN final.lost = 1 THEN 'WorkerLost' END,
       error_message = CASE WHEN final.state = 'cancelled'
                            THEN coalesce(task.error_message, 'Cancelled on request.')
                            WHEN final.lost = 1 THEN $2::text END,
       history = ($history)
                 || jsonb_build_object(
                      'run', task.run, 'attempt', task.attempt,
                      'what', CASE WHEN final.lost = 1 THEN 'lost' ELSE 'interrupted' END,
                      'worker_id', task.worker_id, 'started', task.date_started,
                      'ended', clock_timestamp(),
                      'error_message', CASE WHEN final.lost = 1 THEN $2::text END)
  FROM (
       SELECT id,
              started::integer AS lost,
              CASE WHEN cancel_requested THEN 'cancelled'
                   WHEN started AND losses + 1 >= $4::integer THEN 'failed'
                   ELSE 'enqueued' END AS state,
              alone OR (started AND ($5::boolean OR losses > 0)) AS alone
         FROM (SELECT id, losses, alone, cancel_requested,
                      ($3::uuid[] IS NULL OR id = ANY ($3::uuid[])) AS started
                 FROM $tasks
                WHERE worker_id = $1 AND state = 'doing' AND NOT id = ANY ($6::uuid[])
                  AND ($7::timestamptz IS NULL OR clock_timestamp() < $7::timestamptz)
                ORDER BY id
                  FOR NO KEY UPDATE) AS held
       ) AS final
 WHERE task.id = ANY (ARRAY [final.id])
RETURNING task.id, task.state, task.queue, $lane, task.alone, task.has_children,
          task.awaited, final.lost, task.gate
""",
    lane=LANE,
    history=HISTORY,
)

# Owners of running tasks that have no living worker row: forged, restored from a backup, or left
# by a worker that could not hand them back. Jumps from owner to owner.
ORPHANS = Statement("""
WITH RECURSIVE owner AS (
    (SELECT worker_id AS id FROM $tasks WHERE state = 'doing' ORDER BY worker_id LIMIT 1)
    UNION ALL
    SELECT (SELECT worker_id FROM $tasks
             WHERE state = 'doing' AND worker_id > owner.id ORDER BY worker_id LIMIT 1)
      FROM owner WHERE owner.id IS NOT NULL
)
SELECT owner.id FROM owner
 WHERE owner.id IS NOT NULL
   AND NOT EXISTS (SELECT FROM $workers AS worker
                    WHERE worker.id = owner.id AND worker.state IN ('running', 'draining'))
""")


@dataclass(slots=True)
class TakenBack:
    """What was taken from a worker: how many go back to the line, failed, or were cancelled."""

    enqueued: int = 0
    failed: int = 0
    cancelled: int = 0
    alone: int = 0
    lanes: set[tuple[str, int]] = field(default_factory=set)

    @property
    def total(self) -> int:
        return self.enqueued + self.failed + self.cancelled


async def hand_back(
    connection: Connection,
    tables: Tables,
    *,
    worker_id: UUID,
    known: Collection[UUID] = (),
    within: float | None = None,
    channels: Channels = SILENT,
) -> TakenBack:
    """Give back what names this worker as its owner and is not `known` to it (DECISIONS R2).

    For claims whose answer was lost on its way, and for what is left at the end. Costs the tasks
    nothing. `within`: seconds after which `known` may be out of date; held up on its way for
    longer, it does nothing.
    """
    expiry = None if within is None else await _expiry(connection, within)
    return await _take_back(
        connection, tables, worker_id, "", [], max_losses=1, alone=False, known=known,
        expiry=expiry, channels=channels,
    )  # fmt: skip


async def report_lost(
    connection: Connection,
    tables: Tables,
    *,
    worker_id: UUID,
    exit_reason: str,
    started: Sequence[UUID],
    max_losses: int,
    channels: Channels = SILENT,
) -> TakenBack:
    """Take back the tasks of a worker whose process is known to be dead.

    `started` are the tasks that were running in it: one of them may have killed it, so each has
    lost a process and runs alone next time. Its other claims lose nothing. May be repeated.
    """
    message = f"Its worker process died ({exit_reason})."
    async with connection.transaction():
        await connection.fetchrow(MARK_LOST[tables], worker_id, exit_reason, None, None)
        return await _take_back(
            connection, tables, worker_id, message, started, max_losses=max_losses, alone=True,
            channels=channels,
        )  # fmt: skip


async def rescue(
    connection: Connection,
    tables: Tables,
    *,
    lease: float,
    licence: float,
    max_losses: int,
    channels: Channels = SILENT,
) -> dict[UUID, TakenBack]:
    """Take back the tasks of workers whose heartbeat is older than `lease` seconds.

    The caller must have beaten without interruption for a lease itself, or it would take an outage
    of the database for the death of everybody. `licence`: seconds for which that judgement holds.
    """
    rescued: dict[UUID, TakenBack] = {}
    expiry = await _expiry(connection, licence)
    for row in await connection.fetch(STALE[tables], lease):
        async with connection.transaction():
            reason = "no heartbeat for a lease"
            lost = await connection.fetchrow(MARK_LOST[tables], row["id"], reason, lease, expiry)
            if lost is not None:
                rescued[row["id"]] = await _take_back(
                    connection, tables, row["id"], "Its worker was lost.", None,
                    max_losses=max_losses, alone=False, channels=channels,
                )  # fmt: skip
    return rescued


async def rescue_orphans(
    connection: Connection, tables: Tables, *, max_losses: int, channels: Channels = SILENT
) -> dict[UUID, TakenBack]:
    """Take back running tasks whose owner has no living row."""
    rescued: dict[UUID, TakenBack] = {}
    for row in await connection.fetch(ORPHANS[tables]):
        async with connection.transaction():
            rescued[row["id"]] = await _take_back(
                connection, tables, row["id"], "Its worker was lost.", None,
                max_losses=max_losses, alone=False, channels=channels,
            )  # fmt: skip
    return rescued


async def _expiry(connection: Connection, seconds: float) -> datetime:
    """The time of the database's clock at which a judgement made now is void."""
    expiry: datetime = await connection.fetchval(
        "SELECT clock_timestamp() + $1 * interval '1 second'", seconds
    )
    return expiry


async def _take_back(
    connection: Connection,
    tables: Tables,
    worker_id: UUID,
    message: str,
    started: Sequence[UUID] | None,
    *,
    max_losses: int,
    alone: bool,
    known: Collection[UUID] = (),
    expiry: datetime | None = None,
    channels: Channels,
) -> TakenBack:
    rows = await connection.fetch(
        TAKE_BACK[tables], worker_id, message, None if started is None else list(started),
        max_losses, alone, list(known), expiry,
    )  # fmt: skip
    taken = TakenBack()
    for row in rows:
        if row["state"] == "enqueued":
            taken.enqueued += 1
            taken.alone += row["alone"]
            taken.lanes.add((row["queue"], row["priority"]))
        elif row["state"] == "failed":
            taken.failed += 1
        else:
            taken.cancelled += 1
    ended = [row for row in rows if row["state"] != "enqueued"]
    awaited = [row["id"] for row in ended if row["awaited"]]
    dead = [row["id"] for row in ended if row["has_children"]]
    if dead:
        released = await doom(connection, tables, dead)
        taken.lanes |= released.lanes
        awaited += released.awaited
    await tell(connection, channels.done, awaited)
    await ring(connection, channels.tasks, taken.lanes)
    if rows and channels.control is not None:
        limited = (await read_rules(connection, tables)).limited
        free = Free(
            {row["gate"] for row in rows if row["gate"] is not None},
            {row["queue"] for row in rows} & limited,
        )
        await tell_free(connection, channels.control, free)
    return taken
