"""The engine's connections in a process that enqueues: few, kept, lent for a statement or two.

Separate from Edgy's, so that an application whose own connections are all taken can still enqueue.
asyncpg's pool would do, but for its price: each release is an asyncio task of its own and each
statement goes through a proxy, together a quarter of the time that one enqueue takes in Python.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import suppress
from contextvars import Context
from types import TracebackType
from typing import TYPE_CHECKING

from fastedgy.config import QueuedTaskConfig, Settings
from fastedgy.database import connect, is_closed, lost, normalize_url
from fastedgy.database_url import parse_url
from fastedgy.errors import DatabaseUnavailable, SchemaOutdated

if TYPE_CHECKING:
    import asyncpg

SIZE = 4
"""Connections at most: enqueues and refs of one process."""
STALE = 300.0
"""Seconds after which an unused connection is not trusted any more: firewalls forget such ones."""


class Connections:
    """Up to `SIZE` connections in each event loop, each opened when it is first needed.

    Mostly there is one loop. A sync task that calls `asyncio.run` has another one, beside its
    worker's, and no connection may be used from two.
    """

    def __init__(self, url: str, settings: Settings, config: QueuedTaskConfig) -> None:
        self.url = normalize_url(url)
        self._settings = settings
        self._config = config
        self._pools: dict[asyncio.AbstractEventLoop, _Pool] = {}

    async def close(self) -> None:
        """Close all connections of this event loop, waiting for those in use. The next use opens
        them again.
        """
        pool = self._pools.pop(asyncio.get_running_loop(), None)
        self._forget_ended()
        if pool is not None:
            await pool.close()

    def acquire(self) -> Lent:
        """`async with` lends a connection, for statements of the engine.

        A connection that is lost meanwhile, or a statement that takes longer than
        `QUEUE_STATEMENT_TIMEOUT`, raises DatabaseUnavailable; tables or columns that are not there
        raise SchemaOutdated: scripts check nothing when they start.
        """
        loop = asyncio.get_running_loop()
        pool = self._pools.get(loop)
        if pool is None:
            self._forget_ended()
            pool = self._pools.setdefault(loop, _Pool(self.url, self._settings, self._config))
        return Lent(pool)

    def _forget_ended(self) -> None:
        for loop in list(self._pools):
            if loop.is_closed():
                self._pools.pop(loop, None)


class _Pool:
    """The connections of one event loop."""

    def __init__(self, url: str, settings: Settings, config: QueuedTaskConfig) -> None:
        self._url = url
        self._settings = settings
        self._config = config
        self._free: list[tuple[asyncpg.Connection, float]] = []
        self._all: set[asyncpg.Connection] = set()
        self._opening = 0
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._emptied = asyncio.Event()
        self._end: AsyncGenerator[None, None] | None = None

    async def close(self) -> None:
        """Close all, waiting for those in use."""
        while self._opening or len(self._all) > len(self._free):
            self._emptied.clear()
            await self._emptied.wait()
        if self._end is not None:
            await self._end.aclose()

    async def _until_the_loop_ends(self) -> AsyncGenerator[None, None]:
        """Closes them when the loop ends, which closes the generators that it knows: `asyncio.run`
        in a thread leaves nobody else who could.
        """
        try:
            yield
        finally:
            everything, self._all, self._free = self._all, set(), []
            for connection in everything:
                try:
                    await connection.close(timeout=2)
                except Exception:  # whatever it is, the others are closed
                    connection.terminate()

    def check(self, connection: asyncpg.Connection, error: BaseException) -> None:
        """What became of a connection in whose block this error was raised. Raises a better one."""
        if isinstance(error, asyncio.CancelledError | GeneratorExit):
            # It may be in the middle of a statement, and a frozen server would never end that.
            connection.terminate()
        if not isinstance(error, Exception):
            return
        import asyncpg

        if isinstance(error, asyncpg.UndefinedTableError | asyncpg.UndefinedColumnError):
            raise SchemaOutdated(
                f"The queue's tables are not in this database, or of another release: {error}. "
                "Run `fastedgy db migrate`."
            ) from error
        if not lost(error, connection):
            return
        # A frozen server would not even answer a clean-up.
        connection.terminate()
        raise DatabaseUnavailable(
            f"The connection to {parse_url(self._url)} was lost: "
            f"{str(error) or 'no answer in time'}."
        ) from error

    async def take(self) -> asyncpg.Connection:
        """One of them, when it is free."""
        while True:
            if (connection := self.take_free()) is not None:
                return connection
            loop = asyncio.get_running_loop()
            if len(self._all) + self._opening < SIZE:
                return await self._open()
            turn = loop.create_future()
            self._waiting.append(turn)
            try:
                await turn
            except asyncio.CancelledError:
                if turn.done() and not turn.cancelled():
                    self._wake()  # it was our turn, and we do not take it
                raise
            finally:
                with suppress(ValueError):
                    self._waiting.remove(turn)

    def take_free(self) -> asyncpg.Connection | None:
        """One that is free now, or None."""
        while self._free:
            connection, since = self._free.pop()
            if not is_closed(connection) and time.monotonic() - since < STALE:
                return connection
            self._all.discard(connection)
            connection.terminate()
        return None

    async def _open(self) -> asyncpg.Connection:
        self._opening += 1
        try:
            # Behind a pooler in transaction mode, prepared statements are another client's.
            opening = connect(
                self._url,
                timeout=self._settings.database_connect_timeout,
                command_timeout=self._config.statement_timeout,
                statement_cache_size=None if self._config.use_postgresql_notify else 0,
            )
            # It outlives the request that happens to need it, and would keep that one's context.
            task = asyncio.get_running_loop().create_task(opening, context=Context())
            try:
                connection = await task
            except asyncio.CancelledError:
                task.add_done_callback(_terminate)  # it may have been opened at this very moment
                raise
            self._all.add(connection)
            if self._end is None:
                self._end = self._until_the_loop_ends()
                await anext(self._end)
            return connection
        except BaseException:
            self._wake()
            raise
        finally:
            self._opening -= 1
            self._emptied.set()

    def give_back(self, connection: asyncpg.Connection) -> None:
        """It is not needed any more."""
        # Whether it is of use any more is asked when it is taken again.
        self._free.append((connection, time.monotonic()))
        self._wake()
        self._emptied.set()

    def _wake(self) -> None:
        """Let the next one in line look again."""
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return


def _terminate(opening: asyncio.Task[asyncpg.Connection]) -> None:
    if not opening.cancelled() and opening.exception() is None:
        opening.result().terminate()


class Lent:
    """A connection for the time of a block. Not a generator's: that takes three times as long."""

    __slots__ = ("_connection", "_of")

    def __init__(self, of: _Pool) -> None:
        self._of = of

    async def __aenter__(self) -> asyncpg.Connection:
        # Mostly there is one, and then it takes no coroutine more.
        self._connection = self._of.take_free() or await self._of.take()
        return self._connection

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            if error is not None:
                self._of.check(self._connection, error)
        finally:
            self._of.give_back(self._connection)
