"""Asking workers to drain: they take no more tasks, end what they run, and then end themselves.

What is asked stands in their rows, which they read with each heartbeat; a notification only makes
them look at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from asyncpg import Connection

from fastedgy.models.tables import Tables
from fastedgy.store.notify import IDS_PER_PAYLOAD, SILENT, Channels
from fastedgy.store.statements import Statement

TOLD = "drain "
"""What stands before the ids of workers on the control channel."""

# What was asked of a whole supervisor is not taken back by what is asked of one of its workers.
ASK = Statement("""
UPDATE $workers
   SET drain = CASE WHEN supervisor_id = ANY ($2::uuid[]) OR drain = 'supervisor' THEN 'supervisor'
                    ELSE 'worker' END,
       drain_by = $3
 WHERE (id = ANY ($1::uuid[]) OR supervisor_id = ANY ($2::uuid[]))
   AND state IN ('running', 'draining') AND concurrency > 0
RETURNING id
""")


async def ask(
    connection: Connection,
    tables: Tables,
    *,
    workers: Sequence[UUID],
    supervisors: Sequence[UUID],
    actor: str,
    channels: Channels = SILENT,
) -> list[UUID]:
    """Have these workers drain, and these supervisors with all their workers; who was asked.

    Web processes take no tasks, and are left alone.
    """
    rows = await connection.fetch(ASK[tables], list(workers), list(supervisors), actor)
    ids = [row["id"] for row in rows]
    if channels.control is not None:
        for start in range(0, len(ids), IDS_PER_PAYLOAD):
            told = TOLD + ",".join(str(id) for id in ids[start : start + IDS_PER_PAYLOAD])
            await connection.execute("SELECT pg_notify($1, $2)", channels.control, told)
    return ids
