"""The guide's flows, with workers that are killed in the middle: each comes to its end."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import asyncpg
import pytest
from crew import Hire
from flow_tasks import collect, decide, deliver, part, part_or_not, render, summary
from helpers import eventually
from supervised import Supervised, reaches

from fastedgy.config import QueuedTaskConfig, Settings
from fastedgy.connections import Connections
from fastedgy.queued_tasks import QueuedTasks
from fastedgy.workflows import chain, group


@pytest.fixture
async def tasks(database_url: str) -> AsyncIterator[QueuedTasks]:
    """A script's producer."""
    config = QueuedTaskConfig()
    made = QueuedTasks(
        Connections(database_url, Settings(database_url=database_url), config), config
    )
    async with made:
        yield made
    await made.close()


def words(ledger: Path) -> list[str]:
    """What was noted, without the runs."""
    return [line.split()[0] for line in ledger.read_text().splitlines()]


async def kill_at(
    word: str, ledger: Path, supervised: Supervised, connection: asyncpg.Connection
) -> None:
    """Kill the workers once a task has noted `word`."""

    def noted() -> None:
        assert any(each.startswith(word) for each in words(ledger)), supervised.output

    await eventually(noted)
    for pid in supervised.workers():
        os.kill(pid, signal.SIGKILL)


async def each_once_but_what_was_killed(connection: asyncpg.Connection) -> None:
    """Every task is done, and had one run more than it lost."""
    rows = await connection.fetch("SELECT name, state, attempt, history FROM queued_tasks")
    assert {row["state"] for row in rows} == {"done"}, [dict(row) for row in rows]
    assert {row["attempt"] for row in rows} == {1}


async def test_a_chain_goes_on_where_its_worker_was_killed(
    tasks: QueuedTasks,
    supervise: Callable[..., Supervised],
    ledger: Path,
    connection: asyncpg.Connection,
) -> None:
    supervised = supervise(workers=1)
    await supervised.ready(connection)
    made = await chain(tasks, (collect, "sales"), render, (deliver, "you"))
    await kill_at("render", ledger, supervised, connection)

    assert await made.wait(timeout=60) == "sales: 3 rows to you"
    await each_once_but_what_was_killed(connection)
    assert words(ledger) == ["collect", "render", "render", "deliver"]


async def test_a_fan_out_loses_no_part_and_joins_once(
    tasks: QueuedTasks,
    supervise: Callable[..., Supervised],
    ledger: Path,
    connection: asyncpg.Connection,
) -> None:
    supervised = supervise(workers=2, concurrency=2)
    await supervised.ready(connection, 2)
    parts = group(tasks, ((part, number) for number in range(12)))
    joined = await tasks.add_task(summary, parts)
    await kill_at("part-3", ledger, supervised, connection)

    assert await joined.wait(timeout=60) == {"successful": 12, "failed": 0}
    assert await parts.wait(timeout=30) == [number**2 for number in range(12)]
    await each_once_but_what_was_killed(connection)
    assert words(ledger).count("summary") == 1


async def test_a_conditional_flow_goes_on_where_its_worker_was_killed(
    tasks: QueuedTasks,
    supervise: Callable[..., Supervised],
    ledger: Path,
    connection: asyncpg.Connection,
) -> None:
    supervised = supervise(workers=1)
    await supervised.ready(connection)
    made = await tasks.add_task(decide, 500)
    await reaches(connection, await made.get_task_id(), "waiting")
    await kill_at("slow", ledger, supervised, connection)

    assert await made.wait(timeout=60) == "500 the slow way"
    await each_once_but_what_was_killed(connection)
    assert words(ledger).count("decide") == 1


async def test_a_batch_of_which_some_fail_is_summed_up(hire: Hire) -> None:
    async with hire() as staff:
        reports = group(staff.tasks, ((part_or_not, number) for number in range(10)))
        joined = staff.tasks.add_task(summary, reports)

        assert await joined.wait(timeout=30) == {"successful": 8, "failed": 2}
