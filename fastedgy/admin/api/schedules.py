"""`/schedules`: list, look, preview, add, change, pause, resume, run now, remove."""

# FastAPI reads the annotations of what it calls, so this module does without
# `from __future__ import annotations`.

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Query, Response
from pydantic import BaseModel, ConfigDict, Field

from fastedgy.admin.api import examples
from fastedgy.admin.api.examples import answers
from fastedgy.admin.api.fields import Finite, Moment, Name, Seconds
from fastedgy.admin.api.problems import ProblemRoute
from fastedgy.admin.api.services import Producer
from fastedgy.admin.api.tasks import SOURCE, Added
from fastedgy.admin.auth import Identity, QueueAuth
from fastedgy.admin.trigger import check_types
from fastedgy.queued_task.offered import resolve
from fastedgy.scheduler import Schedule, Scheduler

Named = Annotated[Name, Path()]
Period = Annotated[Finite, Field(gt=0, le=1e9, description="Seconds between two firings.")]


class Terms(BaseModel):
    """When it fires. What is left out stays, or is as `@scheduled` has it."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"cron": "0 2 * * *", "timezone": "Europe/Paris"}]},
    )

    cron: Annotated[Name | None, Field(description="Five fields, or six with seconds.")] = None
    every: Period | None = None
    at: Annotated[Moment | None, Field(description="Once, at this moment.")] = None
    timezone: Name | None = None
    start: Moment | None = None
    end: Moment | None = None
    jitter: Seconds | None = None
    misfire_grace: Seconds | None = None
    coalesce: bool | None = None
    max_instances: Annotated[int | None, Field(ge=1, le=1_000_000)] = None

    def given(self) -> dict[str, Any]:
        """Those that are not left out."""
        return {name: getattr(self, name) for name in Terms.model_fields
                if getattr(self, name) is not None}  # fmt: skip


class NewSchedule(Terms):
    """A function and when to call it."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {
                    "name": "nightly",
                    "function": "shop.reports:build",
                    "kwargs": {"days": 1},
                    "cron": "0 2 * * *",
                    "options": {"queue": "slow"},
                }
            ]
        },
    )

    name: Name | None = None
    function: Annotated[Name, Field(description="`module:function`, one that is offered.")]
    args: Annotated[list[Any], Field(max_length=1_000)] = []
    kwargs: Annotated[dict[str, Any], Field(max_length=1_000)] = {}
    options: Annotated[
        dict[Name, Any], Field(max_length=20, description="Options of its tasks.")
    ] = {}


def schedules_router(auth: QueueAuth) -> APIRouter:
    """The routes of schedules."""
    router = APIRouter(tags=["schedules"], route_class=ProblemRoute)
    reads = [Depends(auth.read)]
    Writer = Annotated[Identity, Depends(auth.write)]  # noqa: N806
    one = answers(examples.SCHEDULE, 400, 403, 404)

    @router.get("/schedules", dependencies=reads, responses=answers([examples.SCHEDULE]))
    async def list_schedules(tasks: Producer, removed: bool = False) -> Sequence[Schedule]:
        """All schedules, by name."""
        return await Scheduler(tasks).list(removed=removed)

    @router.post("/schedules", status_code=201, responses={
        201: {"content": {"application/json": {"example": examples.SCHEDULE}}},
        **{k: v for k, v in answers(None, 400, 403, 409).items() if k != 200},
    })  # fmt: skip
    async def add_schedule(tasks: Producer, who: Writer, wanted: NewSchedule) -> Schedule:
        """Add a schedule of a function that is offered."""
        target = resolve(wanted.function, tasks.config)
        target.rebuild(wanted.args, wanted.kwargs)
        check_types(target, wanted.args, wanted.kwargs)
        return await _acting(tasks, who).add(
            target.call, name=wanted.name, args=wanted.args, kwargs=wanted.kwargs,
            options=wanted.options, **wanted.given(),
        )  # fmt: skip

    @router.get("/schedules/{name}", dependencies=reads,
                responses=answers(examples.SCHEDULE, 404))  # fmt: skip
    async def get_schedule(tasks: Producer, name: Named) -> Schedule:
        """One schedule."""
        return await Scheduler(tasks).get(name)

    @router.get("/schedules/{name}/preview", dependencies=reads,
                responses=answers([examples.MOMENT], 400, 404))  # fmt: skip
    async def preview(
        tasks: Producer, name: Named, n: Annotated[int, Query(ge=1, le=100)] = 5
    ) -> Sequence[datetime]:
        """The next times at which it fires, in its own time zone."""
        return await Scheduler(tasks).preview(name, n)

    @router.patch("/schedules/{name}", responses=answers(examples.SCHEDULE, 400, 403, 404))
    async def change(tasks: Producer, who: Writer, name: Named, wanted: Terms) -> Schedule:
        """Change some of its terms. A new timetable starts from now."""
        return await _acting(tasks, who).reschedule(name, **wanted.given())

    @router.post("/schedules/{name}/pause", responses=one)
    async def pause(tasks: Producer, who: Writer, name: Named) -> Schedule:
        """Let it give no tasks until it is resumed."""
        return await _acting(tasks, who).pause(name)

    @router.post("/schedules/{name}/resume", responses=one)
    async def resume(tasks: Producer, who: Writer, name: Named) -> Schedule:
        """Go on with the next due time from now."""
        return await _acting(tasks, who).resume(name)

    @router.post("/schedules/{name}/run", responses=answers({"id": examples.ID}, 400, 403, 404,
                                                            409))  # fmt: skip
    async def run_now(tasks: Producer, who: Writer, name: Named) -> Added:
        """Run it once now, also while it is paused."""
        ref = await _acting(tasks, who).run_now(name)
        return Added(await ref.get_task_id())

    @router.delete("/schedules/{name}", status_code=204, response_class=Response, responses={
        k: v for k, v in answers(None, 403, 404).items() if k != 200
    })  # fmt: skip
    async def remove(tasks: Producer, who: Writer, name: Named) -> None:
        """Delete it. One that code declares stays removed until it is resumed."""
        await _acting(tasks, who).remove(name)

    return router


def _acting(tasks: Producer, who: Identity) -> Scheduler:
    return Scheduler(tasks).acting_for(who.name, SOURCE)
