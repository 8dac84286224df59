"""Gates: how many tasks of one key may run at once, how many may start in a second, and whether at
all.

A task with a limit, a rate or a breaker stands in the line of its gate. Whoever claims there counts
first what runs, so claims take turns, under a lock: two that count at once would both see the last
free place. The count is that of the rows in `doing`: nothing is kept beside them that a crash could
leave wrong. The lock is one statement and the count another, as a statement sees what was committed
before it began.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from asyncpg import Connection, LockNotAvailableError, Record

from fastedgy.models.tables import Tables
from fastedgy.store.breakers import NO_PROBE, REST_IS_OVER
from fastedgy.store.claim import TAKE
from fastedgy.store.conditions import GATED, SUSPECT
from fastedgy.store.statements import Statement


class GateLane(NamedTuple):
    """One priority of one gate in one queue: the tasks that are told apart by their age only."""

    queue: str
    gate: str
    priority: int


@dataclass(frozen=True, slots=True)
class Head:
    """The first task of a lane, and how things stand at its gate.

    `own_limit` is what the task says, `limit` what counts (an operator may have said otherwise).
    `rate`: starts a second. `next_at`: when the next start is due under it. `running`: tasks of
    the gate that run, counted up to the limit.
    """

    id: UUID
    lane: GateLane
    own_limit: int | None
    limit: int | None
    rate: float | None
    next_at: datetime | None
    breaker: str | None
    running: int


# One round trip. Not waited for longer than a claim takes: who does not get it has other tasks to
# claim. Should the holder freeze, the server ends its session after a second, and others come by.
LOCK = Statement("""
BEGIN;
SET LOCAL idle_in_transaction_session_timeout = 1000;
SET LOCAL lock_timeout = 5;
SELECT pg_advisory_xact_lock(hashtextextended('$gates', 0));
SET LOCAL lock_timeout = 0
""")

AT_THE_GATE = """
       coalesce(gate.max_running, head.gate_limit) AS most,
       coalesce(gate.rate, head.gate_rate) AS rate, gate.next_at, taken.running
"""
COUNTED_THERE = """
  LEFT JOIN $gates AS gate ON gate.key = head.gate
 CROSS JOIN LATERAL (
       SELECT count(*)::integer AS running
         FROM (SELECT FROM $tasks AS busy
                WHERE busy.state = 'doing' AND busy.gate IS NOT NULL AND busy.gate = head.gate
                LIMIT greatest(0, coalesce(gate.max_running, head.gate_limit))) AS counted
 ) AS taken
"""

HEADS = Statement(f"""
SELECT head.*, {AT_THE_GATE}
  FROM unnest($1::text[], $2::text[], $3::integer[], $4::timestamptz[])
       AS lane (queue, gate, priority, low)
 CROSS JOIN LATERAL (
       SELECT id, queue, gate, priority, gate_limit, gate_rate, breaker FROM $tasks
        WHERE {GATED} AND queue = lane.queue AND gate = lane.gate AND priority = lane.priority
          AND date_enqueued >= lane.low
        ORDER BY date_enqueued
        LIMIT 1
 ) AS head
{COUNTED_THERE}
""")

SUSPECTS = Statement(f"""
SELECT head.*, {AT_THE_GATE}
  FROM (SELECT id, queue, coalesce(gate, '') AS gate, priority, gate_limit, gate_rate, breaker
          FROM $tasks
         WHERE {SUSPECT}
           AND (gate IS NOT NULL OR queue = ANY ($3::text[]))
           AND (cardinality($1::text[]) = 0 OR queue = ANY ($1::text[]))
           AND queue <> ALL ($2::text[])
         ORDER BY date_enqueued
         LIMIT 20) AS head
{COUNTED_THERE}
""")

# A task is claimed under its own limit and breaker: one that says otherwise than the head waits
# until it is the head.
CLAIM_GATED = Statement(
    TAKE,
    picked=f"""
    SELECT ready.id
      FROM unnest($2::text[], $3::text[], $4::integer[], $5::timestamptz[], $6::integer[],
                  $7::text[], $8::integer[])
           AS lane (queue, gate, priority, low, gate_limit, breaker, share)
     CROSS JOIN LATERAL (
           SELECT id FROM $tasks
            WHERE {GATED} AND queue = lane.queue AND gate = lane.gate AND priority = lane.priority
              AND date_enqueued >= lane.low
              AND gate_limit IS NOT DISTINCT FROM lane.gate_limit
              AND breaker IS NOT DISTINCT FROM lane.breaker
            ORDER BY date_enqueued
            LIMIT lane.share
              FOR UPDATE SKIP LOCKED
     ) AS ready
    """,
)

# Counted and claimed in one, for gates that were far from full when they were last counted and have
# nothing but a limit. A gate may be named once.
CLAIM_FREELY = Statement(
    TAKE,
    picked=f"""
    SELECT ready.id
      FROM unnest($2::text[], $3::text[], $4::integer[], $5::timestamptz[], $6::integer[])
           AS head (queue, gate, priority, low, gate_limit)
    {COUNTED_THERE}
     CROSS JOIN LATERAL (
           SELECT id FROM $tasks
            WHERE {GATED} AND queue = head.queue AND gate = head.gate AND priority = head.priority
              AND date_enqueued >= head.low
              AND gate_limit = head.gate_limit AND gate_rate IS NULL AND breaker IS NULL
            ORDER BY date_enqueued
            LIMIT least($7::integer,
                        greatest(0, coalesce(gate.max_running, head.gate_limit) - taken.running))
              FOR UPDATE SKIP LOCKED
     ) AS ready
     WHERE gate.rate IS NULL
    """,
)

CLAIM_SUSPECT = Statement(
    TAKE,
    picked=f"SELECT id FROM $tasks WHERE id = $2 AND {SUSPECT} FOR UPDATE SKIP LOCKED",
)

# A walk over the index that visits the first entry of each lane and jumps to the next, from a gate
# on.
FIND_LANES = Statement(f"""
WITH RECURSIVE lane AS (
    (SELECT queue, gate, priority, date_enqueued, 1 AS number FROM $tasks
      WHERE {GATED} AND (queue, gate) > ($1::text, $2::text)
      ORDER BY queue, gate, priority DESC, date_enqueued LIMIT 1)
    UNION ALL
    SELECT next.queue, next.gate, next.priority, next.date_enqueued, lane.number + 1
      FROM lane CROSS JOIN LATERAL (
           (SELECT queue, gate, priority, date_enqueued FROM $tasks
             WHERE {GATED} AND queue = lane.queue AND gate = lane.gate AND priority < lane.priority
             ORDER BY queue, gate, priority DESC, date_enqueued LIMIT 1)
           UNION ALL
           (SELECT queue, gate, priority, date_enqueued FROM $tasks
             WHERE {GATED} AND (queue, gate) > (lane.queue, lane.gate)
             ORDER BY queue, gate, priority DESC, date_enqueued LIMIT 1)
           LIMIT 1
      ) AS next
     WHERE lane.number < $3::integer
)
SELECT queue, gate, priority, date_enqueued FROM lane
""")

# Who is let through becomes the probe where it runs, see `fastedgy.store.breakers`.
BREAKERS = Statement(f"""
SELECT breaker.name,
       CASE WHEN breaker.state = 'open' THEN {REST_IS_OVER} ELSE {NO_PROBE} END AS lets_one_through
  FROM $breakers AS breaker
 WHERE breaker.name = ANY ($1::text[]) AND breaker.state <> 'closed'
""")

SPEND = Statement("""
INSERT INTO $gates (key, next_at)
SELECT key, next_at FROM unnest($1::text[], $2::timestamptz[]) AS spent (key, next_at)
    ON CONFLICT (key) DO UPDATE SET next_at = excluded.next_at
""")

SET_LIMITS = Statement("""
INSERT INTO $gates (key, max_running, rate) VALUES ($1, $2, $3)
    ON CONFLICT (key) DO UPDATE
   SET max_running = excluded.max_running, rate = excluded.rate, date_changed = clock_timestamp()
""")

# What only a rate has left here, long after it could matter.
FORGET = Statement("""
DELETE FROM $gates
 WHERE max_running IS NULL AND rate IS NULL
   AND coalesce(next_at, date_changed) < statement_timestamp() - interval '1 hour'
""")

CLOCK = "SELECT clock_timestamp()"


@asynccontextmanager
async def counting(connection: Connection, tables: Tables) -> AsyncIterator[bool]:
    """A transaction in which to count and claim, as the only one. False: somebody else does."""
    try:
        await connection.execute(LOCK[tables])
    except LockNotAvailableError:
        await connection.execute("ROLLBACK")
        yield False
        return
    try:
        yield True
    except Exception:
        if not connection.is_closed():
            await connection.execute("ROLLBACK")
        raise
    await connection.execute("COMMIT")


async def heads(
    connection: Connection, tables: Tables, lanes: Sequence[tuple[GateLane, datetime]]
) -> list[Head]:
    """The first tasks of those lanes that have any, from their bounds on."""
    rows = await connection.fetch(
        HEADS[tables],
        [lane.queue for lane, _ in lanes],
        [lane.gate for lane, _ in lanes],
        [lane.priority for lane, _ in lanes],
        [low for _, low in lanes],
    )
    return [head_of(row) for row in rows]


async def suspects(
    connection: Connection, tables: Tables, *, queues: Sequence[str], paused: Collection[str],
    limited: Collection[str],
) -> list[Head]:  # fmt: skip
    """The oldest tasks with a gate, or in a limited queue, that are to run alone (at most 20).

    Each is the head of a lane of its own. Without a gate, the gate has no name and no limit.
    """
    rows = await connection.fetch(SUSPECTS[tables], list(queues), list(paused), list(limited))
    return [head_of(row) for row in rows]


def head_of(row: Record) -> Head:
    lane = GateLane(row["queue"], row["gate"], row["priority"])
    return Head(row["id"], lane, row["gate_limit"], row["most"], row["rate"], row["next_at"],
                row["breaker"], row["running"])  # fmt: skip


async def claim_gated(
    connection: Connection,
    tables: Tables,
    *,
    worker_id: UUID,
    shares: Sequence[tuple[Head, datetime, int]],
) -> list[Record]:
    """Take so many tasks of each head's lane, from its bound on. Under the lock."""
    rows: list[Record] = await connection.fetch(
        CLAIM_GATED[tables],
        worker_id,
        [head.lane.queue for head, _, _ in shares],
        [head.lane.gate for head, _, _ in shares],
        [head.lane.priority for head, _, _ in shares],
        [low for _, low, _ in shares],
        [head.own_limit for head, _, _ in shares],
        [head.breaker for head, _, _ in shares],
        [share for _, _, share in shares],
    )
    return rows


async def claim_freely(
    connection: Connection,
    tables: Tables,
    *,
    worker_id: UUID,
    lanes: Sequence[tuple[GateLane, datetime, int]],
    share: int,
) -> list[Record]:
    """Take up to `share` tasks of each lane, as far as its limit (the last of the three) allows.

    One lane of each gate, without rate and breaker; what has them is left in the line.
    """
    rows: list[Record] = await connection.fetch(
        CLAIM_FREELY[tables],
        worker_id,
        [lane.queue for lane, _, _ in lanes],
        [lane.gate for lane, _, _ in lanes],
        [lane.priority for lane, _, _ in lanes],
        [low for _, low, _ in lanes],
        [limit for _, _, limit in lanes],
        share,
    )
    return rows


async def claim_suspect(
    connection: Connection, tables: Tables, *, worker_id: UUID, id: UUID
) -> list[Record]:
    """Take this one task that is to run alone. Under the lock."""
    rows: list[Record] = await connection.fetch(CLAIM_SUSPECT[tables], worker_id, id)
    return rows


async def find_lanes(
    connection: Connection, tables: Tables, *, after: tuple[str, str], limit: int
) -> dict[GateLane, datetime]:
    """Up to `limit` lanes with due tasks behind a queue and gate, with the place of their first.

    It walks over the dead versions at the head of each lane: do it now and then.
    """
    rows = await connection.fetch(FIND_LANES[tables], *after, limit)
    return {
        GateLane(row["queue"], row["gate"], row["priority"]): row["date_enqueued"] for row in rows
    }


async def breakers(
    connection: Connection, tables: Tables, names: Collection[str]
) -> dict[str, bool]:
    """Those of these breakers that are not closed, and whether one task may try."""
    rows = await connection.fetch(BREAKERS[tables], list(names))
    return {row["name"]: row["lets_one_through"] for row in rows}


async def spend(connection: Connection, tables: Tables, next_at: Mapping[str, datetime]) -> None:
    """Note when the next start of each gate is due. Under the lock."""
    await connection.execute(SPEND[tables], list(next_at), list(next_at.values()))


async def clock(connection: Connection) -> datetime:
    """The time by which rates are measured: the database's."""
    now: datetime = await connection.fetchval(CLOCK)
    return now


async def set_gate_limits(
    connection: Connection, tables: Tables, key: str, *, max_running: int | None, rate: float | None
) -> None:
    """Say how many tasks of a gate may run at once, and how many may start in a second.

    It counts instead of what its tasks say; None: what they say counts. Workers see it at once.
    """
    await connection.execute(SET_LIMITS[tables], key, max_running, rate)


async def forget_gates(connection: Connection, tables: Tables) -> int:
    """Delete the rows of gates whose rate was last used more than an hour ago."""
    status = await connection.execute(FORGET[tables])
    return int(status.rpartition(" ")[2])
