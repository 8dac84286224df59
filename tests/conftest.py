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
MEMORY = Path("/dev/shm")
ENOUGH = 8 * 2**30
"""Bytes that must be free there: each of the sessions beside each other has a server."""
HOMES = Path("/var/lib/fastedgy")
"""Where root's servers live whose folder others may not enter: that of pytest, for instance."""


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


@pytest.fixture(scope="session", autouse=True)
def no_homes_left(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Nothing of the servers that tests start in their own folders stays outside of them."""
    yield
    ours = tmp_path_factory.getbasetemp()
    for owner in HOMES.glob("*/owner"):
        if owner.readlink().is_relative_to(ours):
            server(owner.readlink()).stop()
            shutil.rmtree(owner.parent)


@pytest.fixture(scope="session")
def server_url() -> Iterator[str]:
    """A database of a server on which databases may be made.

    That of `FASTEDGY_TEST_DATABASE_URL` or `DATABASE_URL`, else an embedded one for the session.
    """
    if OUTSIDE_SERVER:
        yield normalize_url(OUTSIDE_SERVER)
        return
    _remove_leftovers()
    folder = Path(tempfile.mkdtemp(prefix=f"{FOLDER}{os.getpid()}-", dir=_base()))
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


def _base() -> Path:
    """Where the session's server has its files: in memory, where there is room.

    A database has 300 of them, and Linux' ext4 takes the longer for a new file the more were just
    deleted (`recently_deleted` in fs/ext4/ialloc.c): a third of the processor, for a whole run.
    """
    usual = Path(tempfile.gettempdir())
    try:
        found = os.statvfs(MEMORY)
    except OSError:
        return usual
    free = found.f_bavail * found.f_frsize
    usable = os.access(MEMORY, os.W_OK) and not found.f_flag & os.ST_NOEXEC
    return MEMORY if usable and free >= ENOUGH else usual


def _remove_leftovers() -> None:
    """Stop the servers of sessions that were killed."""
    places = {Path(tempfile.gettempdir()), MEMORY}
    for folder in (folder for place in places for folder in place.glob(f"{FOLDER}*")):
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
