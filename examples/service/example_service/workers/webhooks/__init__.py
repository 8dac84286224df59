"""Webhooks: events that go to others' servers, signed, and again until they are taken."""

from example_service.workers.webhooks.tasks import deliver_webhook, signature

__all__ = ["deliver_webhook", "signature"]
