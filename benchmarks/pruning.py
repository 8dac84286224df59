"""Pruning a tenth of ten million rows while tasks flow."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime, timedelta

from benchmarks.deep import make_deep
from benchmarks.flow import flow, probe_p99, rate
from benchmarks.harness import ROOT, BenchmarkError, Lab, Pool, pool
from benchmarks.onlookers import settings
from benchmarks.report import Bar, Figures, Scenario
from fastedgy.database import connect

DONE, OLD = 10_000_000, 1_000_000
WARM_UP = 5.0
BEFORE = 20.0
"""Seconds of the flow before the pruning begins."""
AT_MOST = 900.0
FEED = ("default", 0)
PROBES = ("default", 10)


async def _prune(url: str, expected: int) -> None:
    """`fastedgy queue prune`, which goes as fast as it can, unlike the workers' own pruning."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "fastedgy", "queue", "--app", "benchmarks.app:app", "prune", "--json",
        "--older-than", "30d",
        cwd=ROOT, env={**os.environ, "DATABASE_URL": url},
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    told, _ = await process.communicate()
    if process.returncode != 0 or json.loads(told)["deleted"] != expected:
        raise BenchmarkError(f"queue prune ended with {process.returncode} and said {told!r}.")


@asynccontextmanager
async def _pool_without_pruning(url: str) -> AsyncIterator[Pool]:
    with settings(QUEUE_RETENTION_DAYS="3650"):
        async with pool(url, 1) as running:
            yield running


async def pruned(lab: Lab) -> Figures:
    """The latency of tasks of a high priority in a flow, before and during the pruning."""
    done, old = lab.count(DONE), lab.count(OLD)
    before = lab.seconds(BEFORE, 3.0)
    moments: list[datetime] = []
    async with lab.database() as url:
        lab.say(f"pruned: making {done:,} rows, {old:,} of them old")
        await make_deep(url, done, 0, 0, old=old)
        async with _pool_without_pruning(url) as running:
            await running.ready(1)

            async def prune() -> None:
                await asyncio.sleep(WARM_UP + before)
                moments.append(await running.watch.fetchval("SELECT clock_timestamp()"))
                await _prune(url, old)
                moments.append(await running.watch.fetchval("SELECT clock_timestamp()"))

            pruning = asyncio.create_task(prune())
            try:
                await flow(
                    url, running, lanes=[FEED], count=1_000, at_most=AT_MOST, probe_lane=PROBES,
                    going_on=lambda: not pruning.done(),
                )  # fmt: skip
            finally:
                pruning.cancel()
            await pruning
        began, ended = moments
        calm = began - timedelta(seconds=before), began
        connection = await connect(url)
        p99_before, p99_during = [
            await probe_p99(connection, *window) for window in (calm, (began, ended))
        ]
        rates = [await rate(connection, *window) for window in (calm, (began, ended))]
        await connection.close()
    seconds = (ended - began).total_seconds()
    return {
        "value": p99_during / p99_before,
        "p99_before_ms": p99_before,
        "p99_during_ms": p99_during,
        "pruned_per_s": old / seconds,
        "prune_s": seconds,
        "flow_before_per_s": rates[0],
        "flow_during_per_s": rates[1],
    }


SCENARIOS = (
    Scenario(
        "pruned",
        "during/before",
        "p99 latency in a flow while 1 M of 10 M rows are pruned",
        pruned,
        (Bar("value", 2, "times the p99 before", at_most=True),),
    ),
)
