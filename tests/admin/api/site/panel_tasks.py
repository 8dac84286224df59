"""What the workers run while somebody looks on."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from pathlib import Path
from typing import Any

from fastedgy.dependencies import get_service
from fastedgy.queued_task import getLogger, set_context, task
from fastedgy.queued_tasks import QueuedTasks

gates: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)
"""Events between a test and its tasks."""
logger = getLogger("panel")


@task
async def add(left: int, right: int = 1) -> int:
    """Add two numbers."""
    return left + right


@task(redact=["password"], queue="mail")
async def sign_up(name: str, password: str) -> str:
    return name


@task
async def talk(lines: int, gate: str | None = None) -> str:
    """Log lines, wait for the gate in the middle, and log as many again."""
    for number in range(lines):
        logger.info("before %d", number)
        set_context("progress", number)
    if gate is not None:
        await gates[gate].wait()
    for number in range(lines):
        logger.info("after %d", number)
    set_context("progress", 100)
    return "said"


@task
async def rest_until(path: str) -> None:
    """Between processes: until there is such a file."""
    while not Path(path).exists():
        await asyncio.sleep(0.02)


@task(max_retries=1, backoff=0.01)
async def fail(word: str = "no") -> None:
    logger.warning("about to fail")
    raise ValueError(word)


@task
async def large() -> str:
    return "x" * 100_000


def undecorated(value: Any = None) -> Any:
    return value


@task
async def anything(*args: Any, **words: Any) -> Any:
    return words


@task
async def parent(number: int) -> str:
    ref = get_service(QueuedTasks).add_task(add, number)
    return str(ref.id)


async def wave(well: bool) -> None:
    """In the web process."""
    if not well:
        raise ValueError("the other way")
