"""An application with a dashboard and without models, and what its worker is asked of itself."""

from __future__ import annotations

import sys
import warnings
from contextlib import suppress
from typing import Any

from fastedgy.admin import tokens
from fastedgy.app import FastEdgy
from fastedgy.dependencies import get_service, has_service
from fastedgy.queued_tasks import QueuedTasks

app = FastEdgy(admin=tokens("a-token-that-is-long-enough-for-it"))


async def imported() -> list[str]:
    return sorted(sys.modules)


def use_edgy_in_a_thread() -> Any:
    """The first one here that needs Edgy: the function imports it, while the application runs."""
    from fastedgy.orm import Database, Registry, registry

    assert has_service(Registry)
    database = get_service(Database)
    return [database is registry.database, get_service(Registry) is registry, database.is_connected]


async def use_edgy(name: str) -> Any:
    """Queries without a warning, and a task that is undone with its caller's transaction."""
    from fastedgy.models.queued_task import QueuedTask
    from fastedgy.orm import Database

    tasks = get_service(QueuedTasks)
    with warnings.catch_warnings(action="error"):
        with suppress(ZeroDivisionError):
            async with get_service(Database).transaction():
                tasks.task(name=name).add_task(imported)
                await tasks.flush()
                within = await QueuedTask.query.filter(name=name).count()
                raise ZeroDivisionError
        return [within, await QueuedTask.query.filter(name=name).count()]
