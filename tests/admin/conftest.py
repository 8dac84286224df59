"""Queries and findings are asked on the connection of the test."""

from __future__ import annotations

from collections.abc import Iterator

import asyncpg
import pytest
from helpers import create_database, drop_database

from fastedgy.admin import QueueAdmin


@pytest.fixture
def database_url(queue_url: str) -> str:
    return queue_url


@pytest.fixture
def admin(connection: asyncpg.Connection) -> QueueAdmin:
    return QueueAdmin.on(connection)


@pytest.fixture(scope="module")
def patient(server_url: str, template: str) -> Iterator[str]:
    """One database for all tests of a module that break what is not theirs alone."""
    url = create_database(server_url, template)
    yield url
    drop_database(server_url, url)
