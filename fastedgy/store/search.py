"""Searching tasks by any filter, without ever reading a large table at a stretch.

Ids are found first, their rows are read afterwards. Where the states asked for have few tasks,
their partial indexes lead to them. Everything else is a walk along the primary key, from one end
on, in steps of WINDOW tasks: it stops when it has enough, or when its time is up, and says how far
it came.
"""

from __future__ import annotations

import functools
import json
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from asyncpg import Connection

from fastedgy.errors import InvalidOption
from fastedgy.models.tables import Tables
from fastedgy.store.conditions import GATED, READY, SUSPECT
from fastedgy.store.find import STATES, first_id, like
from fastedgy.store.statements import Statement

WINDOW = 20_000
"""Tasks of one step of a walk: 5 to 30 ms."""
FEW = 20_000
"""Up to so many tasks of the states asked for are looked at by their indexes, all at once."""
RELATIVES = 10_000
"""Ancestors, and descendants, that a filter by tree looks at."""
LAST_ID = UUID(int=2**128 - 1)


@dataclass(frozen=True, slots=True)
class TaskFilter:
    """Which tasks. What is given must hold, all of it; nothing given means every task.

    `states`: any of them. `name`: a task's name, the last part of a dotted one (`send` for
    `mail.send`), or a pattern with `*` for any characters. `error`: likewise, of the type of the
    error. `error_text`: a part of its message, in any case. `worker`: the id of a worker process,
    a server's name, or `server/pid`. `context`: values by dotted paths, as in
    `{"dataset.id": 7}`; text also finds numbers written like it. `key`: the unique key. `tree`:
    the id of a task whose ancestors and descendants (itself included) are meant. `parent`: whose
    children. Durations are those of the last run, in seconds; of a running task, so far.
    """

    states: tuple[str, ...] = ()
    name: str | None = None
    queue: str | None = None
    created_after: datetime | None = None
    created_before: datetime | None = None
    started_after: datetime | None = None
    started_before: datetime | None = None
    ended_after: datetime | None = None
    ended_before: datetime | None = None
    min_duration: float | None = None
    max_duration: float | None = None
    worker: str | None = None
    error: str | None = None
    error_text: str | None = None
    context: Mapping[str, Any] | None = None
    key: str | None = None
    gate: str | None = None
    schedule: str | None = None
    tree: UUID | None = None
    parent: UUID | None = None
    ids: tuple[UUID, ...] | None = None

    def __post_init__(self) -> None:
        unknown = [state for state in self.states if state not in STATES]
        if unknown:
            raise InvalidOption(f"There is no state {unknown[0]!r}; there are {', '.join(STATES)}.")


@dataclass(frozen=True, slots=True)
class Found:
    """Ids in their order. `next`: where to go on, None at the end.

    `searched_to`: the time was up before there were enough; the walk came to this id.
    """

    ids: list[UUID]
    next: UUID | None = None
    searched_to: UUID | None = None


_TOOK = """extract(epoch FROM CASE WHEN state = 'doing' THEN clock_timestamp()
                                  ELSE date_ended END - date_started)"""
_WORKER = """worker_id = ANY (ARRAY (
    SELECT id FROM $workers WHERE server_name = ? AND (?::integer IS NULL OR pid = ?)))"""
# Producers' clocks made the ids; what is asked of other dates is of the database's.
_SKEW = timedelta(minutes=5)


class _Where:
    """Conditions with their values: `?` stands for the next parameter."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.values: list[list[Any]] = []

    def add(self, text: str, *values: Any) -> None:
        self.texts.append(text)
        self.values.append(list(values))


def _where(filter: TaskFilter) -> _Where:
    where = _Where()
    plain = {
        "queue = ?": filter.queue,
        "'.' || name LIKE ?": like(filter.name),
        "'.' || error_type LIKE ?": like(filter.error),
        "strpos(lower(error_message), lower(?)) > 0": filter.error_text,
        "unique_key = ?": filter.key,
        "gate = ?": filter.gate,
        "schedule = ?": filter.schedule,
        "date_started >= ?": filter.started_after,
        "date_started < ?": filter.started_before,
        "date_ended >= ?": filter.ended_after,
        "date_ended < ?": filter.ended_before,
        f"{_TOOK} >= ?::float8": filter.min_duration,
        f"{_TOOK} <= ?::float8": filter.max_duration,
    }
    for text, value in plain.items():
        if value is not None:
            where.add(text, value)
    if filter.worker is not None:
        _add_worker(where, filter.worker)
    for path, value in (filter.context or {}).items():
        if isinstance(value, str):
            where.add("context #>> ?::text[] = ?", path.split("."), value)
        else:
            where.add("context #> ?::text[] = ?::jsonb", path.split("."), json.dumps(value))
    return where


def _add_worker(where: _Where, worker: str) -> None:
    try:
        where.add("worker_id = ?", UUID(worker))
    except ValueError:
        server, _, pid = worker.rpartition("/")
        if not server or not pid.isdigit():
            server, pid = worker, ""
        number = int(pid) if pid else None
        where.add(_WORKER, server, number, number)


def _bounds(filter: TaskFilter) -> tuple[UUID, UUID]:
    """Between which ids (low included, high not) there can be any."""
    low = first_id(filter.created_after) if filter.created_after else UUID(int=0)
    ends = [filter.created_before] if filter.created_before else []
    ends += [end + _SKEW for end in (filter.started_before, filter.ended_before) if end]
    return low, min([first_id(end) for end in ends], default=LAST_ID)


@functools.lru_cache(maxsize=1024)
def _statement(text: str) -> Statement:
    """With `?` numbered. Kept, so that each connection prepares one of a kind once."""
    parts = text.split("?")
    return Statement(parts[0] + "".join(f"${n}{part}" for n, part in enumerate(parts[1:], 1)))


_BRANCHES = {state: [f"state = '{state}'"] for state in STATES} | {
    "enqueued": [READY, GATED, SUSPECT]
}
_ORDERS = {"scheduled": "date_due", "waiting": "id", "doing": "worker_id", "failed": "date_ended",
           "cancelled": "date_ended"}  # fmt: skip
_LINES = ("queue, priority DESC, date_enqueued", "queue, gate, priority DESC, date_enqueued",
          "date_enqueued")  # fmt: skip


async def find(
    connection: Connection,
    tables: Tables,
    filter: TaskFilter,
    *,
    limit: int,
    after: UUID | None = None,
    oldest_first: bool = False,
    until: UUID | None = None,
    seconds: float = 0.15,
) -> Found:
    """Up to `limit` ids, from the newest on; the next page comes `after` the last one.

    `until`: none made after that id. A walk takes about `seconds` at most, and one step at least.
    """
    low, high = _bounds(filter)
    if until is not None:
        high = min(high, until)
    if after is not None:
        low, high = (max(low, _next_id(after)), high) if oldest_first else (low, min(high, after))
    where = _where(filter)
    among = await _among(connection, tables, filter)
    if among is not None:
        where.add("id = ANY (?::uuid[])", among)
    if among is not None or await _are_few(connection, tables, filter):
        ids = await _by_index(
            connection, tables, filter, where, (low, high), limit + 1, oldest_first=oldest_first,
            known=among is not None,
        )  # fmt: skip
        return Found(ids[:limit], ids[limit - 1] if len(ids) > limit else None)
    if filter.states:
        where.add(f"state IN ({', '.join(map(repr, dict.fromkeys(filter.states)))})")
    return await _walk(
        connection, tables, where, (low, high), limit, oldest_first=oldest_first, seconds=seconds
    )


async def pages(
    connection: Connection,
    tables: Tables,
    filter: TaskFilter,
    *,
    until: UUID,
    size: int,
    seconds: float | None = None,
) -> AsyncIterator[tuple[list[UUID], bool]]:
    """All ids that a filter finds, from the oldest on, in pages of `size`; those up to `until`.

    Each with whether it is the last one. What changes on the way is found or not, once at most.
    Stops after about `seconds`.
    """
    after: UUID | None = None
    deadline = None if seconds is None else time.monotonic() + seconds
    while True:
        found = await find(
            connection, tables, filter, limit=size, after=after, oldest_first=True, until=until
        )
        after = found.next
        yield found.ids, after is None
        if after is None or (deadline is not None and time.monotonic() > deadline):
            return


def _next_id(id: UUID) -> UUID:
    return UUID(int=min(id.int + 1, LAST_ID.int))


_CHILDREN = Statement("SELECT child_id AS id FROM $links WHERE parent_id = $1")
_FAMILY = Statement("""
WITH RECURSIVE up (id) AS (
    SELECT $1::uuid UNION SELECT link.parent_id FROM up JOIN $links AS link ON link.child_id = up.id
), down (id) AS (
    SELECT $1::uuid
    UNION SELECT link.child_id FROM down JOIN $links AS link ON link.parent_id = down.id
)
(SELECT id FROM up LIMIT $2) UNION (SELECT id FROM down LIMIT $2)
""")


async def _among(connection: Connection, tables: Tables, filter: TaskFilter) -> list[UUID] | None:
    """The ids that can be meant at all, if the filter names tasks or their relatives."""
    sets: list[set[UUID]] = []
    if filter.ids is not None:
        sets.append(set(filter.ids))
    if filter.parent is not None:
        rows = await connection.fetch(_CHILDREN[tables], filter.parent)
        sets.append({UUID(int=row["id"].int) for row in rows})
    if filter.tree is not None:
        rows = await connection.fetch(_FAMILY[tables], filter.tree, RELATIVES)
        sets.append({UUID(int=row["id"].int) for row in rows})
    return sorted(set.intersection(*sets)) if sets else None


async def _are_few(connection: Connection, tables: Tables, filter: TaskFilter) -> bool:
    """Whether the partial indexes lead to the states asked for, and to few tasks only."""
    if not filter.states or "done" in filter.states:
        return False
    left = FEW
    for state in dict.fromkeys(filter.states):
        where = _Where()
        if state in ("failed", "cancelled"):
            if filter.ended_after is not None:
                where.add("date_ended >= ?", filter.ended_after)
            if filter.ended_before is not None:
                where.add("date_ended < ?", filter.ended_before)
        for branch, order in zip(
            _BRANCHES[state], _LINES if state == "enqueued" else (_ORDERS[state],), strict=True
        ):
            conditions = " AND ".join([branch, *where.texts])
            text = (
                f"SELECT count(*) FROM (SELECT FROM $tasks WHERE {conditions}"
                f" ORDER BY {order} LIMIT ?) AS _"
            )
            values = [value for values in where.values for value in values]
            left -= await connection.fetchval(_statement(text)[tables], *values, left + 1)
            if left < 0:
                return False
    return True


async def _by_index(
    connection: Connection,
    tables: Tables,
    filter: TaskFilter,
    where: _Where,
    bounds: tuple[UUID, UUID],
    limit: int,
    *,
    oldest_first: bool,
    known: bool,
) -> list[UUID]:
    states = dict.fromkeys(filter.states)
    branches = [branch for state in states for branch in _BRANCHES[state]] or ["true"]
    if known and states:  # found by their ids; the states are one more condition
        branches = [f"({' OR '.join(branches)})"]
    selects = []
    values: list[Any] = []
    for branch in branches:
        conditions = [branch, "id >= ?", "id < ?", *where.texts]
        selects.append(f"SELECT id FROM $tasks WHERE {' AND '.join(conditions)}")
        values += [*bounds, *(value for each in where.values for value in each)]
    # Materialised, or a LIMIT in the order of ids would be taken for a reason to walk them all.
    text = (
        f"WITH found AS MATERIALIZED ({' UNION ALL '.join(selects)})"
        f" SELECT id FROM found ORDER BY id {'ASC' if oldest_first else 'DESC'} LIMIT ?"
    )
    rows = await connection.fetch(_statement(text)[tables], *values, limit)
    return [UUID(int=row["id"].int) for row in rows]


async def _walk(
    connection: Connection,
    tables: Tables,
    where: _Where,
    bounds: tuple[UUID, UUID],
    limit: int,
    *,
    oldest_first: bool,
    seconds: float,
) -> Found:
    low, high = bounds
    order = "ASC" if oldest_first else "DESC"
    end = _statement(
        f"SELECT id FROM $tasks WHERE id >= ? AND id < ? ORDER BY id {order} OFFSET ? LIMIT 1"
    )
    conditions = " AND ".join(["id >= ?", "id < ?", *where.texts])
    step = _statement(f"SELECT id FROM $tasks WHERE {conditions} ORDER BY id {order} LIMIT ?")
    values = [value for each in where.values for value in each]
    deadline = time.monotonic() + seconds
    found: list[UUID] = []
    while True:
        edge = None
        if where.texts:  # else the first ones are those that are wanted
            edge = await connection.fetchval(end[tables], low, high, WINDOW)
        first, last = low, high
        if edge is not None:
            edge = UUID(int=edge.int)
            first, last = (low, edge) if oldest_first else (_next_id(edge), high)
        wanted = limit + 1 - len(found)
        rows = await connection.fetch(step[tables], first, last, *values, wanted)
        found += [UUID(int=row["id"].int) for row in rows]
        if len(found) > limit:
            return Found(found[:limit], found[limit - 1])
        if edge is None:
            return Found(found)
        if oldest_first:
            low = edge
        else:
            high = _next_id(edge)
        if time.monotonic() > deadline:
            # The next page's first candidate is the edge itself.
            before = UUID(int=edge.int - 1) if oldest_first else _next_id(edge)
            return Found(found, before, searched_to=edge)


def moment_of(id: UUID) -> datetime:
    """When the task of this id was made, by its producer's clock."""
    return datetime.fromtimestamp((id.int >> 80) / 1000, UTC)


_COUNT_GROUPS = Statement("""
SELECT state, queue, name, count(*) AS number FROM $tasks WHERE id = ANY ($1::uuid[])
 GROUP BY state, queue, name
""")


async def count_groups(connection: Connection, tables: Tables, ids: Sequence[UUID]) -> list[Any]:
    """How many of these tasks are of each state, queue and name."""
    return list(await connection.fetch(_COUNT_GROUPS[tables], ids))
