"""`/queues` and `/breakers`: pause, resume, limits, reset."""

# FastAPI reads the annotations of what it calls, so this module does without
# `from __future__ import annotations`.

from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Response

from fastedgy.admin.api import examples
from fastedgy.admin.api.examples import answers
from fastedgy.admin.api.fields import Name, QueueLimits
from fastedgy.admin.api.problems import ProblemRoute
from fastedgy.admin.api.services import Admin
from fastedgy.admin.api.tasks import SOURCE
from fastedgy.admin.auth import Identity, QueueAuth
from fastedgy.admin.types import QueueInfo
from fastedgy.store.breakers import Breaker

Named = Annotated[Name, Path()]


def queues_router(auth: QueueAuth) -> APIRouter:
    """The routes of queues and breakers."""
    router = APIRouter(tags=["queues"], route_class=ProblemRoute)
    reads = [Depends(auth.read)]
    Writer = Annotated[Identity, Depends(auth.write)]  # noqa: N806
    changes: dict[str, Any] = {"status_code": 204, "response_class": Response}
    told = {k: v for k, v in answers(None, 400, 403).items() if k != 200}
    told_missing = {k: v for k, v in answers(None, 400, 403, 404).items() if k != 200}

    @router.get("/queues", dependencies=reads, responses=answers([examples.QUEUE]))
    async def list_queues(admin: Admin) -> Sequence[QueueInfo]:
        """The queues that have tasks, workers or settings, by name."""
        return await admin.queues()

    @router.post("/queues/{name}/pause", responses=told, **changes)
    async def pause_queue(admin: Admin, who: Writer, name: Named) -> None:
        """No task of this queue starts until it is resumed; what runs goes on."""
        await admin.pause_queue(name, actor=who.name, source=SOURCE)

    @router.post("/queues/{name}/resume", responses=told, **changes)
    async def resume_queue(admin: Admin, who: Writer, name: Named) -> None:
        """Let the tasks of a paused queue start again."""
        await admin.resume_queue(name, actor=who.name, source=SOURCE)

    @router.put("/queues/{name}/limits", responses=told, **changes)
    async def set_limits(admin: Admin, who: Writer, name: Named, wanted: QueueLimits) -> None:
        """At most so many of a queue's tasks at once, and so many starts a second."""
        await admin.set_queue_limits(
            name, max_running=wanted.max_running, rate=wanted.rate, actor=who.name, source=SOURCE
        )

    @router.get("/breakers", dependencies=reads, responses=answers([examples.BREAKER]))
    async def list_breakers(admin: Admin) -> Sequence[Breaker]:
        """The circuit breakers, by name."""
        return await admin.breakers()

    @router.post("/breakers/{name}/reset", responses=told_missing, **changes)
    async def reset_breaker(admin: Admin, who: Writer, name: Named) -> None:
        """Close a breaker: what it held may run."""
        await admin.reset_breaker(name, actor=who.name, source=SOURCE)

    return router
