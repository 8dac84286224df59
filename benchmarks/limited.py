"""The tasks of the limits' scenarios, and the ledger that some of them keep."""

from __future__ import annotations

import asyncio
import os
import time
from functools import cache

LEDGER = "BENCHMARKS_LEDGER"
"""The environment variable with the ledger's path."""


@cache
def _book() -> int:
    return os.open(os.environ[LEDGER], os.O_WRONLY | os.O_APPEND)


def _note(sign: str, key: int) -> None:
    """One line in one write: the lines of several processes do not mix, and a kill loses none."""
    os.write(_book(), f"{sign} {time.monotonic_ns()} {key} {os.getpid()}\n".encode())


async def book(key: int, seconds: float) -> None:
    """Say when it begins and ends."""
    _note("+", key)
    await asyncio.sleep(seconds)
    _note("-", key)


async def nothing(number: int, key: int) -> None:
    """What is left is the cost of the queue."""


async def start(number: int) -> None:
    """Say when it begins."""
    _note("+", 0)


async def short(key: str, seconds: float) -> int:
    """Work for a moment. When the body began, in nanoseconds of the machine's monotonic clock."""
    began = time.monotonic_ns()
    await asyncio.sleep(seconds)
    return began
