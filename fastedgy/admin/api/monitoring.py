"""`/metrics` and `/health/queue`: for machines that watch."""

# FastAPI reads the annotations of what it calls, so this module does without
# `from __future__ import annotations`.

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import PlainTextResponse

from fastedgy.admin.api import examples
from fastedgy.admin.api.problems import Problem, ProblemRoute, problems
from fastedgy.admin.api.services import Admin
from fastedgy.admin.auth import QueueAuth
from fastedgy.admin.health import Health, HealthCheck
from fastedgy.admin.metrics import CONTENT_TYPE, Metrics, require_client
from fastedgy.admin.metrics_here import of_this_process
from fastedgy.admin.types import Level
from fastedgy.dependencies.route import GUEST

if TYPE_CHECKING:
    from prometheus_client.core import Metric


def monitoring_router(auth: QueueAuth, *, metrics: str | None, health: str | None) -> APIRouter:
    """The routes at these paths; None leaves one out."""
    router = APIRouter(
        tags=["monitoring"], route_class=ProblemRoute, dependencies=[Depends(auth.read)]
    )
    readings: dict[int, Metrics] = {}
    check = HealthCheck()
    text = {"text/plain": {"schema": {"type": "string"}, "example": examples.METRICS}}

    async def get_metrics(request: Request, admin: Admin) -> Response:
        """The queue in Prometheus' words, the same from whichever process is asked; and the
        in-process tasks of this one.
        """
        reading = readings.get(id(admin))
        if reading is None:
            readings.clear()
            reading = readings[id(admin)] = Metrics(
                admin.connection, admin.tables, admin.config, beside=_tasks_of(request)
            )
        return PlainTextResponse(await reading.exposition(), media_type=CONTENT_TYPE)

    async def get_health(admin: Admin, response: Response) -> Health:
        """Whether the queue is well: 200 while it is healthy or degraded, 503 when it is not."""
        found = await check.look(admin)
        if found.level is Level.unhealthy:
            response.status_code = 503
        response.headers["Cache-Control"] = "no-store"
        return found

    sick: dict[str, Any] = {"model": Health | Problem, "description": "It is unhealthy."}
    healthy = {"content": {"application/json": {"example": examples.HEALTH}}}
    if metrics is not None:
        require_client()
        router.get(metrics, response_class=Response, responses={
            200: {"description": "Text of version 0.0.4.", "content": text}, **problems()
        })(get_metrics)  # fmt: skip
    if health is not None:
        router.get(health, responses={200: healthy, **problems(), 503: sick})(get_health)
    return router


def _tasks_of(request: Request) -> Callable[[], "Iterator[Metric]"]:
    """The in-process tasks of the application that is asked, also if ours is mounted in it."""
    known = request.scope.get(GUEST)
    return lambda: iter(()) if known is None else of_this_process(known.runner.counts.by_name)
