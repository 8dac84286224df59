"""A producer on the shared database, alone or in an application."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from proxy import Proxy, proxy

from fastedgy.app import running
from fastedgy.config import QueuedTaskConfig, Settings
from fastedgy.queued_tasks import QueuedTasks

Serve = Callable[..., AbstractAsyncContextManager[httpx.AsyncClient]]


@pytest.fixture
def database_url(queue_url: str) -> str:
    return queue_url


@pytest.fixture
async def tasks(database_url: str) -> AsyncIterator[QueuedTasks]:
    """The producer of a running application, outside of any route."""
    async with running(settings=Settings(database_url=database_url)) as opened:
        yield opened


@pytest.fixture
async def wire(database_url: str) -> AsyncIterator[Proxy]:
    """A tap on the line to the database."""
    async with proxy(database_url) as tap:
        yield tap


@pytest.fixture
def serve(database_url: str) -> Serve:
    """Serve an application to a client of its own. A route that raises gives a 500."""

    @asynccontextmanager
    async def served(app: FastAPI, url: str | None = None, **queue: Any) -> AsyncIterator[Any]:
        settings = Settings(database_url=url or database_url)
        async with running(app, settings=settings, queue=QueuedTaskConfig(**queue)):
            transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
                yield client

    return served
