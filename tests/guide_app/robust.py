"""Error handling."""

# The text between the two lines is the guide's, to the letter.
# ruff: noqa
# fmt: off

from fastedgy.queued_task import set_context
from guide_app.services import process_data

# From the guide:

from fastedgy.queued_task import getLogger

async def robust_task(data_id: int):
    logger = getLogger("tasks.processing")

    try:
        logger.info(f"Starting task for {data_id}")
        set_context("data.id", data_id)

        result = process_data(data_id)

        logger.info("Task completed successfully")
        return result

    except Exception as e:
        logger.error(f"Task failed: {str(e)}")
        set_context("error.message", str(e))
        raise

# End of the guide's text.
