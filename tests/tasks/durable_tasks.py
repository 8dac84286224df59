"""Functions of durable tasks, which a worker can import."""

from __future__ import annotations

import asyncio
from typing import Any

from fastedgy.queued_task import Discard, Snooze, getLogger, set_context, task
from fastedgy.tasks import Task

said: list[Any] = []
gates: dict[str, asyncio.Event] = {}


@task
async def work(number: int) -> int:
    set_context("percent", 100)
    getLogger("shop").info("worked")
    said.append(("work", number))
    return 2 * number


@task
def work_in_thread(number: int) -> int:
    said.append(("thread", number))
    return number


@task
async def hold(name: str) -> str:
    """Runs until its gate is opened; where there is no gate, it is through at once."""
    said.append(("began", name))
    if name in gates:
        await gates[name].wait()
    said.append(("ended", name))
    return name


@task
async def fail(message: str = "no") -> None:
    said.append(("fail", message))
    raise ValueError(message)


@task
async def fail_twice() -> str:
    said.append("attempt")
    if said.count("attempt") < 3:
        raise ConnectionError("not yet")
    return "through"


@task
async def later() -> None:
    said.append("snoozed")
    raise Snooze(3600)


@task
async def pointless() -> None:
    raise Discard("there is no such order")


@task
async def on_error(failed: Task, error: Exception) -> None:
    said.append(("handler", failed.name, failed.args, str(error)))
