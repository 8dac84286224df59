"""What a task costs the server, counted by the server: a guard against regressions without a clock.

A fixed number of tasks runs through one worker in this process, on a server of its own where
nothing else happens: no autovacuum, no checkpoint, no full-page images. What pg_stat_statements,
the WAL and the table statistics say, per task, is compared with `costs.json`.

How many statements a run takes depends on how batches come about, and so on the machine: their
tolerance is wide. WAL bytes and rows hardly depend on it.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from asyncpg import Connection
from rich.console import Console
from rich.table import Table

from benchmarks.harness import BenchmarkError, Lab, T, embedded_server, producer, settle
from benchmarks.report import rounded
from benchmarks.tasks import noop, traced
from fastedgy.config import QueuedTaskConfig
from fastedgy.database import connect
from fastedgy.queued_task.offered import offer
from fastedgy.worker.assignment import Assignment
from fastedgy.worker.process import loop_factory
from fastedgy.worker.report import Report
from fastedgy.worker.worker import Worker

FILE = Path(__file__).with_name("costs.json")
TASKS = 2_000
ONE_BY_ONE = 200
TALKING = 500
FAMILY = 500
WITHIN = 60.0  # seconds that a run may take

SETTINGS = {
    "shared_preload_libraries": "pg_stat_statements",
    "autovacuum": "off",
    "full_page_writes": "off",
    "checkpoint_timeout": "1h",
    "max_wal_size": "4GB",
}

Counted = dict[str, dict[str, float]]
"""Per run, per figure: how much for one task."""


@dataclass(frozen=True, slots=True)
class Tolerance:
    """How much more than expected is still right: a share of it, plus a little for its own sake."""

    share: float
    slack: float

    def allows(self, expected: float, found: float) -> bool:
        """Less is always right; it is an occasion to update."""
        return found <= expected * (1 + self.share) + self.slack


FIGURES = {
    # What one task costs, over: enqueueing alone, or all of its life.
    "statements": Tolerance(0.6, 0.02),
    "wal_bytes": Tolerance(0.1, 30),
    "rows_written": Tolerance(0.02, 0.02),  # versions of rows of the queue's tables
    "rows_scanned": Tolerance(0.02, 0.02),  # by sequential scans
    "rows_fetched": Tolerance(0.5, 0.5),  # by index scans
    "blocks": Tolerance(0.3, 2),  # looked at in the buffers, by all statements
}
"""The figures, and how far each may go."""

_STATEMENTS = """
SELECT coalesce(sum(calls), 0)::bigint AS statements,
       coalesce(sum(shared_blks_hit + shared_blks_read), 0)::bigint AS blocks
  FROM pg_stat_statements
 WHERE dbid = (SELECT oid FROM pg_database WHERE datname = current_database())
   AND userid IS NOT NULL
"""
_ROWS = """
SELECT coalesce(sum(n_tup_ins + n_tup_upd + n_tup_del), 0)::bigint AS rows_written,
       coalesce(sum(seq_tup_read), 0)::bigint AS rows_scanned,
       coalesce(sum(idx_tup_fetch), 0)::bigint AS rows_fetched
  FROM pg_stat_user_tables WHERE relname = ANY ($1::text[])
"""
_WAL = "SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::bigint"
_OTHERS = """
SELECT count(*) FROM pg_stat_activity
 WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'
"""


async def enqueue_many(url: str) -> int:
    """One flush of many tasks."""
    async with producer(url) as tasks:
        tasks.add_tasks(noop, [(number,) for number in range(TASKS)])
    return TASKS


async def enqueue_one(url: str) -> int:
    """One commit for each task."""
    async with producer(url) as tasks:
        for number in range(ONE_BY_ONE):
            await tasks.add_task(noop, number)
    return ONE_BY_ONE


async def run(url: str) -> int:
    """No-op tasks through a worker."""
    await work(url, TASKS)
    return TASKS


async def run_traced(url: str) -> int:
    """Tasks with logs and context through a worker."""
    await work(url, TALKING)
    return TALKING


async def family(url: str) -> int:
    """A parent, its children, and a join, from the enqueueing on."""
    await _add_family(url)
    await work(url, FAMILY + 2)
    return FAMILY + 2


async def grow(url: str) -> int:
    """A worker that has planned its statements on an empty table, and then gets all the tasks."""
    async with working(url) as worker:
        async with producer(url) as tasks:
            tasks.add_task(noop, -1)
        await _done(worker, 1)
        await enqueue_many(url)
        await _done(worker, TASKS + 1)
    return TASKS + 1


async def _add_family(url: str) -> None:
    async with producer(url) as tasks:
        parent = tasks.add_task(noop, 0)
        children = tasks.add_tasks(noop, [(n,) for n in range(FAMILY)], parent=parent)
        tasks.add_task(noop, 0, parent=children)


async def _add_noops(url: str) -> None:
    await enqueue_many(url)


async def _add_traced(url: str) -> None:
    async with producer(url) as tasks:
        tasks.add_tasks(traced, [(number,) for number in range(TALKING)])


async def _nothing(url: str) -> None:
    """Nothing is there before."""


RUNS: dict[str, tuple[Callable[[str], Awaitable[None]], Callable[[str], Awaitable[int]]]] = {
    "enqueue_many": (_nothing, enqueue_many),
    "enqueue_one": (_nothing, enqueue_one),
    "run": (_add_noops, run),
    "run_traced": (_add_traced, run_traced),
    "family": (_nothing, family),
    "grow": (_nothing, grow),
}
"""What is there before, and what is counted."""


@asynccontextmanager
async def working(url: str) -> AsyncIterator[Worker]:
    """One worker in this process."""
    offer([Path(__file__).parent])
    config = QueuedTaskConfig()
    async with producer(url) as tasks:
        worker = Worker(Assignment(), url, config, tasks, T, Report(None))
        running = asyncio.create_task(worker.run())
        try:
            async with asyncio.timeout(WITHIN):
                yield worker
        finally:
            worker.stop()
            await running


async def work(url: str, count: int) -> None:
    """One worker in this process, until so many tasks are done."""
    async with working(url) as worker:
        await _done(worker, count)


async def _done(worker: Worker, count: int) -> None:
    # The worker's own counter: a look at the table would be counted.
    while worker.parts.counters.done < count or worker.parts.completer.unwritten():  # noqa: ASYNC110
        await asyncio.sleep(0.01)


async def count_one(lab: Lab, name: str) -> dict[str, float]:
    """What one run costs, per task."""
    before, counted = RUNS[name]
    async with lab.database() as url:
        connection = await connect(url)
        try:
            await connection.execute("CREATE EXTENSION pg_stat_statements")
            await before(url)
            await settle(url)
            await _alone(connection)
            await connection.execute("SELECT pg_stat_force_next_flush()")
            start = await _read(connection)
            tasks = await counted(url)
            await _alone(connection)
            end = await _read(connection)
            left = await connection.fetchval(
                f"SELECT count(*) FROM {T.tasks} WHERE state NOT IN ('done', 'enqueued')"
            )
        finally:
            await connection.close()
    if left:
        raise BenchmarkError(f"{left} tasks of the run {name!r} are neither new nor done.")
    return {figure: rounded((end[figure] - start[figure]) / tasks) for figure in FIGURES}


async def _alone(connection: Connection) -> None:
    """Wait until all other sessions have ended: they tell their statistics then."""
    async with asyncio.timeout(10):
        while await connection.fetchval(_OTHERS):  # noqa: ASYNC110
            await asyncio.sleep(0.02)


async def _read(connection: Connection) -> dict[str, int]:
    """All counters. Our own looks are in them, a handful of statements for a whole run."""
    wal = await connection.fetchval(_WAL)
    await connection.execute("SELECT pg_stat_clear_snapshot()")
    names = [T.tasks, T.links, T.logs, T.workers]
    return {
        "wal_bytes": wal,
        **await connection.fetchrow(_STATEMENTS),
        **await connection.fetchrow(_ROWS, names),
    }


async def _count_all(url: str) -> Counted:
    lab = Lab(url)
    async with lab.opened(allow_volatile=True):
        return {name: await count_one(lab, name) for name in RUNS}


def count_all() -> Counted:
    """All runs, on an embedded server of their own."""
    with (
        embedded_server(settings=SETTINGS) as url,
        asyncio.Runner(loop_factory=loop_factory()) as runner,
    ):
        return runner.run(_count_all(url))


def load() -> Counted:
    """The committed figures."""
    found: Counted = json.loads(FILE.read_text()) if FILE.exists() else {}
    return found


def save(counted: Counted) -> None:
    """Make these the figures to compare with."""
    FILE.write_text(json.dumps(counted, indent=2) + "\n")


def complaints(counted: Counted, expected: Counted) -> list[str]:
    """What costs more than it should, in sentences."""
    found = []
    for name, figures in counted.items():
        if name not in expected:
            found.append(f"{name}: there are no figures of it yet. {CURE}")
            continue
        for figure, value in figures.items():
            wanted = expected[name][figure]
            if not FIGURES[figure].allows(wanted, value):
                found.append(f"{name}: {value:g} {figure} per task, expected {wanted:g}. {CURE}")
    return found


CURE = "If that is meant: `python -m benchmarks costs --update`."


def show(counted: Counted, expected: Counted, console: Console) -> None:
    """A table for people."""
    table = Table(title="What one task costs the server (expected)", title_justify="left")
    table.add_column("run")
    for figure in FIGURES:
        table.add_column(figure, justify="right")
    for name, figures in counted.items():
        cells: list[Any] = []
        for figure, value in figures.items():
            wanted = expected.get(name, {}).get(figure)
            fine = wanted is not None and FIGURES[figure].allows(wanted, value)
            told = "-" if wanted is None else f"{wanted:g}"
            cells.append(f"[{'green' if fine else 'red'}]{value:g}[/] ({told})")
        table.add_row(name, *cells)
    console.print(table)
