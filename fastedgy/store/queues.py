"""Queues with settings of their own: paused, or limited in how many run at once and start a second.

Most queues have no row here. Workers know the rows by heart, and are told on the control channel
when one has changed.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime

from asyncpg import Connection, Record

from fastedgy.models.tables import Tables
from fastedgy.store.notify import SILENT, Channels
from fastedgy.store.statements import Statement

CHANGED = "queues"
"""What is said on the control channel: the settings of a queue are others now."""

PAUSE = Statement("""
INSERT INTO $queues (name, paused, changed_by) VALUES ($1, $2, $3)
    ON CONFLICT (name) DO UPDATE
   SET paused = excluded.paused, changed_by = excluded.changed_by,
       date_changed = clock_timestamp()
""")

SET_LIMITS = Statement("""
INSERT INTO $queues (name, max_running, rate, changed_by) VALUES ($1, $2, $3, $4)
    ON CONFLICT (name) DO UPDATE
   SET max_running = excluded.max_running, rate = excluded.rate, next_at = NULL,
       changed_by = excluded.changed_by, date_changed = clock_timestamp()
""")

RULES = Statement("""
SELECT name, paused, (max_running IS NOT NULL OR rate IS NOT NULL) AS limited FROM $queues
 WHERE paused OR max_running IS NOT NULL OR rate IS NOT NULL
""")

COUNTED = Statement("""
SELECT queue.*, (SELECT count(*) FROM $tasks
                  WHERE state = 'doing' AND queue = queue.name)::integer AS running
  FROM $queues AS queue
 WHERE $1::text[] IS NULL OR queue.name = ANY ($1::text[])
 ORDER BY queue.name
""")

SPEND = Statement("""
UPDATE $queues AS queue SET next_at = spent.next_at
  FROM unnest($1::text[], $2::timestamptz[]) AS spent (name, next_at)
 WHERE queue.name = spent.name
""")


@dataclass(frozen=True, slots=True)
class QueueSettings:
    """What was said of a queue. `rate`: starts a second. `running`: its tasks that run now.

    `next_at`: when the next start is due under the rate. `changed_by`: who said it last.
    """

    name: str
    paused: bool
    max_running: int | None
    rate: float | None
    next_at: datetime | None
    running: int
    date_changed: datetime
    changed_by: str | None


@dataclass(frozen=True, slots=True)
class Rules:
    """What workers have to know of queues: which are paused, and where to count before a claim."""

    paused: frozenset[str] = frozenset()
    limited: frozenset[str] = frozenset()


async def pause(
    connection: Connection, tables: Tables, name: str, *, actor: str, channels: Channels = SILENT
) -> None:
    """Start no more tasks of a queue, on all workers, until `resume`. What runs goes on.

    Workers that hear notifications obey at once, others when they next look at the table.
    """
    await _change(connection, PAUSE[tables], name, True, actor, channels=channels)


async def resume(
    connection: Connection, tables: Tables, name: str, *, actor: str, channels: Channels = SILENT
) -> None:
    """Let the tasks of a paused queue start again."""
    await _change(connection, PAUSE[tables], name, False, actor, channels=channels)


async def set_limits(
    connection: Connection,
    tables: Tables,
    name: str,
    *,
    max_running: int | None,
    rate: float | None,
    actor: str,
    channels: Channels = SILENT,
) -> None:
    """Say how many tasks of a queue may run at once on all workers, and start in a second.

    None: as many as there are slots. Tasks that run already go on.
    """
    await _change(connection, SET_LIMITS[tables], name, max_running, rate, actor, channels=channels)


async def _change(
    connection: Connection, statement: str, *values: object, channels: Channels
) -> None:
    async with connection.transaction():
        await connection.execute(statement, *values)
        if channels.control is not None:
            await connection.execute("SELECT pg_notify($1, $2)", channels.control, CHANGED)


async def list_queues(connection: Connection, tables: Tables) -> list[QueueSettings]:
    """The queues that have settings, by name."""
    return [_settings(row) for row in await connection.fetch(COUNTED[tables], None)]


async def read_rules(connection: Connection, tables: Tables) -> Rules:
    """What workers have to know."""
    rows = await connection.fetch(RULES[tables])
    return Rules(
        frozenset(row["name"] for row in rows if row["paused"]),
        frozenset(row["name"] for row in rows if row["limited"]),
    )


async def count_running(
    connection: Connection, tables: Tables, names: Collection[str]
) -> dict[str, QueueSettings]:
    """The settings of these queues and how many of their tasks run. For claims, under their lock.

    It walks over all tasks that run.
    """
    rows = await connection.fetch(COUNTED[tables], list(names))
    return {row["name"]: _settings(row) for row in rows}


async def spend(connection: Connection, tables: Tables, next_at: Mapping[str, datetime]) -> None:
    """Note when the next start of each queue is due."""
    await connection.execute(SPEND[tables], list(next_at), list(next_at.values()))


def _settings(row: Record) -> QueueSettings:
    return QueueSettings(**row)
