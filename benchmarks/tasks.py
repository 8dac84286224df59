"""The bodies of the benchmarks' tasks."""

from __future__ import annotations

import asyncio
import time

from fastedgy.queued_task import getLogger, set_context

TRACES = 5
"""Log lines, and context values, that `traced` writes."""

logger = getLogger("benchmarks")


async def noop(number: int) -> None:
    """Nothing: what is left is the cost of the queue."""


async def stamp(number: int) -> int:
    """When the body began, in nanoseconds of the machine's monotonic clock."""
    return time.monotonic_ns()


async def echo(number: int) -> int:
    """The argument, for who waits for it."""
    return number


async def traced(number: int) -> None:
    """What a talkative task says of itself."""
    for step in range(TRACES):
        logger.info("step %d of task %d", step, number)
        set_context(f"step_{step}", number)


async def tick(pause: float, lasts: float) -> None:
    """Say something every `pause` seconds, for so many seconds in all."""
    until = time.monotonic() + lasts
    step = 0
    while time.monotonic() < until:
        step += 1
        set_context("progress", step)
        await asyncio.sleep(pause)


async def probe(number: int) -> None:
    """Nothing, under a name of its own."""


async def add_one(number: int) -> int:
    """The next number: what a link of a chain passes on."""
    return number + 1


async def total(numbers: list[int]) -> int:
    """The sum of what many tasks returned."""
    return sum(numbers)
