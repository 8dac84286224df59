"""A connection that heals itself."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import TypeVar

from asyncpg import Connection

from fastedgy.config import QueuedTaskConfig
from fastedgy.database import connect
from fastedgy.store.outage import is_outage
from fastedgy.worker.counters import Counters

logger = logging.getLogger("fastedgy.worker")

T = TypeVar("T")

# The hot statements find their rows by the primary key or by one partial index. The planner,
# guessing from parameters it does not see, now and then prefers to scan the table: slower by the
# size of the table. These settings are this connection's alone; no user code runs on it.
HELD_PLANS = {
    "plan_cache_mode": "force_generic_plan",
    "enable_seqscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    "enable_bitmapscan": "off",
    "enable_material": "off",
    "jit": "off",
}

FIRST_PAUSE = 0.05
LONGEST_PAUSE = 1.0
LONGEST_PATIENCE = 300.0
"""Seconds that large work may take at most, when it was cut for taking long again and again."""


class GivenUp(Exception):
    """The database stayed away for longer than the work could wait."""


class Wire:
    """One connection of the engine, opened when needed and again whenever it is lost.

    Statements have a client-side timeout: a frozen connection counts as lost. One statement (or
    transaction) at a time; others wait their turn.
    """

    def __init__(
        self,
        url: str,
        config: QueuedTaskConfig,
        counters: Counters,
        name: str,
        *,
        patience: float | None = None,
    ) -> None:
        """`patience`: seconds that a statement may take; the default is QUEUE_STATEMENT_TIMEOUT."""
        self._url = url
        self._patience = patience or config.statement_timeout
        self._config = config
        self._counters = counters
        self._name = name
        self._connection: Connection | None = None
        self._turn = asyncio.Lock()
        self.losses = 0

    async def run(
        self,
        work: Callable[[Connection], Awaitable[T]],
        *,
        until: Callable[[], bool] | None = None,
        may_be_large: bool = False,
    ) -> T:
        """Do `work` on the connection; after an outage again, from the start, on a new one.

        `until` says when to give up (raises GivenUp). `may_be_large`: it has twice the time after
        each time that it was cut, as it may really take so long. Errors that are no outage are
        raised.
        """
        loop = asyncio.get_running_loop()
        pause, patience = FIRST_PAUSE, self._patience
        away = False
        while True:
            try:
                async with self._turn:
                    connection = await self._open()
                    # Cut, not cancelled: a transaction that is cancelled rolls back first, and
                    # would wait for ever for the answer of a frozen connection.
                    timer = loop.call_later(patience, connection.terminate)
                    try:
                        result = await work(connection)
                    finally:
                        timer.cancel()
                        if may_be_large and loop.time() >= timer.when():
                            patience = min(2 * patience, LONGEST_PATIENCE)
            except Exception as error:
                self.drop()
                if not is_outage(error):
                    raise
                self.losses += 1
                self._counters.connections_lost += 1
                if not away:
                    logger.warning("The %s connection was lost: %s", self._name, _short(error))
                away = True
            else:
                if away:
                    logger.info("The %s connection is back", self._name)
                return result
            if until is not None and until():
                raise GivenUp
            await asyncio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)

    async def _open(self) -> Connection:
        if self._connection is None or self._connection.is_closed():
            notify = self._config.use_postgresql_notify
            self._connection = await connect(
                self._url,
                application_name=f"fastedgy worker {self._name}",
                timeout=self._patience,
                server_settings=HELD_PLANS if notify else None,
                # Behind a pooler in transaction mode there is no session to keep anything in.
                statement_cache_size=None if notify else 0,
            )
        return self._connection

    def drop(self) -> None:
        """Cut the connection, whatever it does."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.terminate()

    async def close(self) -> None:
        """Close the connection in order, if the server answers."""
        connection, self._connection = self._connection, None
        if connection is not None:
            try:
                await connection.close(timeout=1)
            except (OSError, TimeoutError, asyncio.CancelledError):
                connection.terminate()


def _short(error: BaseException) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
