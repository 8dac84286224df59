"""Routes that start workflows: they answer at once with an id, and the status has the result."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Header
from pydantic import BaseModel

from example_service.workers.examples.advanced_patterns import idempotent_payment, payment_saga
from example_service.workers.reports.tasks import (
    ReportSpec,
    batch_generate_reports,
    generate_and_deliver_report,
)
from fastedgy.dependencies import Inject
from fastedgy.queued_tasks import QueuedTasks

router = APIRouter(prefix="/api/v1/tasks/examples")


class Started(BaseModel):
    """A task that was started."""

    task_id: UUID


class Batch(BaseModel):
    """Reports that somebody wants."""

    report_specs: list[ReportSpec]
    parallel: bool = True


class Purchase(BaseModel):
    """What is to be paid, reserved and sent."""

    order_id: str
    user_id: str
    amount: float


@router.post("/report", status_code=202)
async def report(spec: ReportSpec, tasks: QueuedTasks = Inject(QueuedTasks)) -> Started:
    """Make a report and mail it."""
    return Started(task_id=tasks.add_task(generate_and_deliver_report, **dict(spec)).id)


@router.post("/reports", status_code=202)
async def reports(batch: Batch, tasks: QueuedTasks = Inject(QueuedTasks)) -> Started:
    """Make several reports; the result tells how many there are and what failed."""
    ref = tasks.add_task(batch_generate_reports, batch.report_specs, parallel=batch.parallel)
    return Started(task_id=ref.id)


@router.post("/purchase", status_code=202)
async def purchase(order: Purchase, tasks: QueuedTasks = Inject(QueuedTasks)) -> Started:
    """Buy something. Asked twice while it is under way, it is one task."""
    maker = tasks.task(unique_key=f"purchase:{order.order_id}")
    ref = maker.add_task(payment_saga, order.order_id, order.user_id, order.amount)
    return Started(task_id=await ref.get_task_id())


@router.post("/payment", status_code=202)
async def payment(
    order: Purchase,
    idempotency_key: Annotated[str, Header()],
    tasks: QueuedTasks = Inject(QueuedTasks),
) -> Started:
    """Pay once for an `Idempotency-Key`, however often the client repeats its request."""
    ref = tasks.add_task(idempotent_payment, idempotency_key, order.user_id, order.amount)
    return Started(task_id=ref.id)
