"""A route that enqueues, beside one that inserts."""

from __future__ import annotations

import asyncio
import time

from benchmarks.harness import BenchmarkError, Lab, T, settle
from benchmarks.report import Bar, Figures, Scenario
from benchmarks.serving import ask, served
from fastedgy.database import connect

CLIENTS = 16
SECONDS = 5.0
WARM_UP = 0.5
PATH = "/tasks"


async def load(app: str, url: str, seconds: float) -> float:
    """Requests a second, each of which left a row."""
    await settle(url)
    async with served(f"app:{app}", url) as (port, _):
        async with asyncio.timeout(30):
            warm = await ask(port, PATH, time.monotonic() + WARM_UP)
        began = time.monotonic()
        async with asyncio.timeout(seconds + 30):
            counts = await asyncio.gather(
                *[ask(port, PATH, began + seconds) for _ in range(CLIENTS)]
            )
        taken = time.monotonic() - began
    connection = await connect(url)
    rows = await connection.fetchval(f"SELECT count(*) FROM {T.tasks}")
    await connection.close()
    if rows != warm + sum(counts):
        raise BenchmarkError(f"{warm + sum(counts)} answers, and {rows} rows.")
    return sum(counts) / taken


async def route(lab: Lab) -> Figures:
    """Requests a second of 16 clients, one server process."""
    seconds = lab.seconds(SECONDS, 1.0)
    async with lab.database() as url:
        ours = await load("app", url, seconds)
    async with lab.database() as url:
        raw = await load("raw", url, seconds)
    return {"value": ours, "floor": raw}


SCENARIOS = (
    Scenario(
        "route",
        "requests/s",
        "a FastAPI route with one add_task; floor: with one raw INSERT",
        route,
        (Bar("ratio", 0.8, "of the route with one raw INSERT"),),
    ),
)
