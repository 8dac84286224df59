"""What the workers behind the dashboard under test are given to do."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from fastedgy.dependencies import Inject
from fastedgy.queued_task import get_current_task, getLogger, set_context, task
from fastedgy.queued_tasks import QueuedTasks
from fastedgy.scheduler import scheduled

logger = getLogger("board")


@task(queue="mail", redact="token")
async def send_email(address: str, subject: str, token: str = "") -> str:
    """Say that a mail was sent."""
    logger.info("sent %r to %s", subject, address)
    return f"sent to {address}"


@task(max_retries=1, backoff=0.2)
async def charge(order: int) -> None:
    """Fail, in a library's frame, each time."""
    logger.warning("order %d: the gateway answers oddly", order)
    json.loads("<html>")


@task(queue="imports")
async def import_rows(rows: int, seconds: float = 6.0) -> dict[str, int]:
    """Tell how far it is."""
    logger.info("reading %d rows", rows)
    set_context("dataset", {"id": rows, "columns": ["sku", "price"]})
    for step in range(1, 101):
        await asyncio.sleep(seconds / 100)
        set_context("progress", step)
        set_context("stage", "reading" if step < 50 else "saving")
        if step % 20 == 0:
            logger.info("%d %% of the rows", step)
        if step == 60:
            logger.warning("row 61 has no price")
    return {"rows": rows}


@task(queue="images")
async def resize(image: str, width: int) -> str:
    """Take a moment."""
    await asyncio.sleep(0.05)
    return f"{image}@{width}"


@task(queue="images")
async def publish(album: str, tasks: QueuedTasks = Inject(QueuedTasks)) -> int:
    """A family: this one, its pictures, and what comes when all are there."""
    this = get_current_task()
    assert this is not None
    pictures = tasks.add_tasks(resize, [(f"{album}/{n}", 640) for n in range(12)], parent=this.id)
    cover = tasks.add_task(resize, f"{album}/cover", 1280, parent=this.id)
    tasks.add_task(build_page, album, parent=[*pictures, cover])
    return len(pictures)


@task(queue="images")
async def build_page(album: str) -> str:
    """The last of the family."""
    return f"/albums/{album}"


@task(queue="slow")
async def hold(seconds: float = 600.0) -> None:
    """Stay in a slot."""
    await asyncio.sleep(seconds)


@task(breaker="payments", max_retries=5, backoff=0.01)
async def pay(order: int) -> None:
    """What a breaker stands before."""
    raise ConnectionError("the gateway refuses")


@scheduled(cron="0 2 * * *", timezone="Europe/Paris", name="nightly report")
async def nightly_report() -> dict[str, Any]:
    """Run by hand in the tests."""
    return {"report": "ready"}


@scheduled(every=600, name="sync stock")
async def sync_stock() -> None:
    """Often in a day."""
