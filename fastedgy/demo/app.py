"""An application with one job for the queue: to index Python's standard library.

fastedgy serve --app fastedgy.demo.app:app
fastedgy queue start --app fastedgy.demo.app:app --workers 2 --queues demo
curl -X POST http://127.0.0.1:8000/index
"""

from __future__ import annotations

from typing import Any
from uuid import UUID

from fastedgy.app import FastEdgy
from fastedgy.demo.tasks import index_library
from fastedgy.dependencies import Inject
from fastedgy.queued_tasks import QueuedTasks

app = FastEdgy(title="An index of the standard library")


@app.get("/")
async def about() -> dict[str, str]:
    """Say what can be asked for."""
    return {"POST /index": "index the standard library", "GET /index/{task_id}": "how it goes"}


@app.post("/index", status_code=202)
async def start_index(tasks: QueuedTasks = Inject(QueuedTasks)) -> dict[str, Any]:
    """Add the task that does it. Its row is written before this response is sent."""
    task = tasks.add_task(index_library)
    return {"task": task.id}


@app.get("/index/{task_id}")
async def look_at_index(task_id: UUID, tasks: QueuedTasks = Inject(QueuedTasks)) -> dict[str, Any]:
    """Tell how far it is: the state and the context of its first task. 404 without such a task."""
    task = tasks.ref(task_id)
    return {"task": task_id, "state": await task.get_state(), "context": await task.context()}
