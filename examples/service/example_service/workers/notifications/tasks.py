"""A reminder is a task of its own, so that one address that fails holds up no other."""

from __future__ import annotations

import smtplib
from datetime import UTC, datetime, timedelta
from email.message import EmailMessage
from email.utils import make_msgid

from example_service.models import Reminder
from example_service.settings import ServiceSettings
from fastedgy.dependencies import Inject
from fastedgy.queued_task import Discard, task
from fastedgy.queued_tasks import QueuedTasks
from fastedgy.scheduler import scheduled

AT_ONCE = 500


@task(queue="mail", max_retries=5, timeout=30)
def send_email(
    recipient: str, subject: str, body: str, settings: ServiceSettings = Inject(ServiceSettings)
) -> dict[str, str]:
    """Send a mail. An address that the server refuses is not tried again."""
    mail = EmailMessage()
    mail["From"], mail["To"], mail["Subject"] = settings.sender, recipient, subject
    mail["Message-ID"] = make_msgid(domain="example.com")
    mail.set_content(body)
    with smtplib.SMTP(settings.smtp_host, settings.smtp_port, timeout=20) as server:
        try:
            server.send_message(mail)
        except smtplib.SMTPRecipientsRefused as error:
            raise Discard(f"{recipient} was refused: {error}") from error
    return {"status": "sent", "recipient": recipient}


@scheduled(every=timedelta(minutes=1), name="reminders")
@task(queue="mail")
async def send_due_reminders(tasks: QueuedTasks = Inject(QueuedTasks)) -> dict[str, int]:
    """Add a task for each reminder whose time has come."""
    due = await Reminder.query.filter(due__lte=datetime.now(UTC), sent=None).limit(AT_ONCE)
    for reminder in due:
        tasks.add_task(send_reminder, reminder.id)
    return {"due": len(due)}


@task(queue="mail", max_retries=5, unique_key="reminder:{id}")
async def send_reminder(id: int, tasks: QueuedTasks = Inject(QueuedTasks)) -> None:
    """Hand the mail over and mark the reminder, both or neither."""
    async with tasks.transaction():
        reminder = await Reminder.query.get_or_none(id=id, sent=None)
        if reminder is not None:
            await reminder.update(sent=datetime.now(UTC))
            tasks.add_task(send_email, reminder.email, "Reminder", reminder.text)
