"""An application with the queue's API, and a worker, both in the test's own event loop."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import socket
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from fastapi import FastAPI

from fastedgy.admin import QueueAdmin, tokens
from fastedgy.app import FastEdgy, running
from fastedgy.config import QueuedTaskConfig, Settings
from fastedgy.dependencies import get_container_service, get_service
from fastedgy.models import queue_tables
from fastedgy.queued_tasks import QueuedTasks
from fastedgy.tasks import Tasks
from fastedgy.worker import heartbeat
from fastedgy.worker.assignment import Assignment
from fastedgy.worker.report import Report
from fastedgy.worker.worker import Worker

SITE = Path(__file__).parent / "site"
for folder in (SITE, SITE.parents[2] / "faults"):
    if str(folder) not in sys.path:
        sys.path.append(str(folder))

import panel_tasks  # noqa: E402

WRITE, READ = "write-" + "w" * 20, "read-" + "r" * 20
API = "/queue/api"


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


class Panel:
    """The application while it runs. `client` may write, `reader` only read."""

    def __init__(self, app: FastAPI, tasks: QueuedTasks, url: str) -> None:
        self.app = app
        self.tasks = tasks
        self.url = url
        transport = httpx.ASGITransport(app)
        self.client = httpx.AsyncClient(
            transport=transport, base_url="http://panel", headers=bearer(WRITE)
        )
        self.reader = httpx.AsyncClient(
            transport=transport, base_url="http://panel", headers=bearer(READ)
        )
        self.nobody = httpx.AsyncClient(transport=transport, base_url="http://panel")

    @property
    def admin(self) -> QueueAdmin:
        return get_service(QueueAdmin)

    async def get(self, path: str, **options: Any) -> Any:
        answer = await self.reader.get(API + path, **options)
        assert answer.status_code == 200, answer.text
        return answer.json()

    @asynccontextmanager
    async def served(self) -> AsyncIterator[str]:
        """Its address, on a real socket."""
        with socket.create_server(("127.0.0.1", 0)) as listener:
            config = uvicorn.Config(
                self.app, lifespan="off", ws="none", log_config=None, log_level="warning"
            )
            server = _Server(config)
            serving = asyncio.create_task(server.serve(sockets=[listener]))
            try:
                yield f"http://127.0.0.1:{listener.getsockname()[1]}"
            finally:
                server.should_exit = True
                server.force_exit = True
                await asyncio.wait_for(serving, 30)


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class _Diary(Report):
    def __init__(self) -> None:
        super().__init__(None)
        self.ready = asyncio.Event()

    def tell(self, event: str, **facts: Any) -> None:
        if event == "ready":
            self.ready.set()


Work = Callable[..., AbstractAsyncContextManager[Worker]]


@pytest.fixture(autouse=True)
def clean_panel(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(heartbeat, "TICK", 0.1)
    panel_tasks.gates.clear()
    get_container_service().reset()
    yield
    get_container_service().reset()


@pytest.fixture
def database_url(queue_url: str) -> str:
    return queue_url


@functools.cache
def application() -> FastEdgy:
    """Made once: to read the signatures of all routes takes longer than most tests."""
    app = FastEdgy(admin=tokens({"ann": WRITE}, read={"prometheus": READ}))

    @app.post("/sign-up")
    async def sign_up(name: str) -> dict[str, str]:
        ref = get_service(QueuedTasks).add_task(panel_tasks.sign_up, name, "hunter2")
        return {"id": str(ref.id)}

    @app.post("/wave", include_in_schema=False)
    async def wave(tasks: Tasks, well: bool) -> None:
        tasks.schedule(panel_tasks.wave, well)

    return app


@pytest.fixture
async def panel(database_url: str) -> AsyncIterator[Panel]:
    settings = Settings(database_url=database_url)
    queue = QueuedTaskConfig(drain_timeout=5, heartbeat=0.5, lease=15)
    async with running(application(), settings=settings, queue=queue) as tasks:
        made = Panel(application(), tasks, database_url)
        yield made
        for client in (made.client, made.reader, made.nobody):
            await client.aclose()


@pytest.fixture
def work(panel: Panel) -> Work:
    """Starts a worker in this process: `async with work() as worker`."""

    @asynccontextmanager
    async def start(**assignment: Any) -> AsyncIterator[Worker]:
        diary = _Diary()
        worker = Worker(
            Assignment(**{"concurrency": 10, "queues": [], **assignment}),
            panel.url, panel.tasks.config, panel.tasks, queue_tables(), diary,
        )  # fmt: skip
        working = asyncio.create_task(worker.run())
        try:
            await asyncio.wait_for(diary.ready.wait(), 30)
            yield worker
        finally:
            worker.stop()
            await asyncio.wait_for(working, 30)

    return start
