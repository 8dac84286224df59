"""Functions that tests enqueue. Most are never run."""

from __future__ import annotations

from fastedgy.queued_task import task


def send(address: str, copies: int = 1) -> int:
    return copies


async def report(number: int) -> int:
    return number


@task(unique_key="digest:{user}", queue="digests", max_retries=7, name="the digest")
def digest(user: int) -> None: ...


@task(unique_key="only:{user}", on_duplicate="error")
def only_one(user: int) -> None: ...


@task(priority=3, delay=60)
def later() -> None: ...
