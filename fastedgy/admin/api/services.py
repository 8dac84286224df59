"""What the routes work with."""

# FastAPI reads the annotations of what it calls, so this module does without
# `from __future__ import annotations`.

from typing import Annotated

from fastapi import Depends

from fastedgy.admin.live import Live
from fastedgy.admin.service import QueueAdmin
from fastedgy.dependencies import get_service
from fastedgy.queued_tasks import QueuedTasks


def queue_admin() -> QueueAdmin:
    """The application's queries. Raises ServiceNotFound where it does not run."""
    return get_service(QueueAdmin)


def queued_tasks() -> QueuedTasks:
    """What adds tasks. Raises ServiceNotFound where the application does not run."""
    return get_service(QueuedTasks)


def live() -> Live:
    """Who follows tasks in this process. Raises ServiceNotFound where it does not run."""
    return get_service(Live)


Admin = Annotated[QueueAdmin, Depends(queue_admin)]
Producer = Annotated[QueuedTasks, Depends(queued_tasks)]
Following = Annotated[Live, Depends(live)]
