"""Pattern 2 of the guide: task dependencies."""

# The text between the two lines is the guide's, to the letter.
# ruff: noqa
# fmt: off

from fastapi import APIRouter

from fastedgy.dependencies import Inject
from fastedgy.queued_tasks import QueuedTasks

router = APIRouter()

# From the guide:

async def process_order(order_id: int):
    return {"order_id": order_id, "status": "processed"}

async def send_confirmation(order_id: int):
    return {"confirmation_sent": True}

@router.post("/orders")
async def create_order(
    order_data: dict,
    tasks: QueuedTasks = Inject(QueuedTasks)
):
    # Main processing task
    process_task = tasks.add_task(process_order, order_data["id"])

    # This waits for process_task to complete
    tasks.add_task(
        send_confirmation,
        order_data["id"],
        parent=process_task  # Dependency
    )

    return {"order_queued": True}

# End of the guide's text.
