"""An application with in-process tasks that runs in the test's own event loop."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from fastapi import FastAPI

from fastedgy.tasks import TasksScheduler, add_tasks
from fastedgy.tasks.install import runner_of


@pytest.fixture
async def app() -> AsyncIterator[FastAPI]:
    """An application that runs."""
    app = FastAPI()
    add_tasks(app)
    async with app.router.lifespan_context(app):
        yield app


@pytest.fixture
async def tasks(app: FastAPI) -> TasksScheduler:
    """What a route of it gets."""
    return TasksScheduler(runner_of(app))
