"""The application: its routes, and the workers' modules with what they do on a timetable."""

from __future__ import annotations

from example_service import api, models
from example_service.workers import (
    analytics,
    backup,
    cache,
    cleanup,
    examples,
    export,
    files,
    notifications,
    reports,
    webhooks,
)
from fastedgy.app import FastEdgy

__all__ = ["analytics", "app", "backup", "cache", "cleanup", "examples", "export", "files",
           "models", "notifications", "reports", "webhooks"]  # fmt: skip

app = FastEdgy(title="Example service")
app.include_router(api.router)
app.include_router(examples.router)
