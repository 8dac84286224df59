"""Finding tasks: one by an abbreviated id, a page of them by filters.

Ids are UUIDv7, so their order is the order in which tasks were made, and the primary key serves
"the newest first" and "made since". What one task is made of stands in `details`, what is counted
over all tasks in `overview`.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from asyncpg import Connection

from fastedgy.errors import AmbiguousId, InvalidOption, TaskNotFound
from fastedgy.models.tables import Tables
from fastedgy.store.conditions import GATED, READY, SUSPECT
from fastedgy.store.statements import Statement

STATES = ("scheduled", "waiting", "enqueued", "doing", "done", "failed", "cancelled")
"""The states in the order of a task's life."""

ENDED = frozenset({"done", "failed", "cancelled"})
"""The states that a task leaves only by `retry`."""

# From so many digits on, the end of an id (its random part) is taken as unique: the walk from the
# newest task on stops at the first hit, instead of reading every id to prove that there is one.
_SURE_DIGITS = 10
_SHORTEST_ID = 4


@dataclass(frozen=True, slots=True)
class TaskRow:
    """A task as a listing shows it."""

    id: UUID
    name: str
    state: str
    queue: str
    priority: int
    attempt: int
    date_enqueued: datetime | None
    date_started: datetime | None
    date_ended: datetime | None


@dataclass(frozen=True, slots=True)
class TaskFilters:
    """Which tasks a listing shows. Each that is given must hold.

    `states` is any of them. `name` is a task's name, the last part of a dotted one (`send` for
    `mail.send`), or a pattern of the whole with `*` for any characters. `since` is when the task
    was made, not when it ran.
    """

    states: tuple[str, ...] = ()
    name: str | None = None
    queue: str | None = None
    since: datetime | None = None


TASK_ROW = ", ".join(field.name for field in fields(TaskRow))


def first_id(moment: datetime) -> UUID:
    """The lowest UUIDv7 that can have been made at or after a moment."""
    return UUID(int=max(0, int(moment.timestamp() * 1000)) << 80)


def task_row(row: Any) -> TaskRow:
    """A row of a statement that selects TASK_ROW."""
    return TaskRow(*(row[field.name] for field in fields(TaskRow)))


def like(name: str | None) -> str | None:
    """What `'.' || name` must be LIKE, for a name, the last part of one, or a pattern with `*`."""
    if name is None:
        return None
    escaped = name.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
    start = "." if "." in name or "*" in name else "%."
    return start + escaped.replace("*", "%")


@functools.lru_cache(maxsize=512)
def _listing(states: tuple[str, ...], conditions: tuple[str, ...]) -> Statement:
    """The statement of one combination of filters.

    Absent filters are absent from the text, and states are literals: so the planner sees which
    partial index serves. Several states are several walks that are merged, for the same reason.
    """
    wanted = [f"{condition} ${number}" for number, condition in enumerate(conditions, start=2)]
    branches: list[str] = []
    for state in states:
        if state == "enqueued":  # three indexes share them
            branches += [
                "state = 'enqueued' AND NOT alone AND gate IS NULL",
                "state = 'enqueued' AND NOT alone AND gate IS NOT NULL",
                "state = 'enqueued' AND alone",
            ]
        else:
            branches.append(f"state = '{state}'")
    walks = []
    for branch in branches or (None,):
        where = [*wanted, branch] if branch else wanted
        clause = f"WHERE {' AND '.join(where)}" if where else ""
        walks.append(f"(SELECT {TASK_ROW} FROM $tasks {clause} ORDER BY id DESC LIMIT $1)")
    return Statement(
        f"SELECT * FROM ({' UNION ALL '.join(walks)}) AS task ORDER BY id DESC LIMIT $1"
    )


async def list_tasks(
    connection: Connection,
    tables: Tables,
    filters: TaskFilters | None = None,
    *,
    limit: int = 50,
    before: UUID | None = None,
) -> list[TaskRow]:
    """Tasks from the newest on, at most `limit`; the next page comes `before` the last one's id.

    Raises InvalidOption for a state that does not exist.
    """
    filters = filters or TaskFilters()
    unknown = [state for state in filters.states if state not in STATES]
    if unknown:
        raise InvalidOption(f"There is no state {unknown[0]!r}; there are {', '.join(STATES)}.")
    given = {
        "id <": before,
        "id >=": first_id(filters.since) if filters.since else None,
        "'.' || name LIKE": like(filters.name),
        "queue =": filters.queue,
    }
    given = {condition: value for condition, value in given.items() if value is not None}
    statement = _listing(tuple(dict.fromkeys(filters.states)), tuple(given))
    rows = await connection.fetch(statement[tables], limit, *given.values())
    return [task_row(row) for row in rows]


_BY_START = Statement("SELECT id FROM $tasks WHERE id BETWEEN $1 AND $2 ORDER BY id DESC LIMIT $3")
_BY_END = Statement(
    "SELECT id FROM $tasks WHERE right(id::text, length($1::text)) = $1 ORDER BY id DESC LIMIT $2"
)


async def find_id(connection: Connection, tables: Tables, text: str) -> UUID:
    """The id of the task that `text` is an id of, or the first or last digits of one.

    At least four digits. A whole id is looked for too. The digits at the end tell tasks apart
    best: those at the beginning are the time, and tasks made together share them.

    Raises TaskNotFound, and AmbiguousId where more than one task fits.
    """
    digits = text.strip().replace("-", "").lower()
    if not _SHORTEST_ID <= len(digits) <= 32 or set(digits) - set("0123456789abcdef"):
        raise TaskNotFound(text)
    low, high = UUID(digits.ljust(32, "0")), UUID(digits.ljust(32, "f"))
    found = [row["id"] for row in await connection.fetch(_BY_START[tables], low, high, 4)]
    if not found and len(digits) < 32:
        end = str(UUID(digits.rjust(32, "0")))[-_length_with_hyphens(len(digits)) :]
        wanted = 1 if len(digits) >= _SURE_DIGITS else 4
        found = [row["id"] for row in await connection.fetch(_BY_END[tables], end, wanted)]
    if not found:
        raise TaskNotFound(text)
    if len(found) > 1:
        raise AmbiguousId(text, found)
    return UUID(int=found[0].int)


def _length_with_hyphens(digits: int) -> int:
    """How many characters the last `digits` digits of a written UUID take."""
    return digits + sum(digits > groups for groups in (12, 16, 20, 24))


# Few enough to be sorted: as many as there are slots.
_LONGEST_RUNNING = Statement(
    "SELECT id FROM $tasks WHERE state = 'doing' ORDER BY date_started, id LIMIT $1"
)
# In each lane the oldest come first; of tasks with a gate the first ones of each queue are looked
# at.
_OLDEST_DUE = Statement(f"""
WITH RECURSIVE lane AS (
    (SELECT queue, priority FROM $tasks WHERE {READY}
      ORDER BY queue, priority DESC, date_enqueued LIMIT 1)
    UNION ALL
    SELECT next.queue, next.priority
      FROM lane CROSS JOIN LATERAL (
           (SELECT queue, priority FROM $tasks
             WHERE {READY} AND queue = lane.queue AND priority < lane.priority
             ORDER BY queue, priority DESC, date_enqueued LIMIT 1)
           UNION ALL
           (SELECT queue, priority FROM $tasks WHERE {READY} AND queue > lane.queue
             ORDER BY queue, priority DESC, date_enqueued LIMIT 1)
           LIMIT 1
      ) AS next
)
SELECT id FROM (
    SELECT ready.id, ready.date_enqueued FROM lane CROSS JOIN LATERAL (
        SELECT id, date_enqueued FROM $tasks
         WHERE {READY} AND queue = lane.queue AND priority = lane.priority
         ORDER BY queue, priority DESC, date_enqueued LIMIT $1) AS ready
    UNION ALL
    (SELECT id, date_enqueued FROM $tasks WHERE {GATED}
      ORDER BY queue, gate, priority DESC, date_enqueued LIMIT 1000)
    UNION ALL
    (SELECT id, date_enqueued FROM $tasks WHERE {SUSPECT} ORDER BY date_enqueued LIMIT $1)
) AS due
 ORDER BY date_enqueued, id LIMIT $1
""")


async def longest_running(connection: Connection, tables: Tables, *, limit: int) -> list[UUID]:
    """The ids of the tasks that run, those that started first first."""
    rows = await connection.fetch(_LONGEST_RUNNING[tables], limit)
    return [UUID(int=row["id"].int) for row in rows]


async def oldest_due(connection: Connection, tables: Tables, *, limit: int) -> list[UUID]:
    """The ids of the tasks that have been due for the longest time and are not claimed."""
    rows = await connection.fetch(_OLDEST_DUE[tables], limit)
    return [UUID(int=row["id"].int) for row in rows]


FIRST = (datetime.min.replace(tzinfo=UTC), UUID(int=0))
"""Where `failed_page` starts."""

_OF_FAILED = """
  FROM $tasks
 WHERE state = 'failed' AND ($1::text IS NULL OR '.' || name LIKE $1)
   AND ($2::text[] IS NULL OR queue = ANY ($2))
"""
_FAILED = Statement(
    "SELECT date_ended, id $of_failed AND (date_ended, id) > ($3, $4)"
    " ORDER BY date_ended, id LIMIT $5",
    of_failed=_OF_FAILED,
)
_COUNT_FAILED = Statement("SELECT count(*) $of_failed", of_failed=_OF_FAILED)
_COUNT_NOT_STARTED = Statement("""
SELECT sum(tasks)::bigint FROM (
    SELECT count(*) AS tasks FROM $tasks
     WHERE state = 'enqueued' AND NOT alone AND gate IS NULL
       AND ($1::text[] IS NULL OR queue = ANY ($1))
    UNION ALL SELECT count(*) FROM $tasks
     WHERE state = 'enqueued' AND NOT alone AND gate IS NOT NULL
       AND ($1::text[] IS NULL OR queue = ANY ($1))
    UNION ALL SELECT count(*) FROM $tasks
     WHERE state = 'enqueued' AND alone AND ($1::text[] IS NULL OR queue = ANY ($1))
    UNION ALL SELECT count(*) FROM $tasks
     WHERE state = 'waiting' AND ($1::text[] IS NULL OR queue = ANY ($1))
    UNION ALL SELECT count(*) FROM $tasks
     WHERE state = 'scheduled' AND ($1::text[] IS NULL OR queue = ANY ($1))
) AS part
""")


async def failed_page(
    connection: Connection,
    tables: Tables,
    *,
    after: tuple[datetime, UUID] = FIRST,
    limit: int = 1000,
    name: str | None = None,
    queues: Sequence[str] | None = None,
) -> list[tuple[datetime, UUID]]:
    """When tasks failed and their ids, those that failed first first; go on `after` the last."""
    rows = await connection.fetch(_FAILED[tables], like(name), queues, *after, limit)
    return [(row["date_ended"], row["id"]) for row in rows]


async def count_failed(
    connection: Connection,
    tables: Tables,
    *,
    name: str | None = None,
    queues: Sequence[str] | None = None,
) -> int:
    """How many tasks have failed for good. `name` as in TaskFilters."""
    count: int = await connection.fetchval(_COUNT_FAILED[tables], like(name), queues)
    return count


async def count_not_started(
    connection: Connection, tables: Tables, *, queues: Sequence[str] | None = None
) -> int:
    """How many tasks are enqueued, waiting or scheduled."""
    count: int = await connection.fetchval(_COUNT_NOT_STARTED[tables], queues)
    return count
