"""What a worker process costs: what it imports, and what its tasks leave behind."""

from __future__ import annotations

import gc
import json
from typing import Any

import asyncpg
import shop_tasks
from crew import Crew, Hire, reaches
from helpers import eventually
from rows import new, write

from fastedgy.worker.running import Running

UNUSED = {
    "alembic",
    "click",
    "databasez",
    "edgy.core.db",
    "fastedgy.admin.api",
    "fastedgy.admin.live",
    "fastedgy.admin.pages",
    "fastedgy.admin.service",
    "fastedgy.cli",
    "fastedgy.orm",
    "fastedgy.supervisor",
    "jinja2",
    "prometheus_client",
    "rich",
    "sentry_sdk",
    "sqlalchemy",
    "uvicorn",
}


async def test_a_worker_imports_what_it_uses_and_edgy_when_a_task_does(
    crew: Crew, connection: asyncpg.Connection
) -> None:
    await crew.start(app="lean_app:app", concurrency=1)

    async def result_of(function: str, *args: Any) -> Any:
        task = new(function=f"lean_app:{function}", args=json.dumps(args), max_retries=0)
        await write(connection, task, channel="queue_new_task")
        return json.loads((await reaches(connection, task.id, "done"))["result"])

    assert not UNUSED & set(await result_of("imported"))
    assert await result_of("use_edgy_in_a_thread") == [True, True, True]
    assert await result_of("use_edgy", "undone") == [1, 0]
    assert {"sqlalchemy", "fastedgy.orm"} <= set(await result_of("imported"))


async def test_tasks_that_are_done_are_freed_without_a_look_for_garbage(hire: Hire) -> None:
    def few_are_left() -> None:
        # The completer still has its last batch in hand.
        assert sum(type(each) is Running for each in gc.get_objects()) < 3

    gc.collect()
    gc.disable()
    try:
        async with hire() as staff:
            for function in (shop_tasks.echo, shop_tasks.greet, shop_tasks.talk):
                for number in range(3):
                    await staff.tasks.add_task(function, number).wait(30)
            await eventually(few_are_left)
    finally:
        gc.enable()
