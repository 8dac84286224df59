"""`/queues` and `/breakers`: pause, resume, limits, reset."""

# FastAPI reads the annotations of what it calls, so this module does without
# `from __future__ import annotations`.

from collections.abc import Sequence
from typing import Annotated

from fastapi import APIRouter, Depends, Path, Response

from fastedgy.admin.api import examples
from fastedgy.admin.api.examples import answers
from fastedgy.admin.api.fields import Name, QueueLimits
from fastedgy.admin.api.problems import ProblemRoute
from fastedgy.admin.api.services import Admin
from fastedgy.admin.api.tasks import SOURCE
from fastedgy.admin.auth import Identity, QueueAuth
from fastedgy.admin.types import QueueChange, QueueInfo
from fastedgy.store.breakers import Breaker

Named = Annotated[Name, Path()]


def queues_router(auth: QueueAuth) -> APIRouter:
    """The routes of queues and breakers."""
    router = APIRouter(tags=["queues"], route_class=ProblemRoute)
    reads = [Depends(auth.read)]
    Writer = Annotated[Identity, Depends(auth.write)]  # noqa: N806
    changed = answers(examples.QUEUE_CHANGE, 400, 403)
    missing = {k: v for k, v in answers(None, 400, 403, 404).items() if k != 200}

    @router.get("/queues", dependencies=reads, responses=answers([examples.QUEUE]))
    async def list_queues(admin: Admin) -> Sequence[QueueInfo]:
        """The queues that have tasks, workers or settings, by name."""
        return await admin.queues()

    @router.post("/queues/{name}/pause", responses=changed)
    async def pause_queue(admin: Admin, who: Writer, name: Named) -> QueueChange:
        """No task of this queue starts until it is resumed; what runs goes on.

        A queue may be paused before it has tasks: `warning` says so where nothing is known of it.
        """
        return await admin.pause_queue(name, actor=who.name, source=SOURCE)

    @router.post("/queues/{name}/resume", responses=changed)
    async def resume_queue(admin: Admin, who: Writer, name: Named) -> QueueChange:
        """Let the tasks of a paused queue start again."""
        return await admin.resume_queue(name, actor=who.name, source=SOURCE)

    @router.put("/queues/{name}/limits", responses=changed)
    async def set_limits(
        admin: Admin, who: Writer, name: Named, wanted: QueueLimits
    ) -> QueueChange:
        """At most so many of a queue's tasks at once, and so many starts a second."""
        return await admin.set_queue_limits(
            name, max_running=wanted.max_running, rate=wanted.rate, actor=who.name, source=SOURCE
        )

    @router.get("/breakers", dependencies=reads, responses=answers([examples.BREAKER]))
    async def list_breakers(admin: Admin) -> Sequence[Breaker]:
        """The circuit breakers, by name."""
        return await admin.breakers()

    @router.post("/breakers/{name}/reset", status_code=204, response_class=Response,
                 responses=missing)  # fmt: skip
    async def reset_breaker(admin: Admin, who: Writer, name: Named) -> None:
        """Close a breaker: what it held may run."""
        await admin.reset_breaker(name, actor=who.name, source=SOURCE)

    return router
