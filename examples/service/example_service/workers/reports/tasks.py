"""A report is a chain: collect → format → deliver. None of them waits for another in a worker: the
next one starts when the result that it takes is there."""

from __future__ import annotations

import smtplib
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, date, datetime, time, timedelta
from email.message import EmailMessage
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from example_service.models import Order
from example_service.settings import ServiceSettings
from example_service.workers.reports.layout import SUFFIX, Format, ReportData, write
from fastedgy.dependencies import Inject
from fastedgy.errors import TaskCancelled, TaskFailed
from fastedgy.queued_task import Discard, get_current_task, getLogger, task
from fastedgy.queued_tasks import QueuedTaskRef, QueuedTasks
from fastedgy.workflows import Chain, chain, idempotent

logger = getLogger(__name__)


class ReportSpec(BaseModel):
    """A report that somebody wants. The last day is part of it."""

    report_type: str
    start_date: date
    end_date: date
    output_format: Format = "pdf"
    recipients: list[str]


@task(queue="reports")
async def generate_and_deliver_report(
    report_type: str,
    start_date: date,
    end_date: date,
    output_format: Format,
    recipients: list[str],
    report_id: str | None = None,
    tasks: QueuedTasks = Inject(QueuedTasks),
) -> Chain:
    """Task chaining. This task ends as the chain that it returns: with the result of `deliver`."""
    return chain(
        tasks,
        (collect, report_id or _me(), report_type, start_date, end_date),
        (format_report, output_format),
        (deliver, recipients),
    )


@task(queue="reports")
async def batch_generate_reports(
    report_specs: list[ReportSpec],
    parallel: bool = True,
    tasks: QueuedTasks = Inject(QueuedTasks),
) -> QueuedTaskRef:
    """Fan-out and fan-in: all side by side, or one after the other, and then the summary.

    Whichever fails, the others go on. Ends with the result of `summarize`.
    """
    reports: list[QueuedTaskRef] = []
    for number, spec in enumerate(report_specs):
        before = reports[-1] if reports and not parallel else None
        report = tasks.task(on_parent_failure="run").add_task(
            generate_and_deliver_report, **dict(spec), report_id=f"{_me()}-{number}", parent=before
        )
        reports.append(report)
    return tasks.add_task(summarize, reports)


@task(queue="reports")
async def generate_conditional_report(
    start_date: date,
    end_date: date,
    threshold: float,
    recipients: list[str],
    tasks: QueuedTasks = Inject(QueuedTasks),
) -> Chain:
    """Conditional flow: what is collected decides how it goes on."""
    return chain(
        tasks,
        (collect, _me(), "sales", start_date, end_date),
        (choose_path, threshold, recipients),
    )


@task(queue="reports")
async def choose_path(
    data: ReportData,
    threshold: float,
    recipients: list[str],
    settings: ServiceSettings = Inject(ServiceSettings),
    tasks: QueuedTasks = Inject(QueuedTasks),
) -> Chain:
    """The branch: a large sum goes to the management, too, and as a table that can be worked on."""
    if data.total > threshold:
        to = [*recipients, settings.management]
        return chain(tasks.task(priority=10), (format_report, data, "excel"), (deliver, to))
    return chain(tasks, (format_report, data, "pdf"), (deliver, recipients))


@task(queue="reports")
async def collect(report_id: str, report_type: str, start_date: date, end_date: date) -> ReportData:
    """Step 1: what the report says."""
    if report_type not in REPORTS:
        raise Discard(f"There is no report {report_type!r}, only {', '.join(REPORTS)}")
    if end_date < start_date:
        raise Discard(f"{start_date} to {end_date} ends before it begins")
    columns, count = REPORTS[report_type]
    sums = await count(start_date, end_date)
    return ReportData(
        report_id=report_id,
        title=f"{report_type} {start_date} - {end_date}",
        columns=columns,
        rows=[[name, f"{amount:.2f}"] for name, amount in sorted(sums.items())],
        total=round(sum(sums.values()), 2),
    )


@task(queue="reports")
def format_report(
    data: ReportData, output_format: Format, settings: ServiceSettings = Inject(ServiceSettings)
) -> dict[str, Any]:
    """Step 2: the file. What goes on to the next task is where it is, not what is in it."""
    name = f"report-{data.report_id}.{SUFFIX[output_format]}"
    part = settings.folder("tmp") / f"{_me()}-{name}"
    write(data, output_format, part)
    path = part.replace(settings.folder("exports") / name)
    return {"report_id": data.report_id, "title": data.title, "path": str(path),
            "rows": len(data.rows), "total": data.total}  # fmt: skip


@task(queue="reports", max_retries=5)
async def deliver(
    report: dict[str, Any],
    recipients: list[str],
    settings: ServiceSettings = Inject(ServiceSettings),
) -> dict[str, Any]:
    """Step 3: a mail to each. A retry mails those only who have none yet."""
    for recipient in recipients:
        key = f"report:{report['report_id']}:{recipient}"
        await idempotent(key, send_report, settings, report, recipient)
    logger.info("%s went to %d people", report["title"], len(recipients))
    return {**report, "status": "delivered", "recipients": recipients}


@task(queue="reports", on_parent_failure="run")
async def summarize(reports: list[Any]) -> dict[str, Any]:
    """What became of a batch: errors stand in the places of the results that are missing."""
    failures = [each for each in reports if isinstance(each, TaskFailed | TaskCancelled)]
    return {
        "summary": {
            "total": len(reports),
            "successful": len(reports) - len(failures),
            "failed": len(failures),
        },
        "reports": [each["path"] for each in reports if isinstance(each, dict)],
        "errors": [str(each) for each in failures],
    }


def send_report(settings: ServiceSettings, report: dict[str, Any], recipient: str) -> None:
    """Mail the file to one person."""
    path = Path(report["path"])
    mail = EmailMessage()
    mail["From"], mail["To"], mail["Subject"] = settings.sender, recipient, report["title"]
    mail.set_content(f"{report['rows']} rows, {report['total']} in all.")
    mail.add_attachment(
        path.read_bytes(), maintype="application", subtype="octet-stream", filename=path.name
    )
    with smtplib.SMTP(settings.smtp_host, settings.smtp_port, timeout=20) as server:
        server.send_message(mail)


async def _by_customer(first: date, last: date) -> dict[str, float]:
    sums: dict[str, float] = {}
    async for order in _orders(first, last):
        sums[order.customer] = sums.get(order.customer, 0.0) + float(order.amount)
    return sums


async def _by_day(first: date, last: date) -> dict[str, float]:
    sums: dict[str, float] = {}
    async for order in _orders(first, last):
        day = str(order.placed.astimezone(UTC).date())
        sums[day] = sums.get(day, 0.0) + float(order.amount)
    return sums


REPORTS: dict[str, tuple[list[str], Callable[[date, date], Awaitable[dict[str, float]]]]] = {
    "sales": (["customer", "amount"], _by_customer),
    "revenue": (["day", "amount"], _by_day),
}


async def _orders(first: date, last: date) -> AsyncIterator[Any]:
    start = datetime.combine(first, time(), UTC)
    end = datetime.combine(last, time(), UTC) + timedelta(days=1)
    async for order in Order.query.filter(placed__gte=start, placed__lt=end):
        yield order


def _me() -> str:
    """The id of the task that is running: the same at each attempt, so that it names the report."""
    me = get_current_task()
    assert me is not None
    return str(me.id)
