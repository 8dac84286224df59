"""Many schedules of one second, while their workers are killed: each due time fires exactly once.

    python -m benchmarks.schedules [--schedules 200] [--supervisors 4] [--seconds 60] [--json]

Every three seconds a supervisor and its worker get SIGKILL, and another pair starts in their place.
Nothing is coalesced, so that each due time must have its own task: none missing, none twice. Linux
only. Exit code 1 when the promise was broken.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import quantiles

import asyncpg

from benchmarks.chaos_fleet import Fleet
from benchmarks.harness import embedded_server, forget_settings
from benchmarks.tasks import probe
from fastedgy import migrate
from fastedgy.app import running
from fastedgy.config import Settings
from fastedgy.database import connect
from fastedgy.dependencies import get_service
from fastedgy.scheduler import Scheduler

FIRED = """
SELECT task.schedule, (task.context #>> '{schedule,due}')::timestamptz AS due, count(*) AS tasks,
       extract(epoch FROM min(task.date_created)
               - (task.context #>> '{schedule,due}')::timestamptz)::float8 AS late
  FROM queued_tasks AS task WHERE task.schedule IS NOT NULL GROUP BY 1, 2
"""
WANTED = """
SELECT name, due FROM queued_task_schedules,
       generate_series(anchor + interval '1 second', last_due, interval '1 second') AS due
"""
START_WITHIN = 90.0
SETTLE_WITHIN = 60.0


@dataclass(slots=True)
class Figures:
    """What came of a run. Seconds, and numbers of due times."""

    schedules: int
    supervisors: int
    seconds: float
    kills: int
    due: int
    missing: int
    twice: int
    unasked: int
    unfinished: int
    late_p50: float
    late_p99: float
    late_max: float

    @property
    def holds(self) -> bool:
        """Whether each due time has exactly one task, and each task ran."""
        return self.due > 0 and not (self.missing or self.twice or self.unasked or self.unfinished)


class Crowd(Fleet):
    """Supervisors with one worker each."""

    def _spawn(self, place: int) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "fastedgy", "queue", "start", "--workers", "1"]
        with (self._folder / f"supervisor-{place}.log").open("ab") as log:
            return subprocess.Popen(
                [*command, "--app", "benchmarks.app:app"],
                env=self._environments[place],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )


async def run(
    url: str, folder: Path, *, schedules: int, supervisors: int, seconds: float, every: float,
    seed: int,
) -> Figures:  # fmt: skip
    """The whole run. `every`: seconds between two kills."""
    await migrate.upgrade(url)
    crowd = Crowd([{**os.environ, "DATABASE_URL": url} for _ in range(supervisors)], folder)
    connection = await connect(url)
    try:
        crowd.start()
        await until_ready(connection, supervisors)
        async with running(settings=Settings(database_url=url)):
            scheduler = get_service(Scheduler)
            for number in range(schedules):
                await scheduler.add(
                    probe, every=1, name=f"every second {number}", args=(number,), coalesce=False,
                    misfire_grace=None, max_instances=None,
                )  # fmt: skip
            kills = await chaos(crowd, seconds, every, random.Random(seed))
            await until_fired(connection)
            for number in range(schedules):
                await scheduler.pause(f"every second {number}")
        unfinished = await settle(connection, crowd)
        await asyncio.to_thread(crowd.stop, 30)
        return await judge(connection, kills, schedules, supervisors, seconds, unfinished)
    finally:
        crowd.kill_all()
        await connection.close()


async def until_ready(connection: asyncpg.Connection, workers: int) -> None:
    """Wait until so many workers run."""
    deadline = time.monotonic() + START_WITHIN
    while time.monotonic() < deadline:
        number = await connection.fetchval(
            "SELECT count(*) FROM queued_task_workers WHERE state = 'running'"
        )
        if number >= workers:
            return
        await asyncio.sleep(0.1)
    raise TimeoutError(f"the workers did not start within {START_WITHIN:g} s")


async def chaos(crowd: Crowd, seconds: float, every: float, rng: random.Random) -> int:
    """Kill one after the other for so many seconds, and start others in their places; how many."""
    kills = 0
    end = time.monotonic() + seconds
    kill_at = time.monotonic() + every
    while (now := time.monotonic()) < end:
        if now >= kill_at:
            print(await asyncio.to_thread(crowd.kill_host, rng), file=sys.stderr)
            kill_at += every
            kills += 1
        await asyncio.to_thread(crowd.look)
        await asyncio.sleep(0.1)
    return kills


async def until_fired(connection: asyncpg.Connection) -> None:
    """Wait until everything that is due by now has fired."""
    now = await connection.fetchval("SELECT clock_timestamp()")
    deadline = time.monotonic() + SETTLE_WITHIN
    while time.monotonic() < deadline:
        behind = await connection.fetchval(
            "SELECT count(*) FROM queued_task_schedules WHERE next_due <= $1", now
        )
        if not behind:
            return
        await asyncio.sleep(0.1)


async def settle(connection: asyncpg.Connection, crowd: Crowd) -> int:
    """Wait until all tasks have ended; how many have not."""
    deadline = time.monotonic() + SETTLE_WITHIN
    while True:
        left: int = await connection.fetchval(
            "SELECT count(*) FROM queued_tasks WHERE state <> 'done'"
        )
        if not left or time.monotonic() > deadline:
            return left
        await asyncio.to_thread(crowd.look)
        await asyncio.sleep(0.2)


async def judge(
    connection: asyncpg.Connection, kills: int, schedules: int, supervisors: int, seconds: float,
    unfinished: int,
) -> Figures:  # fmt: skip
    """Compare the tasks with the due times, which are counted from the rows' anchors."""
    fired = {(row["schedule"], row["due"]): row for row in await connection.fetch(FIRED)}
    wanted = {(row["name"], row["due"]) for row in await connection.fetch(WANTED)}
    late = sorted(row["late"] for row in fired.values()) or [0.0, 0.0]
    cuts = quantiles(late, n=100, method="inclusive")
    return Figures(
        schedules=schedules,
        supervisors=supervisors,
        seconds=seconds,
        kills=kills,
        due=len(wanted),
        missing=len(wanted - fired.keys()),
        twice=sum(row["tasks"] > 1 for row in fired.values()),
        unasked=len(fired.keys() - wanted),
        unfinished=unfinished,
        late_p50=round(cuts[49], 4),
        late_p99=round(cuts[98], 4),
        late_max=round(late[-1], 4),
    )


def show(figures: Figures) -> str:
    """The figures in a sentence."""
    return (
        f"{figures.due:,} due times of {figures.schedules} schedules under {figures.supervisors} "
        f"supervisors, {figures.kills} times one was killed: {figures.missing} missing, "
        f"{figures.twice} twice, {figures.unasked} unasked, {figures.unfinished} tasks unfinished; "
        f"late by {figures.late_p50 * 1000:.0f} ms (p50), {figures.late_p99 * 1000:.0f} ms (p99), "
        f"{figures.late_max:.2f} s at most"
    )


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--schedules", type=int, default=200)
    parser.add_argument("--supervisors", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--kill-every", type=float, default=3.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    given = parser.parse_args()
    forget_settings()
    with embedded_server() as url, tempfile.TemporaryDirectory() as folder:
        figures = asyncio.run(
            run(
                url,
                Path(folder),
                schedules=given.schedules,
                supervisors=given.supervisors,
                seconds=given.seconds,
                every=given.kill_every,
                seed=given.seed,
            )
        )
    if given.json:
        print(json.dumps({**asdict(figures), "holds": figures.holds}))
    else:
        print(show(figures))
    return 0 if figures.holds else 1


if __name__ == "__main__":
    sys.exit(main())
