"""The application that the worker tests run: its tasks are in `shop_tasks`."""

from __future__ import annotations

from typing import Any

import shop_tasks

from fastedgy.app import FastEdgy
from fastedgy.dependencies import Inject
from fastedgy.queued_tasks import QueuedTasks

app = FastEdgy()


@app.post("/greet")
async def greet(name: str, tasks: QueuedTasks = Inject(QueuedTasks)) -> dict[str, Any]:
    return {"task_id": str(tasks.add_task(shop_tasks.greet, name).id)}
