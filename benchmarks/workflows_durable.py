"""Durable workflows under kills: how sagas end, and how many calls probe an open breaker."""

from __future__ import annotations

import asyncio
import os
import signal
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import orjson
from asyncpg import Connection

from benchmarks.chaos_fleet import born, children
from benchmarks.durable_tasks import LEDGER, STEPS, guarded_call, order
from benchmarks.harness import BenchmarkError, Lab, Pool, T, pool, producer
from benchmarks.report import Bar, Figures, Scenario
from fastedgy.database import connect

SAGAS = 1_000
SAGAS_PER_SECOND = 40
CREW = 12
"""Workers of the sagas. The oldest one is killed each second, so each lives for some ten seconds: a
supervisor takes its time to replace what keeps dying younger."""
WORKERS = 4
CALLS = 400
BROKEN = 6.0
"""Seconds for which the provider of the breaker is away."""
SLACK = 120.0
"""Seconds that all of it may take beyond what its size explains."""

_LEFT = f"SELECT count(*) FROM {T.tasks} WHERE state NOT IN ('done', 'failed', 'cancelled')"


@contextmanager
def _ledger() -> Iterator[Path]:
    """A ledger for the workers. A task may lose more processes than by default: all of it is killed
    all the time."""
    handle, name = tempfile.mkstemp(prefix="benchmarks-", suffix=".ledger")
    os.close(handle)
    os.environ |= {LEDGER: name, "QUEUE_MAX_LOSSES": "50"}
    try:
        yield Path(name)
    finally:
        del os.environ[LEDGER], os.environ["QUEUE_MAX_LOSSES"]
        Path(name).unlink()


async def _kill_every_second(running: Pool) -> int:
    """SIGKILL for the oldest worker each second, until cancelled; how many were killed."""
    killed = 0
    with suppress(asyncio.CancelledError):
        while True:
            await asyncio.sleep(1)
            ready = set(await running.pids())
            ages = {
                pid: birth for pid in children(running.pid) if pid in ready and (birth := born(pid))
            }
            if len(ages) > CREW // 2:  # where starting takes longer, as many as can be replaced
                with suppress(ProcessLookupError):
                    os.kill(min(ages, key=lambda pid: int(ages[pid])), signal.SIGKILL)
                    killed += 1
    return killed


async def sagas(lab: Lab) -> Figures:
    """How many of 1,000 sagas do not end as exactly one of completed and compensated."""
    count = lab.count(SAGAS, least=40)
    began = time.monotonic()
    with _ledger() as ledger:
        async with lab.database() as url, pool(url, CREW) as running:
            await running.ready(CREW)
            own = await connect(url)  # the killer has the pool's
            killing = asyncio.create_task(_kill_every_second(running))
            async with producer(url) as tasks:
                for number in range(count):
                    tasks.add_task(order, number, number % 3 == 0)
                    if number % 10 == 9:
                        await tasks.flush()
                        await asyncio.sleep(10 / SAGAS_PER_SECOND)
            await running.until(lambda: _all_ended(own), SLACK + count / 10, every=0.2)
            killing.cancel()
            kills = await killing
            rows = await own.fetch(f"SELECT args, state, result FROM {T.tasks}")
            await own.close()
        wrong, again = _judge(rows, ledger.read_text().splitlines())
    return {
        "value": len(wrong), "sagas": len(rows), "kills": kills, "made_again": again,
        "seconds": time.monotonic() - began,
    }  # fmt: skip


async def _all_ended(connection: Connection) -> bool:
    return bool(await connection.fetchval(_LEFT) == 0)


def _judge(rows: list[Any], lines: list[str]) -> tuple[list[int], int]:
    """The sagas that did not end as they should, and how many effects were made more than once: a
    process that is killed while it is at a step leaves that to be made again."""
    done: dict[int, list[tuple[str, str]]] = defaultdict(list)
    for line in lines:
        what, number, step = line.split()
        done[int(number)].append((what, step))
    wrong = []
    for row in rows:
        number, fails = orjson.loads(row["args"])
        result = orjson.loads(row["result"] or "null") or {}
        effects = list(dict.fromkeys(done[number]))  # the first time of each
        forward = [("do", step) for step in STEPS]
        if fails:
            expected = forward + [("undo", step) for step in reversed(STEPS)]
            ended = result.get("status") == "compensated"
            ended = ended and result.get("compensations") == list(reversed(STEPS))
        else:
            expected = [*forward, ("do", "ship")]
            ended = result.get("status") == "completed"
        if row["state"] != "done" or not ended or effects != expected:
            wrong.append(number)
    again = sum(times - 1 for each in done.values() for times in Counter(each).values())
    return wrong, again


async def breaker(lab: Lab) -> Figures:
    """How many probes of 4 workers were at work at the same time as another one."""
    count = lab.count(CALLS, least=100)
    with _ledger() as ledger:
        async with lab.database() as url, pool(url, WORKERS) as running:
            await running.ready(WORKERS)
            until = time.monotonic() + lab.seconds(BROKEN, least=2)
            async with producer(url) as tasks:
                tasks.add_tasks(guarded_call, [(number, until) for number in range(count)])
            await running.until(lambda: _all_ended(running.watch), SLACK, every=0.1)
        calls = sorted(tuple(map(float, line.split())) for line in ledger.read_text().splitlines())
    opened = sorted(call[1] for call in calls)[4]
    through = sorted(call[1] for call in calls if call[0] >= until)
    if len(through) < count:
        raise BenchmarkError(f"Of {count} calls, {len(through)} came through.")
    # The breaker rests for 0.25 s: what begins after that and before it is closed is a probe.
    probes = [call for call in calls if call[0] > opened + 0.2 and call[1] <= through[1]]
    if len(probes) < 3:
        raise BenchmarkError(f"There were {len(probes)} probes only: the breaker was not used.")
    overlapping = sum(before[1] > after[0] for before, after in pairwise(probes))
    return {"value": overlapping, "probes": len(probes), "failed_calls": len(calls) - count}


SCENARIOS = (
    Scenario(
        "sagas",
        "sagas",
        "1,000 sagas, 12 workers, one killed every second: how many end otherwise than as "
        "completed or compensated, exactly once",
        sagas,
        (Bar("value", 0, "sagas that ended wrong", at_most=True),),
    ),
    Scenario(
        "breaker",
        "probes",
        "a breaker that 4 workers share: how many probes overlap",
        breaker,
        (Bar("value", 0, "probes at the same time as another", at_most=True),),
    ),
)
