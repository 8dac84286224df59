"""Workers in this process and in processes of their own, on the shared database."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from proxy import Proxy, proxy

SITE = Path(__file__).parent / "site"
if str(SITE) not in sys.path:
    sys.path.append(str(SITE))

import shop_tasks  # noqa: E402
from crew import Crew, Hire  # noqa: E402

from fastedgy.worker import heartbeat, worker  # noqa: E402


@pytest.fixture
def database_url(queue_url: str) -> str:
    return queue_url


@pytest.fixture(autouse=True)
def clean_shop(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nothing of an earlier test is left in the tasks' module, and workers here end quickly."""
    monkeypatch.setattr(heartbeat, "TICK", 0.1)
    monkeypatch.setattr(worker, "SOLO_IDLE", 0.5)
    shop_tasks.gates.clear()
    shop_tasks.seen.clear()
    yield
    shop_tasks.gates.clear()


@pytest.fixture
async def wire(database_url: str) -> AsyncIterator[Proxy]:
    """A tap on the line to the database."""
    async with proxy(database_url) as tap:
        yield tap


@pytest.fixture
def hire(database_url: str) -> Hire:
    """Starts a worker in this process: `async with hire(...) as staff`."""
    return Hire(database_url)


@pytest.fixture
def crew(database_url: str) -> Iterator[Crew]:
    """Worker processes; those that are left at the end are killed."""
    made = Crew(database_url, SITE)
    yield made
    made.close()
