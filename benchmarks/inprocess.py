"""In-process tasks, beside fastapi-tasks, Starlette's BackgroundTasks and a raw INSERT."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from statistics import median
from typing import Any

import anyio

from benchmarks.harness import Lab, settle
from benchmarks.report import Bar, Figures, Scenario
from benchmarks.serving import ask, served

CLIENTS = 16
WINDOW = 0.25
"""Seconds of one look at a route. The two that are compared take turns, so that a machine that
slows down slows both."""
WINDOWS = 32
TASKS = 20_000
BATCH = 500


async def nothing() -> None:
    """A task that is over at once."""


async def in_turns(port: int, ours: str, theirs: str, window: float) -> tuple[float, float, float]:
    """Requests a second of two routes, and the median of the ratios of neighbouring windows."""
    rates: dict[str, list[float]] = {ours: [], theirs: []}
    for number in range(WINDOWS + 1):
        for path in (ours, theirs) if number % 2 else (theirs, ours):
            began = time.monotonic()
            counts = await asyncio.gather(
                *(ask(port, path, began + window) for _ in range(CLIENTS))
            )
            if number:  # the first round warms up
                rates[path].append(sum(counts) / (time.monotonic() - began))
    ratios = [one / other for one, other in zip(rates[ours], rates[theirs], strict=True)]
    return median(rates[ours]), median(rates[theirs]), median(ratios)


async def _ours(run: Callable[[Callable[..., Any]], Awaitable[float]]) -> float:
    from fastapi import FastAPI

    from fastedgy.tasks import TasksScheduler, add_tasks
    from fastedgy.tasks.install import runner_of

    app = FastAPI()
    add_tasks(app)
    async with app.router.lifespan_context(app):
        return await run(TasksScheduler(runner_of(app)).schedule)


async def _theirs(run: Callable[[Callable[..., Any]], Awaitable[float]]) -> float | None:
    try:
        from fastapi_tasks.tasks import (  # type: ignore[import-not-found, unused-ignore]
            TasksScheduler,
        )
    except ImportError:
        return None
    async with anyio.create_task_group() as group:
        return await run(TasksScheduler(group).schedule)


async def _each(schedule: Callable[..., Any], count: int) -> float:
    """Microseconds of one task, from `schedule` to its end."""
    ran = 0

    async def work() -> None:
        nonlocal ran
        ran += 1

    began = time.perf_counter()
    for done in range(0, count, BATCH):
        for _ in range(BATCH):
            schedule(work)
        while ran < done + BATCH:  # noqa: ASYNC110
            await asyncio.sleep(0)
    return (time.perf_counter() - began) / count * 1e6


async def inprocess(lab: Lab) -> Figures:
    """All of it in one run."""
    figures: Figures = {}
    count = lab.count(TASKS, least=2 * BATCH) // BATCH * BATCH
    ours, theirs = [], []
    for _ in range(5):
        ours.append(await _ours(lambda schedule: _each(schedule, count)))
        other = await _theirs(lambda schedule: _each(schedule, count))
        if other is not None:
            theirs.append(other)
    figures["task_us"] = median(ours)
    if theirs:
        figures["fastapi_tasks_us"] = median(theirs)
        figures["overhead"] = figures["task_us"] / figures["fastapi_tasks_us"]
    else:
        lab.say("inprocess: fastapi-tasks is not installed, so there is nothing to compare with")
    window = lab.seconds(WINDOW, 0.2)
    async with lab.database() as url:
        await settle(url)
        async with served("inprocess_app:app", url) as (port, _):
            figures["value"], figures["floor"], figures["ratio"] = await in_turns(
                port, "/ours", "/theirs", window
            )
            durable, raw, share = await in_turns(port, "/durable", "/raw", window)
            figures |= {"durable": durable, "raw_insert": raw, "durable_ratio": share}
        async with served("inprocess_app:plain", url) as (port, _):
            ours_plain, theirs_plain, share = await in_turns(port, "/ours", "/theirs", window)
            figures |= {
                "plain": ours_plain, "plain_background": theirs_plain, "plain_ratio": share,
            }  # fmt: skip
    return figures


def _bars() -> tuple[Bar, ...]:
    bars = [
        Bar("ratio", 0.95, "of the route with Starlette's BackgroundTasks"),
        Bar("durable_ratio", 0.8, "of the route with one raw INSERT (durable=True)"),
    ]
    with suppress(ImportError):
        import fastapi_tasks  # type: ignore[import-not-found, unused-ignore]  # noqa: F401

        bars.append(Bar("overhead", 1.0, "of fastapi-tasks' time per task", at_most=True))
    return tuple(bars)


SCENARIOS = (
    Scenario(
        "inprocess",
        "requests/s",
        "a route of a FastEdgy with one after_response task; floor: with one BackgroundTask",
        inprocess,
        _bars(),
        note="`plain` is the same in a plain FastAPI with add_tasks, where no other dependency "
        "opens the route. Install fastapi-tasks to have the time per task compared with it.",
    ),
)
