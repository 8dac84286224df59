"""Tasks behind gates, and what they tell of how many run at once."""

from __future__ import annotations

import asyncio
import os
import time
from collections import Counter, defaultdict
from pathlib import Path

from fastedgy.queued_task import get_current_task, task

running: Counter[str] = Counter()
most: defaultdict[str, int] = defaultdict(int)
starts: list[float] = []
started: list[str] = []
doors: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)


def _enter(key: str) -> None:
    running[key] += 1
    most[key] = max(most[key], running[key])
    started.append(key)
    starts.append(time.monotonic())


@task(limit=2, per="customer:{customer_id}")
async def bill(customer_id: str, seconds: float = 0.02) -> None:
    _enter(customer_id)
    try:
        await asyncio.sleep(seconds)
    finally:
        running[customer_id] -= 1


@task(limit=1)
async def alone(seconds: float = 0.01) -> None:
    _enter("alone")
    try:
        await asyncio.sleep(seconds)
    finally:
        running["alone"] -= 1


@task(limit=1, max_retries=1, backoff=0.01)
async def stumble() -> int:
    run = get_current_task()
    assert run is not None
    _enter("stumble")
    running["stumble"] -= 1
    if run.attempt == 1:
        raise ValueError("once")
    return run.attempt


@task(rate="20/s")
async def ping() -> None:
    starts.append(time.monotonic())


async def plain(name: str = "plain", seconds: float = 0.0) -> None:
    _enter(name)
    try:
        await asyncio.sleep(seconds)
    finally:
        running[name] -= 1


async def wait_at_door(name: str) -> None:
    """Run until the test opens the door of that name."""
    _enter(name)
    try:
        await doors[name].wait()
    finally:
        running[name] -= 1


@task(limit=3, per="ledger:{key}")
async def enter_in_ledger(path: str, key: int, seconds: float) -> None:
    """One line at the start and one at the end, each written at once."""
    line = f"{key} {os.getpid()}"
    ledger = Path(path)
    with ledger.open("a") as book:
        book.write(f"+ {time.time():.6f} {line}\n")
    try:
        await asyncio.sleep(seconds)
    finally:
        with ledger.open("a") as book:
            book.write(f"- {time.time():.6f} {line}\n")


@task(limit=1)
async def die_once() -> None:
    run = get_current_task()
    assert run is not None
    if run.run == 1:
        os._exit(9)


@task(breaker="payments")
async def pay() -> None:
    _enter("pay")
    running["pay"] -= 1
