"""`explain` on tasks that real workers have been at."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import pytest
from helpers import eventually

WORKERS = Path(__file__).parents[1] / "worker"
for folder in (WORKERS, WORKERS / "site"):
    if str(folder) not in sys.path:
        sys.path.append(str(folder))

from crew import Hire, reaches  # noqa: E402
from rows import TABLES  # noqa: E402

from fastedgy.admin.doctor import doctor  # noqa: E402
from fastedgy.admin.explain import Explanation, explain  # noqa: E402
from fastedgy.config import QueuedTaskConfig  # noqa: E402
from fastedgy.queued_task import task  # noqa: E402
from fastedgy.workflows import sleep, wait_for_event  # noqa: E402

let_go = asyncio.Event()


@task
async def sleepy() -> None:
    await sleep(3600, name="nap")


@task
async def patient() -> None:
    await wait_for_event("paid:7")


@task(limit=1, per="customer:{customer}")
async def one_at_a_time(customer: int) -> None:
    await let_go.wait()


@task(max_retries=3, backoff=600)
async def unlucky() -> None:
    raise ValueError("no such user")


@pytest.fixture(autouse=True)
def fresh() -> None:
    let_go.clear()


async def why(connection: asyncpg.Connection, id: UUID | None) -> Explanation:
    assert id is not None
    return await explain(connection, TABLES, id, QueuedTaskConfig())


async def comes_to(connection: asyncpg.Connection, ref: Any, code: str) -> Explanation:
    """Wait until this is the first reason."""

    async def check() -> Explanation:
        explanation = await why(connection, await ref.get_task_id())
        assert explanation.reasons[0].code == code, explanation
        return explanation

    return await eventually(check)


async def test_tasks_that_sleep_wait_and_failed(
    connection: asyncpg.Connection, database_url: str
) -> None:
    async with Hire(database_url)() as staff:
        slept = staff.tasks.add_task(sleepy)
        waited = staff.tasks.add_task(patient)
        failed = staff.tasks.add_task(unlucky)
        await staff.tasks.flush()

        assert "its step nap: it wakes in " in (await comes_to(connection, slept, "sleep")).sentence
        told = await comes_to(connection, waited, "event")
        assert "the event paid:7" in told.sentence
        told = await comes_to(connection, failed, "retry")
        assert "Attempt 1 of 4 failed (ValueError: no such user)" in told.sentence
        found = await doctor(connection, TABLES, QueuedTaskConfig())
        assert {each.code for each in found} <= {"not_durable"}


async def test_a_limit_that_a_running_task_has_used_up(
    connection: asyncpg.Connection, database_url: str
) -> None:
    async with Hire(database_url)() as staff:
        running = staff.tasks.add_task(one_at_a_time, 42)
        await staff.tasks.flush()
        await reaches(connection, await running.get_task_id(), "doing")
        held = staff.tasks.add_task(one_at_a_time, 42)
        await staff.tasks.flush()

        told = await comes_to(connection, held, "gate_limit")
        assert told.sentence == 'Limit "customer:42": 1 of 1 run.'
        assert not told.ready
        let_go.set()
        await reaches(connection, await held.get_task_id(), "done")


async def test_a_worker_that_is_deaf_tells_so(
    connection: asyncpg.Connection, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fastedgy.worker import heartbeat, notifier

    monkeypatch.setattr(heartbeat, "TICK", 0.1)
    monkeypatch.setattr(notifier, "HEARING", 0.05)
    monkeypatch.setattr(notifier.Notifier, "_told", lambda *_: None)  # as behind a pooler
    async with Hire(database_url)(heartbeat=0.2, lease=5):

        async def check() -> None:
            found = await doctor(connection, TABLES, QueuedTaskConfig())
            assert "deaf_listeners" in {each.code for each in found}

        await eventually(check)
