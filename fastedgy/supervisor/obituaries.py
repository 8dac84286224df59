"""Telling the database that a worker has died, so that its tasks need not wait for its lease."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from uuid import UUID

from fastedgy.config import QueuedTaskConfig
from fastedgy.database import connect
from fastedgy.errors import DatabaseUnavailable
from fastedgy.models import Tables
from fastedgy.store.notify import channels_of
from fastedgy.store.recovery import report_lost

logger = logging.getLogger("fastedgy.supervisor")

_FIRST_PAUSE = 0.05
_LONGEST_PAUSE = 1.0
_TRIES = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Obituary:
    """One ended worker. `started`: the tasks that may have killed it; each gets one loss."""

    worker_id: UUID
    exit_reason: str
    started: list[UUID]
    tables: Tables


class Obituaries:
    """Writes them one after the other, each on a connection of its own: they are rare."""

    def __init__(self, url: str, config: QueuedTaskConfig) -> None:
        self._url = url
        self._config = config
        self._channels = channels_of(config)
        self._turn = asyncio.Lock()

    async def write(self, obituary: Obituary) -> None:
        """Write it, and while the database is away try again, for as long as it takes.

        An error that has nothing to do with the connection is logged after 5 tries; the lease of
        the worker runs out then as if nobody had known.
        """
        pause, tries = _FIRST_PAUSE, 0
        async with self._turn:
            while True:
                try:
                    return await self._try(obituary)
                except (DatabaseUnavailable, OSError, TimeoutError) as error:
                    if pause == _FIRST_PAUSE:
                        logger.warning(
                            "end of worker not reported yet, the database is away",
                            extra={"worker_id": obituary.worker_id, "error": str(error)},
                        )
                except Exception:  # a connection lost in the middle of it, or a real mistake
                    tries += 1
                    if tries == _TRIES:
                        logger.exception(
                            "end of worker not reported, its tasks wait for its lease",
                            extra={"worker_id": obituary.worker_id},
                        )
                        return None
                await asyncio.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)

    async def _try(self, obituary: Obituary) -> None:
        timeout = self._config.statement_timeout
        connection = await connect(
            self._url,
            application_name="fastedgy supervisor",
            timeout=timeout,
            command_timeout=timeout,
            statement_cache_size=0,  # works behind a pooler too
        )
        try:
            await report_lost(
                connection,
                obituary.tables,
                worker_id=obituary.worker_id,
                exit_reason=obituary.exit_reason,
                started=obituary.started,
                max_losses=self._config.max_losses,
                channels=self._channels,
            )
        finally:
            await connection.close(timeout=timeout)
