"""The store's tests share a database: each begins with empty tables."""

from __future__ import annotations

from collections.abc import AsyncIterator

import asyncpg
import pytest
import rows
from rows import connections


@pytest.fixture
def database_url(queue_url: str) -> str:
    return queue_url


@pytest.fixture
async def other(database_url: str) -> AsyncIterator[asyncpg.Connection]:
    """A second connection."""
    async with connections(database_url, 1) as [opened]:
        yield opened


@pytest.fixture
async def watcher(database_url: str) -> AsyncIterator[asyncpg.Connection]:
    """A third connection, which looks at who waits for whom."""
    async with connections(database_url, 1) as [opened]:
        yield opened


@pytest.fixture(params=[False, True], ids=["in-a-transaction", "at-once"])
def both_ways(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once with tasks that were not known to have children, and once with known parents."""
    monkeypatch.setattr(rows, "PARENTS_AT_ONCE", request.param)
