"""`queue_router`: everything of the queue that is there over HTTP, for one application."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastapi import APIRouter

from fastedgy.admin.api.bulk import bulk_router
from fastedgy.admin.api.events import events_router
from fastedgy.admin.api.figures import figures_router
from fastedgy.admin.api.monitoring import monitoring_router
from fastedgy.admin.api.nothing import nothing_router
from fastedgy.admin.api.operations import operations_router
from fastedgy.admin.api.queues import queues_router
from fastedgy.admin.api.schedules import schedules_router
from fastedgy.admin.api.tasks import tasks_router
from fastedgy.admin.auth import QueueAuth, auth_of, tokens
from fastedgy.config import QueuedTaskConfig
from fastedgy.errors import ConfigurationError

API = "/api"
"""Where the API is, below the prefix; the pages are beside it."""


def queue_router(
    auth: QueueAuth | Callable[..., Any] | None = None,
    *,
    prefix: str | None = None,
    pages: bool = True,
    metrics: str | None = "/metrics",
    health: str | None = "/health/queue",
    config: QueuedTaskConfig | None = None,
) -> APIRouter:
    """The queue's API, dashboard, metrics and health: `app.include_router(queue_router(auth=…))`.

    `auth`: `tokens(write=…, read=…)`, or a dependency of the application's own that returns an
    `Identity`. Without, the tokens are those of QUEUE_ADMIN_TOKEN and QUEUE_ADMIN_READ_TOKEN.
    `prefix`: where the dashboard is, with the API in `/api` below it; QUEUE_ADMIN_PREFIX, else
    `/queue`. `metrics` and `health`: their paths, which are not below the prefix; None: not there.
    `pages` False: without the dashboard.

    Raises AdminClosed when nothing says who may use it.
    """
    config = config or QueuedTaskConfig()
    if auth is None:
        auth = tokens(config.admin_token, read=config.admin_read_token)
    known = auth_of(auth)
    below = (config.admin_prefix if prefix is None else prefix).rstrip("/")
    if below and not below.startswith("/"):
        raise ConfigurationError(f"prefix={prefix!r} has to begin with a slash.")
    router = APIRouter()
    made = [
        make(known)
        for make in (
            tasks_router, events_router, figures_router, queues_router, schedules_router,
            bulk_router, operations_router,
        )
    ]  # fmt: skip
    for each in (*made, nothing_router(known, made)):
        router.include_router(each, prefix=below + API)
    router.include_router(monitoring_router(known, metrics=metrics, health=health))
    if pages:
        router.include_router(_pages(known), prefix=below)
    return router


def _pages(auth: QueueAuth) -> APIRouter:
    try:
        from fastedgy.admin.pages import pages_router
    except ImportError as error:
        if error.name not in ("jinja2", "markupsafe", "multipart", "python_multipart"):
            raise
        raise ConfigurationError(
            "The dashboard needs Jinja2: pip install 'fastedgy[admin]', or queue_router(pages="
            "False) for the API alone."
        ) from None
    return pages_router(auth)
