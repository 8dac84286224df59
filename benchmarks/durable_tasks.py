"""The sagas and guarded calls of `benchmarks.workflows_durable`, which note what they do."""

from __future__ import annotations

import asyncio
import os
import time

from benchmarks.ledger import Ledger
from fastedgy.queued_task import task
from fastedgy.workflows import CircuitBreaker, Saga

LEDGER = "BENCHMARKS_LEDGER"
STEPS = ("reserve", "charge", "book")

_ledger = Ledger(os.environ.get(LEDGER, os.devnull))

provider = CircuitBreaker("provider", failure_threshold=5, reset_timeout=0.25, success_threshold=2)


class Refused(Exception):
    """The last step fails."""


async def _work(what: str, number: int, step: str) -> None:
    await asyncio.sleep(0.02)
    _ledger.note(what, number, step)
    await asyncio.sleep(0.02)


async def _last(number: int, fails: bool) -> None:
    await asyncio.sleep(0.02)
    if fails:
        raise Refused(f"order {number}")
    _ledger.note("do", number, "ship")


@task(max_retries=0)
async def order(number: int, fails: bool) -> None:
    """A saga of four steps."""
    async with Saga("order", backoff=0.2) as saga:
        for step in STEPS:
            await saga.step(
                step, _work, "do", number, step, compensate=(_work, "undo", number, step)
            )
        await saga.step("ship", _last, number, fails)


@task(max_retries=100, backoff=0.05, breaker="provider")
async def guarded_call(number: int, broken_until: float) -> None:
    """A call that fails until that time (of the machine's monotonic clock)."""
    began = time.monotonic()
    await asyncio.sleep(0.02)
    _ledger.note(f"{began:.6f}", f"{time.monotonic():.6f}")
    if began < broken_until:
        raise ConnectionError("the provider is away")
