"""How long the dashboard's pages take on the server, beside millions of rows."""

from __future__ import annotations

import asyncio
import secrets
import time
from statistics import median

from benchmarks.deep import make_deep
from benchmarks.harness import Lab, T, settle
from benchmarks.onlookers import Onlookers, settings
from benchmarks.report import Bar, Figures, Scenario
from benchmarks.serving import served
from fastedgy.database import connect

DONE, SCHEDULED, WAITING = 9_000_000, 500_000, 500_000
RUNNING = 10_000
WORKERS = 100
LOOKS = 7
PAGES = ("/queue/", "/queue/tasks", "/queue/tasks?state=failed", "/queue/tasks?state=done",
         "/queue/tasks?state=doing", "/queue/tasks?state=scheduled", "/queue/tasks?name=*noop",
         "/queue/queues", "/queue/workers", "/queue/schedules", "/queue/breakers",
         "/queue/doctor", "/queue/audit")  # fmt: skip

_WORKERS = f"""
INSERT INTO {T.workers} (id, server_name, pid, concurrency, busy, version, last_heartbeat)
SELECT gen_random_uuid(), 'host-' || n % 10, n, $2, $2, 'benchmark', now() + interval '1 hour'
  FROM generate_series(1, $1::integer) AS n
"""
_RUNNING = f"""
WITH worker AS (SELECT id, row_number() OVER () AS place FROM {T.workers})
INSERT INTO {T.tasks} (id, name, function, args, state, run, attempt, worker_id, date_started)
SELECT gen_random_uuid(), 'benchmarks.tasks.noop', 'benchmarks.tasks:noop', jsonb_build_array(n),
       'doing', 1, 1, worker.id, now() - interval '1 minute'
  FROM generate_series(1, $1::integer) AS n JOIN worker ON worker.place = 1 + n % $2::integer
"""


async def pages(lab: Lab) -> Figures:
    """The slowest page, by the medians of some looks at each, with nothing else going on."""
    running = lab.count(RUNNING)
    sizes = [lab.count(size) for size in (DONE, SCHEDULED, WAITING)]
    async with lab.database() as url:
        lab.say("pages: making {:,} done, {:,} scheduled and {:,} waiting rows".format(*sizes))
        await make_deep(url, *sizes)
        connection = await connect(url)
        await connection.execute(_WORKERS, WORKERS, max(1, running // WORKERS))
        await connection.execute(_RUNNING, running, WORKERS)
        task = await connection.fetchval(f"SELECT id FROM {T.tasks} WHERE state = 'done' LIMIT 1")
        await connection.close()
        await settle(url)
        token = secrets.token_urlsafe()
        with settings(QUEUE_ADMIN_TOKEN=token):
            async with served("app:app", url) as (port, _):
                found = await _times(Onlookers(port, token), (*PAGES, f"/queue/tasks/{task}"))
    for path, took in sorted(found.items(), key=lambda each: -each[1]):
        lab.say(f"pages: {took:6.1f} ms {path}")
    return {"value": max(found.values()), "median_page": median(found.values())}


async def _times(people: Onlookers, paths: tuple[str, ...]) -> dict[str, float]:
    """Milliseconds from the request to the whole page, by path: medians."""
    found = {}
    reader, writer = await asyncio.open_connection("127.0.0.1", people.port)
    for path in paths:
        taken = []
        for _ in range(LOOKS):
            began = time.perf_counter()
            await people.get(reader, writer, path)
            taken.append((time.perf_counter() - began) * 1000)
        found[path] = median(taken)
    writer.close()
    return found


SCENARIOS = (
    Scenario(
        "pages",
        "ms",
        "the slowest page of the dashboard beside 10 M rows, 10,000 of them running",
        pages,
        (Bar("value", 200, "ms on the server", at_most=True),),
    ),
)
