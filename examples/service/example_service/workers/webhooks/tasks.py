"""The receiver can tell who sent it, that nobody changed it, and whether it has it already."""

from __future__ import annotations

import hashlib
import hmac
import json
import time
from typing import Any

import httpx

from example_service.settings import ServiceSettings
from fastedgy.dependencies import Inject
from fastedgy.queued_task import Discard, Retry, get_current_task, getLogger, task

logger = getLogger(__name__)

AGAIN = {408, 425, 429}


@task(queue="webhooks", max_retries=8, redact="secret")
async def deliver_webhook(
    url: str,
    event: str,
    payload: dict[str, Any],
    secret: str,
    settings: ServiceSettings = Inject(ServiceSettings),
) -> dict[str, int]:
    """POST an event. Only what may pass is tried again: a wrong address stays wrong."""
    me = get_current_task()
    body = json.dumps({"event": event, "data": payload}, separators=(",", ":")).encode()
    sent = str(int(time.time()))
    headers = {
        "Content-Type": "application/json",
        "Webhook-Id": str(me.id) if me else "",  # the same at each attempt
        "Webhook-Timestamp": sent,
        "Webhook-Signature": signature(secret, sent, body),
    }
    async with httpx.AsyncClient(timeout=settings.webhook_timeout) as client:
        answer = await client.post(url, content=body, headers=headers)
    logger.info("%s answered %d", url, answer.status_code)
    if answer.is_success:
        return {"status": answer.status_code}
    if answer.status_code in AGAIN or answer.is_server_error:
        wait = answer.headers.get("Retry-After", "")
        raise Retry(float(wait) if wait.isdigit() else None, f"HTTP {answer.status_code}")
    raise Discard(f"{url} does not want it: HTTP {answer.status_code}")


def signature(secret: str, timestamp: str, body: bytes) -> str:
    """What the receiver computes, too, and compares."""
    signed = hmac.digest(secret.encode(), timestamp.encode() + b"." + body, hashlib.sha256)
    return f"v1={signed.hex()}"
