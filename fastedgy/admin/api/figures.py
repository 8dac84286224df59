"""How the queue is and was: overview, stats, history, workers, doctor."""

# FastAPI reads the annotations of what it calls, so this module does without
# `from __future__ import annotations`.

from collections.abc import Sequence
from typing import Annotated

from fastapi import APIRouter, Depends, Query

from fastedgy.admin.api import examples
from fastedgy.admin.api.examples import answers
from fastedgy.admin.api.fields import Hours, Limit, Text
from fastedgy.admin.api.problems import ProblemRoute
from fastedgy.admin.api.services import Admin
from fastedgy.admin.auth import QueueAuth
from fastedgy.admin.findings import Finding
from fastedgy.admin.types import NameStats, Overview, Point, Stats, WorkerInfo


def figures_router(auth: QueueAuth) -> APIRouter:
    """The routes that only tell."""
    router = APIRouter(
        tags=["figures"], route_class=ProblemRoute, dependencies=[Depends(auth.read)]
    )

    @router.get("/overview", responses=answers(examples.OVERVIEW))
    async def overview(admin: Admin) -> Overview:
        """The queue in one look, beginning with a sentence."""
        return await admin.overview()

    @router.get("/stats", responses=answers(examples.STATS))
    async def stats(admin: Admin, hours: Hours = 24) -> Stats:
        """How the last hours went, and each name in them."""
        return await admin.get_stats(hours)

    @router.get("/names", responses=answers([examples.NAME]))
    async def names(admin: Admin, hours: Hours = 1, limit: Limit = 200) -> Sequence[NameStats]:
        """How the runs of each name ended, the most frequent names first."""
        return await admin.names(hours, limit=limit)

    @router.get("/throughput", responses=answers([examples.POINT]))
    async def throughput(
        admin: Admin,
        minutes: Annotated[int, Query(ge=1, le=60 * 24 * 90)] = 60,
        name: Text | None = None,
        queue: Text | None = None,
    ) -> Sequence[Point]:
        """The history in equal steps: minutes for up to six hours, else hours."""
        return await admin.throughput(minutes, name=name, queue=queue)

    @router.get("/workers", responses=answers([examples.WORKER_INFO]))
    async def workers(admin: Admin) -> Sequence[WorkerInfo]:
        """The worker processes, and what they run."""
        return await admin.workers()

    @router.get("/doctor", responses=answers([examples.FINDING]))
    async def doctor(admin: Admin) -> Sequence[Finding]:
        """What is wrong, or soon will be: with its meaning, the evidence and the cure."""
        return await admin.doctor()

    return router
