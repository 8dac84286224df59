"""Best practices: handle errors appropriately."""

# The text between the two lines is the guide's, to the letter.
# ruff: noqa
# fmt: off

from fastedgy.queued_task import set_context, task
from guide_app.services import APIAuthError, APIRateLimitError, third_party_api

# From the guide:

async def api_task(data: dict):
    try:
        return await third_party_api.send(data)
    except APIRateLimitError:
        # Will be retried automatically
        raise
    except APIAuthError:
        # Don't retry auth errors
        set_context("auth_failed", True)
        raise

# End of the guide's text.

# What the comment in it asks for.
task(no_retry_on=APIAuthError)(api_task)
