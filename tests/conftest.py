"""One Postgres for the session, one fresh database for each test that asks for one."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from helpers import create_database, drop_database, empty_queue, execute, run
from scheduling import Files, rank

from fastedgy import migrate
from fastedgy.database import connect, normalize_url
from fastedgy.database_url import parse_url
from fastedgy.embedded import server
from fastedgy.embedded.probe import is_running

OUTSIDE_SERVER = os.environ.get("FASTEDGY_TEST_DATABASE_URL") or os.environ.get("DATABASE_URL")
OURS = ("QUEUE_", "QUEUED_TASK_", "DATABASE_", "FASTEDGY_", "LOG_LEVEL", "LOG_FORMAT", "PG")
FOLDER = "fastedgy-tests-"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=rank)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Files | None:
    return Files(config, log) if config.getoption("dist") == "loadscope" else None


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No setting of the machine reaches a test."""
    for name in list(os.environ):
        if name.startswith(OURS):
            monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def server_url() -> Iterator[str]:
    """A database of a server on which databases may be made.

    That of `FASTEDGY_TEST_DATABASE_URL` or `DATABASE_URL`, else an embedded one for the session.
    """
    if OUTSIDE_SERVER:
        yield normalize_url(OUTSIDE_SERVER)
        return
    _remove_leftovers()
    folder = Path(tempfile.mkdtemp(prefix=f"{FOLDER}{os.getpid()}-"))
    embedded = server(folder)
    try:
        url = embedded.start()
        # Nothing of this outlives the session, so nothing has to reach the disk.
        run(
            execute(
                url,
                "ALTER SYSTEM SET fsync = off",
                "ALTER SYSTEM SET full_page_writes = off",
                "SELECT pg_reload_conf()",
            )
        )
        yield url
    finally:
        embedded.stop()
        shutil.rmtree(folder)


def _remove_leftovers() -> None:
    """Stop the servers of sessions that were killed."""
    for folder in Path(tempfile.gettempdir()).glob(f"{FOLDER}*"):
        session = folder.name.removeprefix(FOLDER).split("-")[0]
        if folder.stat().st_uid == os.geteuid() and not is_running(int(session)):
            server(folder).stop()
            shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def template(server_url: str) -> Iterator[str]:
    """The name of a database with the shipped revisions applied, to be copied."""
    url = create_database(server_url)
    run(migrate.upgrade(url))
    yield parse_url(url).name or ""
    drop_database(server_url, url)


@pytest.fixture
def database_url(server_url: str, template: str) -> Iterator[str]:
    """A database of this test's own, with the queue's tables."""
    url = create_database(server_url, template)
    yield url
    drop_database(server_url, url)


@pytest.fixture(scope="session")
def shared_database(server_url: str, template: str) -> Iterator[str]:
    """One database for the tests of the queue's own rooms: a copy for each would cost most of their
    time."""
    url = create_database(server_url, template)
    yield url
    drop_database(server_url, url)


@pytest.fixture
def queue_url(shared_database: str) -> str:
    """The shared database, with empty tables."""
    run(empty_queue(shared_database))
    return shared_database


@pytest.fixture
def empty_database_url(server_url: str) -> Iterator[str]:
    """A database of this test's own, without any table."""
    url = create_database(server_url)
    yield url
    drop_database(server_url, url)


@pytest.fixture
async def connection(database_url: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection of asyncpg's to `database_url`."""
    opened = await connect(database_url, application_name="fastedgy tests")
    yield opened
    await opened.close()
