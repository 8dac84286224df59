"""In-process tasks: run now, after the route, or after the response, in the process that serves it.

    app = FastAPI()
    add_tasks(app)

    @app.post("/orders")
    async def create(order: Order, tasks: Tasks) -> Order:
        tasks.after_response.schedule(send_confirmation, order.email)
        return order

They end with their process, unless `durable=True` gives them a row: then a worker takes over.
"""

from fastedgy.errors import (
    FastAPITasksError,
    FastAPITasksUninitializedAppError,
    TaskBacklogFull,
    TaskMomentOver,
    TasksNotRunning,
)
from fastedgy.tasks.config import TaskConfig, TaskErrorHandler
from fastedgy.tasks.counts import TaskCounts
from fastedgy.tasks.install import Tasks, add_tasks
from fastedgy.tasks.metrics import task_counts
from fastedgy.tasks.scheduler import TasksBatch, TasksScheduler
from fastedgy.tasks.task import Task

__all__ = [
    "FastAPITasksError",
    "FastAPITasksUninitializedAppError",
    "Task",
    "TaskBacklogFull",
    "TaskConfig",
    "TaskCounts",
    "TaskErrorHandler",
    "TaskMomentOver",
    "Tasks",
    "TasksBatch",
    "TasksNotRunning",
    "TasksScheduler",
    "add_tasks",
    "task_counts",
]
