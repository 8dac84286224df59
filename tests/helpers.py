"""What the tests share: waiting for facts, and databases of their own."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple
from typing import Any, TypeVar
from uuid import uuid4

from fastedgy.database import connect
from fastedgy.database_url import parse_url
from fastedgy.models.tables import Tables

T = TypeVar("T")

SLACK = 5.0
"""Seconds that a busy machine may add to what happens at once. What does not would take longer."""
NO_TLS = False
"""What clients here have as `verify`: else each of them would read all root certificates, which
takes 30 ms of the processor."""
PATIENCE = 60.0
"""Seconds that a test waits for what is to happen. It costs nothing where it happens soon."""


async def eventually(check: Callable[[], Awaitable[T] | T], within: float = PATIENCE) -> T:
    """Repeat a check until it raises no AssertionError any more; return what it returned.

    `within` is seconds. Sleeping is for this helper, never for a test.
    """
    began = time.monotonic()
    while True:
        try:
            result = check()
            return await result if inspect.isawaitable(result) else result
        except AssertionError:
            if (waited := time.monotonic() - began) > within:
                raise
        await asyncio.sleep(_pause(waited))


def wait_until(check: Callable[[], T], within: float = PATIENCE) -> T:
    """`eventually` for a test without an event loop."""
    began = time.monotonic()
    while True:
        try:
            return check()
        except AssertionError:
            if (waited := time.monotonic() - began) > within:
                raise
        time.sleep(_pause(waited))


def _pause(waited: float) -> float:
    """Seconds until the next look. What is waited for needs the processor, too."""
    return min(0.1, max(0.01, waited / 20))


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end from a fixture, whose thread's event loop stays as it is."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, coroutine).result()


async def execute(url: str, *statements: str) -> None:
    """Run statements on a connection of their own, outside a transaction."""
    connection = await connect(url, application_name="fastedgy tests", timeout=PATIENCE)
    try:
        for statement in statements:
            await connection.execute(statement)
    finally:
        await connection.close()


async def empty_queue(url: str) -> None:
    """Delete what an earlier test left in the queue's tables, and end who is still connected."""
    await execute(
        url,
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid()",
        "SET lock_timeout = '30s'",
        *(f"DELETE FROM {table}" for table in astuple(Tables())),
    )


def database_on(server_url: str, name: str) -> str:
    """The URL of another database on the same server."""
    return parse_url(server_url).named(name).url


def create_database(server_url: str, template: str = "template0") -> str:
    """Make a database, a copy of `template`, and return its URL."""
    name = f"fastedgy_test_{uuid4().hex}"
    run(execute(server_url, f'CREATE DATABASE "{name}" TEMPLATE "{template}"'))
    return database_on(server_url, name)


def drop_database(server_url: str, url: str) -> None:
    """Remove a database, whoever is still connected to it."""
    run(execute(server_url, f'DROP DATABASE IF EXISTS "{parse_url(url).name}" WITH (FORCE)'))
