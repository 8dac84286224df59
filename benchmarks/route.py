"""A route that enqueues, beside one that inserts."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from benchmarks.harness import ROOT, START_LIMIT, BenchmarkError, Lab, T, settle
from benchmarks.report import Bar, Figures, Scenario
from fastedgy.database import connect

CLIENTS = 16
SECONDS = 5.0
WARM_UP = 0.5
REQUEST = b"POST /tasks HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 0\r\n\r\n"


@asynccontextmanager
async def served(app: str, url: str) -> AsyncIterator[int]:
    """An application of benchmarks/app.py under uvicorn; its port."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
    command = [sys.executable, "-m", "uvicorn", f"benchmarks.app:{app}", "--port", str(port),
               "--log-level", "warning"]  # fmt: skip
    process = await asyncio.create_subprocess_exec(
        *command, cwd=ROOT, env={**os.environ, "DATABASE_URL": url},
        stdin=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    try:
        await _listening(process, port)
        yield port
    finally:
        with suppress(ProcessLookupError):
            process.terminate()
        try:
            await asyncio.wait_for(process.wait(), 20)
        except TimeoutError:
            process.kill()
            await process.wait()


async def _listening(process: asyncio.subprocess.Process, port: int) -> None:
    deadline = time.monotonic() + START_LIMIT
    while time.monotonic() < deadline and process.returncode is None:
        with suppress(OSError):
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.close()
            return
        await asyncio.sleep(0.05)
    raise BenchmarkError("The server did not start.")


async def requests(port: int, until: float) -> int:
    """One keep-alive client; how many requests were answered with 200."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    answered = 0
    try:
        while time.monotonic() < until:
            writer.write(REQUEST)
            head = await reader.readuntil(b"\r\n\r\n")
            if not head.startswith(b"HTTP/1.1 200"):
                raise BenchmarkError(f"The route answered {head.splitlines()[0]!r}.")
            length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
            await reader.readexactly(length)
            answered += 1
    finally:
        writer.close()
    return answered


async def load(app: str, url: str, seconds: float) -> float:
    """Requests a second, each of which left a row."""
    await settle(url)
    async with served(app, url) as port:
        async with asyncio.timeout(30):
            warm = await requests(port, time.monotonic() + WARM_UP)
        began = time.monotonic()
        async with asyncio.timeout(seconds + 30):
            counts = await asyncio.gather(
                *[requests(port, began + seconds) for _ in range(CLIENTS)]
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
