"""Notifications: mails, at once or when a reminder is due."""

from example_service.workers.notifications.tasks import send_due_reminders, send_email

__all__ = ["send_due_reminders", "send_email"]
