"""Routes with in-process tasks, beside routes with Starlette's BackgroundTasks and a raw INSERT."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import BackgroundTasks, FastAPI, Request

from benchmarks.app import with_pool
from benchmarks.floor import INSERT_ONE, one_row
from benchmarks.tasks import noop
from fastedgy.app import FastEdgy
from fastedgy.tasks import Tasks, add_tasks


async def nothing() -> None:
    """A task that is over at once."""


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Both the application's own pool and the queue's."""
    async with with_pool(app):
        yield


app = FastEdgy(lifespan=lifespan)
plain = FastAPI()
add_tasks(plain)

for each in (app, plain):

    @each.post("/ours")
    async def ours(tasks: Tasks) -> dict[str, bool]:
        """One task after the response."""
        tasks.after_response.schedule(nothing)
        return {"ok": True}

    @each.post("/theirs")
    async def theirs(tasks: BackgroundTasks) -> dict[str, bool]:
        """The same, as Starlette has it."""
        tasks.add_task(nothing)
        return {"ok": True}


@app.post("/durable")
async def durable(tasks: Tasks) -> dict[str, bool]:
    """One durable task after the response."""
    tasks.after_response.task(durable=True).schedule(noop, 1)
    return {"ok": True}


@app.post("/raw")
async def raw(request: Request) -> dict[str, bool]:
    """One raw INSERT of such a row."""
    await request.app.state.pool.execute(INSERT_ONE, *one_row(1))
    return {"ok": True}
