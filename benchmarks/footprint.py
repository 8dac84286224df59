"""What workers cost when nothing happens, and what they keep."""

from __future__ import annotations

import asyncio
import sys
import time

from benchmarks.flow import flow
from benchmarks.harness import (
    ROOT,
    BenchmarkError,
    Lab,
    T,
    cpu_seconds,
    pool,
    rss_megabytes,
    settle,
)
from benchmarks.report import Bar, Figures, Scenario
from fastedgy.database import connect
from fastedgy.database_url import parse_url

WORKERS = 2
QUIET = 60.0
"""Seconds for which an idle pool is watched; several rounds of everything that is periodic."""
CALM = 12.0
"""Seconds after the start that do not count. The server tells what a session did 10 s later."""
MILLION = 1_000_000

_IMPORTS = "import fastapi, edgy"
_USED = "import fastapi; from edgy import Database, Model, Registry, fields"
"""Edgy imports next to nothing until it is used."""
_SAY_RSS = """
import os
print(int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGESIZE") / 1e6)
"""


async def idle(lab: Lab) -> Figures:
    """Statements and CPU of workers that have nothing to do."""
    window = lab.seconds(QUIET, 10.0)
    async with lab.database() as url:
        await settle(url)
        async with pool(url, WORKERS) as running:
            await running.ready(WORKERS)
            pids = await running.pids()
            # Watched from another database, so that the looks themselves do not count.
            watch = await connect(lab.url)
            await running.watch.close()
            await asyncio.sleep(CALM)
            name = parse_url(url).name
            statements, cpu, own = (
                await _transactions(watch, name), [cpu_seconds(pid) for pid in pids],
                cpu_seconds(running.pid),
            )  # fmt: skip
            began = time.monotonic()
            await asyncio.sleep(window)
            seconds = time.monotonic() - began
            running.check()
            used = [cpu_seconds(pid) - before for pid, before in zip(pids, cpu, strict=True)]
            own = cpu_seconds(running.pid) - own
            statements = await _transactions(watch, name) - statements
            await watch.close()
    return {
        "value": statements / seconds / WORKERS,
        "cpu_percent": 100 * max(used) / seconds,
        "supervisor_cpu_percent": 100 * own / seconds,
    }


async def _transactions(watch: object, name: str | None) -> int:
    """Transactions of a database so far. An idle worker's statements are one each."""
    found: int = await watch.fetchval(  # type: ignore[attr-defined]
        "SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = $1", name
    )
    return found


async def _rss_after(code: str) -> float:
    """Megabytes of a process that has executed this."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code + _SAY_RSS, cwd=ROOT, stdout=asyncio.subprocess.PIPE
    )
    output, _ = await asyncio.wait_for(process.communicate(), 60)
    return float(output)


async def memory(lab: Lab) -> Figures:
    """RSS of a worker that has just started, and after a million tasks."""
    count = lab.count(MILLION, least=10_000)
    bare, used = await _rss_after(_IMPORTS), await _rss_after(_USED)
    async with lab.database() as url:
        await settle(url)
        async with pool(url, 1) as running:
            await running.ready(1)
            await asyncio.sleep(3)
            [pid] = await running.pids()
            start = rss_megabytes(pid)
            await flow(url, running, lanes=[("default", 0)], count=count // 10)
            warm = rss_megabytes(pid)
            flowed = await flow(
                url, running, lanes=[("default", 0)], count=count - count // 10,
                at_most=60 + count / 500,
            )  # fmt: skip
            await asyncio.sleep(2)
            after = rss_megabytes(pid)
            done = await running.watch.fetchval(
                f"SELECT count(*) FROM {T.tasks} WHERE state = 'done' AND run = 1"
            )
            if done < flowed.tasks:
                raise BenchmarkError(f"Only {done} tasks were done exactly once.")
    return {
        "value": start,
        "floor": bare,
        "edgy_in_use_mb": used,
        "above_limit_mb": start - (1.15 * bare + 20),
        "warm_mb": warm,
        "after_mb": after,
        "growth_mb": after - start,
    }


SCENARIOS = (
    Scenario(
        "idle",
        "statements/s",
        "per worker process of an idle pool of 2",
        idle,
        (
            Bar("value", 1, "statements/s per worker", at_most=True),
            Bar("cpu_percent", 0.5, "CPU of a worker, % of a core", at_most=True),
        ),
        note="No floor: raw SQL with nothing to do does nothing.",
    ),
    Scenario(
        "memory",
        "MB",
        "RSS of a new worker; floor: a process that imports FastAPI and Edgy",
        memory,
        (
            Bar("above_limit_mb", 0, "MB above 1.15 times the imports + 20 MB", at_most=True),
            Bar("growth_mb", 5, "MB more after a million tasks", at_most=True),
        ),
    ),
)
