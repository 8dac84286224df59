"""Schedules as rows: to read, to change and to forget them. `firing` makes tasks of them."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from datetime import datetime
from typing import Any
from uuid import UUID

import orjson
from asyncpg import Connection, Record

from fastedgy.models.tables import Tables
from fastedgy.store.statements import Statement

BELL = "schedules"
"""What the control channel says when a schedule was added or changed."""


@dataclass(slots=True)
class ScheduleRow:
    """A row. `args`, `kwargs`: JSON text. `task`: what its tasks' rows will say beside these.

    `next_due` is None for one that is over, removed or not declared any more.
    """

    name: str
    function: str
    args: str = "[]"
    kwargs: str = "{}"
    options: dict[str, Any] = field(default_factory=dict)
    task: dict[str, Any] = field(default_factory=dict)
    signature: str | None = None
    cron: str | None = None
    every: float | None = None
    at: datetime | None = None
    timezone: str = "UTC"
    start_at: datetime | None = None
    end_at: datetime | None = None
    anchor: datetime | None = None
    jitter: float = 0.0
    misfire_grace: float | None = None
    coalesce_missed: bool = True
    max_instances: int | None = None
    paused: bool = False
    declared: bool = False
    declared_as: dict[str, Any] | None = None
    undeclared: datetime | None = None
    removed: datetime | None = None
    revision: int = 0
    next_due: datetime | None = None
    last_due: datetime | None = None
    last_fired: datetime | None = None
    last_task_id: UUID | None = None
    fired: int = 0
    missed: int = 0
    missed_because: str | None = None
    error: str | None = None
    date_created: datetime | None = None
    date_changed: datetime | None = None


COLUMNS = tuple(each.name for each in fields(ScheduleRow))
_JSON = ("options", "task", "declared_as")
# What people and code decide; the rest is the history, which firing writes.
_CHANGEABLE = (*COLUMNS[1 : COLUMNS.index("revision")], "next_due", "error")
_LIST = ", ".join(COLUMNS)
_WRITTEN = {"anchor": "coalesce({}, clock_timestamp())", "args": "{}::jsonb", "kwargs": "{}::jsonb"}
_WRITTEN |= dict.fromkeys(_JSON, "{}::jsonb")
_VALUES = ", ".join(
    _WRITTEN.get(name, "{}").format(f"${place}") for place, name in enumerate(_CHANGEABLE, 2)
)

# Whoever changes something tells the others, with the commit.
_TELL = f"SELECT pg_notify($1, '{BELL}') WHERE $1::text IS NOT NULL"

ADD = Statement(f"""
INSERT INTO $schedules (name, {", ".join(_CHANGEABLE)}) VALUES ($1, {_VALUES})
ON CONFLICT (name) DO NOTHING
RETURNING name
""")

SAVE = Statement(f"""
UPDATE $schedules SET ({", ".join(_CHANGEABLE)}) = ({_VALUES}),
       revision = revision + 1, date_changed = clock_timestamp()
 WHERE name = $1
RETURNING revision, date_changed
""")

GET = Statement(f"SELECT {_LIST} FROM $schedules WHERE name = $1")
LOCK = Statement(f"SELECT {_LIST} FROM $schedules WHERE name = $1 FOR UPDATE")
LIST = Statement(f"SELECT {_LIST} FROM $schedules ORDER BY name")
DELETE = Statement("DELETE FROM $schedules WHERE name = $1")

# Starting processes compare what they declare one after the other.
TURN = Statement("SELECT pg_advisory_xact_lock(hashtextextended('$schedules', 0))")

FORGET = Statement("""
DELETE FROM $schedules
 WHERE next_due IS NULL AND NOT declared AND NOT paused
   AND greatest(date_changed, last_fired) < statement_timestamp() - $1 * interval '1 second'
""")


def row_of(record: Record) -> ScheduleRow:
    """A record of $schedules. What should be an object and is none (forged) counts as empty."""
    values = {name: record[name] for name in COLUMNS}
    for name in _JSON:
        value = None if values[name] is None else orjson.loads(values[name])
        empty: dict[str, Any] | None = None if name == "declared_as" else {}
        values[name] = value if isinstance(value, dict) else empty
    return ScheduleRow(**values)


def _changeable(row: ScheduleRow) -> list[Any]:
    values = {name: getattr(row, name) for name in _CHANGEABLE}
    for name in _JSON:
        values[name] = None if values[name] is None else orjson.dumps(values[name]).decode()
    return list(values.values())


async def add(connection: Connection, tables: Tables, row: ScheduleRow) -> bool:
    """Write a new schedule. False: the name is taken."""
    return await connection.fetchval(ADD[tables], row.name, *_changeable(row)) is not None


async def save(connection: Connection, tables: Tables, row: ScheduleRow) -> None:
    """Write what was changed in a row that this transaction has locked."""
    saved = await connection.fetchrow(SAVE[tables], row.name, *_changeable(row))
    row.revision, row.date_changed = saved


async def get(
    connection: Connection, tables: Tables, name: str, *, lock: bool = False
) -> ScheduleRow | None:
    """One schedule. `lock`: nobody else changes or fires it until this transaction's end."""
    record = await connection.fetchrow((LOCK if lock else GET)[tables], name)
    return None if record is None else row_of(record)


async def list_schedules(connection: Connection, tables: Tables) -> list[ScheduleRow]:
    """All schedules, by name; those that were removed or are not declared any more, too."""
    return [row_of(record) for record in await connection.fetch(LIST[tables])]


async def delete(connection: Connection, tables: Tables, name: str) -> None:
    """Delete a row."""
    await connection.execute(DELETE[tables], name)


async def take_turn(connection: Connection, tables: Tables) -> None:
    """Wait until no other transaction compares declarations with rows."""
    await connection.execute(TURN[tables])


async def forget(connection: Connection, tables: Tables, *, older_than: float) -> None:
    """Delete schedules that are over for so many seconds, and that no code declares."""
    await connection.execute(FORGET[tables], older_than)


async def tell_workers(connection: Connection, channel: str | None) -> None:
    """Have all workers look at the schedules now (at the commit)."""
    await connection.execute(_TELL, channel)


async def clock(connection: Connection) -> datetime:
    """The database's time, which all moments of schedules are compared with."""
    now: datetime = await connection.fetchval("SELECT clock_timestamp()")
    return now
