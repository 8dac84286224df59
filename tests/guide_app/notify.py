"""Pattern 1 of the guide: simple background jobs."""

# The text between the two lines is the guide's, to the letter.
# ruff: noqa
# fmt: off

from fastapi import APIRouter

from guide_app.services import get_user

router = APIRouter()

# From the guide:

from fastedgy.dependencies import Inject
from fastedgy.queued_tasks import QueuedTasks

async def send_email(recipient: str, subject: str, body: str):
    # Email sending logic
    return {"sent": True, "recipient": recipient}

@router.post("/users/{user_id}/notify")
async def notify_user(
    user_id: int,
    message: str,
    tasks: QueuedTasks = Inject(QueuedTasks)
):
    user = get_user(user_id)

    # Fire and forget - user gets immediate response
    tasks.add_task(send_email, user.email, "Notification", message)

    return {"notification_queued": True}

# End of the guide's text.
