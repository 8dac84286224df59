"""The application whose dashboard is under test."""

from __future__ import annotations

import importlib
from typing import Any

import board_tasks  # noqa: F401 - its schedules

from fastedgy.admin import tokens
from fastedgy.app import FastEdgy
from fastedgy.dependencies import Inject
from fastedgy.queued_tasks import QueuedTasks

WRITE, READ = "write-token-of-the-tests", "read-token-of-the-tests"

app = FastEdgy(admin=tokens({"ann": WRITE}, read={"bob": READ}))


@app.post("/add")
async def add(
    name: str, args: list[Any], times: int = 1, delay: float | None = None,
    tasks: QueuedTasks = Inject(QueuedTasks),
) -> list[str]:  # fmt: skip
    """Add a task of the site, so many times; their ids."""
    function = getattr(importlib.import_module("board_tasks"), name)
    maker = tasks if delay is None else tasks.task(delay=delay)
    return [str(maker.add_task(function, *args).id) for _ in range(times)]
