"""The scheduler's tests share a database: each begins with empty tables, and nothing declared."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
SITE = HERE / "site"
FAULTS = HERE.parent / "faults"
WORKERS = HERE.parent / "worker"
for folder in (SITE, FAULTS, WORKERS, WORKERS / "site"):
    if str(folder) not in sys.path:
        sys.path.append(str(folder))

from crew import Crew, Hire  # noqa: E402
from opening import Opens  # noqa: E402
from supervised import Supervised  # noqa: E402

from fastedgy.app import running  # noqa: E402
from fastedgy.config import QueuedTaskConfig, Settings  # noqa: E402
from fastedgy.dependencies import get_service  # noqa: E402
from fastedgy.scheduler import Scheduler, declared  # noqa: E402


@pytest.fixture
def database_url(queue_url: str) -> str:
    return queue_url


@pytest.fixture(autouse=True)
def nothing_declared(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test declares is gone at its end."""
    monkeypatch.setattr(declared, "_declared", {})


@pytest.fixture
def opened(database_url: str) -> Opens:
    """The service of an application that runs for a block; `queue` are settings of the queue."""

    @asynccontextmanager
    async def open_one(**queue: Any) -> AsyncIterator[Scheduler]:
        settings = Settings(database_url=database_url)
        async with running(settings=settings, queue=QueuedTaskConfig(**queue)):
            yield get_service(Scheduler)

    return open_one


@pytest.fixture
async def scheduler(opened: Opens) -> AsyncIterator[Scheduler]:
    """The service of an application that runs."""
    async with opened() as service:
        yield service


@pytest.fixture
def hire(database_url: str) -> Hire:
    """Start a worker in this process: `async with hire(...) as staff`."""
    return Hire(database_url)


@pytest.fixture
def crew(database_url: str) -> Iterator[Crew]:
    """Worker processes of the application in `site`; those left at the end are killed."""
    made = Crew(database_url, SITE)
    yield made
    made.close()


@pytest.fixture
def supervise(database_url: str) -> Iterator[Callable[..., Supervised]]:
    """Start supervisors; they are killed at the end, with their workers."""
    if not Path("/proc/self/task").exists():
        pytest.skip("finds the workers in /proc")
    started: list[Supervised] = []

    def start(**given: Any) -> Supervised:
        started.append(Supervised(database_url, SITE, **given))
        return started[-1]

    yield start
    for supervised in started:
        supervised.close()
