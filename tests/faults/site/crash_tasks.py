"""Tasks that note their runs in a file."""

from __future__ import annotations

import asyncio
from pathlib import Path

from fastedgy.dependencies import Inject
from fastedgy.queued_task import get_current_task, getLogger, task
from fastedgy.queued_tasks import QueuedTasks

logger = getLogger("crash")


def _tell(file: str) -> int:
    me = get_current_task()
    assert me is not None
    with Path(file).open("a") as lines:
        lines.write(f"{me.id} {me.run}\n")
    return me.run


@task(max_retries=0)
async def plain(file: str) -> int:
    return _tell(file)


@task(max_retries=0)
async def adding(file: str, tasks: QueuedTasks = Inject(QueuedTasks)) -> int:
    me = get_current_task()
    assert me is not None
    logger.info("adding")
    tasks.add_task(plain, file)
    run = _tell(file)
    while not await tasks.ref(me.id).logs():  # its lines are written before its end
        await asyncio.sleep(0.02)
    return run


@task(max_retries=0)
async def family(file: str, tasks: QueuedTasks = Inject(QueuedTasks)) -> int:
    me = get_current_task()
    assert me is not None
    tasks.add_task(plain, file, parent=me.id)
    logger.info("its last words")
    return _tell(file)
