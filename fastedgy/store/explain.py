"""What `explain` asks of the rows: the conditions of the claim, put to one task."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from asyncpg import Connection

from fastedgy.errors import TaskNotFound
from fastedgy.models.tables import Tables
from fastedgy.store.conditions import DUE, GATED, READY, SUSPECT
from fastedgy.store.gates import AT_THE_GATE, COUNTED_THERE, Head, head_of
from fastedgy.store.statements import Statement

MOST = 50_000
"""A place in the line is counted up to here."""

# Each condition as the statement that acts on it has it.
_FACTS = Statement(f"""
SELECT id, name, queue, priority, state, function, attempt, max_retries, losses, waiting_on,
       cancel_requested, gate, breaker, stands_for, timeout, worker_id, history,
       error_type, error_message, date_due, date_enqueued, date_started, date_ended,
       {READY} AS ready, {GATED} AS gated, {SUSPECT} AS suspect, {DUE} AS due,
       clock_timestamp() AS now
  FROM $tasks WHERE id = $1
""")

_WORKER = Statement("""
SELECT server_name, pid, state, concurrency = 0 AS is_web, exit_reason,
       extract(epoch FROM clock_timestamp() - last_heartbeat)::float8 AS silent_for
  FROM $workers WHERE id = $1
""")

_AT_ITS_GATE = Statement(f"""
SELECT head.*, {AT_THE_GATE}
  FROM (SELECT id, queue, gate, priority, gate_limit, gate_rate, breaker FROM $tasks
         WHERE id = $1 AND gate IS NOT NULL) AS head
{COUNTED_THERE}
""")


def _before(lane: str) -> Statement:
    """How many are before a task in its line: by priority, then by age, as they are claimed."""
    return Statement(f"""
SELECT (SELECT count(*) FROM (SELECT FROM $tasks WHERE {lane} AND priority > $2
                               LIMIT {MOST}) AS higher)
     + (SELECT count(*) FROM (SELECT FROM $tasks WHERE {lane} AND priority = $2
                                AND date_enqueued < $3 LIMIT {MOST}) AS older)
""")


_BEFORE_READY = _before(f"{READY} AND queue = $1")
_BEFORE_GATED = _before(f"{GATED} AND queue = $1 AND gate = $4")
_BEFORE_SUSPECT = Statement(f"""
SELECT count(*) FROM (SELECT FROM $tasks WHERE {SUSPECT} AND date_enqueued < $1
                       LIMIT {MOST}) AS older
""")

# Parents that have not ended; and links to rows that are not there.
_PARENTS = Statement("""
SELECT link.parent_id AS id, parent.name, parent.state, count(*) OVER () AS number
  FROM $links AS link LEFT JOIN $tasks AS parent ON parent.id = link.parent_id
 WHERE link.child_id = $1 AND NOT link.settled
   AND (parent.id IS NULL OR parent.state NOT IN ('done', 'failed', 'cancelled'))
 ORDER BY link.parent_id
 LIMIT $2
""")

# Up through what waits itself; of what does not wait, first what does not run either.
_ROOT = Statement("""
WITH RECURSIVE up (id, state) AS (
    SELECT $1::uuid, 'waiting'
    UNION
    SELECT parent.id, parent.state
      FROM up JOIN $links AS link ON link.child_id = up.id AND NOT link.settled
      JOIN $tasks AS parent ON parent.id = link.parent_id
     WHERE up.state = 'waiting' AND parent.state NOT IN ('done', 'failed', 'cancelled')
)
SELECT id FROM (SELECT id, state FROM up LIMIT 1000) AS near
 WHERE state <> 'waiting' ORDER BY state = 'doing', id LIMIT 1
""")

# Who holds a lock on the row, if it is one transaction: it stands in the row's header.
_LOCKER = Statement("""
SELECT session.pid, coalesce(session.application_name, '') AS application,
       coalesce(session.state, '') AS state,
       extract(epoch FROM clock_timestamp() - session.xact_start)::float8 AS seconds
  FROM $tasks AS task
  JOIN pg_locks AS held ON held.locktype = 'transactionid' AND held.granted
       AND held.transactionid = task.xmax AND held.mode = 'ExclusiveLock'
  JOIN pg_stat_activity AS session ON session.pid = held.pid
 WHERE task.id = $1 AND session.pid <> pg_backend_pid()
""")

_PACE = Statement("""
SELECT sum(done + failed + cancelled + retried)
       / greatest(extract(epoch FROM clock_timestamp() - min(minute)), 1)
  FROM $rollups
 WHERE seconds = 60 AND queue = $1 AND minute > clock_timestamp() - interval '5 minutes'
""")


@dataclass(frozen=True, slots=True)
class Facts:
    """The row of a task, and which line it stands in by the conditions of the claim.

    `history`: the entries that are objects. `now`: the database's clock at that moment.
    """

    id: UUID
    name: str
    queue: str
    priority: int
    state: str
    function: str
    attempt: int
    max_retries: int
    losses: int
    waiting_on: int
    cancel_requested: bool
    gate: str | None
    breaker: str | None
    stands_for: UUID | None
    timeout: float | None
    worker_id: UUID | None
    history: Sequence[Mapping[str, Any]]
    error_type: str | None
    error_message: str | None
    date_due: datetime | None
    date_enqueued: datetime | None
    date_started: datetime | None
    date_ended: datetime | None
    ready: bool
    gated: bool
    suspect: bool
    due: bool
    now: datetime


@dataclass(frozen=True, slots=True)
class OwnerRow:
    """The worker that has or had a task."""

    server_name: str
    pid: int
    state: str
    is_web: bool
    exit_reason: str | None
    silent_for: float

    @property
    def name(self) -> str:
        return f"{self.server_name}/{self.pid}"


@dataclass(frozen=True, slots=True)
class OpenParent:
    """A parent that has not ended; `name` and `state` None: it is not in the table."""

    id: UUID
    name: str | None
    state: str | None


@dataclass(frozen=True, slots=True)
class Locker:
    """Who holds a lock on a task's row, for so many seconds."""

    pid: int
    application: str
    state: str
    seconds: float | None


async def read_facts(connection: Connection, tables: Tables, id: UUID) -> Facts:
    """The row of a task, judged by the claim's conditions. Raises TaskNotFound."""
    row = await connection.fetchrow(_FACTS[tables], id)
    if row is None:
        raise TaskNotFound(id)
    history = json.loads(row["history"]) if isinstance(row["history"], str) else row["history"]
    entries = history if isinstance(history, list) else []
    return Facts(**{**row, "history": [each for each in entries if isinstance(each, dict)]})


async def read_owner(connection: Connection, tables: Tables, worker_id: UUID) -> OwnerRow | None:
    """The worker of that id, if its row is there."""
    row = await connection.fetchrow(_WORKER[tables], worker_id)
    return None if row is None else OwnerRow(**row)


async def at_its_gate(connection: Connection, tables: Tables, id: UUID) -> Head | None:
    """How things stand at a task's gate, as if it were the first in its line."""
    row = await connection.fetchrow(_AT_ITS_GATE[tables], id)
    return None if row is None else head_of(row)


async def place_in_line(connection: Connection, tables: Tables, facts: Facts) -> int:
    """How many tasks are before this one in its line, counted up to MOST of each kind."""
    if facts.suspect:
        number = await connection.fetchval(_BEFORE_SUSPECT[tables], facts.date_enqueued)
    elif facts.gated:
        number = await connection.fetchval(
            _BEFORE_GATED[tables], facts.queue, facts.priority, facts.date_enqueued, facts.gate
        )
    else:
        number = await connection.fetchval(
            _BEFORE_READY[tables], facts.queue, facts.priority, facts.date_enqueued
        )
    return int(number)


async def open_parents(
    connection: Connection, tables: Tables, id: UUID, *, limit: int = 3
) -> tuple[list[OpenParent], int]:
    """The first parents that a task waits for, and how many there are."""
    rows = await connection.fetch(_PARENTS[tables], id, limit)
    parents = [OpenParent(row["id"], row["name"], row["state"]) for row in rows]
    return parents, rows[0]["number"] if rows else 0


async def first_to_move(connection: Connection, tables: Tables, id: UUID) -> UUID | None:
    """Of all that a waiting task waits for, over any number of generations, one that waits for no
    parent itself; one that does not run, if there is any."""
    found: UUID | None = await connection.fetchval(_ROOT[tables], id)
    return found


async def read_locker(connection: Connection, tables: Tables, id: UUID) -> Locker | None:
    """Who holds a lock on the row, so that claims pass it by."""
    row = await connection.fetchrow(_LOCKER[tables], id)
    return None if row is None else Locker(**row)


async def read_pace(connection: Connection, tables: Tables, queue: str) -> float | None:
    """How many runs of a queue end in a second, by the last minutes; None where nothing ended."""
    pace = await connection.fetchval(_PACE[tables], queue)
    return float(pace) if pace else None
