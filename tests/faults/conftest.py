"""Faults happen to real processes, on the shared database."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
SITE = HERE / "site"
WORKERS = HERE.parent / "worker"
for folder in (HERE, SITE, WORKERS, WORKERS / "site"):
    if str(folder) not in sys.path:
        sys.path.append(str(folder))

from crew import Crew, Hire  # noqa: E402
from elsewhere import Pooler  # noqa: E402
from proxy import proxy  # noqa: E402
from supervised import Supervised  # noqa: E402


@pytest.fixture
def database_url(queue_url: str) -> str:
    return queue_url


@pytest.fixture
def supervise(database_url: str) -> Iterator[Callable[..., Supervised]]:
    """Start supervisors; they are killed at the end, with their workers."""
    if not Path("/proc/self/task").exists():
        pytest.skip("finds the workers in /proc")
    started: list[Supervised] = []

    def start(url: str = database_url, **given: Any) -> Supervised:
        started.append(Supervised(url, SITE, **given))
        return started[-1]

    yield start
    for supervised in started:
        supervised.close()


@pytest.fixture
def crash_crew(database_url: str) -> Iterator[Crew]:
    """Worker processes of the application that dies on demand."""
    made = Crew(database_url, SITE)
    yield made
    made.close()


@pytest.fixture
def hire(database_url: str) -> Hire:
    """Start a worker in this process: `async with hire(...) as staff`."""
    return Hire(database_url)


@pytest.fixture
async def pooler(database_url: str, tmp_path: Path) -> AsyncIterator[Pooler]:
    # The embedded server lets in nobody but its owner, which the pooler is not.
    async with proxy(database_url) as line:
        made = Pooler(line.url, tmp_path)
        made.start()
        yield made
        made.kill()
