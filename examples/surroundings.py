"""What the examples take for granted: a database, and somebody to alert.

The database is SQLite, so that the examples need nothing else. It takes `?` for parameters, and
what `execute` returns is the id of the new row and knows `rowcount`.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any

import httpx

TABLES = """
CREATE TABLE inventory (product_id INTEGER PRIMARY KEY, available INTEGER, reserved INTEGER);
CREATE TABLE reservations (order_id INTEGER, items TEXT);
CREATE TABLE users (id INTEGER PRIMARY KEY, email TEXT, password_hash TEXT, name TEXT,
                    verified BOOLEAN);
CREATE TABLE verification_tokens (user_id INTEGER, token TEXT, expires_at TEXT,
                                  used BOOLEAN DEFAULT FALSE);
CREATE TABLE images (id INTEGER PRIMARY KEY, user_id INTEGER, original_url TEXT,
                     optimized_url TEXT, thumbnail_url TEXT, metadata TEXT);
CREATE TABLE analytics_events (event_type TEXT, user_id INTEGER, properties TEXT, timestamp TEXT);
"""


class Executed(int):
    """The id of the row that a statement wrote; `rowcount` is how many it changed."""

    rowcount: int = 0


class Database:
    """One connection, one statement or transaction at a time."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Begin anew, with empty tables."""
        self._connection = sqlite3.connect(
            ":memory:", check_same_thread=False, isolation_level=None
        )
        self._connection.row_factory = sqlite3.Row
        self._connection.executescript(TABLES)
        self._held_by: asyncio.Task[Any] | None = None
        self._lock = asyncio.Lock()

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[None]:
        """All of a block, or nothing."""
        async with self._lock:
            self._held_by = asyncio.current_task()
            self._connection.execute("BEGIN")
            try:
                yield
            except BaseException:
                self._connection.execute("ROLLBACK")
                raise
            else:
                self._connection.execute("COMMIT")
            finally:
                self._held_by = None

    @asynccontextmanager
    async def _turn(self) -> AsyncIterator[None]:
        if self._held_by is asyncio.current_task():
            yield
            return
        async with self._lock:
            yield

    async def execute(self, statement: str, *values: Any) -> Executed:
        """Run a statement."""
        async with self._turn():
            cursor = self._connection.execute(statement, _plain(values))
        executed = Executed(cursor.lastrowid or 0)
        executed.rowcount = cursor.rowcount
        return executed

    async def execute_many(self, statement: str, rows: Iterable[Iterable[Any]]) -> None:
        """Run a statement once for each row."""
        async with self._turn():
            self._connection.executemany(statement, [_plain(row) for row in rows])

    async def fetchone(self, statement: str, *values: Any) -> Any:
        """The first row of an answer, or None."""
        async with self._turn():
            return self._connection.execute(statement, _plain(values)).fetchone()


def _plain(values: Iterable[Any]) -> tuple[Any, ...]:
    return tuple(value.isoformat() if isinstance(value, datetime) else value for value in values)


db = Database()


async def send_slack_alert(message: str) -> None:
    """Tell the people on duty."""
    async with httpx.AsyncClient() as client:
        response = await client.post("https://hooks.slack.com/alerts", json={"text": message})
        response.raise_for_status()
