"""Does anything grow? RSS, connections, descriptors, and the sizes of tables and indexes over time.

    python -m benchmarks.soak --minutes 30 [--json]

One supervisor with two workers on a server of its own; tasks of every kind at a steady rate, ended
ones pruned by the script as `QUEUE_RETENTION_DAYS` would in a month. The first fifth is warm-up;
after it, the median of the last quarter may be above that of the first by 10 % and a little. Exit
code 1 when something grows. Linux only.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import statistics
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import asyncpg

from benchmarks.chaos import SETTINGS, environment, make_folder, produce, ready, socket_of
from benchmarks.chaos_fleet import children
from benchmarks.proxy import Proxy
from fastedgy import migrate
from fastedgy.embedded import server
from fastedgy.models.tables import Tables
from fastedgy.store.maintain import FIRST_ID, prune

KEEP = 30.0
"""Seconds for which ended tasks are kept."""
WARM_UP = 0.2
GROWTH = 1.10
SLACK = {"rss_mb": 10, "descriptors": 3, "connections": 2, "tables_mb": 8, "indexes_mb": 8}
"""What may come on top, in the unit of each."""
SIZES = """
SELECT sum(pg_table_size(c.oid)) / 1e6, sum(pg_indexes_size(c.oid)) / 1e6
  FROM pg_class AS c WHERE relkind = 'r' AND relname LIKE 'queued_task%'
"""


@dataclass(frozen=True, slots=True)
class Sample:
    """One look. Processes: the supervisor and its workers together."""

    at: float
    rss_mb: float
    descriptors: int
    connections: int
    tables_mb: float
    indexes_mb: float
    done: int


def of_processes(supervisor: int) -> tuple[float, int]:
    """RSS in megabytes and open descriptors."""
    rss, descriptors = 0, 0
    for pid in (supervisor, *children(supervisor)):
        try:
            rss += int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096
            descriptors += len(list(Path(f"/proc/{pid}/fd").iterdir()))
        except OSError:  # it ended between two looks
            continue
    return rss / 1e6, descriptors


async def look(connection: asyncpg.Connection, supervisor: int, began: float, done: int) -> Sample:
    """Take a sample."""
    rss, descriptors = await asyncio.to_thread(of_processes, supervisor)
    tables, indexes = await connection.fetchrow(SIZES)
    number = await connection.fetchval(
        "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'fastedgy%'"
    )
    return Sample(
        round(time.monotonic() - began, 1), round(rss, 1), descriptors, number,
        round(float(tables), 1), round(float(indexes), 1), done,
    )  # fmt: skip


def start_queue(surroundings: dict[str, str], folder: Path) -> subprocess.Popen[bytes]:
    """Start a supervisor with two workers."""
    command = [sys.executable, "-m", "fastedgy", "queue", "start"]
    command += ["--app", "benchmarks.chaos_app:app", "--workers", "2"]
    with (folder / "supervisor.log").open("ab") as log:
        return subprocess.Popen(
            command, env=surroundings, stdout=log, stderr=log, start_new_session=True
        )


async def run(minutes: float, rate: float, folder: Path) -> list[Sample]:
    """The whole run in a folder of its own."""
    postgres = server(folder / "postgres")
    url = await asyncio.to_thread(postgres.start)
    proxy = Proxy(socket_of(url))
    processes: list[subprocess.Popen[bytes]] = []
    try:
        await migrate.upgrade(url)
        surroundings = environment(proxy.start(), folder / "ledger")
        surroundings |= dict.fromkeys(SETTINGS.keys() & {"QUEUE_STATEMENT_TIMEOUT"}, "10")
        processes.append(start_queue(surroundings, folder))
        await ready(url, 2)
        processes.append(produce(60 * minutes, 1, rate, surroundings, folder))
        return await watch(url, processes[0].pid, 60 * minutes)
    finally:
        for process in reversed(processes):
            process.terminate()
            try:
                await asyncio.to_thread(process.wait, 30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        proxy.stop()
        await asyncio.to_thread(postgres.stop)


async def watch(url: str, supervisor: int, seconds: float) -> list[Sample]:
    """Sample a hundred times, and prune what has ended."""
    samples: list[Sample] = []
    began, done = time.monotonic(), 0
    connection = await asyncpg.connect(url)
    try:
        while (now := time.monotonic() - began) < seconds:
            pruned = 1_000
            while pruned == 1_000:
                pruned, _ = await prune(
                    connection, Tables(), older_than=KEEP, limit=1_000, after=FIRST_ID
                )
                done += pruned
            samples.append(await look(connection, supervisor, began, done))
            await asyncio.sleep(max(0.0, min(seconds / 100, seconds - now)))
    finally:
        await connection.close()
    return samples


def growth(samples: list[Sample]) -> dict[str, dict[str, float]]:
    """What grew: the medians of the first and the last quarter after the warm-up."""
    kept = samples[int(len(samples) * WARM_UP) :]
    quarter = max(1, len(kept) // 4)
    grown = {}
    for name, slack in SLACK.items():
        values = [float(getattr(sample, name)) for sample in kept]
        first, last = statistics.median(values[:quarter]), statistics.median(values[-quarter:])
        if last > first * GROWTH + slack:
            grown[name] = {"first": first, "last": last}
    return grown


def main() -> int:
    """Run and report; 1 when something grew."""
    parser = argparse.ArgumentParser(prog="benchmarks.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--rate", type=float, default=200, help="Tasks added a second.")
    parser.add_argument("--json", action="store_true", help="One JSON object on stdout.")
    given = parser.parse_args()
    folder = make_folder("fastedgy-soak-")
    try:
        samples = asyncio.run(run(given.minutes, given.rate, folder))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    grown = growth(samples)
    told: dict[str, Any] = {"grown": grown, "samples": [asdict(sample) for sample in samples]}
    if given.json:
        print(json.dumps(told))
    else:
        for sample in samples[:: max(1, len(samples) // 20)]:
            print("  ".join(f"{name} {value:>8}" for name, value in asdict(sample).items()))
        print(f"grown: {grown}" if grown else "nothing grew")
    return 1 if grown else 0


if __name__ == "__main__":
    sys.exit(main())
