"""The floors: what raw SQL through asyncpg can do on the queue's own table, and nothing else.

They are as good as we know how to write them: statements are prepared, their plans held, a claim
begins where the last one ended (DESIGN part 5), and the data is made before the clock runs. None of
them has retries, fences, logs, hooks or timeouts.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

from asyncpg import Connection, Record

from benchmarks.tasks import TRACES
from fastedgy.database import connect
from fastedgy.ids import new_id
from fastedgy.models.tables import Tables
from fastedgy.store.statements import Statement
from fastedgy.worker.wire import HELD_PLANS

T = Tables()
BATCH = 500
BEGINNING = datetime(1970, 1, 1, tzinfo=UTC)
CHANNEL, DONE_CHANNEL = "benchmarks_floor", "benchmarks_floor_done"

INSERT_ONE = Statement("""
INSERT INTO $tasks (id, args, kwargs, name, function, queue, priority, max_retries, timeout,
                    awaited, date_enqueued)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, clock_timestamp())
""")[T]

INSERT_RUNG = Statement("""
WITH new AS (
    INSERT INTO $tasks (id, args, kwargs, name, function, queue, priority, max_retries, timeout,
                        awaited, date_enqueued)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, clock_timestamp())
)
SELECT pg_notify($11, '')
""")[T]

INSERT_MANY = Statement("""
INSERT INTO $tasks (id, args, kwargs, name, function, queue, priority, max_retries, timeout,
                    awaited, date_enqueued)
SELECT id, args, kwargs, $4::text, $5::text, $6::text, $7::integer, $8::integer, $9::float8,
       $10::boolean, clock_timestamp()
  FROM unnest($1::uuid[], $2::jsonb[], $3::jsonb[]) AS task (id, args, kwargs)
""")[T]

COLUMNS = ["id", "args", "kwargs", "name", "function", "queue", "priority", "max_retries",
           "timeout", "awaited"]  # fmt: skip

CLAIM = Statement("""
UPDATE $tasks AS task
   SET state = 'doing', worker_id = $1, run = task.run + 1, attempt = task.attempt + 1,
       date_started = clock_timestamp()
 WHERE id = ANY (ARRAY (
       SELECT id FROM $tasks
        WHERE state = 'enqueued' AND NOT alone AND gate IS NULL
          AND queue = 'default' AND priority = 0 AND date_enqueued >= $2
        ORDER BY date_enqueued LIMIT $3 FOR UPDATE SKIP LOCKED))
RETURNING id, run, function, args, kwargs, date_enqueued
""")[T]

# What everybody writes first. Its plan is held as well, or the sequential scan of the generic plan
# would be all that is measured.
PLAIN_CLAIM = Statement("""
UPDATE $tasks AS task
   SET state = 'doing', worker_id = $1, run = task.run + 1, attempt = task.attempt + 1,
       date_started = clock_timestamp()
 WHERE id = ANY (ARRAY (
       SELECT id FROM $tasks
        WHERE state = 'enqueued' AND NOT alone AND gate IS NULL
        ORDER BY queue, priority DESC, date_enqueued LIMIT $2 FOR UPDATE SKIP LOCKED))
RETURNING id
""")[T]

COMPLETE = Statement("""
UPDATE $tasks SET state = 'done', date_ended = clock_timestamp() WHERE id = ANY ($1::uuid[])
""")[T]

COMPLETE_TRACED = Statement("""
UPDATE $tasks SET state = 'done', date_ended = clock_timestamp(), context = $2::jsonb
 WHERE id = ANY ($1::uuid[])
""")[T]

COMPLETE_TOLD = Statement("""
WITH ended AS (
    UPDATE $tasks SET state = 'done', date_ended = clock_timestamp(), result = $2
     WHERE id = ANY ($1::uuid[])
)
SELECT pg_notify($3, '')
""")[T]

RESULT = Statement("SELECT state, result FROM $tasks WHERE id = $1")[T]


def one_row(number: int) -> list[Any]:
    """The parameters of a row like those of `noop`."""
    function = "benchmarks.tasks:noop"
    return [new_id(), f"[{number}]", "{}", "benchmarks.tasks.noop", function, "default", 0, 3, None,
            False]  # fmt: skip


async def held(url: str) -> Connection:
    """A connection with the plans held as the engine's own are."""
    return await connect(url, application_name="benchmarks floor", server_settings=HELD_PLANS)


async def insert_one(url: str, count: int) -> float:
    """Rows a second: one INSERT per commit, one after the other."""
    connection = await held(url)
    rows = [one_row(number) for number in range(count)]
    await connection.execute(INSERT_ONE, *one_row(-1))
    began = time.perf_counter()
    for row in rows:
        await connection.execute(INSERT_ONE, *row)
    seconds = time.perf_counter() - began
    await connection.close()
    return count / seconds


async def insert_many(url: str, count: int, chunk: int) -> float:
    """Rows a second: INSERT … SELECT FROM unnest, so many a statement."""
    connection = await held(url)
    shared = one_row(0)[3:]
    chunks = [
        ([new_id() for _ in range(size)], [f"[{start + n}]" for n in range(size)], ["{}"] * size)
        for start, size in _chunks(count, chunk)
    ]
    began = time.perf_counter()
    for ids, args, kwargs in chunks:
        await connection.execute(INSERT_MANY, ids, args, kwargs, *shared)
    seconds = time.perf_counter() - began
    await connection.close()
    return count / seconds


async def copy_many(url: str, count: int, chunk: int) -> float:
    """Rows a second: COPY of the same columns, so many a statement."""
    connection = await held(url)
    now = datetime.now(UTC)
    chunks = [
        [(*one_row(start + number), now) for number in range(size)]
        for start, size in _chunks(count, chunk)
    ]
    began = time.perf_counter()
    for rows in chunks:
        await connection.copy_records_to_table(
            T.tasks, records=rows, columns=[*COLUMNS, "date_enqueued"]
        )
    seconds = time.perf_counter() - began
    await connection.close()
    return count / seconds


def _chunks(count: int, chunk: int) -> list[tuple[int, int]]:
    return [(start, min(chunk, count - start)) for start in range(0, count, chunk)]


Complete = Callable[[Connection, list[Record]], Awaitable[None]]


async def complete(connection: Connection, rows: list[Record]) -> None:
    """One UPDATE for all of them."""
    await connection.execute(COMPLETE, [row["id"] for row in rows])


async def complete_traced(connection: Connection, rows: list[Record]) -> None:
    """The log lines of `tasks.traced` by COPY, then its context with the outcome."""
    now = datetime.now(UTC)
    lines = [
        (row["id"], row["run"], step, "info", "benchmarks", f"step {step}", now)
        for row in rows
        for step in range(TRACES)
    ]
    await connection.copy_records_to_table(
        T.logs,
        records=lines,
        columns=["task_id", "run", "seq", "level", "logger", "message", "logged_at"],
    )
    context = '{"step_0": 1, "step_1": 1, "step_2": 1, "step_3": 1, "step_4": 1}'
    await connection.execute(COMPLETE_TRACED, [row["id"] for row in rows], context)


async def drain(
    url: str, count: int, *, connections: int, finish: Complete = complete, batch: int = BATCH
) -> float:
    """Tasks a second: claim and complete everything that is in the line, on so many connections."""
    opened = [await held(url) for _ in range(connections)]

    async def work(connection: Connection) -> int:
        worker, low, done = uuid4(), BEGINNING, 0
        while rows := await connection.fetch(CLAIM, worker, low, batch):
            low = max(row["date_enqueued"] for row in rows)
            await finish(connection, rows)
            done += len(rows)
        return done

    began = time.perf_counter()
    done = await asyncio.gather(*[work(connection) for connection in opened])
    seconds = time.perf_counter() - began
    left = await opened[0].fetchval(f"SELECT count(*) FROM {T.tasks} WHERE state = 'enqueued'")
    for connection in opened:
        await connection.close()
    if sum(done) != count or left:
        raise AssertionError(f"The floor finished {sum(done)} of {count} tasks, {left} are left.")
    return count / seconds


async def plain_drain(url: str, stop: Callable[[], bool], batch: int = 100) -> None:
    """Claim and complete like a plain SKIP LOCKED loop, without a lower bound, until `stop`."""
    connection = await held(url)
    worker = uuid4()
    try:
        while not stop():
            rows = await connection.fetch(PLAIN_CLAIM, worker, batch)
            if rows:
                await complete(connection, rows)
            else:
                await asyncio.sleep(0.001)
    finally:
        await connection.close()


class RawWorker:
    """INSERT and NOTIFY on one side; LISTEN, claim, and the answer on the other. One at a time."""

    def __init__(self, url: str, *, answers: bool) -> None:
        """`answers`: whether it completes the task and tells, or stops at the claim."""
        self._url = url
        self._answers = answers
        self._rung = asyncio.Event()
        self._told = asyncio.Event()
        self._claimed = 0

    async def hops(self, count: int, pause: float) -> list[float]:
        """Milliseconds from the call of the INSERT to the claim, or to the result, of each task."""
        producer, worker, ears = [await held(self._url) for _ in range(3)]
        await ears.add_listener(CHANNEL, lambda *_: self._rung.set())
        await ears.add_listener(DONE_CHANNEL, lambda *_: self._told.set())
        serving = asyncio.create_task(self._serve(worker))
        found = []
        try:
            for number in range(count):
                row = one_row(number)
                began = time.monotonic_ns()
                await producer.execute(INSERT_RUNG, *row, CHANNEL)
                await asyncio.wait_for(self._told.wait(), 5)
                self._told.clear()
                ended = self._claimed
                if self._answers:
                    await producer.fetchrow(RESULT, row[0])
                    ended = time.monotonic_ns()
                found.append((ended - began) / 1e6)
                await asyncio.sleep(pause)
        finally:
            serving.cancel()
            for connection in (producer, worker, ears):
                connection.terminate()
        return found

    async def _serve(self, connection: Connection) -> None:
        me, low = uuid4(), BEGINNING
        while True:
            await self._rung.wait()
            self._rung.clear()
            for row in await connection.fetch(CLAIM, me, low, 1):
                low = row["date_enqueued"]
                self._claimed = time.monotonic_ns()
                if self._answers:
                    await connection.execute(COMPLETE_TOLD, [row["id"]], "1", DONE_CHANNEL)
                else:
                    await connection.execute(COMPLETE, [row["id"]])
                    self._told.set()
