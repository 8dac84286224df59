"""Tasks that do what no task should."""

from __future__ import annotations

import asyncio
import ctypes
import os
import resource
import sys
import time
from pathlib import Path
from typing import Any

from fastedgy.queued_task import get_current_task, task

hoard: list[bytearray] = []


def _tell(file: str) -> None:
    """Append this run to a file: its number and its process."""
    me = get_current_task()
    assert me is not None
    with Path(file).open("a") as lines:
        lines.write(f"{me.run} {os.getpid()}\n")


@task
async def ping() -> int:
    return os.getpid()


@task(max_retries=0)
async def die(how: str, seconds: float = 0.5) -> None:
    """Take the process along, after its neighbours have had the time to start."""
    await asyncio.sleep(seconds)
    if how.startswith("exit code "):
        os._exit(int(how.removeprefix("exit code ")))
    if how == "segfault":
        ctypes.string_at(0)


@task(max_retries=0)
async def raise_odd(what: str) -> None:
    if what == "sys.exit":
        sys.exit(3)
    if what == "KeyboardInterrupt":
        raise KeyboardInterrupt
    if what == "recursion":
        _deeper()
    if what == "memory":
        _exhaust()


def _deeper() -> None:
    _deeper()


def _exhaust() -> None:
    """Ask for more than the process may have."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + 50_000_000, hard))
    try:
        bytearray(500_000_000)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


@task
async def keep(megabytes: int) -> int:
    """Leak."""
    hoard.extend(bytearray(os.urandom(1_000) * 1_000) for _ in range(megabytes))
    return os.getpid()


@task(max_retries=0)
async def hog(seconds: float, file: str) -> None:
    """Let nothing else run in the event loop."""
    _tell(file)
    time.sleep(seconds)


@task(max_retries=0)
async def nap(seconds: float, file: str) -> str:
    _tell(file)
    await asyncio.sleep(seconds)
    return "rested"


@task(max_retries=0)
async def nap_at_first(seconds: float, file: str) -> str:
    """Long enough for what is to happen meanwhile, where the first run does not come to its end."""
    _tell(file)
    run = get_current_task()
    await asyncio.sleep(seconds if run is not None and run.run == 1 else 0)
    return "rested"


@task(max_retries=0)
def nap_in_thread(seconds: float, file: str) -> str:
    _tell(file)
    time.sleep(seconds)
    return "rested"


@task(max_retries=0, timeout=1)
def never_returns() -> None:
    while True:
        time.sleep(0.1)


@task(max_retries=0)
async def deaf(file: str) -> Any:
    """Goes on whatever it is told."""
    _tell(file)
    while True:
        try:
            await asyncio.sleep(0.05)
        except asyncio.CancelledError:
            continue


def touch(file: str) -> None:
    """Of the application, so a row may name it."""
    Path(file).touch()


def _touch(file: str) -> None:
    Path(file).touch()
