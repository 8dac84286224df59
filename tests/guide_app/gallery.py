"""Pattern 3 of the guide: parallel processing."""

# The text between the two lines is the guide's, to the letter.
# ruff: noqa
# fmt: off

from fastapi import APIRouter

from fastedgy.dependencies import Inject
from fastedgy.queued_tasks import QueuedTasks
from guide_app.services import get_user_images, process_image

router = APIRouter()

# From the guide:

@router.post("/users/{user_id}/process-gallery")
async def process_user_gallery(
    user_id: int,
    tasks: QueuedTasks = Inject(QueuedTasks)
):
    user_images = get_user_images(user_id)

    for image in user_images:
        # Process all images in parallel
        tasks.add_task(process_image, image.id, user_id)

    return {"images_queued": len(user_images)}

# End of the guide's text.
