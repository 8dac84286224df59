"""Rows of the queue, as the tests of the store, the producer and the worker make and read them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid5

import asyncpg
from helpers import eventually

from fastedgy.database import connect
from fastedgy.ids import new_id
from fastedgy.models.tables import Tables
from fastedgy.store import claim, outcomes, rollups
from fastedgy.store.finish import Finished, finish_any
from fastedgy.store.insert import Inserted, insert
from fastedgy.store.newtask import NewTask, Spec
from fastedgy.store.notify import SILENT, Channels
from fastedgy.store.outcomes import Outcome
from fastedgy.store.rollups import (
    EPOCH,
    EVER,
    EVERY_NAME,
    HOUR,
    MINUTE,
    RollupKey,
    Tally,
    bucket,
)
from fastedgy.worker.lanes import BEGINNING

TABLES = Tables()
CHANNELS = Channels("queue_new_task", "queue_new_task_done", "queue_new_task_control")
WORKER = UUID(int=1)
OTHER = UUID(int=2)

OUTCOMES = ("done", "failed", "cancelled", "retry", "interrupted", "snoozed")


def new(*parents: UUID, **columns: Any) -> NewTask:
    """A task that is not written yet."""
    own = {name: columns.pop(name) for name in NewTask.__slots__ if name in columns}
    spec = Spec(**{"name": "shop.send", "function": "shop:send"} | columns)
    return NewTask(own.pop("id", None) or new_id(), spec, **own, parents=parents)


async def write(
    connection: asyncpg.Connection, *tasks: NewTask, channel: str | None = None, again: bool = False
) -> Inserted:
    """Insert tasks."""
    return await insert(connection, TABLES, tasks, channel=channel, again=again)


async def add(connection: asyncpg.Connection, *parents: UUID, **columns: Any) -> UUID:
    """Insert one task; its id."""
    task = new(*parents, **columns)
    await write(connection, task)
    return task.id


async def take(
    connection: asyncpg.Connection, limit: int = 100, *, worker: UUID = WORKER
) -> list[asyncpg.Record]:
    """Claim up to `limit` tasks of all lanes."""
    lanes = await claim.find_lanes(connection, TABLES)
    return await claim.claim(
        connection,
        TABLES,
        worker_id=worker,
        lanes=[(lane, BEGINNING) for lane in lanes],
        limit=limit,
    )


async def add_taken(connection: asyncpg.Connection, *parents: UUID, **columns: Any) -> Any:
    """Insert a task and claim it alone; the claimed record."""
    lane = f"lane {new_id()}"
    await add(connection, *parents, queue=lane, **columns)
    [record] = await claim.claim(
        connection, TABLES, worker_id=WORKER, lanes=[((lane, 0), BEGINNING)], limit=1
    )
    return record


PARENTS_AT_ONCE = True
"""Whether tasks that are done count as known parents, whose end is tried in one statement first."""


def outcome(record: Any, word: str = "done", **facts: Any) -> Outcome:
    """What came of a claimed task."""
    now = time.monotonic()
    claimed = (record["id"], record["run"], now - 0.5, now)
    match word:
        case "done":
            kind = outcomes.DoneParent if PARENTS_AT_ONCE else outcomes.Done
            made = kind(*claimed, facts.get("result"))
        case "failed":
            made = outcomes.failed(*claimed, "ValueError", facts.get("message", "no such user"))
        case "cancelled":
            made = outcomes.cancelled(*claimed, "Cancelled on request.")
        case "retry":
            made = outcomes.retry(*claimed, facts.get("delay", 60.0), "ValueError", "try again")
        case "snoozed":
            made = outcomes.snoozed(*claimed, facts.get("delay", 60.0))
        case "interrupted":
            made = outcomes.interrupted(*claimed)
        case _:
            raise AssertionError(word)
    return made


async def end(
    connection: asyncpg.Connection,
    *records: Any,
    word: str = "done",
    channels: Channels = SILENT,
    **facts: Any,
) -> Finished:
    """Write what came of claimed tasks, all the same."""
    ends = [outcome(record, word, **facts) for record in records]
    return await finish_any(connection, TABLES, ends, channels=channels)


async def add_ended(connection: asyncpg.Connection, state: str = "done", **columns: Any) -> UUID:
    """Insert a task and run it to its end."""
    record = await add_taken(connection, **columns)
    await end(connection, record, word=state)
    id: UUID = record["id"]
    return id


async def read(connection: asyncpg.Connection, id: UUID) -> Any:
    """The row of a task; None without one."""
    return await connection.fetchrow("SELECT * FROM queued_tasks WHERE id = $1", id)


async def state_of(connection: asyncpg.Connection, id: UUID) -> str | None:
    """The state of a task; None without a row."""
    row = await read(connection, id)
    return None if row is None else row["state"]


async def states(connection: asyncpg.Connection, ids: Iterable[UUID] | None = None) -> list[str]:
    """The states of tasks (default: all), in the order in which they were made."""
    rows = await connection.fetch(
        "SELECT state FROM queued_tasks WHERE $1::uuid[] IS NULL OR id = ANY ($1) ORDER BY id",
        None if ids is None else list(ids),
    )
    return [row["state"] for row in rows]


async def count(connection: asyncpg.Connection, where: str = "true", *values: Any) -> int:
    """How many tasks there are."""
    number: int = await connection.fetchval(
        f"SELECT count(*) FROM queued_tasks WHERE {where}", *values
    )
    return number


async def change(connection: asyncpg.Connection, id: UUID, **columns: Any) -> None:
    """Set columns of a row by force."""
    names = ", ".join(f"{name} = ${place}" for place, name in enumerate(columns, 2))
    await connection.execute(
        f"UPDATE queued_tasks SET {names} WHERE id = $1", id, *columns.values()
    )


async def count_runs(
    connection: asyncpg.Connection,
    *seconds: float,
    name: str = "shop.send",
    queue: str = "default",
    failed: int = 0,
    retried: int = 0,
    waited: float = 0.01,
    ago: float = 0,
    worker: UUID = WORKER,
) -> None:
    """Count tasks that took so many seconds each, as a worker would have `ago` seconds ago."""
    tally = Tally(done=len(seconds), failed=failed, retried=retried, run_seconds=sum(seconds))
    for each in seconds:
        tally.runs[bucket(each)] += 1
    tally.waits[bucket(waited)] = len(seconds) + failed + retried
    at = time.time() - ago
    starts = {span: datetime.fromtimestamp(at - at % span, UTC) for span in (MINUTE, HOUR)}
    for span, start in (starts | {EVER: EPOCH}).items():
        # What it counted of all names is written as another worker's, so that calls add up.
        for each, by in ((name, worker), (EVERY_NAME, uuid5(worker, f"{queue} {name}"))):
            row = (RollupKey(span, start, queue, each), tally)
            await rollups.write(connection, TABLES, by, [row])


@asynccontextmanager
async def connections(url: str, number: int) -> AsyncIterator[Sequence[asyncpg.Connection]]:
    """So many connections."""
    opened = await asyncio.gather(*(connect(url) for _ in range(number)))
    try:
        yield opened
    finally:
        for connection in opened:
            connection.terminate()


async def blocked(watcher: asyncpg.Connection, connection: asyncpg.Connection) -> None:
    """Return when `connection` waits for a lock that somebody else holds."""
    pid = connection.get_server_pid()

    async def check() -> None:
        assert await watcher.fetchval("SELECT pg_blocking_pids($1)", pid)

    await eventually(check)


class Ear:
    """Hears the notifications of a database."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, str]] = []

    def on(self, channel: str) -> list[str]:
        """What was said on a channel so far."""
        return [text for where, text in self.heard if where == channel]

    async def hears(self, channel: str, times: int = 1) -> list[str]:
        """Wait until so much was said on a channel."""

        def check() -> list[str]:
            assert len(self.on(channel)) >= times
            return self.on(channel)

        return await eventually(check)


@asynccontextmanager
async def listening(url: str) -> AsyncIterator[Ear]:
    """An ear on all channels of the queue."""
    ear = Ear()
    connection = await connect(url)
    try:
        for channel in CHANNELS:
            await connection.add_listener(
                channel, lambda _, __, where, text: ear.heard.append((where, text))
            )
        yield ear
    finally:
        connection.terminate()
