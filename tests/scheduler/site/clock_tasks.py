"""Functions that the schedules of the tests run."""

from __future__ import annotations

from typing import Any

from fastedgy.queued_task import get_context, task


@task(max_retries=0)
async def tick(*args: Any, **kwargs: Any) -> Any:
    return get_context("schedule")


@task(name="sweep", queue="chores", priority=7, timeout=12.5, max_retries=2, auto_remove=True,
      unique_key="sweep:{place}", redact="secret")  # fmt: skip
async def sweep(place: str, secret: str = "none") -> str:
    return place


async def plain(number: int = 0) -> int:
    return number
