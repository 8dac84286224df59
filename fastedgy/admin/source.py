"""Where the service gets its connections from."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Self

from asyncpg import Connection

from fastedgy.config import QueuedTaskConfig, Settings
from fastedgy.connections import Connections
from fastedgy.database import resolve_url
from fastedgy.errors import NoOpenBuffer
from fastedgy.models import queue_tables
from fastedgy.store.notify import channels_of


class Source:
    """The queue's own small pool, or one connection that somebody else has opened."""

    def __init__(
        self, connections: Connections | None = None, config: QueuedTaskConfig | None = None
    ) -> None:
        self.config = config or QueuedTaskConfig()
        self.tables = queue_tables()
        self.channels = channels_of(self.config)
        self._connections = connections
        self._owns_connections = False
        self._own: Connection | None = None

    @classmethod
    def on(cls, connection: Connection, config: QueuedTaskConfig | None = None) -> Self:
        """One that uses this connection for everything, one statement at a time: for commands."""
        admin = cls(None, config)
        admin._own = connection
        return admin

    async def __aenter__(self) -> Self:
        if self._connections is None and self._own is None:
            settings = Settings()
            url = await resolve_url(settings)
            self._connections = Connections(url, settings, self.config)
            self._owns_connections = True
        return self

    async def __aexit__(self, *error: object) -> None:
        if self._owns_connections and self._connections is not None:
            connections, self._connections = self._connections, None
            self._owns_connections = False
            await connections.close()

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        """A connection of the queue's own small pool. Raises DatabaseUnavailable if it is lost."""
        if self._own is not None:
            yield self._own
            return
        if self._connections is None:
            raise NoOpenBuffer
        async with self._connections.acquire() as connection:
            yield connection
