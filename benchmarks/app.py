"""The applications that the benchmarks run: `app` with the queue, `raw` without anything of it."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
from fastapi import FastAPI, Request

from benchmarks.floor import INSERT_ONE, one_row
from benchmarks.tasks import noop
from fastedgy.app import FastEdgy
from fastedgy.database import connect
from fastedgy.dependencies import Inject
from fastedgy.queued_tasks import QueuedTasks

GATE = 4_242
"""The advisory lock at which workers wait for their common start."""
GATED = "BENCHMARKS_GATED"
"""The environment variable that has a worker wait there."""


@asynccontextmanager
async def at_the_gate(app: FastAPI) -> AsyncIterator[None]:
    """Wait, with everything imported, until the harness lets go of the lock: then all begin at the
    same moment, however long each took to start."""
    if os.environ.get(GATED):
        connection = await connect(os.environ["DATABASE_URL"])
        await connection.execute("SELECT pg_advisory_lock_shared($1)", GATE)
        await connection.close()
    yield


app = FastEdgy(lifespan=at_the_gate)


@app.post("/tasks")
async def add(tasks: QueuedTasks = Inject(QueuedTasks)) -> dict[str, str]:
    """A route with one `add_task`."""
    return {"id": str(tasks.add_task(noop, 1).id)}


@asynccontextmanager
async def with_pool(app: FastAPI) -> AsyncIterator[None]:
    """asyncpg's pool, as it comes."""
    async with asyncpg.create_pool(os.environ["DATABASE_URL"]) as pool:
        app.state.pool = pool
        yield


raw = FastAPI(lifespan=with_pool)


@raw.post("/tasks")
async def insert(request: Request) -> dict[str, str]:
    """The same route with one raw INSERT of the same row."""
    row = one_row(1)
    await request.app.state.pool.execute(INSERT_ONE, *row)
    return {"id": str(row[0])}
