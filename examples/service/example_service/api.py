"""The HTTP paths of the service."""

from __future__ import annotations

from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Body, HTTPException, UploadFile
from pydantic import BaseModel

from example_service.settings import ServiceSettings
from example_service.workers.cache.tasks import cached
from example_service.workers.files import process_file
from example_service.workers.notifications import send_email
from fastedgy.dependencies import Inject
from fastedgy.queued_task import task
from fastedgy.queued_tasks import QueuedTasks
from fastedgy.scheduler import Schedule, Scheduler

router = APIRouter(prefix="/api/v1")


class Mail(BaseModel):
    """A mail to be sent."""

    recipient: str
    subject: str
    body: str


class ScheduledJob(BaseModel):
    """A schedule, as this API tells of it."""

    job_id: str
    state: str
    next_run_time: str | None
    trigger: str
    is_paused: bool
    misfire_grace_time: float | None
    max_instances: int | None

    @classmethod
    def of(cls, found: Schedule) -> ScheduledJob:
        """What this API tells of a schedule."""
        return cls(
            job_id=found.name,
            state=found.state,
            next_run_time=found.next_due and found.next_due.isoformat(),
            trigger=found.trigger,
            is_paused=found.paused,
            misfire_grace_time=found.misfire_grace,
            max_instances=found.max_instances,
        )


@task(queue="examples")
async def example(data: dict[str, Any]) -> dict[str, Any]:
    """What /tasks/examples/kick starts."""
    return {"received": data, "keys": sorted(data)}


@router.get("/tasks/scheduled")
async def list_scheduled(scheduler: Scheduler = Inject(Scheduler)) -> list[ScheduledJob]:
    """What runs on a timetable, and when next."""
    return [ScheduledJob.of(each) for each in await scheduler.list()]


@router.get("/tasks/scheduled/{job_id}")
async def get_scheduled(job_id: str, scheduler: Scheduler = Inject(Scheduler)) -> ScheduledJob:
    """One schedule. That there is none of that name is answered with a 404 by FastEdgy, here and
    wherever a schedule or a task is asked for."""
    return ScheduledJob.of(await scheduler.get(job_id))


@router.post("/tasks/scheduled/{job_id}/pause")
async def pause(job_id: str, scheduler: Scheduler = Inject(Scheduler)) -> ScheduledJob:
    """No further runs, in no process, until it is resumed."""
    return ScheduledJob.of(await scheduler.acting_for("api", "api").pause(job_id))


@router.post("/tasks/scheduled/{job_id}/resume")
async def resume(job_id: str, scheduler: Scheduler = Inject(Scheduler)) -> ScheduledJob:
    """Go on with the next run."""
    return ScheduledJob.of(await scheduler.acting_for("api", "api").resume(job_id))


@router.post("/tasks/examples/kick", status_code=202)
async def kick(
    data: Annotated[dict[str, Any], Body(embed=True)], tasks: QueuedTasks = Inject(QueuedTasks)
) -> dict[str, UUID | None]:
    """Start a task by hand."""
    return {"task_id": tasks.add_task(example, data).id}


@router.get("/tasks/{task_id}/status")
async def status(task_id: UUID, tasks: QueuedTasks = Inject(QueuedTasks)) -> dict[str, Any]:
    """How a task stands, and what it returned."""
    found = await tasks.get_task_by_id(task_id)
    return {
        "task_id": found.id,
        "name": found.name,
        "status": found.state,
        "result": found.result,
        "error": found.error_message,
        "progress": found.context,
    }


@router.post("/send", status_code=202)
async def send(mail: Mail, tasks: QueuedTasks = Inject(QueuedTasks)) -> dict[str, UUID | None]:
    """Send a mail, after the response."""
    ref = tasks.add_task(send_email, mail.recipient, subject=mail.subject, body=mail.body)
    return {"task_id": ref.id}


@router.post("/files", status_code=202)
async def upload(
    file: UploadFile,
    tasks: QueuedTasks = Inject(QueuedTasks),
    settings: ServiceSettings = Inject(ServiceSettings),
) -> dict[str, Any]:
    """Take a file. What is in it is looked at by a worker."""
    name = (file.filename or "upload").replace("/", "_").lstrip(".")
    (settings.folder("uploads") / name).write_bytes(await file.read())
    ref = tasks.add_task(process_file, name)
    # With its unique key it may be one that is there already: known once it is written.
    return {"name": name, "task_id": await ref.get_task_id()}


@router.get("/cache/{key}")
async def read_cache(key: str) -> Any:
    """What the workers have computed beforehand."""
    value = await cached(key)
    if value is None:
        raise HTTPException(404, f"{key} is not in the cache")
    return value
