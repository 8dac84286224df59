"""In-process tasks, beside fastapi-tasks, Starlette's BackgroundTasks and a raw INSERT."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from statistics import median
from typing import Any

import anyio

from benchmarks.harness import ROOT, START_LIMIT, BenchmarkError, Lab, settle
from benchmarks.report import Bar, Figures, Scenario

CLIENTS = 16
WINDOW = 0.5
"""Seconds of one look at a route. The two that are compared take turns, so that a machine that
slows down slows both."""
WINDOWS = 12
TASKS = 20_000
BATCH = 500


async def nothing() -> None:
    """A task that is over at once."""


@asynccontextmanager
async def served(app: str, url: str) -> AsyncIterator[int]:
    """An application of benchmarks/inprocess_app.py under uvicorn; its port."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
    command = [sys.executable, "-m", "uvicorn", f"benchmarks.inprocess_app:{app}", "--port",
               str(port), "--log-level", "warning"]  # fmt: skip
    process = await asyncio.create_subprocess_exec(
        *command, cwd=ROOT, env={**os.environ, "DATABASE_URL": url},
        stdin=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    try:
        deadline = time.monotonic() + START_LIMIT
        while True:
            if process.returncode is not None or time.monotonic() > deadline:
                raise BenchmarkError("The server did not start.")
            with suppress(OSError):
                _, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.close()
                break
            await asyncio.sleep(0.05)
        yield port
    finally:
        with suppress(ProcessLookupError):
            process.terminate()
        try:
            await asyncio.wait_for(process.wait(), 20)
        except TimeoutError:
            process.kill()
            await process.wait()


async def ask(port: int, path: str, until: float) -> int:
    """One keep-alive client; how many requests were answered with 200."""
    request = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 0\r\n\r\n".encode()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    answered = 0
    try:
        while time.monotonic() < until:
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            if not head.startswith(b"HTTP/1.1 200"):
                raise BenchmarkError(f"{path} answered {head.splitlines()[0]!r}.")
            length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
            await reader.readexactly(length)
            answered += 1
    finally:
        writer.close()
    return answered


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
        async with served("app", url) as port:
            figures["value"], figures["floor"], figures["ratio"] = await in_turns(
                port, "/ours", "/theirs", window
            )
            durable, raw, share = await in_turns(port, "/durable", "/raw", window)
            figures |= {"durable": durable, "raw_insert": raw, "durable_ratio": share}
        async with served("plain", url) as port:
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
